"""`ganrun recipes/wgan_celeba.toml` without the data, and on a few pictures in CelebA's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ganrun.cli import main
from ganrun.recipe.shipped import shipped_recipes

RECIPE = str(shipped_recipes() / "wgan_celeba.toml")
SHORT = [
    "train.steps=2",
    "train.batch_size=4",
    "train.repeat.discriminator=2",
    "train.device=cpu",
    "samples.count=4",
    "metric=[]",
]
SMALL = ["generator.feature_maps=8", "discriminator.feature_maps=8", "mlflow=false", "progress=false"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def train(*overrides: str) -> Result:
    options = [each for override in (*SHORT, *SMALL, *overrides) for each in ("--set", override)]
    return CliRunner().invoke(main, ["train", RECIPE, "--output", "out", *options])


def write_faces(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(1, count + 1):
        coarse = Image.fromarray(random.integers(0, 256, (6, 5, 3), np.uint8))
        coarse.resize((178, 218)).save(folder / f"{number:06d}.jpg", quality=90)


def test_without_the_data_the_error_says_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    result = train()
    assert result.exit_code == 2
    for step in (
        "wgan_celeba.toml:",
        "[data] celeba",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "img_align_celeba.zip",
        str(tmp_path / "data/celeba"),
    ):
        assert step in result.output, step
    assert "Traceback" not in result.output
    assert not Path("out").exists()


def test_a_few_pictures_in_its_layout_train_with_a_warning() -> None:
    write_faces(Path("data/celeba/img_align_celeba"), 20)
    result = train()
    assert result.exit_code == 0, result.output
    assert "has 20 of CelebA's 202,599 pictures: enough for a trial" in " ".join(result.output.split())
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["images_seen"]) == ("finished", 2, 16)
    assert Image.open("out/samples/step_00000002.png").mode == "RGB"
    data = json.loads(Path("out/environment.json").read_text())["data"]
    assert data["counts"] == {"train": 20}
    assert data["transform"]["crop"] == 178 and data["transform"]["size"] == 64
    assert data["published"] is False


def test_an_attribute_gives_the_classes_of_a_conditional_model() -> None:
    write_faces(Path("data/celeba/img_align_celeba"), 12)
    rows = "\n".join(f"{number:06d}.jpg {1 if number % 3 else -1} -1" for number in range(1, 13))
    Path("data/celeba/list_attr_celeba.txt").write_text(f"12\nSmiling Young\n{rows}\n")
    chosen = ["data.attribute=Smiling", "loss.use=cgan", "loss.noise_size=8"]
    overrides = [override for override in SHORT if not override.startswith("loss.")]
    options = [each for override in (*overrides, *SMALL, *chosen) for each in ("--set", override)]
    result = CliRunner().invoke(main, ["train", RECIPE, "--output", "out", *options])
    assert result.exit_code == 0, result.output
    height, width = np.asarray(Image.open("out/samples/step_00000002.png")).shape[:2]
    assert width == pytest.approx(4 * height, rel=0.1), "two rows, one for each class, of eight"
