"""Every recipe that travels with ganrun is right."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ganrun.cli import main
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import find_recipe, shipped_recipes
from ganrun.training.assembly import check_recipe
from ganrun.training.builder import build_run
from ganrun.training.runner import execute

RECIPES = sorted(shipped_recipes().glob("*.toml"))
ROOT = Path(__file__).parents[2]
NARROW = ["generator.widest=16", "discriminator.widest=16"]
GROUPED = [
    f"{slot}.{setting}"
    for slot in ("generator", "discriminator")
    for setting in ("widths=[48,48,48,48]", "cardinality=6")
]
BIGGAN = ["generator.widths=[16,16,16,16]", "discriminator.widths=[16,16]"]
NARROWER = {
    "biggan_cifar10.toml": BIGGAN,
    "biggan_diffaugment_cifar10.toml": BIGGAN,
    "biggan_diffaugment_cifar10_10percent.toml": BIGGAN,
    "r3gan_cifar10.toml": GROUPED,
    "stylegan2_ada_cifar10.toml": NARROW,
    "stylegan2_cifar10.toml": NARROW,
    "stylegan2_ffhq256.toml": NARROW,
}
"""What is set for networks whose step takes a CPU core more than a minute."""

SMALLER = {
    "biggan_diffaugment_cifar10_10percent.toml": ["data.count=640"],  # of which it takes a tenth
    "stylegan2_ffhq256.toml": ["data.size=32"],
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_valid_and_its_networks_fit(path):
    recipe = load_recipe(path, load_registry())
    narrower = NARROWER.get(path.name)
    check_recipe(load_recipe(path, load_registry(), narrower) if narrower else recipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_says_at_its_head_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_trains_on_drawn_shapes_where_its_own_data_is_absent(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["train.steps=2", "train.batch_size=8", "train.device=cpu", "data.count=64", "data.test_count=16"]
    quiet = ["stage=[]", "metric=[]", "mlflow=false", "progress=false", "samples.count=4"]
    overrides = ["data.use=synthetic", *few, *quiet, *NARROWER.get(path.name, []), *SMALLER.get(path.name, [])]
    run = build_run(load_recipe(path, load_registry(), overrides), tmp_path / "run")
    before = {name: slot.module.state_dict() for name, slot in run.state.slots.items()}
    before = {name: {key: value.clone() for key, value in weights.items()} for name, weights in before.items()}
    execute(run)
    assert run.step == 2
    for name, slot in run.state.slots.items():
        changed = [key for key, value in slot.module.state_dict().items() if not torch.equal(value, before[name][key])]
        assert changed, f"{name} has not learned"
    assert (tmp_path / "run/samples/step_00000002.png").is_file()


def test_the_list_of_recipes_says_what_each_is_made_of():
    lines = {line.split()[0]: line for line in CliRunner().invoke(main, ["list", "recipes"]).output.splitlines()}
    assert set(lines) == {"recipe", *(path.name for path in RECIPES)}
    assert lines["wgan_celeba.toml"].split()[1:] == [
        "wgan-gp",
        "dcgan",
        "+",
        "dcgan",
        "celeba",
        "64",
        "none",
        "published",
    ]
    assert lines["dcgan_cifar10.toml"].endswith("cifar10 32        fid 42.72 ± 5")


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
