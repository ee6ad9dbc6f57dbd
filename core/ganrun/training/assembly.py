"""Builds and tries everything that a recipe names, before a run starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ganrun.base.devices import choose_device
from ganrun.base.errors import GanrunError
from ganrun.contracts.data import Data
from ganrun.contracts.metrics import Metric
from ganrun.inference.model import Model
from ganrun.recipe.recipe import Recipe
from ganrun.rehearsal.data import check_data
from ganrun.rundir.environment import describe_environment
from ganrun.training.components import (
    build_data,
    build_extractor,
    build_loss,
    build_metric,
    frame_of,
    prepared_data,
    prepared_metrics,
)
from ganrun.training.slots import build_networks, build_slots
from ganrun.training.state import TrainingState


def ignore_stage(stage: str) -> None:
    """The default for callers that show no progress."""


@dataclass(frozen=True)
class Assembly:
    """The components that were built for a recipe."""

    recipe: Recipe
    data: Data
    """Prepared."""

    model: Model
    """The networks as they are scored and shown: averaged where the loss keeps an average."""

    state: TrainingState
    metrics: tuple[Metric, ...]
    """Prepared."""

    environment: dict[str, Any]
    """The content of environment.json."""


def assemble(recipe: Recipe, on_stage: Callable[[str], None] = ignore_stage) -> Assembly:
    """Build a recipe's data, networks and metrics, and check that they fit each other. Writes nothing.

    Args:
        recipe: What to build.
        on_stage: Called with a description of the current stage.

    Raises:
        RequestError: for anything that is missing or does not fit, located at the recipe's line.
    """
    device = _choose_device(recipe)
    on_stage(f"data {recipe.data.use}")
    data = prepared_data(recipe)
    spec, loss = build_loss(recipe, data)
    with frame_of(recipe, recipe.data, "split"):
        manifest = check_data(data, paired=loss.paired)
    loss.memory.to(device)
    state = TrainingState(build_slots(recipe, loss, device), loss.memory)
    metrics = prepared_metrics(recipe, data, spec, device, on_stage)
    shown = {name: slot.shown for name, slot in state.slots.items()}
    with frame_of(recipe, recipe.data, "manifest"):
        environment = describe_environment(recipe, data, manifest, device)
    return Assembly(
        recipe=recipe,
        data=data,
        model=Model(spec, loss, shown, device, recipe.train.seed),
        state=state,
        metrics=tuple(metrics),
        environment=environment,
    )


def check_recipe(recipe: Recipe) -> None:
    """Build a recipe's components but no run, and check that they fit each other. Reads data only if its spec needs it.

    Raises:
        RequestError: as `assemble`, but for absent data only if its spec depends on its files.
    """
    spec, loss = build_loss(recipe, build_data(recipe))
    build_networks(recipe, loss, torch.device("cpu"))
    for config in recipe.metrics:
        build_metric(recipe, config, spec, build_extractor(recipe, config, spec))


def _choose_device(recipe: Recipe) -> torch.device:
    try:
        return choose_device(recipe.train.device)
    except GanrunError as error:
        raise error.located(recipe.where(("train", "device"))) from None
