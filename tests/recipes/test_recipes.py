"""Every recipe that ships with ganrun is correct."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ganrun.cli import main
from ganrun.contracts.settings import dump_settings
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import find_recipe, shipped_recipes
from ganrun.training.assembly import check_recipe
from ganrun.training.builder import build_run
from ganrun.training.runner import execute

RECIPES = sorted(shipped_recipes().glob("*.toml"))
ROOT = Path(__file__).parents[2]
WIDTHS = ("bottleneck", "cardinality", "class_size", "feature_maps", "hidden", "style_size", "widest", "widths")
"""Settings of networks that decide how wide they are, and nothing else."""

NARROW = {"progressive_celeba128.toml": [f"{slot}.widths={[16] * 6}" for slot in ("generator", "discriminator")]}
"""How networks become narrower whose widths follow from their size unless a recipe says them."""

FLOWS = ("flow_cifar10.toml", "flow_emoji.toml", "flow_fashion_mnist.toml")

SMALLER = {"stylegan2_ffhq256.toml": ["data.size=32"], **{name: ["sampling.steps=1"] for name in FLOWS}}
"""What is set besides for networks whose step, or whose samples, take long all the same."""

SLOW = (
    "biggan_*cifar10*",
    "flow_cifar10",
    "progressive_celeba128",
    "r3gan_cifar10",
    "stylegan2_*cifar10",
    "stylegan2_ffhq256",
)
"""Recipes whose networks are narrower also where they are only checked."""


FOLDERS = ("paired-folders", "unpaired-folders")
"""Data of recipes for 256×256, by translators that take any size."""


def narrow(path: Path) -> list[str]:
    """Overrides that make no network of a recipe wider than 16."""
    networks = load_recipe(path, load_registry()).networks
    widths = {(slot, each): dump_settings(networks[slot].settings).get(each) for slot in networks for each in WIDTHS}
    capped_widths = [f"{slot}.{each}={capped(width)}" for (slot, each), width in widths.items() if width]
    return [*capped_widths, *NARROW.get(path.name, [])]


def checked(path: Path) -> list[str]:
    """Overrides of a recipe that is only checked: narrower networks where that takes long, and smaller images where it
    still does."""
    if load_recipe(path, load_registry()).data.use in FOLDERS:
        return [*narrow(path), "data.size=32"]
    return narrow(path) if any(fnmatch(path.stem, each) for each in SLOW) else []


def drawn(path: Path) -> list[str]:
    """Overrides that replace a recipe's data by few drawn images, blurred for translators, or by few small crops of
    photographs."""
    use = load_recipe(path, load_registry()).data.use
    if use == "degraded":
        return ["data.of.size=32", "data.of.count=64"]
    if path.stem.startswith(("cyclegan_", "pix2pix_")):
        shapes = '{ use = "synthetic", size = 32, count = 640, test_count = 16 }'
        return ["data.use=degraded", f"data.of={shapes}", "data.blur=1.0"]
    return ["data.use=synthetic", "data.count=640", "data.test_count=16"]


@pytest.fixture(autouse=True)
def _no_published_weights(monkeypatch):
    """Perceptual networks remain as they are drawn: their weights are in files that are not here."""
    monkeypatch.setattr("ganrun_superresolution.perceptual.Pretrained.prepare", lambda self, device: None)


def capped(width: int | list[int]) -> int | list[int]:
    return [min(each, 16) for each in width] if isinstance(width, list) else min(width, 16)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_valid_and_its_networks_fit(path):
    check_recipe(load_recipe(path, load_registry(), checked(path)))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_says_at_its_head_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_trains_on_drawn_shapes_where_its_own_data_is_absent(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["train.steps=2", "train.batch_size=4", "train.device=cpu"]
    quiet = ["stage=[]", "metric=[]", "mlflow=false", "progress=false", "samples.count=4"]
    overrides = [*drawn(path), *few, *quiet, *narrow(path), *SMALLER.get(path.name, [])]
    run = build_run(load_recipe(path, load_registry(), overrides), tmp_path / "run")
    before = {name: slot.module.state_dict() for name, slot in run.state.slots.items()}
    before = {name: {key: value.clone() for key, value in weights.items()} for name, weights in before.items()}
    execute(run)
    assert run.step == 2
    for name, slot in run.state.slots.items():
        changed = [key for key, value in slot.module.state_dict().items() if not torch.equal(value, before[name][key])]
        assert changed or slot.optimizer is None, f"{name} has not learned"
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
    assert lines["dcgan_cifar10.toml"].split()[-6:] == ["cifar10", "32", "fid", "42.72", "±", "5"]


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
