"""Trained models in use: the same samples from every source, without executing foreign code."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ganrun
from ganrun import Run, Tracker, find_saved_model, hookimpl, to_uint8
from ganrun.base.errors import IncompatibleError, RequestError
from ganrun.testing import build, registry_with, train
from ganrun.training.runner import execute

RECIPE = {
    "name": "small",
    "train": {"steps": 3, "batch_size": 8, "device": "cpu", "seed": 5},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "checkpoints": {"every_steps": 1, "keep": 3},
    **dict.fromkeys(("samples", "progress", "mlflow"), False),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(RECIPE, tmp_path_factory.mktemp("loading") / "run")


# ── The same samples ──────────────────────────────────────────────────────────────────────────────────────


def test_its_samples_are_those_that_are_scored(run: Run) -> None:
    model = ganrun.load(run.directory.path, "cpu")
    scored = run.evaluation().generated(300)
    assert torch.equal(to_uint8(model.sample(300)), scored)
    assert torch.equal(model.sample(7), model.sample(300)[:7])
    assert not torch.equal(model.sample(7, seed=6), model.sample(7))


def test_a_checkpoint_gives_the_weights_of_its_own_step(run: Run) -> None:
    places = [run.directory / "checkpoints" / f"step_{step:08d}" for step in (1, 3)]
    early, late = (find_saved_model(place) for place in places)
    assert (early.step, late.step, early.seed) == (1, 3, 5)
    latents = run.model.fixed_latents(4)
    assert torch.equal(late.model("cpu").decode(latents), run.model.decode(latents)), "the averaged weights"
    assert not torch.equal(early.model("cpu").decode(latents), run.model.decode(latents))


def test_neither_data_nor_other_plugins_than_the_models_are_needed(run: Run, tmp_path: Path) -> None:
    moved = shutil.copytree(run.directory.path, tmp_path / "moved")
    recipe = (moved / "recipe.toml").read_text()
    (moved / "recipe.toml").write_text(recipe.replace('"digits"', '"lost"') + '\n[not-installed-here]\nsecret = "x"\n')
    assert torch.equal(ganrun.load(moved, "cpu").sample(3), run.model.sample(3))


def test_using_a_model_in_training_leaves_its_mode_and_its_random_stream_alone(run: Run) -> None:
    generator = run.state.slots["generator"].module.train()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run.model.sample(3)
    run.model.decode(run.model.fixed_latents(2))
    assert torch.rand(1) == expected and generator.training


def test_fixed_latents_are_drawn_where_every_machine_draws_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run.model.fixed_latents(300)
    assert torch.equal(run.model.fixed_latents(5), expected[:5])
    model = ganrun.load(run.directory.path, "cpu")
    model.device = torch.device("meta")  # stands for a GPU, whose random stream is another
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: drawn.append(tensor) or tensor)
    assert torch.equal(model.fixed_latents(300), expected) and drawn


def test_one_class_is_asked_of_a_model_that_knows_classes(tmp_path: Path, run: Run) -> None:
    model = train({**RECIPE, "loss": {"use": "acgan", "noise_size": 4}}, tmp_path / "run").model
    (factor,) = [each for each in model.spec.factors if each.name == "class"]
    for latents, _ in model.batches(300, label=3):
        assert (latents[:, model.spec.place(factor)].argmax(1) == 3).all()
        assert (latents[:, model.spec.place(factor)].sum(1) == 1).all()
    with pytest.raises(IncompatibleError, match="the classes are 0 to 9"):
        model.sample(1, label=10)
    with pytest.raises(IncompatibleError, match="knows no classes"):
        run.model.sample(1, label=0)


# ── What is not there ─────────────────────────────────────────────────────────────────────────────────────


def edited(file: str, old: str, new: str) -> Callable[[Path], object]:
    """What puts one text in another's place in a file of a folder."""
    return lambda folder: (folder / file).write_text((folder / file).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "holds no checkpoint"),
        (lambda folder: (folder / "recipe.toml").unlink(), "not a run directory, a checkpoint"),
        (lambda folder: (folder / "environment.json").write_text("{}"), "environment.json is damaged"),
        (edited("environment.json", '"sample_shape"', '"shape"'), "environment.json is damaged"),
        (lambda folder: os.truncate(folder / "recipe.toml", 0), "recipe.toml is damaged"),
        (lambda folder: os.truncate(folder / "recipe.toml", 400), r"recipe.toml:\d+: is not valid TOML"),
        (edited("recipe.toml", " 8,", " 9,"), "another"),
        (edited("recipe.toml", ':mlp"', ':mpl"'), "mpl"),
    ],
    ids=[
        *("no weights", "no recipe", "no facts", "half the facts", "empty recipe", "half a recipe"),
        *("other networks", "no such component"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    run: Run, tmp_path: Path, spoil: Callable[[Path], object], reported: str
) -> None:
    copy = shutil.copytree(run.directory.path, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(RequestError, match=reported):
        ganrun.load(copy, "cpu")


def test_a_network_of_thousands_of_other_layers_is_refused_in_a_few_words(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.directory.path, tmp_path / "copy")
    edited("recipe.toml", "    8,\n", "    1,\n" * 3_000)(copy)
    with pytest.raises(RequestError, match="another") as fault:
        ganrun.load(copy, "cpu")
    assert len(str(fault.value)) < 5_000


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(run: Run, value: float) -> None:
    saved = find_saved_model(run.directory.path)
    next(iter(saved.weights["generator"].values())).view(-1)[0] = value
    with pytest.raises(RequestError, match="the weights of the generator are not finite"):
        saved.model("cpu")


@pytest.mark.parametrize(("version", "is_reported"), [("999.0", True), (None, False)])
def test_of_a_newer_ganruns_run_it_is_said_that_what_seems_wrong_may_be_new(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, version: str | None, is_reported: bool
) -> None:
    copy = shutil.copytree(run.directory.path, tmp_path / "copy")
    if version:
        facts = run.directory.read_json("environment.json")
        facts["packages"]["ganrun"] = version
        (copy / "environment.json").write_text(json.dumps(facts))
    edited("recipe.toml", "[loss]\n", "[loss]\nnew = 3\n")(copy)
    for read in (ganrun.load, lambda place: ganrun.load(place / "checkpoints" / "step_00000003")):
        caplog.clear()
        with pytest.raises(RequestError, match='has no key "new"'):
            read(copy)
        assert (f"{copy} was made by ganrun 999.0" in caplog.text) == is_reported
    caplog.clear()
    ganrun.open_run(copy)
    assert ("was made by ganrun 999.0" in caplog.text) == is_reported


def test_what_can_be_no_path_is_no_run() -> None:
    with pytest.raises(RequestError, match="File name too long"):
        ganrun.load("x" * 300)


class Elsewhere(Tracker):
    """Knows one run by the name of `abc`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def find(self, run_id: str) -> Path | None:
        return self.place if run_id == "abc" else None

    def runs_of(self, experiment: str) -> None:
        return None

    def experiments(self) -> list[str]:
        return []

    @hookimpl
    def ganrun_trackers(self):
        return {"elsewhere": self}


def test_a_trackers_name_for_a_run_is_as_good_as_its_directory(run: Run) -> None:
    registry = registry_with(Elsewhere(run.directory.path))
    assert find_saved_model("abc", registry).folder == run.directory.path
    with pytest.raises(RequestError, match="there is no xyz, and no tracker knows a run by that name"):
        find_saved_model("xyz", registry)


# ── On disk ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_weights_may_be_read_by_whoever_may_read_the_rest(run: Run, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        ganrun.save_checkpoint(run.state.checkpoint(), tmp_path / "run" / "step_3")
    finally:
        os.umask(before)
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run" / "step_3").iterdir()}
    assert "generator.averaged.safetensors" in files and files == dict.fromkeys(files, 0o666 & ~mask)


def test_records_are_lines_and_nothing_else_is_a_record(tmp_path: Path) -> None:
    directory = ganrun.RunDirectory(tmp_path)
    score = ganrun.Score("fid", 3.5, False, {"pictures": "a\u2028b\x85c\x0b"}, error=0.1)
    odd = ganrun.Record(1, 64, 0.5, 1e9, {"loss/generator": 0.25, "perf/idle": math.nan}, (score,), rescored=True)
    directory.append_record(odd)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            '3\n[]\n{"no": "step"}\n{"step": 2, "images_seen": 3, "seconds": 1'
            + 400 * "0"
            + ', "time": 1}\n'
            + "[" * 100_000
            + '\n{"step": 2, "loss'
        )
    last = ganrun.Record(3, 128, 1.0, 1e9)
    directory.append_record(last)
    first, second = directory.records()
    assert second == last and first.evaluation == odd.evaluation and first.rescored
    assert first.values["loss/generator"] == 0.25 and math.isnan(first.values["perf/idle"])
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8"), "which is no JSON"


# ── Who is at work ────────────────────────────────────────────────────────────────────────────────────────

TRAIN = """
import sys
from pathlib import Path
from ganrun.testing import train
train({recipe}, Path(sys.argv[1]))
"""


def test_a_run_whose_process_was_killed_is_distinguished_from_one_that_is_running(tmp_path: Path) -> None:
    long = {**RECIPE, "train": {**RECIPE["train"], "steps": 10_000_000}, "checkpoints": False}
    place = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", TRAIN.format(recipe=repr(long)), place])
    try:
        directory = ganrun.RunDirectory(place)
        deadline = time.monotonic() + 60
        while not (place / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert directory.status == "running"
        with pytest.raises(RequestError, match="is in use by another process"):
            execute(build(long, place, resume=True))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert json.loads((place / "summary.json").read_text())["status"] == "running"
    assert directory.status == "killed"
    assert ganrun.RunDirectory(tmp_path / "none").status == "unknown"


def test_a_lock_that_may_not_be_tried_kills_no_run(run: Run, tmp_path: Path) -> None:
    """As of another user's run, whose lock this one may not open."""
    copy = shutil.copytree(run.directory.path, tmp_path / "copy")
    edited("summary.json", '"finished"', '"running"')(copy)
    assert ganrun.RunDirectory(copy).status == "killed"
    (copy / ".lock").unlink()
    (copy / ".lock").mkdir()
    assert ganrun.RunDirectory(copy).status == "running"
