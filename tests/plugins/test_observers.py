"""Checkpoints, sample grids and progress, in real runs of a small recipe."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ganrun import to_uint8
from ganrun.testing import assert_conforms, build, registry_with, train
from ganrun_checkpoints.store import Damaged, checkpoints_in, load, save
from ganrun_samples.grid import image_grid

SMALL = {
    "train": {"steps": 3, "batch_size": 8, "device": "cpu", "log_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "mlflow": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train({**SMALL, "samples": {"count": 6, "columns": 3}}, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("name", ["checkpoints", "samples", "progress", "mlflow"])
def test_observers_conform(name):
    assert_conforms("observer", registry_with().find("observer", name).component)


# ── Checkpoints ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_is_read_back_as_it_was_written(run, tmp_path):
    save(run.state, tmp_path / "step_3")
    checkpoint = load(tmp_path / "step_3")
    written = run.state.weights()
    assert checkpoint.weights.keys() == written.keys() == {"generator", "generator.averaged", "discriminator"}
    for network, tensors in written.items():
        assert all(torch.equal(checkpoint.weights[network][name], value) for name, value in tensors.items())
    assert (checkpoint.progress["step"], checkpoint.progress["images_seen"]) == (3, 24)


@pytest.mark.parametrize("file", ["generator.safetensors", "progress.pt", "manifest.json"])
@pytest.mark.parametrize("deed", ["cut", "remove", "flip"])
def test_every_damage_is_noticed(run, tmp_path, file, deed):
    save(run.state, tmp_path / "step_3")
    path = tmp_path / "step_3" / file
    content = bytearray(path.read_bytes())
    if deed == "remove":
        path.unlink()
    elif deed == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(Damaged, match=re.escape(str(tmp_path / "step_3"))):
        load(tmp_path / "step_3")


def test_a_pickle_in_place_of_the_training_state_is_not_executed(run, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    import hashlib
    import json

    save(run.state, tmp_path / "step_3")
    (tmp_path / "step_3" / "progress.pt").write_bytes(pickle.dumps(Bomb()))
    manifest = json.loads((tmp_path / "step_3" / "manifest.json").read_text())
    content = (tmp_path / "step_3" / "progress.pt").read_bytes()
    manifest["sha256"]["progress.pt"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "step_3" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged):
        load(tmp_path / "step_3")
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_could_not_be_finished_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save(run.state, tmp_path / "step_3")
    assert list(tmp_path.iterdir()) == []


def test_only_the_latest_are_kept(tmp_path):
    train({**SMALL, "checkpoints": {"every_steps": 1, "keep": 2}}, tmp_path / "run")
    kept = checkpoints_in(tmp_path / "run" / "checkpoints")
    assert [folder.name for folder in kept] == ["step_00000002", "step_00000003"]


# ── Samples ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grid_holds_every_image_in_its_place():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].mul(50).expand(5, 1, 300, 200).contiguous()
    grid = image_grid(images, columns=3).numpy()
    assert grid.shape == (2 * 302 + 2, 3 * 202 + 2, 3)
    for index in range(5):
        top, left = 2 + (index // 3) * 302, 2 + (index % 3) * 202
        assert np.all(grid[top : top + 300, left : left + 200] == 50 * index)
    assert np.all(grid[2 + 302 :, 2 + 2 * 202 :] == 255), "the empty place is white"


def test_small_grids_are_enlarged_by_whole_pixels_and_colour_is_kept():
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    image[0, 0] = 200
    grid = image_grid(image, columns=1).numpy()
    assert min(grid.shape[:2]) >= 512
    assert set(map(tuple, grid.reshape(-1, 3))) == {(200, 0, 0), (255, 255, 255)}


def test_grids_show_the_averaged_weights_samples_of_the_same_latents(run):
    pictures = sorted((run.directory / "samples").iterdir())
    assert [path.name for path in pictures] == [f"step_{step:08d}.png" for step in (1, 2, 3)]
    expected = image_grid(to_uint8(run.samples(run.fixed_latents(6))), 3).numpy()
    assert np.array_equal(np.asarray(Image.open(pictures[-1])), expected)


# ── Progress ──────────────────────────────────────────────────────────────────────────────────────────────


def test_plain_lines_where_there_is_no_terminal(tmp_path, capfd):
    train({**SMALL, "progress": {"seconds": 1e-9}}, tmp_path / "run")
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"run: 3 steps on cpu \(.*\), in .*/run", lines[0])
    pattern = r"step \d/3  discriminator \d\.\d{3}  generator \d\.\d{3}  [\d,]+ images/s  0:00 left"
    assert [bool(re.fullmatch(pattern, line)) for line in lines[1:4]] == [True] * 3
    assert re.fullmatch(r"finished at step 3: 24 images in 0:0\d of training, [\d,]+ images/s", lines[4])


def test_a_bar_where_there_is_one(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = build(SMALL, tmp_path / "run")
    from ganrun.runner import execute

    execute(run)
    errors = capfd.readouterr().err
    assert "3/3" in errors and "images/s" in errors and "finished at step 3" in errors
    assert "\x1b[" in errors
