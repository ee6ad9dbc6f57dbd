"""Augmentations in a run: checked before it starts, applied before their networks, adjusted after steps, and logged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.base.frames import Frame
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.base.ranks import ranks
from ganrun.contracts.augmentations import Augmentation
from ganrun.contracts.losses import Batch, Inputs, Loss
from ganrun.contracts.views import View
from ganrun.recipe.recipe import Recipe
from ganrun.rehearsal.augmentations import AugmentationTrial, check_augmentation, other_names, reported
from ganrun.rehearsal.beginning import try_begin
from ganrun.rehearsal.networks import example_records
from ganrun.training.components import frame_of, run_frames
from ganrun.training.sizes import smallest_part
from ganrun.training.state import SlotState, TrainingState

SECTION = "augmentation"
"""Section of metrics.jsonl for augmentations' reports."""


def build_augmentations(recipe: Recipe, loss: Loss, device: torch.device) -> dict[str, Augmentation]:
    """The recipe's augmentation, built and checked for each slot that the loss marks as augmented.

    Raises:
        IncompatibleError: located at `[augmentation]`, if it cannot be built for a network's inputs, or breaks its
            contract.
    """
    slots = [name for name, slot in loss.slots.items() if slot.augmented] if recipe.augmentation else []
    return {name: _tried(recipe, loss, name, device) for name in slots}


def _tried(recipe: Recipe, loss: Loss, slot: str, device: torch.device) -> Augmentation:
    config, train, ports = recipe.augmentation, recipe.train, loss.ports(slot)
    assert config is not None
    spec = dataclasses.replace(loss.spec, sample_shape=ports.inputs)
    with frame_of(recipe, config, "__init__"):

        def make() -> Augmentation:
            made: Augmentation = config.build(spec).to(device)
            try_begin(made, 0, train.steps, device)
            return made

        with isolated_random(torch.device("cpu"), derived_seed(train.seed, "augmentation", slot)):
            built = make()
        trial = AugmentationTrial(
            augmentation=built,
            make=make,
            device=device,
            samples=smallest_part(recipe),
            outputs=(1, *(side for side in ports.outputs[1:] if side is not ...)),
            second_order=_is_differentiated_twice(recipe, loss),
        )
        check_augmentation(trial)
        if built.every:
            _check_real_inputs(loss, slot, device)
            _check_boundary(loss, slot)
    return built


def _is_differentiated_twice(recipe: Recipe, loss: Loss) -> bool:
    penalties = (config.registered.cls.second_order for config in recipe.regularizers)
    return any(phase.second_order for phase in loss.phases()) or any(penalties)


def _check_boundary(loss: Loss, slot: str) -> None:
    """Whether the loss defines which images the network classifies as real."""
    if loss.slots[slot].boundary is None:
        text = f"{_ADJUSTED}, and the loss does not say above which output its {slot} takes one for real"
        raise IncompatibleError(f"{text} (Slot.boundary); take another loss, {_NEVER}")


def _check_real_inputs(loss: Loss, slot: str, device: torch.device) -> None:
    """Whether the loss defines the network's inputs for real records."""
    try:
        found = loss.real_inputs(slot, example_records(loss.spec, 2, device))
    except ContractError as error:
        raise IncompatibleError(f"{_ADJUSTED}, and the loss shows it none: {error.message}, {_NEVER}") from error
    ports = loss.ports(slot)
    if tuple(found.inputs.shape[1:]) != ports.inputs or found.conditions.keys() != ports.conditions.keys():
        shown = f"{tuple(found.inputs.shape[1:])} with {', '.join(found.conditions) or 'no conditions'}"
        raise IncompatibleError(f"{_ADJUSTED}; the loss's real_inputs gives {shown}, and its {slot} takes {ports}")


_ADJUSTED = "it is adjusted by the network's outputs for real records"
_NEVER = "or take an augmentation that is never adjusted"


class Front:
    """An augmentation applied before a view.

    Args:
        augmentation: The augmentation.
        frame: `frame(doing)` is a block around each call.
    """

    def __init__(self, augmentation: Augmentation, frame: Frame) -> None:
        self._augmentation = augmentation
        self._frame = frame

    def __call__(self, images: Tensor) -> Tensor:
        """Augmented images."""
        with self._frame("forward"):
            augmented: Tensor = self._augmentation(images)
            if augmented.shape != images.shape:
                raise ContractError(f"returns shape {tuple(augmented.shape)} for {tuple(images.shape)}; keep the shape")
            return augmented


