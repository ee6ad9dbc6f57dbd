"""Every family trains on two ranks as on one that takes two parts of a batch, one after the other.

That is what accumulation does, but for two things. Its parts draw from one random stream (dropout, interpolates, mixed
styles, augmentations), and ranks from one each. And the second part finds what the first one has moved on (statistics
of batch norm, vectors of spectral norm), where ranks begin alike and take the mean. Here one process does both as ranks
do, so all numbers must be equal. What a loss or a penalty remembers is moved twice by accumulation, and once by ranks,
by the mean of both; so with a memory, weights agree roughly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import FAMILIES, Family
from tests.pair import Pair, one_thread
from torch import Tensor

from ganrun import load_registry
from ganrun.base.randomness import derived_seed
from ganrun.base.ranks import rank_stream, ranks
from ganrun.contracts.losses import Batch, Nets, Objective, Phase, Terms
from ganrun.training.builder import build_run
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.step import build_step

REMEMBERING = (
    *("stylegan2", "stylegan", "stylegan2, ada", "path-lengths", "penalties on the generator"),  # a mean of lengths
    *("penalties on outputs", "lazy penalties"),  # means of outputs
    "cyclegan",  # a pool
)

NEAR = 0.1
"""Largest distance of their weights from those of one process, as a share of the way that training has gone. With other
numbers drawn, from the same start, it is 0.3 to 0.9."""

Found = dict[str, dict[str, Tensor]]


# ── On two ranks, and on one ──────────────────────────────────────────────────────────────────────────────


def trained(name: str, folder: Path) -> Found:
    """What this rank has after all steps."""
    place = folder / f"rank{ranks().number}"
    return left(build_run(FAMILIES[name].loaded(place), place / "run"))


def alone(name: str, folder: Path) -> Found:
    """What one process has that takes two parts of each batch."""
    run = build_run(FAMILIES[name].loaded(folder / "alone", accumulate=2), folder / "alone" / "run")
    InTurn(run)
    return left(run)


class InTurn:
    """Makes a run take two parts of a batch as two ranks do: from the same buffers, each with a random stream of its
    own; before the weights are changed, buffers become the means of both."""

    def __init__(self, run: Run) -> None:
        self._run = run
        trained = [slot for slot in run.state.slots.values() if slot.optimizer is not None]
        modules = [each for slot in trained for each in (slot.module, slot.augmentation) if each is not None]
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._kept: list[list[Tensor]] = []
        run.phases = tuple(replace(phase, objective=self._objective(phase)) for phase in run.phases)
        for slot in trained:
            slot.apply_gradients = self._met(slot.apply_gradients)

    def _objective(self, phase: Phase) -> Objective:
        calls = count()

        def objective(nets: Nets, batch: Batch) -> Terms:
            number, rank = divmod(next(calls), 2)
            self._kept.append([buffer.clone() for buffer in self._buffers])
            for buffer, at_first in zip(self._buffers, self._kept[0], strict=True):
                buffer.copy_(at_first)
            key = phase.name, rank, self._run.step, number % phase.repeat
            with rank_stream(self._run.model.device, derived_seed(self._run.seed, "phase", *key)):
                return phase.objective(nets, batch)

        return objective

    def _met(self, apply: Callable[[], Tensor | None]) -> Callable[[], Tensor | None]:
        def meet_and_apply() -> Tensor | None:
            if self._kept:
                means = [both for both in zip(self._buffers, self._kept[1], strict=True) if both[0].is_floating_point()]
                for buffer, first in means:
                    buffer.add_(first).div_(2)
                self._kept.clear()
            return apply()

        return meet_and_apply


def left(run: Run) -> Found:
    """The trained weights before and after all steps, and whatever else a checkpoint holds."""
    names = {f"{slot}/{name}" for slot, at in run.state.slots.items() for name, _ in at.module.named_parameters()}
    before = {name: each.clone() for name, each in held(run).items() if name in names}
    take_step = build_step(run, Measurements())
    while not run.done:
        take_step()
    after = held(run)
    weights = {name: after.pop(name) for name in names}
    return {"before": before, "weights": weights, "rest": after}


def held(run: Run) -> dict[str, Tensor]:
    """All numbers of a checkpoint, by name."""
    checkpoint = run.state.checkpoint()
    return dict(numbers("", {**checkpoint.weights, "progress": checkpoint.progress}))


def numbers(name: str, tree: Any) -> Iterator[tuple[str, Tensor]]:
    """The numbers of a tree, each under its path, but no times."""
    if isinstance(tree, Mapping):
        for key, each in tree.items():
            yield from numbers(f"{name}/{key}".lstrip("/"), each) if key != "seconds" else ()
    elif isinstance(tree, list | tuple):
        yield from numbers(name, dict(enumerate(tree)))
    elif isinstance(tree, Tensor | int | float):
        yield name, torch.as_tensor(tree)


def parted(one: Found, other: Found) -> list[str]:
    """What differs, by name. NaN is NaN."""
    pairs = [(one[kind], other[kind]) for kind in ("before", "weights", "rest")]
    assert all(mine.keys() == theirs.keys() for mine, theirs in pairs)
    return [
        n for mine, theirs in pairs for n in mine if not torch.equal(mine[n].nan_to_num(7.5), theirs[n].nan_to_num(7.5))
    ]


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum((one[name] - other[name]).double().square().sum().item() for name in one) ** 0.5


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FAMILIES)
def test_two_ranks_have_equal_checkpoints_and_those_of_one_process(name: str, pair: Pair, tmp_path: Path) -> None:
    first, second = pair(trained, name, tmp_path)
    assert not parted(first, second)
    with one_thread():
        other = alone(name, tmp_path)
    if name in REMEMBERING:
        assert distance(first["weights"], other["weights"]) < NEAR * distance(other["before"], other["weights"])
    else:
        assert not parted(first, other)


def uses(family: Family, kind: str) -> set[str]:
    """The components of a kind that a family has, by name; slots of several networks are numbered."""
    tables = [table for name, table in family.tables.items() if name.split("_")[0] == kind]
    listed = [each for table in tables for each in (table if isinstance(table, list) else [table])]
    return {each["use"] for each in listed if "use" in each}


@pytest.mark.parametrize("kind", ["loss", "generator", "discriminator", "regularizer", "augmentation"])
def test_no_installed_component_is_forgotten(kind: str) -> None:
    tried = set().union(*(uses(family, kind) for family in FAMILIES.values()))
    assert {each.name for each in load_registry().components(kind)} <= tried
