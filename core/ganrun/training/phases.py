"""Executes one phase: freeze, differentiate, update."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ganrun.base.errors import ContractError
from ganrun.contracts.losses import Batch, Nets, Phase, Terms
from ganrun.training.measurements import Measurements, total_of
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
        self._check_gradients()
        for slot in self._trained:
            norm = slot.apply_gradients()
            if norm is not None:
                self._measurements.add(f"grad/{slot.name}", {"norm": norm})
        if self.phase.project:
            self._project(self.phase.project)

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
            project(slot.module)

    def _differentiate(self, terms: Terms) -> None:
        total = total_of(self.phase.name, terms)
        torch.autograd.backward(total / self._accumulate if self._accumulate > 1 else total)
        self._measurements.add(self._name, terms.minimise, terms.report)
