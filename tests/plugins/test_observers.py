"""Checkpoints, early stopping, sample grids and progress, in real runs of a small recipe."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image

from ganrun import (
    DamagedCheckpoint,
    Metric,
    Observer,
    RequestError,
    RunError,
    Score,
    Settings,
    checkpoints_in,
    hookimpl,
    load_checkpoint,
    observes,
    save_checkpoint,
    step_of,
    to_uint8,
)
from ganrun.testing import assert_conforms, build, registry_with, train
from ganrun.training.runner import execute
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


@pytest.mark.parametrize("name", ["checkpoints", "samples", "progress", "mlflow", "early-stopping"])
def test_observers_conform(name):
    settings = {"metric": "fid", "patience": 3} if name == "early-stopping" else {}
    assert_conforms("observer", registry_with().find("observer", name).cls, settings)


# ── Checkpoints ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_is_read_back_as_it_was_written(run, tmp_path):
    save_checkpoint(run.state.checkpoint(), tmp_path / "step_3")
    checkpoint = load_checkpoint(tmp_path / "step_3")
    written = run.state.weights()
    assert checkpoint.weights.keys() == written.keys() == {"generator", "generator.averaged", "discriminator"}
    for network, tensors in written.items():
        assert all(torch.equal(checkpoint.weights[network][name], value) for name, value in tensors.items())
    assert (checkpoint.progress["step"], checkpoint.progress["images_seen"]) == (3, 24)


@pytest.mark.parametrize("file", ["generator.safetensors", "progress.pt", "manifest.json"])
@pytest.mark.parametrize("deed", ["cut", "remove", "flip"])
def test_every_kind_of_damage_is_detected(run, tmp_path, file, deed):
    save_checkpoint(run.state.checkpoint(), tmp_path / "step_3")
    path = tmp_path / "step_3" / file
    content = bytearray(path.read_bytes())
    if deed == "remove":
        path.unlink()
    elif deed == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=re.escape(str(tmp_path / "step_3"))):
        load_checkpoint(tmp_path / "step_3")


def test_a_pickle_in_place_of_the_training_state_is_not_executed(run, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    import hashlib
    import json

    save_checkpoint(run.state.checkpoint(), tmp_path / "step_3")
    (tmp_path / "step_3" / "progress.pt").write_bytes(pickle.dumps(Bomb()))
    manifest = json.loads((tmp_path / "step_3" / "manifest.json").read_text())
    content = (tmp_path / "step_3" / "progress.pt").read_bytes()
    manifest["sha256"]["progress.pt"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "step_3" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(tmp_path / "step_3")
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"cannot write the checkpoint .*step_3: .*No space left"):
        save_checkpoint(run.state.checkpoint(), tmp_path / "step_3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocks", [1, 16])
def test_a_full_disk_is_reported_in_one_line(tmp_path, blocks):
    """A limit on the size of files acts like a full disk: on the records, or on the weights."""
    kept = {"every_steps": 3} if blocks > 1 else False
    recipe = {**SMALL, "generator": {"use": "mlp", "hidden": [64]}, "checkpoints": kept, "samples": False}
    recipe["train"] = {**SMALL["train"], "steps": 60}
    (tmp_path / "small.toml").write_text(tomli_w.dumps(recipe))
    limited = f"ulimit -f {blocks}; trap '' XFSZ; exec {sys.executable} -m ganrun.cli small.toml --output run"
    done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert ("cannot write the checkpoint" if blocks > 1 else "cannot write") in done.stderr


def test_only_the_latest_are_kept(tmp_path):
    train({**SMALL, "checkpoints": {"every_steps": 1, "keep": 2}}, tmp_path / "run")
    kept = checkpoints_in(tmp_path / "run")
    assert [folder.name for folder in kept] == ["step_00000002", "step_00000003"]


class ByStep(Metric):
    """Scores that depend on the step: one is best at 3, the other at 2."""

    error = (9.0, 5.0, 2.0, 4.0, 4.0, 3.0, 8.0)

    def measure(self, evaluation):
        error = self.error[evaluation.step - 1]
        return [Score("error", error, False, {"n": 1}), Score("merit", -((evaluation.step - 2) ** 2), True, {"n": 1})]


class ByStepPlugin:
    @hookimpl
    def ganrun_metrics(self):
        return {"by-step": ByStep}


def scored(steps=7, **more):
    train = {**SMALL["train"], "steps": steps, "evaluate_every_steps": 1}
    return {**SMALL, "train": train, "metric": [{"use": "by-step"}], "samples": False, "progress": False, **more}


@pytest.mark.parametrize(("metric", "step", "value"), [("error", 3, 2.0), ("merit", 2, 0.0)])
def test_the_best_state_is_kept_beside_the_latest(tmp_path, metric, step, value):
    run = train(scored(checkpoints={"best": metric}), tmp_path / "run", ByStepPlugin())
    assert load_checkpoint(tmp_path / "run/checkpoints/best").progress["step"] == step
    assert run.notes["best"] == {"metric": metric, "value": value, "step": step}
    assert [folder.name for folder in checkpoints_in(tmp_path / "run")] == ["step_00000007"]


def test_the_best_state_survives_a_killed_and_continued_run(tmp_path):
    """A killed run has no summary of the best state; metrics.jsonl has its scores."""
    tables = scored(checkpoints={"best": "error", "every_steps": 1})
    run = build({**tables, "train": {**tables["train"], "steps": 5}}, tmp_path / "run", ByStepPlugin())
    execute(run)
    (tmp_path / "run/summary.json").unlink()
    again = train(tables, tmp_path / "run", ByStepPlugin(), resume=True)
    assert again.step == 7 and again.notes["best"] == {"metric": "error", "value": 2.0, "step": 3}
    assert load_checkpoint(tmp_path / "run/checkpoints/best").progress["step"] == 3


def test_a_best_that_is_not_measured_is_warned_about_once(tmp_path, caplog):
    train(scored(steps=2, checkpoints={"best": "fid"}), tmp_path / "run", ByStepPlugin())
    assert caplog.messages.count("no best checkpoint: fid is not measured; the scores are error, merit") == 1
    with pytest.raises(RequestError, match=r'best = "fid" needs a \[\[metric\]\]'):
        train(scored(metric=[], checkpoints={"best": "fid"}), tmp_path / "none", ByStepPlugin())


def test_a_best_state_that_was_not_kept_is_not_claimed(tmp_path):
    short = scored(steps=4, checkpoints={"every_steps": 1})
    train(short, tmp_path / "run", ByStepPlugin())
    longer = train(scored(checkpoints={"best": "error"}), tmp_path / "run", ByStepPlugin(), resume=True)
    assert longer.notes["best"] == {"metric": "error", "value": 3.0, "step": 6}, "3 was better, but its state is gone"
    assert step_of(tmp_path / "run/checkpoints/best") == 6


def test_scores_with_another_protocol_are_not_compared():
    first = Score("fid", 5.0, False, {"generated": 100})
    assert first.improves_on(None) and not first.improves_on(first)
    assert Score("fid", 4.0, False, {"generated": 100}).improves_on(first)
    assert not Score("fid", 6.0, False, {"generated": 100}).improves_on(first)
    assert Score("fid", 6.0, False, {"generated": 20}).improves_on(first), "the first with its protocol"
    assert not Score("fid", float("nan"), False, {"generated": 20}).improves_on(None)


# ── The final weights ─────────────────────────────────────────────────────────────────────────────────────


class Files:
    """A plugin whose observer lists the files of a run, and stops it after its third step if `stops` is set."""

    def __init__(self, *, first: bool = True) -> None:
        self.written: list[tuple[str, str]] = []
        written = self.written

        class Stopper(Observer):
            @observes(tryfirst=first, trylast=not first)
            def step_ended(self, run, step):
                if step == 3 and self.settings.stops:
                    run.stop("enough")

            @observes
            def file_written(self, path, role):
                written.append((role, path.name))

            class Settings(Settings):
                stops: bool = True

        self.observer = Stopper

    @hookimpl
    def ganrun_observers(self):
        return {"stopper": self.observer}

    def of(self, role: str) -> list[str]:
        return [name for each, name in self.written if each == role]


def stopped_at_three(every: int, steps: int = 9, **more):
    """A recipe without metrics, that writes checkpoints, pictures and means at one interval."""
    train = {**SMALL["train"], "steps": steps, "log_every_steps": every}
    cadences = {"checkpoints": {"every_steps": every, "keep": 9}, "samples": {"every_steps": every}}
    return {**SMALL, "train": train, **cadences, "progress": False, "stopper": {}, **more}


@pytest.mark.parametrize("first", [True, False], ids=["before the others", "after the others"])
@pytest.mark.parametrize("every", [1, 3, 100], ids=["every step", "the last step", "never"])
def test_the_final_weights_are_kept_exactly_once_also_if_an_observer_stops_the_run(tmp_path, every, first):
    files = Files(first=first)
    run = train(stopped_at_three(every), tmp_path / "run", files)
    assert run.step == 3 and run.directory.summary()["status"] == "finished"
    checkpoint = load_checkpoint(tmp_path / "run/checkpoints/step_00000003")
    for network, tensors in run.state.weights().items():
        assert all(torch.equal(checkpoint.weights[network][name], value) for name, value in tensors.items())
    assert files.of("checkpoint") == [f"step_{step:08d}" for step in ([1, 2, 3] if every == 1 else [3])]
    assert files.of("samples") == [f"step_{step:08d}.png" for step in (1, 2, 3)], "the first two are always scheduled"
    means = [record.step for record in run.directory.records() if "loss/generator" in record.values]
    assert means.count(3) == 1 and means[-1] == 3, "the means are written once"


def test_a_run_that_is_continued_without_a_step_left_writes_no_weights_and_no_pictures(tmp_path):
    tables = stopped_at_three(100, steps=4, stopper={"stops": False})
    train(tables, tmp_path / "run", Files())
    kept = [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".png", ".gif", ".safetensors", ".jsonl")]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept if path.suffix != ".jsonl"}
    records = (tmp_path / "run/metrics.jsonl").read_text()
    files = Files()
    again = train(tables, tmp_path / "run", files, resume=True)
    assert again.step == 4 and len(before) > 8
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert (tmp_path / "run/metrics.jsonl").read_text() == records
    assert files.of("checkpoint") == ["step_00000004"], "the summary names it"
    assert files.of("samples") == [] and again.last_files["checkpoint"] == "checkpoints/step_00000004"


def test_a_final_picture_that_a_crash_prevented_is_drawn_when_the_run_is_continued(tmp_path):
    tables = stopped_at_three(2, steps=4, stopper={"stops": False})
    train(tables, tmp_path / "run", Files())
    last = tmp_path / "run/samples/step_00000004.png"
    content = last.read_bytes()
    last.unlink()
    files = Files()
    train(tables, tmp_path / "run", files, resume=True)
    assert files.of("samples") == [last.name] and last.read_bytes() == content


# ── Early stopping ────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_ends_when_a_score_has_not_improved_for_a_while(tmp_path):
    stopping = {"metric": "error", "patience": 2}
    run = train(scored(**{"early-stopping": stopping}), tmp_path / "run", ByStepPlugin())
    assert run.step == 5, "best at 3, no better at 4 and 5"
    assert [folder.name for folder in checkpoints_in(tmp_path / "run")][-1] == "step_00000005"
    scored_steps = [record.step for record in run.directory.records() if "error" in record.scores()]
    assert scored_steps == [1, 2, 3, 4, 5], "the last state is scored once"
    summary = run.directory.summary()
    assert summary["status"] == "finished" and "has not improved for 2 evaluations" in summary["stopped"]
    assert any(message.startswith("stopped early: error has not improved") for message in run.messages)


def test_a_stopped_run_stays_stopped_and_patience_survives_a_restart(tmp_path):
    patient = scored(**{"early-stopping": {"metric": "error", "patience": 3}})
    first = {**patient, "train": {**patient["train"], "steps": 4}}
    assert train(first, tmp_path / "run", ByStepPlugin()).step == 4
    run = train(patient, tmp_path / "run", ByStepPlugin(), resume=True)
    assert run.step == 6, "4, 5 and 6 are no better than 3"
    assert train(patient, tmp_path / "run", ByStepPlugin(), resume=True).step == 6


def test_steady_progress_stops_nothing(tmp_path):
    run = train(
        scored(steps=3, **{"early-stopping": {"metric": "error", "patience": 1}}), tmp_path / "run", ByStepPlugin()
    )
    assert run.step == 3 and run.stopped is None


def test_patience_without_scores_is_reported_at_once(tmp_path, caplog):
    patient = {"early-stopping": {"metric": "fid", "patience": 1}}
    assert train(scored(steps=2, **patient), tmp_path / "run", ByStepPlugin()).step == 2
    assert '"early-stopping" failed at evaluated' in caplog.text
    assert "fid is not measured; the scores are error, merit" in caplog.text
    never = scored(steps=2, **patient)
    del never["train"]["evaluate_every_steps"]
    train(never, tmp_path / "never", ByStepPlugin())
    assert "needs a [[metric]] and [train] evaluate_every_steps" in caplog.text


def test_patience_that_runs_out_with_the_run_ends_nothing(tmp_path):
    run = train(
        scored(steps=5, **{"early-stopping": {"metric": "error", "patience": 2}}), tmp_path / "run", ByStepPlugin()
    )
    assert run.step == 5 and run.stopped is None
    longer = scored(**{"early-stopping": {"metric": "error", "patience": 3}})
    for _ in range(2):
        assert train(longer, tmp_path / "run", ByStepPlugin(), resume=True).step == 6, "each evaluation counts once"


# ── Samples ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grid_contains_every_image_in_its_place():
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
    expected = image_grid(to_uint8(run.model.decode(run.model.fixed_latents(6))), 3).numpy()
    assert np.array_equal(np.asarray(Image.open(pictures[-1])), expected)


# ── Progress ──────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_terminal_progress_is_plain_lines(tmp_path, capfd):
    train({**SMALL, "progress": {"seconds": 1e-9}}, tmp_path / "run")
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"run: 3 steps on cpu \(.*\), in .*/run", lines[0])
    pattern = r"step \d/3  discriminator \d\.\d{3}  generator \d\.\d{3}  [\d,]+ images/s  0:00 left"
    assert [bool(re.fullmatch(pattern, line)) for line in lines[1:4]] == [True] * 3
    assert re.fullmatch(r"finished at step 3: 24 images in 0:0\d of training, [\d,]+ images/s", lines[4])


def test_on_a_terminal_progress_is_a_bar(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = build(SMALL, tmp_path / "run")
    execute(run)
    errors = capfd.readouterr().err
    assert "3/3" in errors and "images/s" in errors and "finished at step 3" in errors
    assert "\x1b[" in errors


def test_a_closed_pipe_does_not_stop_training(tmp_path):
    """As after `| head -1`: the pipe is closed before the first step."""
    (tmp_path / "small.toml").write_text(tomli_w.dumps({**SMALL, "samples": False, "progress": {"seconds": 0.001}}))
    command = f"{sys.executable} -m ganrun.cli small.toml --output run 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert '"status": "finished"' in (tmp_path / "run" / "summary.json").read_text()
    assert [folder.name for folder in checkpoints_in(tmp_path / "run")] == ["step_00000003"]
