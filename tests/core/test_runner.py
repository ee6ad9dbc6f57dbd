"""Whole runs: the order of events, exact resume, evaluation that disturbs nothing, faults and interruptions."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ganrun
from ganrun import Data, DataSpec, Discriminator, Generator, Metric, Observer, Score, Split, hookimpl, observes
from ganrun.base.errors import ContractError, Interrupted, NonFiniteError, RequestError, RunError
from ganrun.base.signals import signals_as_exceptions
from ganrun.testing import build, train
from ganrun.training.runner import execute


class Stripes(Data):
    """Forty images of random stripes, labelled by direction."""

    def spec(self) -> DataSpec:
        return DataSpec((1, 8, 8), classes=2)

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        random = np.random.default_rng(0)
        rows = random.integers(0, 256, (20, 1, 8, 1), dtype=np.uint8).repeat(8, 3)
        columns = random.integers(0, 256, (20, 1, 1, 8), dtype=np.uint8).repeat(8, 2)
        return Split(np.concatenate([rows, columns]), np.repeat(np.arange(2), 20))


class Up(Generator):
    """Dropout and batch norm, so that random streams and running statistics matter."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layers = nn.Sequential(
            nn.Linear(*spec.inputs, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 64)
        )

    def forward(self, latents, labels=None):
        return self.layers(latents).tanh().unflatten(1, (1, 8, 8))


