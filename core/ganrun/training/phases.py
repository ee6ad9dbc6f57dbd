"""Executes one phase: freeze, differentiate, update."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError
from ganrun.contracts.losses import Batch, Nets, Phase, Terms
from ganrun.training.measurements import Measurements
from ganrun.training.state import SlotState


class Update:
    """One phase of a loss, bound to the networks it trains.

    Args:
        phase: The phase.
        slots: Every slot of the loss.
        nets: The networks as the objective sees them.
        draw: `draw(phase)` returns a new batch.
        measurements: Where the terms are summed.
        accumulate: Number of equal parts into which a batch is cut; their gradients are averaged.

    Raises:
        ContractError: if the phase trains no slot, or one that the loss does not have.
    """

    def __init__(
        self,
        phase: Phase,
        slots: Mapping[str, SlotState],
        nets: Nets,
        draw: Callable[[Phase], Batch],
        measurements: Measurements,
        accumulate: int,
    ) -> None:
        unknown = set(phase.trains) - set(slots)
        if unknown or not phase.trains:
            raise ContractError(f'phase "{phase.name}" trains {phase.trains}; the slots are {", ".join(slots)}')
        self.phase = phase
        self._name = f"loss/{phase.name}"
        self._trained = [slots[name] for name in phase.trains]
        self._frozen = [slot for name, slot in slots.items() if name not in phase.trains]
        self._nets = nets
        self._draw = draw
        self._measurements = measurements
        self._accumulate = accumulate

    def run(self, step: int) -> None:
        """All of the phase's updates in step `step`, counted from 0."""
        if step % self.phase.every:
            return
        for slot in self._frozen:
            slot.freeze(True)
        for slot in self._trained:
            slot.freeze(False)
        for _ in range(self.phase.repeat):
            self._update()

    def _update(self) -> None:
        batch = self._draw(self.phase)
        for part in batch.chunks(self._accumulate) if self._accumulate > 1 else (batch,):
            self._differentiate(self.phase.objective(self._nets, part))
        for slot in self._trained:
            norm = slot.apply_gradients()
            if norm is not None:
                self._measurements.add(f"grad/{slot.name}", {"norm": norm})
        if self.phase.project:
            self._project(self.phase.project)

    @torch.no_grad()
    def _project(self, project: Callable[[nn.Module], None]) -> None:
        for slot in self._trained:
            project(slot.module)

    def _differentiate(self, terms: Terms) -> None:
        total = _sum_of(terms.minimise, self.phase.name)
        torch.autograd.backward(total / self._accumulate if self._accumulate > 1 else total)
        self._measurements.add(self._name, terms.minimise, terms.report)


def _sum_of(terms: Mapping[str, Tensor], phase: str) -> Tensor:
    values = list(terms.values())
    if not values:
        raise ContractError(f'the objective of phase "{phase}" gave nothing to minimise')
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
