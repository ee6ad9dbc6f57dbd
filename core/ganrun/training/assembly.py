"""Builds and checks everything that a recipe names, before a run starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ganrun.base.arithmetic import exact_float32
from ganrun.base.devices import choose_device, device_of_rank
from ganrun.base.errors import GanrunError, RequestError
from ganrun.contracts.data import Data, Split
from ganrun.contracts.losses import Loss, Phase
from ganrun.contracts.metrics import Metric
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.model import Model
from ganrun.recipe.recipe import Recipe
from ganrun.rehearsal.data import check_data
from ganrun.rundir.checkpoints import checkpoints_in, digest_of
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.environment import describe_environment
from ganrun.training.augmenting import build_augmentations
from ganrun.training.beginning import Beginning
from ganrun.training.components import (
    build_data,
    build_extractor,
    build_loss,
    build_metric,
    frame_of,
    prepared_data,
    prepared_metrics,
    run_frames,
)
from ganrun.training.identity import check_same_data
from ganrun.training.phasing import Penalties, run_phases
from ganrun.training.precision import chosen_in, with_precision
from ganrun.training.preparing import check_training_split, prepare_loss, training_split
from ganrun.training.slots import build_networks, build_slots
from ganrun.training.starting import check_same_starts, start_from
from ganrun.training.state import TrainingState
from ganrun.training.trying import try_phases, try_samples
from ganrun.training.watching import try_requests, try_unprepared

log = logging.getLogger("ganrun")


def ignore_stage(stage: str) -> None:
    """The default for callers that show no progress."""


@dataclass(frozen=True)
class Assembly:
    """The components that were built for a recipe."""

    recipe: Recipe
    data: Data
    """Prepared."""

    training: Split
    """The records to train on: the data's train split, or the share of it that the recipe requests."""

    model: Model
    """The networks as they are scored and shown: averaged where the loss keeps an average."""

    state: TrainingState
    phases: tuple[Phase, ...]
    """Of a step, in order: the loss's, with the recipe's repeats and penalties."""
    beginning: Beginning
    """Everything that is a function of the step; begun at step 0."""

    metrics: tuple[Metric, ...]
    """Prepared."""

    environment: dict[str, Any]
    """The content of environment.json."""


@exact_float32()
def assemble(
    recipe: Recipe, on_stage: Callable[[str], None] = ignore_stage, directory: RunDirectory | None = None
) -> Assembly:
    """Build a recipe's data, networks and metrics, and check that they fit each other. Writes nothing.

    Args:
        recipe: What to build.
        on_stage: Called with a description of the current stage.
        directory: The run's directory, which may hold a run to resume; None if nothing is trained, only scored.

    Raises:
        RequestError: for anything that is missing or incompatible, located at the recipe's line.
    """
    device = _choose_device(recipe)
    recipe = with_precision(recipe, device, directory)
    on_stage(f"data {recipe.data.use}")
    data = prepared_data(recipe)
    spec, loss = build_loss(recipe, data)
    with frame_of(recipe, recipe.data, "split"):
        manifest = check_data(data, paired=loss.paired)
    training = _training_records(recipe, data, loss, manifest, directory)
    loss.memory.to(device)
    networks = build_networks(recipe, loss, device)
    starts = _starts(recipe, loss, networks, directory)
    penalties = Penalties(recipe, loss, networks, device)
    phases = run_phases(recipe, loss, penalties)
    slots = build_slots(recipe, loss, networks, device)
    state = TrainingState(slots, loss.memory, penalties.memories())
    beginning = Beginning(recipe, loss, penalties.components(), state, device)
    beginning.at(state.step)
    penalties.try_on(networks, spec)
    try_phases(recipe, loss, networks, spec, device)
    metrics = prepared_metrics(recipe, data, spec, device, on_stage)
    model = _model(recipe, spec, loss, state, data, device)
    try_samples(recipe, model)
    try_requests(recipe, metrics, model, data)
    with frame_of(recipe, recipe.data, "manifest"):
        environment = describe_environment(recipe, data, manifest, device, starts)
    return Assembly(
        recipe=recipe,
        data=data,
        training=training,
        model=model,
        state=state,
        beginning=beginning,
        phases=phases,
        metrics=tuple(metrics),
        environment=environment,
    )


def _training_records(
    recipe: Recipe, data: Data, loss: Loss, manifest: Mapping[str, Any], directory: RunDirectory | None
) -> Split:
    """The records to train on. If there is training, they are checked, and fill the loss's memory."""
    training = training_split(recipe, data, loss)
    if directory is None:
        return training
    if directory.holds_run:
        check_same_data(directory, recipe, manifest)
    else:
        check_training_split(recipe, data, loss, training)
    prepare_loss(recipe, loss, training)
    return training


def _model(
    recipe: Recipe, spec: ModelSpec, loss: Loss, state: TrainingState, data: Data, device: torch.device
) -> Model:
    shown = {name: slot.shown for name, slot in state.slots.items()}
    seed, frame = recipe.train.seed, run_frames(recipe, recipe.loss)
    return Model(spec, loss, shown, device, seed, sampling=recipe.sampling, data=lambda: data, frame=frame)


@exact_float32()
def check_recipe(recipe: Recipe) -> None:
    """Build a recipe's components but no run, and check that they are compatible. Reads data only if its spec needs it.
    Warns if the recipe's device is missing here.

    Raises:
        RequestError: as `assemble`, except that absent data is an error only if its spec depends on its files.
    """
    device = torch.device("cpu")
    try:
        device = _choose_device(recipe)
    except RequestError as error:  # the recipe may be right for another machine
        log.warning("%s; training would be refused here", error)
    recipe = chosen_in(recipe, device)
    spec, loss = build_loss(recipe, build_data(recipe))
    cpu = torch.device("cpu")
    networks = build_networks(recipe, loss, cpu)
    penalties = Penalties(recipe, loss, networks, cpu)
    start_from(recipe, networks)
    build_augmentations(recipe, loss, cpu)
    run_phases(recipe, loss, penalties)
    penalties.try_on(networks, spec)
    try_phases(recipe, loss, networks, spec, cpu)
    metrics = [build_metric(recipe, each, spec, build_extractor(recipe, each, spec)) for each in recipe.metrics]
    frame = run_frames(recipe, recipe.loss)
    model = Model(spec, loss, networks, cpu, recipe.train.seed, sampling=recipe.sampling, frame=frame)
    try_samples(recipe, model)
    try_unprepared(recipe, metrics, model)


def _starts(
    recipe: Recipe, loss: Loss, networks: Mapping[str, nn.Module], directory: RunDirectory | None
) -> dict[str, dict[str, Any]]:
    """Load the weights that networks start from, and record their origin and the digests of frozen networks. A run that
    continues from a checkpoint already has both. Other ranks get them from the first one.
    """
    recorded = None if directory is None else directory.environment().get("starts")
    if directory is not None and (directory.is_elsewhere or checkpoints_in(directory.path)):
        return dict(recorded) if isinstance(recorded, dict) else {}
    starts = start_from(recipe, networks, None if directory is None else directory.path)
    check_same_starts(recipe, starts, recorded)
    frozen = [name for name, slot in loss.slots.items() if slot.frozen and name not in starts]
    return {**starts, **{name: {"sha256": digest_of(networks[name].state_dict())} for name in frozen}}


def _choose_device(recipe: Recipe) -> torch.device:
    try:
        return choose_device(device_of_rank(recipe.train.device))
    except GanrunError as error:
        raise error.located(recipe.where(("train", "device"))) from None
