"""Two processes that train one run together, against one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.pair import Pair
from torch import Tensor

import ganrun
from ganrun import Interrupted, Terms, hookimpl, mean_over_ranks
from ganrun.base.ranks import gathered, ranks
from ganrun.testing import build, measured
from ganrun.training.augmenting import Reports
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.step import build_step

STEPS = 12

DENSE = {
    "train": {"steps": STEPS, "batch_size": 8, "device": "cpu", "seed": 3},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
}
OWN_DRAWS = {**DENSE, "loss": {"use": "remembering"}}

Result = dict[str, Any]


class Remembering(ganrun.AdversarialLoss):
    """Remembers the last latents that it was given, and the last number that it drew, and their mean over ranks."""

    class Settings(ganrun.Settings):
        latent_size: int = 4
        """Length of a latent vector."""

    def __init__(self, settings: Any, spec: ganrun.DataSpec) -> None:
        super().__init__(settings, spec)
        self.memory.register_buffer("latents", torch.zeros(4, 4))
        for name in ("drawn", "mean"):
            self.memory.register_buffer(name, torch.zeros(()))

    def discriminator(self, nets: ganrun.Nets, batch: ganrun.Batch) -> Terms:
        self.memory.latents.copy_(batch.latents)
        self.memory.drawn.copy_(torch.rand(()))
        self.memory.mean.copy_(mean_over_ranks(self.memory.drawn))
        return Terms({"real": nets.discriminator(batch.images).square().mean()})

    def generator(self, nets: ganrun.Nets, batch: ganrun.Batch) -> Terms:
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents)).square().mean()})


class Adaptive(ganrun.Augmentation):
    """Flips images with a probability that depends on the discriminator's outputs for real ones."""

    class Settings(ganrun.Settings):
        flips: bool = True
        """Whether it changes anything."""

    every = 2

    def __init__(self, settings: Any, spec: ganrun.DataSpec) -> None:
        super().__init__(settings, spec)
        self.register_buffer("p", torch.full((), 0.5))

    def forward(self, images: Tensor) -> Tensor:
        if not self.settings.flips:
            return images + 0.0
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < self.p
        return torch.where(chosen, images.flip(3), images)

    def adjust(self, outputs: Tensor, images: int) -> None:
        self.p.add_(outputs.mean() * images / 100).clamp_(0.1, 0.9)

    def report(self) -> dict[str, Tensor]:
        return {"p": self.p}


class Collected(ganrun.Metric):
    """Sums that depend on the order of everything that was collected: samples, latents, images and their labels."""

    def watch(self, evaluation: ganrun.Evaluation) -> None:
        self.made = evaluation.collect(ganrun.Buffer(), "samples", "latents", count=1100)
        self.real = evaluation.collect_real(ganrun.Buffer(), "images", "labels", count=700)

    def measure(self, evaluation: ganrun.Evaluation) -> list[ganrun.Score]:
        ordered = [self._ordered(each) for buffer in (self.made, self.real) for each in buffer.tensors()]
        at_once = evaluation.generated(300).double().sum().item()
        return [
            ganrun.Score(f"sum_{number}", value, higher_is_better=True, protocol={"order": "as collected"})
            for number, value in enumerate([*ordered, at_once])
        ]

    def _ordered(self, rows: Tensor) -> float:
        return (rows.double().reshape(len(rows), -1).sum(1) * torch.arange(1, len(rows) + 1)).sum().item()


class Plugin:
    """Offers the loss, the augmentation and the metric."""

    @hookimpl
    def ganrun_augmentations(self) -> dict[str, type[ganrun.Augmentation]]:
        return {"adaptive": Adaptive}

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[ganrun.Metric]]:
        return {"collected": Collected}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {"remembering": Remembering}


# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────


def take_steps(run: Run) -> Result:
    """The state after all steps: the weights, the loss's memory, the means."""
    measurements = Measurements()
    take_step = build_step(run, measurements)
    while not run.done:
        take_step()
    weights = {name: dict(tensors) for name, tensors in run.state.weights().items()}
    means = measurements.read(Reports(run.recipe, run.state, run.model.device).present())
    return {"weights": weights, "means": means, "step": run.step, "images": run.images_seen}


def scored(run: Run) -> Result:
    """The scores of the weights that training begins with."""
    return {"scores": [score.value for score in measured(run.metrics, run.evaluation(ranks()))]}


def interrupted(run: Run) -> Result:
    """The step at which the second rank's signal stops both."""
    return stopped(run, lambda: os.kill(os.getpid(), signal.SIGTERM))


def out_of_time(run: Run) -> Result:
    """The step at which the end of the second rank's time stops both."""
    return stopped(run, lambda: setattr(run.interruption, "deadline", 0.0))


def stopped(run: Run, cause: Callable[[], object]) -> Result:
    """The step at which both ranks stop, if the second one has cause to."""
    take_step = build_step(run, Measurements())
    with run.interruption:
        try:
            while not run.done:
                if run.step == 3 and dist.get_rank() == 1:
                    cause()
                take_step()
                run.agree()
                run.interruption.check()
        except Interrupted as stop:
            return {"step": run.step, "status": stop.exit_status}
    return {"step": run.step}


def acted(act: Callable[[Run], Result], tables: Mapping[str, Any], folder: Path) -> Result:
    """The result of an action on the run of a recipe, on this rank."""
    return act(build(tables, folder / f"rank{dist.get_rank()}", Plugin()))


def one(tables: Mapping[str, Any], folder: Path, **train: Any) -> Result:
    return take_steps(build({**tables, "train": {**tables["train"], **train}}, folder / "one", Plugin()))


