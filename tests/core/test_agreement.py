"""Agreement between ranks: on the run, its state and its end; and which rank writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import ganrun
from ganrun import ContractError, RequestError, Run, hookimpl, observes
from ganrun.testing import build, train
from ganrun.training.equality import check_equal
from ganrun.training.runner import execute

TABLES: dict[str, Any] = {
    "train": {"steps": 6, "batch_size": 8, "device": "cpu", "log_every_steps": 2, "evaluate_every_steps": 2},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "metric": [{"use": "brightness"}],
    "checkpoints": {"every_steps": 2},
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}


class Brightness(ganrun.Metric):
    """The mean of samples."""

    def watch(self, evaluation: ganrun.Evaluation) -> None:
        self.made = evaluation.collect(ganrun.Buffer(), "samples", count=600)

    def measure(self, evaluation: ganrun.Evaluation) -> list[ganrun.Score]:
        mean = self.made.tensors()[0].double().mean().item()
        return [ganrun.Score("brightness", mean, higher_is_better=True, protocol={})]


class Stopping(ganrun.Observer):
    """Stops the run at an event of step 4."""

    class Settings(ganrun.Settings):
        event: str
        """Name of the event."""

    def stop(self, run: Run, event: str) -> None:
        if run.step == 4 and self.settings.event == event:
            run.stop("enough")

    @observes
    def measured(self, run: Run) -> None:
        self.stop(run, "measured")

    @observes
    def step_ended(self, run: Run) -> None:
        self.stop(run, "step_ended")

    @observes
    def evaluated(self, run: Run) -> None:
        self.stop(run, "evaluated")


class Counting(ganrun.AdversarialLoss):
    """Remembers how bright the images are that it has seen."""

    class Settings(ganrun.Settings):
        latent_size: int = 4
        """Length of a latent vector."""

    def __init__(self, settings: Any, spec: ganrun.DataSpec) -> None:
        super().__init__(settings, spec)
        self.memory.register_buffer("seen", torch.zeros(()))

    def discriminator(self, nets: ganrun.Nets, batch: ganrun.Batch) -> ganrun.Terms:
        self.memory.seen.add_(batch.images.mean())
        return ganrun.Terms({"real": nets.discriminator(batch.images).square().mean()})

    def generator(self, nets: ganrun.Nets, batch: ganrun.Batch) -> ganrun.Terms:
        return ganrun.Terms({"fake": nets.discriminator(nets.generator(batch.latents)).square().mean()})


class Plugin:
    """Offers all of them."""

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[ganrun.Metric]]:
        return {"brightness": Brightness}

    @hookimpl
    def ganrun_observers(self) -> dict[str, type[ganrun.Observer]]:
        return {"stopping": Stopping}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {"counting": Counting}


# ── What each rank does ───────────────────────────────────────────────────────────────────────────────────


def directory(folder: Path) -> Path:
    """Where a rank would write; the second one has another disk."""
    return folder / ("run" if dist.get_rank() == 0 else "elsewhere/run")


def executed(tables: dict[str, Any], folder: Path, resume: bool = False) -> dict[str, Any]:
    """What is left of a whole run, and which scores it has."""
    run = build(tables, directory(folder), Plugin(), resume=resume)
    execute(run)
    return {"step": run.step, "weights": run.state.weights(), "scores": [s.value for s in run.scores.values()]}


def with_other_recipes(tables: dict[str, Any], folder: Path, train: list[dict[str, Any]]) -> str:
    """Why ranks with different recipes are refused."""
    own = {**tables, "train": {**tables["train"], **train[dist.get_rank()]}}
    with pytest.raises(RequestError) as refused:
        build(own, directory(folder), Plugin())
    return refused.value.message


def with_a_run_elsewhere(tables: dict[str, Any], folder: Path) -> str:
    """Why ranks are refused of which the second one alone finds a run."""
    with pytest.raises(RequestError) as refused:
        build(tables, directory(folder), Plugin(), resume=True)
    return refused.value.message


def parted(tables: dict[str, Any], folder: Path) -> str:
    """Why a run is stopped whose loss remembers its own part of each batch."""
    run = build({**tables, "loss": {"use": "counting"}}, directory(folder), Plugin())
    check_equal(run.state)
    with pytest.raises(ContractError) as stopped:
        execute(run)
    return f"{run.step}: {stopped.value.message}"


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_rank_alone_has_files_and_a_resumed_run_needs_no_others(tmp_path: Path, pair: Any) -> None:
    shorter = {**TABLES, "train": {**TABLES["train"], "steps": 4}}
    pair(executed, shorter, tmp_path)
    first, second = pair(executed, TABLES, tmp_path, True)
    alone = train({**TABLES, "train": {**TABLES["train"], "accumulate": 2}}, tmp_path / "alone", Plugin())
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["run.toml"]
    assert first["scores"] == [score.value for score in alone.scores.values()] and second["scores"] == []
    for weights in (first["weights"], second["weights"]):
        for file, tensors in alone.state.weights().items():
            assert all(torch.equal(weights[file][name], value) for name, value in tensors.items()), file
    recorded = [(each.step, each.scores().keys()) for each in ganrun.RunDirectory(tmp_path / "run").evaluations()]
    assert recorded == [(step, {"brightness"}) for step in (2, 4, 6)]


@pytest.mark.parametrize("event", ["measured", "step_ended", "evaluated"])
def test_an_observer_of_the_first_rank_ends_the_run_of_all(tmp_path: Path, pair: Any, event: str) -> None:
    first, second = pair(executed, {**TABLES, "stopping": {"event": event}}, tmp_path)
    assert first["step"] == second["step"] == 4
    assert ganrun.RunDirectory(tmp_path / "run").summary()["stopped"] == "enough"


@pytest.mark.parametrize("train", [[{"seed": 0}, {"seed": 1}], [{"precision": "auto"}, {"precision": "bf16"}]])
def test_ranks_with_different_recipes_are_refused(tmp_path: Path, pair: Any, train: list[dict[str, Any]]) -> None:
    for message in pair(with_other_recipes, TABLES, tmp_path, train):
        assert message.startswith("mismatch between machines: the recipe")
    assert not (tmp_path / "run").exists()


def test_a_run_that_the_first_rank_cannot_see_is_not_started_anew(tmp_path: Path, pair: Any) -> None:
    train(TABLES, tmp_path / "elsewhere/run", Plugin())
    first, second = pair(with_a_run_elsewhere, TABLES, tmp_path)
    assert "another machine has a run in" in first and "a file system that all machines share" in second
    assert not (tmp_path / "run").exists()


def test_a_state_that_parts_is_found_where_the_run_is_scored(tmp_path: Path, pair: Any) -> None:
    for message in pair(parted, TABLES, tmp_path):
        assert message.startswith(
            "2: after step 2, the processes that train this run hold different values of loss.seen;"
        )
