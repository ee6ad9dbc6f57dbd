"""Every recipe that travels with ganrun is right."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ganrun.builder import check_recipe
from ganrun.reader import load_recipe
from ganrun.recipes import find_recipe, shipped_recipes
from ganrun.registry import load_registry

RECIPES = sorted(shipped_recipes().glob("*.toml"))
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_valid_and_its_networks_fit(path):
    check_recipe(load_recipe(path, load_registry()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_says_at_its_head_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_a_shipped_recipe_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path("quickstart.toml")) == find_recipe(Path("recipes/quickstart.toml"))
    assert find_recipe(Path("quickstart.toml")).is_file()
    assert find_recipe(Path("elsewhere/quickstart.toml")) == Path("elsewhere/quickstart.toml")
    (tmp_path / "quickstart.toml").touch()
    assert find_recipe(Path("quickstart.toml")) == Path("quickstart.toml"), "one's own comes first"


def test_recipes_and_plugins_travel_in_the_wheel(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"ganrun/recipes/{path.name}" for path in RECIPES} <= names
    sources = {
        str(path.relative_to(root))
        for root in (ROOT / "core", ROOT / "plugins")
        for path in root.rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert sources <= names
