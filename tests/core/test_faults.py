"""Transient faults, faults of a component and of the run: their consequences, and the report at the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from click.testing import CliRunner

import ganrun
from ganrun import Buffer, Extractor, Metric, Observer, Score, hookimpl, observes
from ganrun.base.errors import Interrupted, NonFiniteError, OutOfTime, RunError
from ganrun.base.faults import Fault, Faults, Kind, kind_of
from ganrun.base.signals import WARNINGS, DeferredSignals
from ganrun.cli import main
from ganrun.testing import build, registry_with, train
from ganrun.trained.scoring import Request, score
from ganrun.training.lifecycle import RunEvents
from ganrun.training.runner import execute

UNHEARD = ("rescored", "rolled_back", "run_failed")
"""Events that a run does not have in which all goes well."""

EVENTS = [name for name in vars(RunEvents) if not name.startswith("_") and name not in UNHEARD]

SMALL = {
    "train": {"steps": 2, "batch_size": 4, "device": "cpu", "log_every_steps": 1, "evaluate_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 2},
    "generator": {"use": "mlp", "hidden": [4]},
    "discriminator": {"use": "mlp", "hidden": [4]},
    "ema": False,
    "metric": [{"use": "mean"}],
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}


def disk() -> BaseException:
    return OSError(28, "No space left on device")


def disk_told() -> BaseException:
    error = RunError("cannot write it")
    error.__cause__ = disk()
    return error


MOMENT = {"disk": disk, "disk told": disk_told, "server": lambda: ConnectionResetError("gone")}
PART = {
    "bug": lambda: ValueError("a bug"),
    "told": lambda: RunError("it will not do"),
    "exit": lambda: SystemExit(0),
    "generator": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "memory": MemoryError,
}
FAULTS: dict[str, Callable[[], BaseException]] = {**MOMENT, **PART}


def raising(event: str, fault: Callable[[], BaseException], heard: list[tuple[str, str]], **members: Any) -> type:
    """An observer that fails at an event, each time, and records the events that it receives."""

    def method(each: str) -> Any:
        def hear(self: Observer) -> None:
            heard.append((event, each))
            if each == event:
                raise fault()

        return observes(hear)

    return type("Raising", (Observer,), {"__doc__": "Fails.", **{each: method(each) for each in EVENTS}, **members})


class Mean(Metric):
    """The mean of 300 samples, and of features that others share."""

    def watch(self, evaluation: Any) -> None:
        self.samples = evaluation.collect(Buffer(), "samples", count=300)
        self.features = evaluation.collect(Buffer(), "halves", count=300, extractor=Halves(None))

    def measure(self, evaluation: Any) -> list[Score]:
        values = {"mean": self.samples.tensors()[0], "half": self.features.tensors()[0]}
        return [Score(name, value.float().mean().item(), True, {"n": len(value)}) for name, value in values.items()]


class Halves(Extractor):
    """Half of each pixel."""

    outputs = ("halves",)
    key = "halves"
    protocol = {"extractor": "halves"}

    def __init__(self, fault: Callable[[], BaseException] | None) -> None:
        self.fault = fault

    def __call__(self, images: Any) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault()
        return {"halves": images.flatten(1) / 2}


def failing_metrics(fault: Callable[[], BaseException]) -> dict[str, type[Metric]]:
    """Metrics that fail at each place where one can, from the first evaluation on."""

    def fail(*_: Any, **__: Any) -> Any:
        raise fault()

    class Watching(Mean):
        """Fails in watch."""

        def watch(self, evaluation: Any) -> None:
            super().watch(evaluation)
            if evaluation.step:
                fail()

    class Measuring(Mean):
        """Fails in measure."""

        measure = fail

    class Collecting(Mean):
        """Fails with the second batch."""

        def watch(self, evaluation: Any) -> None:
            super().watch(evaluation)
            calls = iter((lambda *_: None, fail))
            self.samples.add = lambda *batch: evaluation.step and next(calls)(*batch)  # type: ignore[method-assign]

    class Extracting(Mean):
        """Its extractor fails; another one with the same key does not."""

        def watch(self, evaluation: Any) -> None:
            extractor = Halves(fault if evaluation.step else None)
            self.samples = self.features = evaluation.collect(Buffer(), "halves", count=300, extractor=extractor)

    class AtOnce(Mean):
        """Fails while a request of `measure` is served."""

        def measure(self, evaluation: Any) -> list[Score]:
            buffer = evaluation.collect_real(Buffer(), "halves", count=5, extractor=Halves(fault))
            evaluation.run()
            return [Score("lost", buffer.tensors()[0].mean().item(), True, {})]

    found = (Extracting, Watching, Measuring, Collecting, AtOnce)
    return {each.__name__.lower(): each for each in found}


def plugin(observers: dict[str, type] | None = None, metrics: dict[str, type] | None = None) -> object:
    class Plugin:
        @hookimpl
        def ganrun_observers(self) -> Any:
            return observers or {}

        @hookimpl
        def ganrun_metrics(self) -> Any:
            return {"mean": Mean, **(metrics or {})}

    return Plugin()


def summary(run: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.directory.summary_path.read_text())
    return content


# ── Observers ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_of_an_observer_is_its_own_and_is_kept(tmp_path: Path, caplog: Any, name: str) -> None:
    """One observer fails at each event, all in one run: after a transient fault it stays, else it receives only the
    end."""
    heard: list[tuple[str, str]] = []
    observers = {event.replace("_", "-"): raising(event, FAULTS[name], heard) for event in EVENTS}
    run = train({**SMALL, **{each: {} for each in observers}}, tmp_path / "run", plugin(observers))
    assert summary(run)["status"] == "finished" and run.step == 2 and run.scores.keys() == {"mean", "half"}
    assert {(each["of"], each["at"]) for each in summary(run)["faults"]} == {
        (f'observer "{event.replace("_", "-")}"', event) for event in EVENTS
    }
    for event in EVENTS:
        own = [each for of, each in heard if of == event]
        assert own[-1] == "run_ended"
        stays = name in MOMENT and event not in ("run_starting", "run_started")
        if stays:
            assert own.count("step_ended") == 2
        assert stays or own.count(event) == 1
    told = [each for each in caplog.records if "failed at step_ended" in each.getMessage()]
    assert len(told) == 1, "and is told when it is new"
    times = {each.at: each.times for each in run.faults.new}
    assert times["step_ended"] == (2 if name in MOMENT else 1)


@pytest.mark.parametrize("name", ["bug", "disk", "exit", "generator", "cancelled"])
def test_an_essential_observer_ends_the_run_and_all_hear_of_it(tmp_path: Path, name: str) -> None:
    """Even if others fail as the run ends, the first fault is the one that is reported."""
    heard: list[tuple[str, str]] = []

    def fail(self: Observer) -> None:
        raise RuntimeError("and this is later")

    class Failing(Observer):
        """Hears of the failure, and fails."""

        essential = True

        @observes
        def run_failed(self, error: BaseException) -> None:
            heard.append(("failed", type(error).__name__))
            raise RuntimeError("and this is later")

    observers = {
        "breaking": raising("step_ended", FAULTS[name], heard, essential=True, run_ended=observes(fail)),
        "failing": Failing,
        "listening": raising("none", ValueError, heard),
    }
    run = build({**SMALL, **{each: {} for each in observers}}, tmp_path / "run", plugin(observers))
    if name == "bug":
        (tmp_path / "run" / "checkpoints").write_text("no checkpoint can be written")
    with pytest.raises(RunError, match=rf"step_ended fails: {type(FAULTS[name]()).__name__}"):
        execute(run)
    assert ("failed", "RunError") in heard and heard[-1] == ("none", "run_ended")
    assert summary(run)["status"] == "failed" and "step_ended fails" in summary(run)["error"]
    later = [each["text"] for each in summary(run)["faults"] if each["of"] == "the run"]
    assert len(later) == 2 and all("later" in each or "cannot write the checkpoint" in each for each in later)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0), GeneratorExit(), MemoryError()], ids=type)
def test_nothing_ends_a_run_in_silence(tmp_path: Path, error: BaseException) -> None:
    """Wherever the exception comes from: here no frame is around it."""
    heard: list[tuple[str, str]] = []
    run = build({**SMALL, "listening": {}}, tmp_path / "run", plugin({"listening": raising("none", ValueError, heard)}))

    def agree() -> None:
        if run.step == 1:
            raise error

    run.agree = agree  # type: ignore[method-assign]
    with pytest.raises((RunError, KeyboardInterrupt)) as found:
        execute(run)
    is_users = isinstance(error, KeyboardInterrupt)
    assert isinstance(found.value, KeyboardInterrupt) == is_users
    assert summary(run)["status"] == ("interrupted" if is_users else "failed") and heard[-1] == ("none", "run_ended")
    assert is_users or isinstance(error, SystemExit | GeneratorExit) or "batch_size" in str(found.value)


# ── Metrics ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["bug", "disk", "exit"])
def test_the_fault_of_a_metric_costs_its_scores_alone(tmp_path: Path, caplog: Any, name: str) -> None:
    """Metrics that fail at every place stand before and after a sound one, whose requests they share."""
    metrics = failing_metrics(FAULTS[name])
    tables = [{"use": each} for each in metrics]
    run = train({**SMALL, "metric": [*tables, {"use": "mean"}]}, tmp_path / "run", plugin(metrics=metrics))
    alone = train(SMALL, tmp_path / "alone", plugin())
    assert run.scores == alone.scores and run.lacks_scores and not alone.lacks_scores
    assert [(each.of, each.at, each.times) for each in run.faults.new] == [
        ("metric.1 watching", "watch", 2),
        ("metric.0 extracting", "its request", 2),
        ("metric.3 collecting", "add", 2),
        ("metric.2 measuring", "measure", 2),
        ("metric.4 atonce", "its request", 2),
    ]
    assert sum("has no score" in each.getMessage() for each in caplog.records) == 5, "each is told once"
    assert "faults" not in summary(alone) and len(summary(run)["faults"]) == 5

    found = Faults()
    request = Request(run.directory.path, device="cpu")
    scores = score(request, registry_with(plugin(metrics=metrics)), faults=found)
    assert {each.name for each in scores} == {"mean", "half"} and len(found.new) == 5
    assert len(summary(run)["faults"]) == 5, "those of the run stay its own"

    again = train({**SMALL, "metric": [{"use": "mean"}]}, tmp_path / "run", plugin(), resume=True)
    assert not again.lacks_scores and not again.faults.new, "what failed at the last step was measured again"
    assert len(again.faults.earlier) == len(summary(again)["faults"]) == 5, "what failed before it is not forgotten"


class Blank(Metric):
    """Fails in ways that others survive."""

    deed: Callable[[Any], None]

    def measure(self, evaluation: Any) -> list[Score]:
        Blank.deed(evaluation)
        return [Score("blank", evaluation.generated(4).float().mean().item(), True, {})]


@pytest.mark.parametrize("deed", ["signal", "keyboard", "samples"])
def test_what_is_no_metrics_fault_ends_the_run(tmp_path: Path, deed: str) -> None:
    run = build({**SMALL, "metric": [{"use": "blank"}]}, tmp_path / "run", plugin(metrics={"blank": Blank}))

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    def spoil(_: Any) -> None:
        next(run.state.slots["generator"].module.parameters()).data.fill_(torch.nan)

    deeds = {"signal": lambda _: os.kill(os.getpid(), signal.SIGUSR2), "keyboard": interrupt, "samples": spoil}
    Blank.deed = staticmethod(deeds[deed])
    with pytest.raises((Interrupted, KeyboardInterrupt, NonFiniteError)):
        execute(run)
    assert summary(run)["status"] == ("failed" if deed == "samples" else "interrupted") and not run.faults.new


class Sometimes(Mean):
    """Fails at steps 2 and 4; else it is worse and worse."""

    def measure(self, evaluation: Any) -> list[Score]:
        if evaluation.step in (2, 4):
            raise ValueError("not today")
        return [Score("sometimes", -evaluation.step, True, {})]


def test_observers_that_wait_for_a_score_do_without_one(tmp_path: Path, caplog: Any) -> None:
    recipe = {
        **SMALL,
        "train": {**SMALL["train"], "steps": 4},
        "metric": [{"use": "mean"}, {"use": "sometimes"}],
        "early-stopping": {"metric": "sometimes", "patience": 2},
        "checkpoints": {"best": "sometimes"},
        "target": {"metric": "sometimes", "value": 0.0, "source": "nobody"},
    }
    run = train(recipe, tmp_path / "run", plugin(metrics={"sometimes": Sometimes}))
    assert run.step == 4 and run.stopped is None, "an evaluation without the score does not count"
    assert [(each.of, each.times) for each in run.faults.new] == [("metric.1 sometimes", 2)]
    assert summary(run)["best"]["step"] == 1 and "is not measured" not in caplog.text
    assert any("measured at step 3, since a metric has failed" in line for line in run.messages)

    recipe["early-stopping"]["metric"] = "misnamed"
    run = train({**recipe, "metric": [{"use": "mean"}]}, tmp_path / "other", plugin())
    assert 'observer "early-stopping"' in {each.of for each in run.faults.new}


# ── The command line ──────────────────────────────────────────────────────────────────────────────────────


class Shaky(Metric):
    """Ends its run, or only itself, depending on the seed or the recipe."""

    class Settings(ganrun.Settings):
        deed: str = "none"
        """What to do."""

    def measure(self, evaluation: Any) -> list[Score]:
        if self.settings.deed == "metric" or evaluation.seed == 2:
            raise ValueError("a metric's bug")
        return [Score("shaky", 1.0, True, {})]


class Breaker(Observer):
    """Ends the run of some seeds."""

    essential = True

    class Settings(ganrun.Settings):
        deed: str = "none"
        """What to do."""

    @observes
    def step_ended(self, run: Any) -> None:
        if self.settings.deed == "fail" or run.seed == 1:
            raise ValueError("an observer's bug")
        if self.settings.deed == "bug":
            run.agree = lambda: 1 / 0  # nobody's frame is around it
        if self.settings.deed == "interrupt":
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    registry = registry_with(plugin({"breaker": Breaker}, {"shaky": Shaky}))
    for module in ("loading", "eval"):
        monkeypatch.setattr(f"ganrun.commands.{module}.load_registry", lambda blocked=(): registry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GANRUN_TRACEBACK", raising=False)
    for deed in ("none", "fail", "bug", "metric", "interrupt"):
        metric = [{"use": "shaky", "deed": deed}, {"use": "mean"}]
        tables = {**SMALL, "metric": metric, "breaker": {"deed": deed}}
        Path(f"{deed}.toml").write_text(tomli_w.dumps(tables))
    return lambda *arguments: CliRunner().invoke(main, [*arguments])


def test_of_several_recipes_one_that_fails_leaves_the_others_alone(command: Callable[..., Any]) -> None:
    done = command("fail.toml", "bug.toml", "metric.toml", "none.toml")
    assert done.exit_code == 1
    statuses = sorted(json.loads(path.read_text())["status"] for path in Path("runs").glob("*/summary.json"))
    assert statuses == ["failed", "failed", "finished", "finished"]
    assert "an observer's bug" in done.stderr and "metric.0 shaky failed at measure at steps 1 to 2" in done.stderr
    assert "ZeroDivisionError" in done.stderr.partition("Traceback")[2], "a bug of ganrun keeps its traceback"
    last = done.stderr.splitlines()[-1]
    assert last == (
        "error: 3 of 4 runs failed or left work undone: fail.toml has failed, bug.toml has failed, metric.toml has "
        "left work undone"
    )
    done = command("interrupt.toml", "none.toml")
    assert done.exit_code == 128 + signal.SIGUSR1 and "interrupted by SIGUSR1 at step 1; to continue: " in done.stderr
    assert len(list(Path("runs").iterdir())) == 5, "an interruption ends them all"


def test_no_memory_is_advice_wherever_it_is_lacking(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        return torch.empty(10**15)

    monkeypatch.setattr("ganrun.training.builder.assemble", full)
    done = command("none.toml", "--output", "run")
    assert done.exit_code == 1 and done.stderr.splitlines()[-1].startswith("error: there is no memory left; use a smal")
    done = command("none.toml", "none.toml")
    assert done.exit_code == 1 and done.stderr.count("no memory left") == 2 and "2 of 2 runs failed" in done.stderr
    monkeypatch.setattr("ganrun.trained.scoring.score", full)
    done = command("eval", "run")
    assert done.exit_code == 1 and done.stderr.count("no memory left") == 1


def test_of_several_seeds_one_that_fails_leaves_the_others_alone(command: Callable[..., Any]) -> None:
    done = command("none.toml", "--seeds", "1,2,3", "--output", "seeds")
    assert done.exit_code == 1 and "2 replicates, seeds 1,2,3" in done.stdout
    assert "2 of 3 runs failed or left work undone: seed 1 has failed, seed 2 has left work undone" in done.stderr


def test_a_run_that_left_work_undone_is_finished_and_says_so_at_the_end(command: Callable[..., Any]) -> None:
    done = command("metric.toml", "--output", "run")
    assert done.exit_code == 1 and json.loads(Path("run/summary.json").read_text())["status"] == "finished"
    assert done.stderr.splitlines()[-2].startswith("error: not everything that was asked for has been done:")
    done = command("eval", "run", "--device", "cpu")
    assert done.exit_code == 1 and "mean" in done.stdout and "metric.0 shaky failed at measure" in done.stderr
    done = command("none.toml", "--output", "timed", "--set", "train.limit_seconds=0.001")
    assert done.exit_code == 75
    assert "interrupted by its time limit at step 1; to continue: ganrun resume timed" in done.stderr
    done = command("none.toml", "--set", "train.limit_seconds=0")
    assert done.exit_code == 2 and "limit_seconds = 0" in done.stderr


# ── Signals ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", WARNINGS, ids=lambda number: number.name)
def test_a_warning_may_come_again_and_a_second_urgent_signal_ends_at_once(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, a hang-up is ignored
    with DeferredSignals() as deferred:
        for _ in range(3):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as stop:
            deferred.check()
        assert stop.value.exit_status == 128 + number and number.name in str(stop.value)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    signal.signal(number, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_a_signal_that_is_ignored_or_handled_by_others_is_left_to_them(handler: Any) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with DeferredSignals() as deferred:
            os.kill(os.getpid(), signal.SIGHUP)
            deferred.check()
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_kind_a_fault_is() -> None:
    for kind, faults in ((Kind.MOMENT, MOMENT), (Kind.PART, PART)):
        assert {kind_of(fault()) for fault in faults.values()} == {kind}
    assert {kind_of(each) for each in (Interrupted(2), OutOfTime(), KeyboardInterrupt())} == {Kind.RUN}


def test_faults_are_told_once_and_counted_and_there_is_an_end_to_them(caplog: Any) -> None:
    faults = Faults()
    for step in range(1, 201):
        faults.note(
            "it", "work", OSError(28, "full", f"/run/.step_{step:08d}.{step * 7919:x}.partial"), step, then="goes on"
        )
    (fault,) = faults.new
    assert (fault.step, fault.last_step, fault.times, len(caplog.records)) == (1, 200, 200, 1)
    assert "at steps 1 to 200, 200 times" in str(fault)
    for number in range(200):
        faults.note("it", "work", ValueError("x" * number), 5, then="goes on")
    assert len(faults.new) < 60 and sum(each.times for each in faults.new) == 400

    other = Faults()
    assert not other.restore([*faults.to_json(), None, {"of": 3}, {**fault.__dict__, "step": True}], 5)
    assert other.earlier == tuple(each for each in faults.new if each.step <= 5) and not other.new
    assert not other.restore("damaged", 5) and other.restore([Fault("metric.0 fid", "add", "?", 5, 5).__dict__], 5)
