"""Augmentations in a run: built and tried before it, in front of their networks, and adjusted after its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.base.ranks import ranks
from ganrun.contracts.augmentations import Augmentation
from ganrun.contracts.losses import Batch, Loss
from ganrun.contracts.specs import DataSpec, Ports
from ganrun.contracts.views import View
from ganrun.recipe.recipe import Recipe
from ganrun.rehearsal.augmentations import AugmentationTrial, check_augmentation
from ganrun.rehearsal.beginning import try_begin
from ganrun.training.components import frame_of
from ganrun.training.phases import Frame
from ganrun.training.state import TrainingState


def build_augmentations(recipe: Recipe, loss: Loss, device: torch.device) -> dict[str, Augmentation]:
    """The recipe's augmentation, once for each slot that the loss marks as augmented, each tried.

    Raises:
        IncompatibleError: located at `[augmentation]`, if it cannot be built for what a network is shown, or breaks its
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
            samples=min(recipe.batch_sizes) // train.accumulate,
            outputs=tuple(side for side in ports.outputs if side is not ...),
            second_order=_is_differentiated_twice(recipe, loss),
        )
        check_augmentation(trial)
        if built.every:
            _check_records(ports, loss.spec)
    return built


def _is_differentiated_twice(recipe: Recipe, loss: Loss) -> bool:
    penalties = (config.registered.cls.second_order for config in recipe.regularizers)
    return any(phase.second_order for phase in loss.phases()) or any(penalties)


def _check_records(ports: Ports, spec: DataSpec) -> None:
    """Whether the engine can show the network real records by itself."""
    if ports.inputs != spec.sample_shape:
        raise IncompatibleError(
            f"it is adjusted by what the network makes of real images {spec.sample_shape}, and the loss passes that"
            f" network inputs of shape {ports.inputs}; take an augmentation that is never adjusted"
        )
    for name, shape in ports.conditions.items():
        if name != "labels" and spec.fields.get(name) != shape:
            raise IncompatibleError(
                f'it is adjusted by what the network makes of real records, and they have no field "{name}", which the'
                " loss passes to that network; take an augmentation that is never adjusted"
            )


class Front:
    """An augmentation before a view.

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
            return augmented


class Adjuster:
    """Shows networks the last real batch, and their outputs to the augmentations before them.

    Args:
        state: The run's networks and augmentations.
        views: The networks as objectives see them, by slot.
        conditions: Names of the conditions that each network takes, by slot.
        draw: Draws the last batch of real records once more.
        accumulate: Parts that a batch is taken in, as in training.
        seed: The run's.
        device: Where the networks are.
        frame: `frame(doing)` is a block around each call of `adjust`.
    """

    def __init__(
        self,
        state: TrainingState,
        views: Mapping[str, View],
        conditions: Mapping[str, Sequence[str]],
        draw: Callable[[], Batch],
        accumulate: int,
        seed: int,
        device: torch.device,
        frame: Frame,
    ) -> None:
        self._state = state
        self._views = views
        self._conditions = conditions
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
        """Adjust the augmentations if it is time for it after step `step`, counted from 1."""
        state = self._state
        chosen = [name for name, augmentation in self._adjusted.items() if step % augmentation.every == 0]
        if not chosen or not state.images_seen:
            return
        for name in chosen:
            with isolated_random(self._device, derived_seed(self._seed, "adjust", name, step)), torch.no_grad():
                outputs = self._outputs(name)
                with self._frame("adjust"):
                    self._adjusted[name].adjust(outputs, state.images_seen - state.images_adjusted)
        state.images_adjusted = state.images_seen

    def _outputs(self, name: str) -> Tensor:
        with _buffers_kept(self._state.slots[name].module):
            return torch.cat([self._output(name, part) for part in self._draw().chunks(self._parts)])

    def _output(self, name: str, part: Batch) -> Tensor:
        conditions = {each: part.labels if each == "labels" else part.beside[each] for each in self._conditions[name]}
        return self._views[name](part.images, **conditions)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """A block after which a network's buffers are what they were, and where they were."""
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
