"""Sets everything in a run that is a function of the step."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ganrun.base.frames import Frame
from ganrun.contracts.beginning import begin, depends_on_step
from ganrun.contracts.losses import Loss
from ganrun.contracts.regularizers import Regularizer
from ganrun.recipe.recipe import ComponentConfig, Recipe
from ganrun.training.components import run_frames
from ganrun.training.state import SlotState, TrainingState


class Beginning:
    """The components of a run that depend on the step, each with its frame.

    Args:
        recipe: What the run trains.
        loss: Its loss.
        regularizers: Its regularisers, each with its table.
        state: Its networks, averages and augmentations.
        device: Where they are.
    """

    def __init__(
        self,
        recipe: Recipe,
        loss: Loss,
        regularizers: Sequence[tuple[ComponentConfig, Regularizer]],
        state: TrainingState,
        device: torch.device,
    ) -> None:
        self._steps = recipe.train.steps
        self._device = device
        penalties = [_part(recipe, *each) for each in regularizers]
        parts = [*_parts(recipe, loss, state), *penalties]
        self._parts = [part for part in parts if depends_on_step(part.component)]
        self.structure: tuple[Hashable, ...] = ()
        """What each `begin` last returned. While it is the same, a step runs the same operations."""

    def at(self, step: int) -> None:
        """Set everything to its state after `step` steps.

        Raises:
            ContractError: naming the component, if its `begin` fails or returns no hashable value.
        """
        found = []
        for part in self._parts:
            with part.frame("begin"):
                found.append(begin(part.component, step, self._steps, self._device))
        self.structure = tuple(found)

    def unfinished(self, step: int) -> dict[str, str]:
        """The structures after `step` steps that are not those of the last step, by table: `{"generator": "8×8"}`.

        Leaves everything in its state after `step` steps.
        """
        self.at(self._steps)
        last = self.structure
        self.at(step)
        found = zip(self._parts, self.structure, last, strict=True)
        return {part.name: str(now) for part, now, end in found if now != end}


class _Part(NamedTuple):
    name: str
    component: Any
    frame: Frame


def _parts(recipe: Recipe, loss: Loss, state: TrainingState) -> Iterator[_Part]:
    yield _part(recipe, recipe.loss, loss)
    for name, slot in state.slots.items():
        yield from (_part(recipe, recipe.networks[name], each) for each in _networks(slot))
        if slot.augmentation is not None and recipe.augmentation is not None:
            yield _part(recipe, recipe.augmentation, slot.augmentation)


def _networks(slot: SlotState) -> list[torch.nn.Module]:
    return [slot.module] if slot.average is None else [slot.module, slot.average.module]


def _part(recipe: Recipe, config: ComponentConfig, component: Any) -> _Part:
    return _Part(".".join(map(str, config.key)), component, run_frames(recipe, config))