class Down(Discriminator):
    """The same, downwards."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(32, 1))

    def forward(self, images, labels=None):
        return self.layers(images)


class Brightness(Metric):
    """Mean of 300 samples; it draws random numbers, to disturb code that does not isolate it."""

    def measure(self, evaluation):
        torch.rand(100)
        mean = evaluation.generated(300).float().mean().item()
        return [Score("brightness", mean, higher_is_better=True, protocol={"samples": 300})]


class Diary(Observer):
    """Writes down every event it hears."""

    entries: list[str] = []

    @observes
    def run_starting(self, run):
        Diary.entries.append("run_starting")

    @observes
    def run_started(self, run):
        Diary.entries.append(f"run_started at {run.step}")

    @observes
    def measured(self, step, images_seen, values):
        assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())
        Diary.entries.append(f"measured {step} {images_seen}")

    @observes
    def step_ended(self, step, images_seen):
        assert type(step) is int and type(images_seen) is int
        Diary.entries.append(f"step_ended {step}")

    @observes
    def training_ended(self, step, images_seen):
        Diary.entries.append(f"training_ended {step}")

    @observes
    def evaluating(self, what, done, total):
        Diary.entries.append(f"evaluating {what} {done}/{total}")

    @observes
    def evaluated(self, step, scores):
        Diary.entries.append(f"evaluated {step} {[score.name for score in scores]}")

    @observes
    def file_written(self, path, role):
        assert path.exists()
        if role not in ("summary", "metrics"):
            Diary.entries.append(f"file_written {role}")

    @observes
    def run_failed(self, error):
        Diary.entries.append(f"run_failed {type(error).__name__}")

    @observes
    def run_ended(self, status):
        Diary.entries.append(f"run_ended {status}")


class Stopper(Observer):
    """Stops the run at an event of a step."""

    class Settings(ganrun.Settings):
        event: str
        """Which."""

        at_step: int
        """When."""

    @observes
    def step_ended(self, run):
        self._stop("step_ended", run)

    @observes
    def measured(self, run):
        self._stop("measured", run)

    @observes
    def evaluated(self, run):
        self._stop("evaluated", run)

    def _stop(self, event, run):
        if (event, run.step) == (self.settings.event, self.settings.at_step):
            run.stop("enough")


class Faulty(Observer):
    """Raises at step 2."""

    heard = 0

    @observes
    def step_ended(self, step):
        Faulty.heard = step
        if step == 2:
            raise ValueError("the disk of the tracker is full")


class Essential(Faulty):
    """The same, but the run must not go on without it."""

    essential = True


class Saboteur(Observer):
    """Does something to the run at a step."""

    class Settings(ganrun.Settings):
        at_step: int = 3
        """The step."""
        deed: str = "poison"
        """What to do: poison, interrupt, or noise."""

    @observes
    def step_ended(self, run, step):
        if self.settings.deed == "noise":
            torch.rand(17)
            run.model.decode(run.model.fixed_latents(5))
        elif step == self.settings.at_step and self.settings.deed == "poison":
            run.state.slots["generator"].module.layers[0].weight.data.fill_(math.nan)
        elif step == self.settings.at_step:
            os.kill(os.getpid(), signal.SIGINT)


class Viewer(Observer):
    """Looks at real images after each step, and once more at the end."""

    heard: list[str] = []

    @observes
    def step_ended(self, run, step):
        run.evaluation().real(20, "train")

    @observes
    def run_ended(self, status):
        Viewer.heard.append(status)


class Plugin:
    @hookimpl
    def ganrun_data(self):
        return {"stripes": Stripes}

    @hookimpl
    def ganrun_generators(self):
        return {"up": Up}

    @hookimpl
    def ganrun_discriminators(self):
        return {"down": Down}

    @hookimpl
    def ganrun_metrics(self):
        return {"brightness": Brightness}

    @hookimpl
    def ganrun_observers(self):
        observers = (Diary, Stopper, Faulty, Essential, Saboteur, Viewer)
        return {observer.__name__.lower(): observer for observer in observers}


def tables(steps: int = 6, **more):
    return {
        "train": {"steps": steps, "batch_size": 12, "log_every_steps": 2, "device": "cpu", **more.pop("train", {})},
        "data": {"use": "stripes"},
        "loss": {"use": "gan", "latent_size": 8},
        "generator": {"use": "up"},
        "discriminator": {"use": "down"},
        "ema": {"decay": 0.9},
        "optimizer": {"lr": 1e-2, "schedule": "constant"},
        "mlflow": False,
        "progress": False,
        "samples": False,
        **more,
    }


def weights(run) -> dict[str, torch.Tensor]:
    return {f"{net}.{k}": v.clone() for net, tensors in run.state.weights().items() for k, v in tensors.items()}


def assert_same_weights(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(autouse=True)
def empty_diary():
    Diary.entries.clear()


def test_the_exact_order_of_events(tmp_path):
    more = {"diary": {}, "metric": [{"use": "brightness"}], "checkpoints": {"every_steps": 3}}
    train(tables(steps=5, train={"evaluate_every_steps": 3}, **more), tmp_path / "run", Plugin())
    assert Diary.entries == [
        "run_starting",
        "file_written recipe",
        "file_written environment",
        "run_started at 0",
        "step_ended 1",
        "measured 2 24",
        "step_ended 2",
        "step_ended 3",
        "file_written checkpoint",
        "evaluating samples 256/300",
        "evaluating samples 300/300",
        "evaluating scores 1/1",
        "evaluated 3 ['brightness']",
        "measured 4 48",
        "step_ended 4",
        "measured 5 60",
        "step_ended 5",
        "training_ended 5",
        "file_written checkpoint",
        "evaluating samples 256/300",
        "evaluating samples 300/300",
        "evaluating scores 1/1",
        "evaluated 5 ['brightness']",
        "run_ended finished",
    ]


@pytest.mark.parametrize("event", ["step_ended", "measured", "evaluated"])
def test_a_run_that_an_observer_stops_ends_as_after_its_last_step(tmp_path, event):
    """Whichever event it is stopped at, nothing of the last step is lacking: means, checkpoint, scores, each once."""
    recipe = tables(steps=50, metric=[{"use": "brightness"}], stopper={"event": event, "at_step": 3})
    recipe["train"] |= {"log_every_steps": 1 if event == "measured" else 2, "evaluate_every_steps": 3}
    run = train(recipe | {"diary": {}}, tmp_path / "run", Plugin())
    assert run.step == 3 and run.done
    kinds = [each.split()[0] for each in Diary.entries if " 3" in each]
    assert kinds.count("measured") == kinds.count("evaluated") == kinds.count("training_ended") == 1
    assert kinds.index("measured") < kinds.index("training_ended")
    assert Diary.entries[-1] == "run_ended finished"
    assert (tmp_path / "run" / "checkpoints" / "step_00000003").is_dir()
    assert [record.step for record in run.directory.records() if record.evaluation] == [3]


def test_the_run_directory_holds_what_the_design_says(tmp_path):
    run = train(tables(metric=[{"use": "brightness"}], samples={"count": 4}), tmp_path / "run", Plugin())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["steps"] == 6 and summary["images_seen"] == 72
    assert summary["scores"] == {"brightness": run.scores["brightness"].value}
    of_run = {"ema_decay": 0.9, "seed": 0, "sample_shape": "1×8×8", "precision": "f32", "torch": torch.__version__}
    assert summary["protocols"] == {"brightness": {"samples": 300, **of_run}}
    assert summary["seconds"] > 0 and summary["images_per_second"] == pytest.approx(72 / summary["seconds"], rel=0.05)
    for role in ("samples", "checkpoint"):
        assert (tmp_path / "run" / summary["last"][role]).exists()
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["data_fingerprint"] == Stripes(None).fingerprint()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6, 6]
    assert records[-1]["eval/brightness"] == summary["scores"]["brightness"]


def test_the_resolved_recipe_gives_the_same_run(tmp_path):
    import tomllib

    first = train(tables(), tmp_path / "first", Plugin())
    resolved = tomllib.loads((tmp_path / "first" / "recipe.toml").read_text())
    assert_same_weights(first, train(resolved, tmp_path / "second", Plugin()))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, schedule):
    recipe = tables(steps=9, optimizer={"lr": 1e-2, "schedule": schedule, "clip_norm": 1.0})
    whole = train(recipe, tmp_path / "whole", Plugin())

    stopping = {**recipe, "saboteur": {"at_step": 5, "deed": "interrupt"}}
    stopped = build(stopping, tmp_path / "parts", Plugin())
    with pytest.raises(Interrupted):
        execute(stopped)
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["status"] == "interrupted"

    resumed = train(recipe, tmp_path / "parts", Plugin(), resume=True)
    assert resumed.resumed and resumed.step == 9 and resumed.images_seen == whole.images_seen
    assert_same_weights(whole, resumed)

    losses = [
        [{k: v for k, v in json.loads(line).items() if k.startswith("loss/")} for line in path.open()]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "parts" / "metrics.jsonl")
    ]
    assert losses[0][3:] == losses[1][3:], "the logged losses after the seam agree too"


def test_resume_falls_back_to_the_checkpoint_before_a_damaged_one_and_forgets_later_records(tmp_path, caplog):
    recipe = tables(steps=6, checkpoints={"every_steps": 2, "keep": 3})
    whole = train(recipe, tmp_path / "run", Plugin())
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step_00000002", "step_00000004", "step_00000006"]
    with (checkpoints[-1] / "generator.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff\xff")
    resumed = train(recipe, tmp_path / "run", Plugin(), resume=True)
    assert "generator.safetensors is damaged" in caplog.text
    assert_same_weights(whole, resumed)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert steps == [2, 4, 6]


@pytest.mark.parametrize(
    ("deed", "reported"),
    [
        ("newer format", "has format 2, .* reads format 1"),
        ("every one damaged", r"every checkpoint .* is damaged; .*again from step 0(.|\n)*step_00000004.* is damaged"),
        ("fewer steps", "has already done 4 steps; to train further, set more"),
    ],
)
def test_resume_touches_nothing_where_the_run_cannot_go_on(tmp_path, deed, reported):
    recipe = tables(steps=4, checkpoints={"every_steps": 2})
    train(recipe, tmp_path / "run", Plugin())
    recipe = tables(steps=3 if deed == "fewer steps" else 5, checkpoints={"every_steps": 2}, diary={})
    Diary.entries = []
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        if deed == "newer format":
            manifest = json.loads((folder / "manifest.json").read_text())
            (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
        elif deed == "every one damaged":
            (folder / "progress.pt").write_bytes(b"")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RequestError, match=reported):
        train(recipe, tmp_path / "run", Plugin(), resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert {*Diary.entries} <= {"run_starting"}, "a run that did not begin has no end"


def test_an_evaluation_that_was_cut_short_is_made_up_and_none_is_reported_twice(tmp_path):
    recipe = tables(steps=6, metric=[{"use": "brightness"}], checkpoints={"every_steps": 2, "keep": 3})
    recipe["train"]["evaluate_every_steps"] = 2
    whole = train(recipe, tmp_path / "run", Plugin())
    expected = [(record.step, record.evaluation) for record in whole.directory.records() if record.evaluation]
    assert [step for step, _ in expected] == [2, 4, 6]

    def recorded(directory):
        records = ganrun.RunDirectory(directory).records()
        return [(record.step, record.evaluation) for record in records if record.evaluation]

    for _ in range(2):
        train(recipe, tmp_path / "run", Plugin(), resume=True)
        assert recorded(tmp_path / "run") == expected
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not ("protocols" in line and json.loads(line)["step"] == 4)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(kept))
    for folder in (tmp_path / "run" / "checkpoints").glob("*6"):
        shutil.rmtree(folder)
    train(recipe, tmp_path / "run", Plugin(), resume=True)
    assert recorded(tmp_path / "run") == expected

    odd = {**recipe, "train": {**recipe["train"], "steps": 5}}
    train(odd, tmp_path / "odd", Plugin())
    train(recipe, tmp_path / "odd", Plugin(), resume=True)
    assert [step for step, _ in recorded(tmp_path / "odd")] == [2, 4, 5, 6], "nothing that was measured is lost"


def test_a_finished_run_is_resumed_to_no_effect_and_can_be_prolonged(tmp_path):
    train(tables(steps=4), tmp_path / "run", Plugin())
    again = train(tables(steps=4), tmp_path / "run", Plugin(), resume=True)
    assert again.step == 4
    longer = train(tables(steps=8), tmp_path / "run", Plugin(), resume=True)
    assert_same_weights(longer, train(tables(steps=8), tmp_path / "whole", Plugin()))


def test_a_directory_that_holds_a_run_is_not_overwritten_and_another_recipe_cannot_continue_it(tmp_path):
    train(tables(steps=2), tmp_path / "run", Plugin())
    with pytest.raises(RequestError, match=r"holds a run already \(status: finished\); add --resume"):
        build(tables(steps=2), tmp_path / "run", Plugin())
    with pytest.raises(RequestError, match=r"loss.latent_size: 8 in the run, 9 now"):
        build(tables(steps=2, loss={"use": "gan", "latent_size": 9}), tmp_path / "run", Plugin(), resume=True)


def test_evaluation_and_observers_leave_training_as_it_would_have_been(tmp_path):
    plain = train(tables(), tmp_path / "plain", Plugin())
    more = {"metric": [{"use": "brightness"}], "saboteur": {"deed": "noise"}, "samples": {"every_steps": 1, "count": 4}}
    watched = train(tables(train={"evaluate_every_steps": 1}, **more), tmp_path / "watched", Plugin())
    assert_same_weights(plain, watched)


def test_seeds_decide_everything(tmp_path):
    runs = [train(tables(train={"seed": seed}), tmp_path / f"{i}", Plugin()) for i, seed in enumerate((1, 1, 2))]
    assert_same_weights(runs[0], runs[1])
    assert torch.equal(runs[0].model.sample(4), runs[1].model.sample(4))
    assert not torch.equal(weights(runs[0])["generator.layers.0.weight"], weights(runs[2])["generator.layers.0.weight"])
    assert torch.equal(runs[0].model.fixed_latents(4), runs[2].model.fixed_latents(4)), "but for what is compared"


def test_scores_and_pictures_come_from_the_averaged_weights_in_evaluation_mode(tmp_path):
    run = train(tables(), tmp_path / "run", Plugin())
    latents = run.model.fixed_latents(6)
    average = run.state.slots["generator"].average.module
    assert torch.equal(run.model.decode(latents), average(latents))
    assert not torch.equal(run.model.decode(latents), run.state.slots["generator"].module.eval()(latents))


def test_without_an_average_the_live_network_is_shown_in_evaluation_mode_and_trains_on(tmp_path):
    run = train(tables(ema=False), tmp_path / "run", Plugin())
    latents = run.model.fixed_latents(6)
    assert torch.equal(run.model.decode(latents), run.model.decode(latents)), "no dropout"
    assert run.state.slots["generator"].module.training


def test_a_fault_in_an_observer_is_reported_by_name_and_the_run_goes_on(tmp_path, caplog):
    run = train(tables(faulty={}, diary={}), tmp_path / "run", Plugin())
    assert run.step == 6 and Faulty.heard == 2, "it heard nothing more"
    assert 'observer "faulty" failed at step_ended' in caplog.text and "disk of the tracker" in caplog.text
    assert Diary.entries[-1] == "run_ended finished"


def test_an_interruption_is_no_fault_of_the_observer_that_it_meets(tmp_path, caplog):
    run = build(tables(saboteur={"at_step": 3, "deed": "interrupt"}, viewer={}), tmp_path / "run", Plugin())
    Viewer.heard = []
    with pytest.raises(Interrupted):
        execute(run)
    assert run.step == 3 and Viewer.heard == ["interrupted"] and "viewer" not in caplog.text


def test_a_signal_that_a_library_swallows_ends_the_program_all_the_same():
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as end, signals_as_exceptions(), suppress(KeyboardInterrupt, SystemExit):
            os.kill(os.getpid(), number)
        assert end.value.code == 128 + number and signal.getsignal(number) is before


def test_a_fault_in_an_essential_observer_stops_the_run_and_a_checkpoint_is_kept(tmp_path):
    run = build(tables(essential={}, diary={}), tmp_path / "run", Plugin())
    with pytest.raises(
        RunError, match=r"\[essential\] .*: step_ended fails: ValueError: the disk of the tracker .*py:\d+"
    ):
        execute(run)
    assert Diary.entries[-2:] == ["run_failed RunError", "run_ended failed"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert (tmp_path / "run" / "checkpoints" / "step_00000002").is_dir()


def test_observers_hear_the_end_of_a_run_whose_summary_cannot_be_written(tmp_path):
    run = build(tables(diary={}), tmp_path / "run", Plugin())
    (tmp_path / "run" / "summary.json").mkdir()
    run.found = None  # what came after it was looked at is no other process's deed
    with pytest.raises(RunError, match=r"cannot write .*summary\.json"):
        execute(run)
    assert Diary.entries[-2:] == ["run_failed RunError", "run_ended failed"]


def test_a_non_finite_loss_stops_the_run_says_when_and_keeps_the_last_sound_checkpoint(tmp_path):
    recipe = tables(steps=8, saboteur={"at_step": 5}, checkpoints={"every_steps": 4})
    with pytest.raises(NonFiniteError, match=r"after step 4 and by step 6.*loss/.* = nan(.|\n)*lower learning rate"):
        train(recipe, tmp_path / "run", Plugin())
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000004"]


def test_damaged_weights_are_never_saved(tmp_path):
    recipe = tables(steps=8, saboteur={"at_step": 3}, checkpoints={"every_steps": 4}, train={"log_every_steps": 100})
    with pytest.raises(NonFiniteError, match="generator are no longer finite"):
        train(recipe, tmp_path / "run", Plugin())
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_step_broken_off_half_way_is_not_saved(tmp_path):
    run = build(tables(diary={}), tmp_path / "run", Plugin())
    *others, last = run.phases

    def generator(nets, batch):
        if run.step == 3:
            raise RuntimeError("half way")
        return last.objective(nets, batch)

    run.phases = (*others, replace(last, objective=generator))
    with pytest.raises(ContractError, match="half way"):
        execute(run)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert Diary.entries[-1] == "run_ended failed"


def test_terms_are_logged_under_the_names_the_manual_gives(tmp_path):
    train(tables(optimizer={"clip_norm": 5.0, "schedule": "linear"}), tmp_path / "run", Plugin())
    names = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]).keys()
    assert {
        "loss/discriminator",
        "loss/discriminator.real",
        "loss/discriminator.fake",
        "loss/generator",
        "grad/generator",
        "grad/discriminator",
        "lr/generator",
        "perf/images_per_second",
        "perf/step_milliseconds",
    } < names


RECIPE = """
[train]
steps = 100_000
batch_size = 8
device = "cpu"
[data]
use = "digits"
size = 8
[loss]
use = "gan"
[generator]
use = "mlp"
[discriminator]
use = "mlp"
[checkpoints]
every_steps = 1_000_000
"""


LONG = [sys.executable, "-m", "ganrun.cli", "long.toml", "--output", "run", "--no-plugin", "mlflow"]


def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    (tmp_path / "long.toml").write_text(RECIPE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(LONG, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        _wait_for(tmp_path / "run" / "metrics.jsonl", process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM at step" in errors and "Traceback" not in errors
    assert "to continue: ganrun resume run" in errors
    _check_interrupted(tmp_path / "run")


def test_a_terminal_that_goes_away_leaves_a_checkpoint_and_no_fault(tmp_path):
    """The hang-up ends the run, and no later output, including the bar and the last line, can fail."""
    (tmp_path / "long.toml").write_text(RECIPE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    terminal, its_end = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), its_end)
    with subprocess.Popen(LONG, cwd=tmp_path, env=environment, preexec_fn=_lead, **streams) as process:
        os.close(its_end)
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            os.read(terminal, 65536)
        os.close(terminal)
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    _check_interrupted(tmp_path / "run")


def _lead() -> None:
    """Make the standard input the terminal of a separate session, where a hang-up has an effect, without `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _check_interrupted(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted" and summary["steps"] > 0 and "faults" not in summary
    assert (run / summary["last"]["checkpoint"] / "manifest.json").is_file()


def _wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
