"""A run goes back to an earlier checkpoint, and continues from there with other random numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from tests.families import FAMILIES
from tests.pair import Pair

from ganrun import (
    Observer,
    Run,
    checkpoint_path,
    checkpoints_in,
    hookimpl,
    load_checkpoint,
    observes,
    save_checkpoint,
    step_of,
)
from ganrun.base.errors import NonFiniteError
from ganrun.base.ranks import ranks
from ganrun.testing import RecordedGraph, build, train
from ganrun.training import graphs, step
from ganrun.training.builder import build_run
from ganrun.training.runner import execute

HEARD: list[tuple[str, int]] = []


class Regretful(Observer):
    """Goes back once from step 4 to step 2; and notes what it hears."""

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        HEARD.append(("step", step))
        if step == 4 and not run.state.attempt:
            run.roll_back("it was better before", good_until=3)

    @observes
    def rolled_back(self, run: Run, step: int) -> None:
        HEARD.append(("back", step))
        assert run.directory.records()[-1].step <= step
        assert [folder.name for folder in checkpoints_in(run.directory.path)][-1] == f"step_{step:08d}"


class Interrupting(Observer):
    """Interrupts the run right after it has gone back, without leaving it time for a checkpoint."""

    @observes
    def rolled_back(self, run: Run) -> None:
        run.events.emit = lambda event, **arguments: None
        run.interruption.check = killed  # type: ignore[method-assign]


def killed() -> None:
    raise KeyboardInterrupt


class Poisonous(Observer):
    """Makes a weight NaN at step 3 of the first attempts."""

    attempts = 1

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        run.roll_backs = 2
        if step == 3 and run.state.attempt < self.attempts:
            with torch.no_grad():
                next(run.state.slots["generator"].module.parameters()).fill_(math.nan)


class Plugin:
    @hookimpl
    def ganrun_observers(self) -> dict[str, type[Observer]]:
        return {"regretful": Regretful, "interrupting": Interrupting, "poisonous": Poisonous}


def recipe(name: str = "gan, dropout", **tables: Any) -> dict[str, Any]:
    own = {"checkpoints": {"every_steps": 2, "keep": 9}, "watch": False, "regretful": {}}
    return {**FAMILIES[name].recipe(steps=6, log_every_steps=1), **own, **tables}


def last(run: Run) -> Any:
    weights, progress = load_checkpoint(checkpoints_in(run.directory.path)[-1])
    return weights, {name: progress.get(name) for name in ("optimizers", "step", "images_seen", "attempt")}


def losses(run: Run) -> list[float]:
    return [record.values["loss/generator"] for record in run.directory.records()]


def check_equal(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture(scope="module")
def gone_back(tmp_path_factory: pytest.TempPathFactory) -> Run:
    HEARD.clear()
    return train(recipe(), tmp_path_factory.mktemp("runs") / "run", Plugin())


def test_steps_are_taken_again_from_the_checkpoint(gone_back: Run) -> None:
    heard = [*(("step", at) for at in (1, 2, 3, 4)), ("back", 2), *(("step", at) for at in (3, 4, 5, 6))]
    assert heard == HEARD
    assert [record.step for record in gone_back.directory.records()] == [1, 2, 3, 4, 5, 6]
    assert gone_back.state.attempt == 1 and gone_back.images_seen == 6 * 8


def test_another_attempt_has_other_random_numbers_and_the_first_one_those_it_always_had(gone_back, tmp_path) -> None:
    plain = train({**recipe(), "regretful": False}, tmp_path / "run", Plugin())
    folders = [checkpoints_in(run.directory.path) for run in (gone_back, plain)]
    found, expected = (load_checkpoint(folder[0]) for folder in folders)
    check_equal(found.weights, expected.weights)
    assert found.progress["attempt"] == 1 and "attempt" not in expected.progress
    after = [load_checkpoint(folder[1]).weights["generator"] for folder in folders]
    assert any(not torch.equal(value, after[1][name]) for name, value in after[0].items())
    before, now = losses(plain), losses(gone_back)
    assert before[:2] == now[:2] and before[2] != now[2]


def test_a_run_that_is_killed_after_it_went_back_goes_on_with_that_attempt(gone_back, tmp_path) -> None:
    tables = {**recipe(), "interrupting": {}}
    with pytest.raises(KeyboardInterrupt):
        train(tables, tmp_path / "run", Plugin())
    resumed = build({**tables, "interrupting": False}, tmp_path / "run", Plugin(), resume=True)
    execute(resumed)
    check_equal(last(resumed), last(gone_back))


def test_captured_phases_go_back_too(gone_back, tmp_path, monkeypatch) -> None:
    original = step.graphs_of
    monkeypatch.setattr(graphs, "WARM_UP", 2)
    monkeypatch.setattr(step, "graphs_of", lambda run, pools: original(run, lambda: RecordedGraph))
    tables = recipe("gan, averaged dcgan")
    captured = train(tables, tmp_path / "captured", Plugin())
    monkeypatch.setattr(step, "graphs_of", original)
    check_equal(last(captured), last(train(tables, tmp_path / "plain", Plugin())))


def test_a_run_that_is_no_longer_finite_goes_back_if_it_may(tmp_path) -> None:
    tables = {**recipe(), "regretful": False}
    run = train({**tables, "poisonous": {}}, tmp_path / "run", Plugin())
    assert run.step == 6 and run.state.attempt == 1
    Poisonous.attempts = 9
    with pytest.raises(NonFiniteError):
        train({**tables, "poisonous": {}}, tmp_path / "hopeless", Plugin())
    Poisonous.attempts = 1


def test_without_a_checkpoint_from_before_the_run_stops(tmp_path) -> None:
    run = train(recipe(checkpoints={"every_steps": 4}), tmp_path / "run", Plugin())
    assert run.step == 4 and run.stopped == (
        "it was better before; there is no checkpoint from before it, so the run cannot go back"
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stopped"] == run.stopped


def on_this_rank(folder: Any) -> dict[str, Any]:
    place = folder / f"rank{ranks().number}"
    run = build_run(FAMILIES["gan"].loaded(place, steps=6), place / "run")
    agree, back = run.agree, []

    def asked() -> None:
        if run.step == 0 and ranks().number == 0:
            save_checkpoint(run.state.checkpoint(), checkpoint_path(run.directory.path, 0))
        if run.step == 4 and ranks().number == 0 and not run.state.attempt:
            run.roll_back("it was better before", good_until=3)
        agree()
        back.append(run.step)

    run.agree = asked  # type: ignore[method-assign]
    execute(run)
    return {"steps": back, "attempt": run.state.attempt, "weights": run.state.weights()["generator"]}


def test_all_ranks_go_back_together(pair: Pair, tmp_path) -> None:
    first, second = pair(on_this_rank, tmp_path)
    assert first["attempt"] == second["attempt"] == 1
    assert first["steps"] == second["steps"]
    check_equal(first["weights"], second["weights"])


def test_a_run_that_goes_back_to_before_it_was_resumed_saves_that_checkpoint_again(tmp_path) -> None:
    tables = recipe("gan", regretful=False)
    train({**tables, "train": {**tables["train"], "steps": 4}}, tmp_path / "run", Plugin())
    run = build(tables, tmp_path / "run", Plugin(), resume=True)
    plain_emit = run.emit

    def emit(event: str, **arguments: Any) -> None:
        plain_emit(event, **arguments)
        if event == "step_ended" and run.step == 5 and not run.state.attempt:
            run.roll_back("it was better before", good_until=3)

    run.emit = emit  # type: ignore[method-assign]
    execute(run)
    assert [step_of(folder) for folder in checkpoints_in(tmp_path / "run")] == [2, 4, 6]
    assert run.state.attempt == 1
