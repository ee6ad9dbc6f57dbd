"""Every hook and every event of a run is specified, documented and called.

A new hook or event fails here until it is offered by `OFFERED`, or heard by `Witness` in a run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest

from ganrun import (
    Augmentation,
    HealthCheck,
    Metric,
    Network,
    Observer,
    Run,
    Score,
    Tracker,
    hookimpl,
    load_registry,
    observes,
)
from ganrun.base.errors import RunError
from ganrun.contracts import hookspecs
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.registry import Registry
from ganrun.testing import registry_with, train
from ganrun.trained.scoring import Request, score
from ganrun.training.lifecycle import RunEvents

ROOT = Path(__file__).parents[2]

HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("ganrun_")}
EVENTS = {name: value for name, value in vars(RunEvents).items() if not name.startswith("_")}
SPECS = HOOKS | EVENTS


# ── Documented ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_is_documented_where_it_is_specified(name: str) -> None:
    text = inspect.getdoc(SPECS[name]) or ""
    assert len(text.split()) >= 5
    arguments = [each for each in inspect.signature(SPECS[name]).parameters if each not in ("self", "run")]
    for argument in arguments:
        assert f"{argument}:" in text or argument in ("step", "images_seen"), f"{argument} is not explained"


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_stands_in_the_reference_with_its_exact_signature(name: str) -> None:
    reference = squeezed((ROOT / "docs/reference/hooks.md").read_text(encoding="utf-8"))
    signature = str(inspect.signature(SPECS[name])).replace("'", "")
    assert squeezed(f"def {name}{signature}") in reference


def squeezed(text: str) -> str:
    """Without what a line break changes: white space, and a comma before a closing bracket."""
    return re.sub(r",(?=\))", "", "".join(text.split()))


# ── Hooks ─────────────────────────────────────────────────────────────────────────────────────────────────


@click.command()
def greet() -> None:
    """A command."""


class Diary(Tracker):
    """A tracker that knows no run."""

    def find(self, run_id: str) -> None:
        return None

    def runs_of(self, experiment: str) -> None:
        return None

    def experiments(self) -> list[str]:
        return []


def pulse() -> HealthCheck:
    return HealthCheck(ok=True, text="fine")


def found_component(kind: str, registry: Registry) -> object:
    return registry.find(kind, "everything:mine").cls


class Plain(Augmentation):
    """Leaves images as they are."""

    def forward(self, images: Any) -> Any:
        return images


BUILT_IN = load_registry()
STAND_INS = {"network": Network, "augmentation": Plain}
"""For kinds of which ganrun brings none."""


def offered_of(kind: str) -> type:
    found = BUILT_IN.components(kind)
    return found[0].cls if found else STAND_INS[kind]


OFFERED: dict[str, tuple[object, Callable[[Registry], object]]] = {
    **{kind.hook: (offered_of(name), partial(found_component, name)) for name, kind in KINDS.items()},
    "ganrun_commands": (greet, lambda registry: registry.commands()["mine"]),
    "ganrun_trackers": (Diary(), lambda registry: registry.trackers()["everything: mine"].tracker),
    "ganrun_health_checks": (pulse, lambda registry: registry.health_checks()["everything: mine"]),
}
"""What a plugin offers as `mine`, and how the registry is asked for it, by hook."""


def everything() -> object:
    """A plugin that implements every hook."""
    methods = {hook: _offering({"mine": offered}) for hook, (offered, _) in OFFERED.items()}
    return type("Everything", (), {"__name__": "everything", **methods})()


def _offering(offered: Mapping[str, object]) -> Any:
    return staticmethod(hookimpl(lambda: offered))


@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_plugin_offers_by_a_hook_is_found(hook: str) -> None:
    registry = registry_with(everything())
    offered, found_in = OFFERED[hook]
    assert found_in(registry) is offered
    assert not registry.broken()


# ── Events ────────────────────────────────────────────────────────────────────────────────────────────────

HEARD: list[tuple[str, dict[str, Any]]] = []
"""Every event with its arguments, in order."""


class Witness(Observer):
    """Takes every argument of every event."""

    essential = True

    @observes
    def run_starting(self, run):
        HEARD.append(("run_starting", vars()))

    @observes
    def run_started(self, run):
        HEARD.append(("run_started", vars()))

    @observes
    def step_ended(self, run, step, images_seen):
        HEARD.append(("step_ended", vars()))

    @observes
    def training_ended(self, run, step, images_seen):
        HEARD.append(("training_ended", vars()))

    @observes
    def measured(self, run, step, images_seen, values):
        HEARD.append(("measured", vars()))

    @observes
    def evaluating(self, run, what, done, total):
        HEARD.append(("evaluating", vars()))

    @observes
    def evaluated(self, run, step, images_seen, scores):
        HEARD.append(("evaluated", vars()))

    @observes
    def rolled_back(self, run, step, images_seen, reason):
        HEARD.append(("rolled_back", vars()))

    @observes
    def rescored(self, run, step, images_seen, scores):
        HEARD.append(("rescored", vars()))

    @observes
    def file_written(self, run, path, role):
        HEARD.append(("file_written", vars()))

    @observes
    def run_failed(self, run, error):
        HEARD.append(("run_failed", vars()))

    @observes
    def run_ended(self, run, status):
        HEARD.append(("run_ended", vars()))


class Saboteur(Observer):
    """Breaks the run at its first step."""

    essential = True

    @observes
    def step_ended(self, step: int) -> None:
        raise OSError("no space left")


class Regretful(Observer):
    """Goes back from the second step, once."""

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        if step == 2 and not run.state.attempt:
            run.roll_back("it was better before", good_until=1)


class Mean(Metric):
    """Mean of the samples."""

    def measure(self, evaluation: Any) -> list[Score]:
        value = evaluation.generated(4).float().mean().item()
        return [Score("mean", value, higher_is_better=True, protocol={"samples": 4})]


class Plugin:
    @hookimpl
    def ganrun_observers(self) -> dict[str, type[Observer]]:
        return {"witness": Witness, "saboteur": Saboteur, "regretful": Regretful}

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[Metric]]:
        return {"mean": Mean}


RECIPE = {
    "train": {"steps": 2, "batch_size": 8, "device": "cpu", "log_every_steps": 1, "evaluate_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "metric": [{"use": "mean"}],
    "witness": {},
    "checkpoints": {"every_steps": 1},
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The arguments of every event of a run that ends well and is scored again, and of one that fails."""
    folder = tmp_path_factory.mktemp("runs")
    HEARD.clear()
    train({**RECIPE, "regretful": {}}, folder / "sound", Plugin())
    score(Request(folder / "sound", device="cpu"), registry_with(Plugin()))
    with pytest.raises(RunError, match="no space left"):
        train({**RECIPE, "saboteur": {}}, folder / "broken", Plugin())
    return {event: [arguments for name, arguments in HEARD if name == event] for event in EVENTS}


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_fires_with_the_arguments_that_its_specification_names(heard, event: str) -> None:
    assert heard[event], "it has never fired"
    for arguments in heard[event]:
        assert arguments.keys() == inspect.signature(EVENTS[event]).parameters.keys()
        assert isinstance(arguments["run"], Run)
        assert None not in arguments.values()


def test_events_of_the_end_say_how_a_run_ended(heard) -> None:
    assert [each["status"] for each in heard["run_ended"]] == ["finished", "failed"]
    assert [str(each["error"].__cause__) for each in heard["run_failed"]] == ["no space left"]
    assert [each["step"] for each in heard["training_ended"]] == [2]
    assert [each["step"] for each in heard["rescored"]] == [2]


def test_a_run_that_has_gone_back_says_where_it_goes_on_and_why(heard) -> None:
    (found,) = heard["rolled_back"]
    assert (found["step"], found["reason"]) == (1, "it was better before")
