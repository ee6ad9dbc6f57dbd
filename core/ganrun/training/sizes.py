"""Checks the sizes in a recipe against this machine's memory, before anything of that size is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ganrun.base.errors import IncompatibleError, RequestError
from ganrun.base.randomness import isolated_random
from ganrun.base.ranks import ranks
from ganrun.contracts.losses import Loss
from ganrun.contracts.settings import Settings, dump_settings
from ganrun.contracts.specs import NetworkSpec
from ganrun.inference.sources import SAMPLES_PER_BATCH
from ganrun.recipe.lines import Key
from ganrun.recipe.recipe import ComponentConfig, HasLocation, ModelConfig, TrainingConfig
from ganrun.recipe.source import header

FLOAT_BYTES = 4


def check_batch(recipe: ModelConfig, loss: Loss) -> None:
    """Check that a batch of samples, and one of latents, are not larger than the memory.

    Raises:
        IncompatibleError: located at the setting that decides the size.
    """
    samples = max(recipe.batch_sizes) if isinstance(recipe, TrainingConfig) else SAMPLES_PER_BATCH
    size, sides = loss.latent_size, math.prod(loss.spec.sample_shape)
    for numbers, what, own in ((size, "latent vectors", recipe.loss), (sides, "samples", _data_of(recipe))):
        key, settings = own.key, own.settings
        if isinstance(recipe, TrainingConfig) and samples > numbers:
            key, settings = ("train",), recipe.train
        _check(samples * numbers, f"a batch of {samples:,} {what}", recipe, key, settings)


def _data_of(recipe: ModelConfig) -> ComponentConfig:
    """The data of a run; for a loaded model its loss, which determines the shape of samples."""
    return recipe.data if isinstance(recipe, TrainingConfig) else recipe.loss


def largest_batch(recipe: TrainingConfig) -> tuple[int, Key]:
    """Records of the largest batch of all stages, and the setting that decides it."""
    return max(_batches(recipe), key=lambda found: found[0])


def _batches(recipe: TrainingConfig) -> list[tuple[int, Key]]:
    """Records of each stage's batch, and the setting that says so."""
    stages = [(stage.batch_size, ("stage", number, "batch_size")) for number, stage in enumerate(recipe.stages)]
    first: tuple[int, Key] = (recipe.train.batch_size, ("train", "batch_size"))
    return [first, *((size, key) for size, key in stages if size is not None)]


def check_shares(recipe: TrainingConfig) -> None:
    """Check that every batch can be cut into equal parts for all ranks.

    Raises:
        RequestError: located at the batch size that cannot.
    """
    total, accumulate = ranks().total, recipe.train.accumulate
    for size, key in _batches(recipe):
        if rest := size % (total * accumulate):
            parts = f"{total} processes" if accumulate == 1 else f"{total} processes that accumulate {accumulate} parts"
            near = size - rest or total * accumulate
            text = f"{header(key[:-1])} batch_size = {size}: the batch is cut into equal parts for {parts}; say {near}"
            raise RequestError(text, where=recipe.where(key))


def smallest_part(recipe: TrainingConfig) -> int:
    """Samples in the smallest part of a batch that a rank processes at once."""
    return min(recipe.batch_sizes) // parts_of(recipe)


def parts_of(recipe: TrainingConfig) -> int:
    """Parts that a batch is cut into, over all ranks."""
    return recipe.train.accumulate * ranks().total


def check_weights(recipe: HasLocation, config: ComponentConfig, spec: NetworkSpec) -> None:
    """Check that a network's weights are not larger than the memory, by building it without values; skipped if its code
    needs them.

    Raises:
        IncompatibleError: located at the network's largest setting.
    """
    try:
        with isolated_random(torch.device("cpu"), 0), torch.device("meta"), _Undrawn():
            network = config.build(spec)
        numbers = sum(each.numel() for each in (*network.parameters(), *network.buffers()))
    except Exception as error:  # any error of a network's code on a device without values
        if "overflow" not in str(error):
            return
        numbers = math.inf
    _check(numbers, "its weights", recipe, config.key, config.settings)


class _Undrawn(TorchFunctionMode):
    """A block in which weights are neither drawn from a normal distribution nor normalised: on the meta device, torch
    imports its compiler for that, which takes longer than everything else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "normalize")):
            return next(iter((*args, *kwargs.values())))
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def _check(numbers: float, what: str, recipe: HasLocation, key: Key, settings: Settings) -> None:
    needed, there = FLOAT_BYTES * numbers, _memory_bytes()
    if there is None or needed <= there:
        return
    place, value = max(_whole_numbers(dump_settings(settings)), key=lambda found: found[1], default=((), 0))
    largest = f"; the largest number in {header(key)} is {'.'.join(map(str, place))} = {value}" if place else ""
    text = f"{what} would take {_gibibytes(needed)}, and this machine has {_gibibytes(there)} of memory{largest}"
    raise IncompatibleError(text, where=recipe.where((*key, *place)))


def _whole_numbers(value: Any, place: Key = ()) -> Iterator[tuple[Key, int]]:
    """The whole numbers in a table of settings, with their places."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _whole_numbers(each, (*place, key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield place, value


def _memory_bytes() -> int | None:
    """The memory of this machine; None if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _gibibytes(size: float) -> str:
    return "more than can be counted" if math.isinf(size) else f"{size / 2**30:,.0f} GiB"