def tensors_of(result: Result) -> dict[str, Tensor]:
    return {f"{file}.{name}": value for file, each in result["weights"].items() for name, value in each.items()}


def largest_difference(one: Result, other: Result) -> float:
    pairs = tensors_of(one), tensors_of(other)
    return max((pairs[0][name].double() - pairs[1][name].double()).abs().max().item() for name in pairs[0])


def test_two_ranks_train_a_gan_bit_for_bit_as_one_does_that_accumulates_two_parts(pair: Pair, tmp_path: Path) -> None:
    first, second = pair(acted, take_steps, DENSE, tmp_path)
    alone = one(DENSE, tmp_path, accumulate=2)
    assert largest_difference(first, second) == 0
    assert largest_difference(first, alone) == 0
    assert first["means"] == second["means"] == pytest.approx(alone["means"], rel=1e-6)


def test_ranks_share_the_draw_of_a_batch_and_no_other(pair: Pair, tmp_path: Path) -> None:
    first, second = pair(acted, take_steps, OWN_DRAWS, tmp_path)
    alone = one(OWN_DRAWS, tmp_path, accumulate=2)
    memories = [each["weights"]["loss"] for each in (first, second)]
    assert memories[0]["drawn"] != memories[1]["drawn"]
    assert not torch.equal(memories[0]["latents"], memories[1]["latents"])
    assert memories[0]["mean"] == memories[1]["mean"]
    assert memories[0]["mean"].item() == pytest.approx(sum(each["drawn"].item() for each in memories) / 2)
    assert torch.equal(memories[1]["latents"], alone["weights"]["loss"]["latents"])  # the second part of the batch


def test_ranks_adjust_an_augmentation_alike_by_the_whole_batch_of_each_stage(pair: Pair, tmp_path: Path) -> None:
    staged = {**DENSE, "augmentation": {"use": "adaptive"}, "stage": [{"from": 5, "batch_size": 12, "lr": 0.01}]}
    first, second = pair(acted, take_steps, staged, tmp_path)
    alone = one(staged, tmp_path, accumulate=2)
    assert largest_difference(first, second) == 0
    assert first["images"] == alone["images"] == 5 * 8 + 7 * 12
    p = tensors_of(first)["discriminator.augmentation.p"]
    assert p != 0.5 and first["means"] == second["means"]
    assert first["means"]["augmentation/discriminator.p"] == p.item()


def test_ranks_without_draws_adjust_as_one_does_that_accumulates(pair: Pair, tmp_path: Path) -> None:
    looked_at = {**DENSE, "augmentation": {"use": "adaptive", "flips": False}}
    first, _ = pair(acted, take_steps, looked_at, tmp_path)
    assert largest_difference(first, one(looked_at, tmp_path, accumulate=2)) == 0


def test_what_ranks_collect_together_is_what_one_collects(pair: Pair, tmp_path: Path) -> None:
    first, second = pair(acted, scored, {**DENSE, "metric": [{"use": "collected"}]}, tmp_path)
    alone = scored(build({**DENSE, "metric": [{"use": "collected"}]}, tmp_path / "one", Plugin()))
    assert first == alone and len(first["scores"]) == 5
    assert second == {"scores": []}  # the first rank alone measures


@pytest.mark.parametrize(("act", "status"), [(interrupted, 128 + signal.SIGTERM), (out_of_time, 75)])
def test_a_rank_that_stops_stops_all_after_the_same_step_with_its_exit_status(
    pair: Pair, tmp_path: Path, act: Callable[[Run], Result], status: int
) -> None:
    assert pair(acted, act, DENSE, tmp_path) == [{"step": 4, "status": status}] * 2


# ── Exchanges ─────────────────────────────────────────────────────────────────────────────────────────────

KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def some_lists(rank: int) -> list[list[Tensor]]:
    """Tensors of all types, odd sizes, no rows and no dimensions, another number of them on each rank; empty lists."""
    numbers = torch.arange(3.0) + rank
    mixed = [numbers.to(kind)[:rows] for kind in KINDS for rows in (3, 0, 1)]
    return [[], mixed, [numbers.sum(), numbers.view(3, 1).expand(3, 2)], *([[numbers]] * rank)]


def exchanged() -> Result:
    at = ganrun.ranks()
    lists = gathered(some_lists(at.number), at)
    numbers = torch.arange(4).view(2, 2) + at.number
    rows = [ganrun.gathered_over_ranks(numbers.to(kind)) for kind in KINDS]
    none = ganrun.gathered_over_ranks(torch.zeros(0, 3, requires_grad=True))
    largest = mean_over_ranks(torch.full((2,), torch.finfo(torch.float32).max))
    return {"lists": lists, "rows": rows, "none": none, "largest": largest}


def test_ranks_exchange_tensors_of_any_type_bit_for_bit(pair: Pair) -> None:
    first, second = pair(exchanged)
    assert second["lists"] == []
    for rank, lists in enumerate(first["lists"]):
        assert [len(each) for each in lists] == [len(each) for each in some_lists(rank)]
        for found, sent in zip(chain(*lists), chain(*some_lists(rank)), strict=True):
            assert found.dtype == sent.dtype and torch.equal(found, sent)
    for found, kind in zip(first["rows"], KINDS, strict=True):
        both = torch.tensor([[0, 1], [2, 3], [1, 2], [3, 4]]).to(kind)
        assert torch.equal(found, both) and found.dtype == kind
    assert first["largest"].eq(torch.finfo(torch.float32).max).all()
    assert first["none"].shape == (0, 3) and not first["none"].requires_grad


def test_one_rank_gathers_its_own_rows_and_no_gradient() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    for found in (ganrun.gathered_over_ranks(rows), mean_over_ranks(rows)):
        assert torch.equal(found, rows) and not found.requires_grad
