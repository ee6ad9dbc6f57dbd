"""A third-party package installed with pip: its users only change `use = "…"`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ganrun.cli import main

EXAMPLE = Path(__file__).parents[2] / "docs/examples/ganrun-mixture"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--target", folder / "lib", source], check=True, timeout=120)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make it importable in this process; the folder of its source."""
    monkeypatch.syspath_prepend(str(site / "lib"))
    return site / "source"


def test_its_recipe_trains(site: Path, tmp_path: Path) -> None:
    recipe = site / "source" / "mixture.toml"
    options = ["--set", "train.steps=2", "--set", "data.size=8", "--device", "cpu", "--no-plugin", "mlflow"]
    command = [sys.executable, "-m", "ganrun.cli", recipe, *options, "--output", "run"]
    env = {**os.environ, "PYTHONPATH": str(site / "lib"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"ganrun-mixture 0.1.0"' in (tmp_path / "run/environment.json").read_text()
    assert (tmp_path / "run/checkpoints/step_00000002/generator.safetensors").is_file()


def test_its_own_tests_pass(installed: Path) -> None:
    assert pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(installed), str(installed / "tests")]) == 0


def test_it_is_listed_and_shown_with_package_and_version(installed: Path) -> None:
    plugins = CliRunner().invoke(main, ["plugins"]).output
    assert ["mixture", "ganrun-mixture", "0.1.0", "ok"] in [line.split() for line in plugins.splitlines()]
    shown = CliRunner().invoke(main, ["show", "generator", "mixture"]).output
    assert shown.startswith("generator mixture (ganrun-mixture 0.1.0)\n\nDense layers fed by a learned mixture")
    assert "components   integer   default 50   ≥ 1\n      Gaussians in the mixture." in shown


def test_without_it_the_message_says_what_to_install() -> None:
    recipe = EXAMPLE / "mixture.toml"
    refused = CliRunner().invoke(main, ["check", str(recipe)])
    assert refused.exit_code == 2
    assert f"{recipe}:4: the recipe requires ganrun-mixture>=0.1, which is not installed; say: pip" in refused.output
    assert f'{recipe}:18: no generator is called "mixture"' in refused.output
