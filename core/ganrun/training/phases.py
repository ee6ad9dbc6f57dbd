"""Executes one phase: fetch rows, work on a batch of them, count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError
from ganrun.base.frames import Frame
from ganrun.base.randomness import derived_seed
from ganrun.base.ranks import average_over_ranks, rank_stream, ranks
from ganrun.contracts.losses import Batch, Nets, Phase, Terms
from ganrun.training.batches import Rows
from ganrun.training.graphs import CapturedPhase
from ganrun.training.measurements import Measurements, curve_of, total_of
from ganrun.training.state import SlotState


class Draw(Protocol):
    """Draws batches, each the same on every rank."""

    def fetch(self, phase: Phase) -> Rows | None:
        """The host's part: rows of the data, if the batch has any. It draws no random number."""

    def make(self, phase: Phase, rows: Rows | None) -> Batch:
        """The device's part: a batch from these rows, with all random draws."""


class Update:
    """One phase of a loss, bound to the networks it trains.

    An update has three parts. *Fetch* is the host's: the next rows of the data. *Work* is the device's: latents and a
    batch of the rows, the objective, its gradients, their mean over ranks, the optimisers' steps and the sums of the
    terms; it waits for nothing and decides nothing by a value, so it can be captured as one graph, with all of the
    phase's updates in a step. *Count* is the host's again.

    Args:
        phase: The phase.
        slots: Every slot of the loss.
        nets: The networks as the objective sees them.
        draw: Draws a new batch for each update.
        measurements: Where the terms are summed.
        accumulate: Number of equal parts into which each rank's share of a batch is cut; their gradients are averaged.
        seed: The run's.
        frame: `frame(doing)` is a block around each call into the loss.
        captured: The phase as a graph, where there is one rank alone on a device that has graphs.
        turn: What the seeds of steps are derived from, besides the step: `TrainingState.turn`.

    Raises:
        ContractError: if the phase trains no slot, or one that the loss does not have.
    """

    def __init__(
        self,
        phase: Phase,
        slots: Mapping[str, SlotState],
        nets: Nets,
        draw: Draw,
        measurements: Measurements,
        accumulate: int,
        seed: int = 0,
        frame: Frame = nullcontext,
        captured: CapturedPhase | None = None,
        turn: Callable[[], tuple[str | int, ...]] = tuple,
    ) -> None:
        unknown = set(phase.trains) - set(slots)
        if unknown or not phase.trains:
            raise ContractError(f'phase "{phase.name}" trains {phase.trains}; the slots are {", ".join(slots)}')
        self.phase = phase
        self._name = curve_of(phase.name)
        self._trained = [slots[name] for name in phase.trains]
        self._frozen = [slot for name, slot in slots.items() if name not in phase.trains]
        self._slots = slots
        self._nets = nets
        self._draw = draw
        self._measurements = measurements
        self._accumulate = accumulate
        self._at = ranks()
        self._parts = accumulate * self._at.total
        self._seed = seed
        self._frame = frame
        self._captured = captured
        self._turn = turn

    def run(self, step: int) -> None:
        """All of the phase's updates in step `step`, counted from 0."""
        if step % self.phase.every:
            return
        rows = [self._draw.fetch(self.phase) for _ in range(self.phase.repeat)]
        if self._captured is None:
            self._one_by_one(rows, step)
        elif self._captured.replays(rows, self._at_once):
            for _ in rows:
                self._count()
        else:
            self._captured.rehearse(lambda: self._one_by_one(rows, step))

    def _freeze(self) -> None:
        for slot in self._frozen:
            slot.freeze(True)
        for slot in self._trained:
            slot.freeze(False)

    def _at_once(self, rows: Sequence[Rows | None]) -> None:
        self._freeze()
        for each in rows:
            self._update(each)

    def _one_by_one(self, rows: Sequence[Rows | None], step: int) -> None:
        self._freeze()
        for number, each in enumerate(rows):
            self._update(each, step, number)
            self._count()

    def _update(self, rows: Rows | None, step: int = 0, number: int = 0) -> None:
        batch = self._draw.make(self.phase, rows)
        with self._stream(batch, step, number):
            self._work(batch)

    def _stream(self, batch: Batch, step: int, number: int) -> AbstractContextManager[None]:
        """The random stream of the work: each rank's own, or the one of the draw where there is one rank alone."""
        if self._at.total == 1:
            return nullcontext()
        seed = derived_seed(self._seed, "phase", self.phase.name, self._at.number, step, number, *self._turn())
        return rank_stream(batch.latents.device, seed)

    # ── Work ──────────────────────────────────────────────────────────────────────────────────────────

    def _work(self, batch: Batch) -> None:
        for part in self._share(batch):
            with self._frame(f'the objective of phase "{self.phase.name}"'):
                self._differentiate(self.phase.objective(self._nets, part))
        self._check_gradients()
        if self._at.total > 1:
            average_over_ranks(self._exchanged())
        for slot in self._trained:
            norm = slot.apply_gradients()
            if norm is not None:
                self._measurements.add(f"grad/{slot.name}", {"norm": norm})
        if self.phase.project:
            self._project(self.phase.project)

    def _share(self, batch: Batch) -> list[Batch]:
        """This rank's parts of a batch."""
        if self._parts == 1:
            return [batch]
        start = self._at.number * self._accumulate
        return list(batch.chunks(self._parts))[start : start + self._accumulate]

    def _exchanged(self) -> list[Tensor]:
        """The tensors that ranks average after an update: gradients, and buffers that networks computed from their
        part of the batch."""
        gradients = [p.grad for slot in self._trained for p in slot.parameters if p.grad is not None]
        trained = [slot for slot in self._slots.values() if slot.optimizer is not None]
        modules = [each for slot in trained for each in (slot.module, slot.augmentation) if each is not None]
        buffers = [b for module in modules for b in module.buffers() if b.is_floating_point()]
        return [*gradients, *buffers]

    def _check_gradients(self) -> None:
        for slot in self._trained:
            if all(parameter.grad is None for parameter in slot.parameters):
                text = (
                    f'phase "{self.phase.name}" trains the {slot.name}, and none of its terms depends on that network'
                )
                raise ContractError(f"{text}, so it gets no gradient")

    @torch.no_grad()
    def _project(self, project: Callable[[nn.Module], None]) -> None:
        for slot in self._trained:
            with self._frame(f'project of phase "{self.phase.name}"'):
                project(slot.module)

    def _differentiate(self, terms: Terms) -> None:
        total = total_of(self.phase.name, terms)
        torch.autograd.backward(total / self._accumulate if self._accumulate > 1 else total)
        self._measurements.add(self._name, terms.minimise, terms.report)

    # ── Count ─────────────────────────────────────────────────────────────────────────────────────────

    def _count(self) -> None:
        self._measurements.count(self._name, self._accumulate)
        for slot in self._trained:
            if slot.clip_norm is not None:
                self._measurements.count(f"grad/{slot.name}")
