"""The precision of a run: resolves "auto", and checks what a device supports."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

import torch

from ganrun.base.devices import device_text, has_bf16, precision_on
from ganrun.base.errors import RequestError
from ganrun.base.ranks import largest_over_ranks, ranks
from ganrun.recipe.recipe import Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.training.views import PRECISIONS

log = logging.getLogger("ganrun")

AUTO = "auto"

PLACE = ("train", "precision")


def with_precision(recipe: Recipe, device: torch.device, directory: RunDirectory | None = None) -> Recipe:
    """The recipe with "auto" resolved; logs a line if the device computes in another precision than requested.

    Args:
        recipe: The recipe.
        device: Where it is trained.
        directory: The run's. A run keeps the precision that it was started with, even on another device. None if
            nothing is trained; then nothing is logged.
    """
    if directory is None:
        return chosen_in(recipe, device)
    if recipe.train.precision != AUTO:
        _of_first(recipe.train.precision)  # every rank takes part, even if recipes differ, which is detected later
        _tell(recipe, device)
        return recipe
    stored = _stored(directory)
    chosen = _of_first(stored or chosen_for(device))
    why = "as the run was begun" if stored else f"on {device_text(device)}"
    log.info('precision = "auto" is %s, %s', chosen, why)
    return _with(recipe, chosen)


def chosen_in(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with "auto" resolved for a new run on a device, without logging."""
    return _with(recipe, chosen_for(device)) if recipe.train.precision == AUTO else recipe


def chosen_for(device: torch.device) -> str:
    """The precision that "auto" means on a device, in a new run."""
    return "bf16" if has_bf16(device) else "f32"


def _with(recipe: Recipe, precision: str) -> Recipe:
    return replace(recipe, train=recipe.train.model_copy(update={"precision": precision}))


def _of_first(precision: str) -> str:
    """The precision that the first rank has, which alone knows the run's directory."""
    names = list(PRECISIONS)
    return names[largest_over_ranks(names.index(precision) if ranks().number == 0 else 0)[0]]


def _tell(recipe: Recipe, device: torch.device) -> None:
    wanted, where, name = recipe.train.precision, recipe.where(PLACE), device_text(device)
    if precision_on(device, wanted) != wanted:
        log.warning("%s: %s has no TF32, so the run computes in f32", where, name)
    if wanted == "bf16" and device.type == "cuda" and not has_bf16(device):
        log.warning("%s: %s emulates bf16, which is slow; use f32 or auto", where, name)


def _stored(directory: RunDirectory) -> str | None:
    """The precision of the run in a directory; f32 was the only one before there was a choice."""
    with suppress(RequestError, LookupError, TypeError, AttributeError):
        train = directory.recipe_source().tables["train"]
        stored: str = train.get("precision", "f32")
        return stored if stored in PRECISIONS else None
    return None