class Adjuster:
    """Runs networks on the last real batch, and passes their outputs to their augmentations.

    Args:
        state: The run's networks and augmentations.
        views: The networks as objectives see them, by slot.
        boundaries: The outputs at which networks are undecided, by slot.
        real_inputs: The inputs on which the loss calls a slot's network for real records.
        draw: Draws the last batch of real records again.
        accumulate: Parts that a batch is taken in, as in training.
        seed: The run's.
        device: Where the networks are.
        frame: `frame(doing)` is a block around each call of `adjust`.
    """

    def __init__(
        self,
        state: TrainingState,
        views: Mapping[str, View],
        boundaries: Mapping[str, float | None],
        real_inputs: Callable[[str, Batch], Inputs],
        draw: Callable[[], Batch],
        accumulate: int,
        seed: int,
        device: torch.device,
        frame: Frame,
    ) -> None:
        self._state = state
        self._views = views
        self._boundaries = boundaries
        self._real_inputs = real_inputs
        self._draw = draw
        self._parts = accumulate * ranks().total
        self._seed = seed
        self._device = device
        self._frame = frame
        slots = state.slots.values()
        self._adjusted = {
            slot.name: slot.augmentation for slot in slots if slot.augmentation is not None and slot.augmentation.every
        }

    def after(self, step: int) -> None:
        """Adjust the augmentations that are scheduled after step `step`, counted from 1."""
        state = self._state
        chosen = [name for name, augmentation in self._adjusted.items() if step % augmentation.every == 0]
        if not chosen or not state.images_seen:
            return
        for name in chosen:
            seed = derived_seed(self._seed, "adjust", name, step, *state.turn)
            with isolated_random(self._device, seed), torch.no_grad():
                outputs = self._outputs(name)
                with self._frame("adjust"):
                    self._adjusted[name].adjust(outputs, state.images_seen - state.images_adjusted)
        state.images_adjusted = state.images_seen

    def _outputs(self, name: str) -> Tensor:
        with _buffers_kept(self._state.slots[name].module):
            outputs = torch.cat([self._output(name, part) for part in self._draw().chunks(self._parts)])
        return outputs[:, :1] - (self._boundaries[name] or 0.0)

    def _output(self, name: str, part: Batch) -> Tensor:
        at = self._real_inputs(name, part)
        return self._views[name](at.inputs, **at.conditions)


class Reports:
    """The reports of a run's augmentations, under the names of its curves.

    Args:
        recipe: The run's.
        state: Its networks and augmentations.
        device: Their device.
    """

    def __init__(self, recipe: Recipe, state: TrainingState, device: torch.device) -> None:
        self._frame = run_frames(recipe, recipe.augmentation or recipe.loss)
        self._slots = [slot for slot in state.slots.values() if slot.augmentation is not None]
        self._names: dict[str, set[str]] = {}
        self._device = device

    def present(self) -> dict[str, Tensor]:
        """The current numbers, on the device: `{"augmentation/discriminator.p": …}`.

        Raises:
            ContractError: naming the augmentation, if its `report` fails, gives anything but scalars, or has other
                names than before.
        """
        found = ((slot.name, self._reported(slot)) for slot in self._slots)
        return {f"{SECTION}/{slot}.{name}": value for slot, each in found for name, value in each.items()}

    def _reported(self, slot: SlotState) -> dict[str, Tensor]:
        assert slot.augmentation is not None
        with self._frame("report"), torch.no_grad():
            values = reported(slot.augmentation, self._device)
            first = self._names.setdefault(slot.name, set(values))
            if first != values.keys():
                raise ContractError(other_names(sorted(first), sorted(values)))
        return values


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """A block that restores a network's buffers, both values and storage."""
    layers = [
        (layer, name, buffer) for layer in module.modules() for name, buffer in layer.named_buffers(recurse=False)
    ]
    values = [buffer.clone() for _, _, buffer in layers]
    try:
        yield
    finally:
        for (layer, name, buffer), value in zip(layers, values, strict=True):
            setattr(layer, name, buffer)
            buffer.copy_(value)
