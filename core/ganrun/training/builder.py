"""From a validated recipe to a run that is ready to start: everything that can be missing is found here."""

from __future__ import annotations

import dataclasses
import logging
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ganrun.base.devices import choose_device
from ganrun.base.errors import GanrunError, IncompatibleError, RequestError
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.data import Data
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.losses import Loss
from ganrun.contracts.metrics import Metric
from ganrun.contracts.specs import DataSpec, ModelSpec
from ganrun.recipe.recipe import ComponentConfig, EvaluationConfig, HasLocation, ModelConfig, Recipe
from ganrun.recipe.source import header
from ganrun.rundir.directory import RECIPE, SUMMARY, RunDirectory, new_run_path
from ganrun.rundir.environment import describe_environment
from ganrun.training.averaging import average_or_none
from ganrun.training.events import Events
from ganrun.training.networks import check_output, mixes_samples, seeded_network
from ganrun.training.run import Run
from ganrun.training.state import SlotState, TrainingState

log = logging.getLogger("ganrun")

MIXED = (
    "%s: an output of the %s %s depends on the other samples of its batch, as it does with batch norm, and %s looks at"
    ' each sample alone; take a network without it, by norm = "layer" or "none" where it has that setting'
)


def build_run(
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: bool = False,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Run:
    """Build a run, and as the very last thing make its directory, in which nothing is written until it starts.

    Args:
        recipe: What to build.
        output: The run directory; a new one under `runs/` where None.
        resume: Whether `output` may hold this run already, which then continues.
        on_progress: Called with a description of the current stage.

    Raises:
        RequestError: for anything missing or unfit, error_context at the recipe's line. Nothing has been written then.
    """
    directory = RunDirectory(output or new_run_path(recipe.name))
    resumed = _continues(directory, recipe, resume)
    run = assemble(recipe, directory, resumed=resumed, on_progress=on_progress)
    directory.create()
    return run


def assemble(
    recipe: Recipe, directory: RunDirectory, *, resumed: bool, on_progress: Callable[[str], None] = lambda _: None
) -> Run:
    """Everything of `build_run` but the directory.

    Raises:
        RequestError: as `build_run`.
    """
    device = _choose_device(recipe)
    on_progress(f"data {recipe.data.use}")
    data = prepared_data(recipe)
    spec, loss = build_loss(recipe, data)
    state = TrainingState(build_slots(recipe, loss, spec, device))
    metrics = prepared_metrics(recipe, data, spec, device, on_progress)
    events = build_events(recipe)
    environment = describe_environment(recipe, data, device, directory)
    return Run(
        recipe=recipe,
        directory=directory,
        device=device,
        data=data,
        spec=spec,
        loss=loss,
        state=state,
        metrics=metrics,
        events=events,
        environment=environment,
        resumed=resumed,
    )


def check_recipe(recipe: Recipe) -> None:
    """Build everything but the run: components fit each other and their spec. Reads no more data than it must.

    Raises:
        RequestError: as `build_run`, except that absent data is no fault here unless the spec depends on it.
    """
    spec, loss = build_loss(recipe, build_data(recipe))
    build_slots(recipe, loss, spec, torch.device("cpu"))
    for choice in recipe.metrics:
        build_metric(recipe, choice, spec, build_extractor(recipe, choice, spec))
    build_events(recipe)


def build_data(recipe: EvaluationConfig) -> Data:
    """The data set, not prepared yet."""
    with error_context(recipe, recipe.data):
        data: Data = recipe.data.build()
    return data


def prepared_data(recipe: EvaluationConfig) -> Data:
    """The data set, all there.

    Raises:
        DataError: with the steps that mend it.
    """
    data = build_data(recipe)
    with error_context(recipe, recipe.data):
        data.prepare()
    return data


def build_loss(recipe: Recipe, data: Data) -> tuple[ModelSpec, Loss]:
    """The data's spec, with the latent size filled in, and the loss."""
    with error_context(recipe, recipe.data):
        spec = data.spec()
        if recipe.train.horizontal_flip and len(spec.sample_shape) != 3:
            raise IncompatibleError("its samples are no images, so [train] horizontal_flip cannot mirror them")
    return loss_for(recipe, spec)


def loss_for(parts: ModelConfig, spec: DataSpec) -> tuple[ModelSpec, Loss]:
    """The loss for a data set's spec; and the spec with what the loss adds to it."""
    with error_context(parts, parts.loss):
        loss: Loss = parts.loss.build(spec)
        if loss.latent_size < 1:
            raise IncompatibleError(f"the latent size is {loss.latent_size}; a generator needs at least 1")
        if any(slot.labelled for slot in loss.slots.values()) and spec.classes < 2:
            count = f"{spec.classes} class" if spec.classes else "no labels"
            raise IncompatibleError(f"it needs labels of at least 2 classes, and the data has {count}")
    return ModelSpec(
        spec.sample_shape,
        spec.classes,
        latent_size=loss.latent_size,
        factors=tuple(loss.factors()),
        encodes=type(loss).encode is not Loss.encode,
        reconstructs=type(loss).reconstruct is not Loss.reconstruct,
    ), loss


def build_slots(recipe: Recipe, loss: Loss, spec: ModelSpec, device: torch.device) -> dict[str, SlotState]:
    """Every slot of the loss: network, average, optimiser."""
    return {name: _build_slot(recipe, loss, name, spec, device) for name in loss.slots}


def build_events(recipe: Recipe) -> Events:
    """The recipe's observers, listening."""
    observers = {}
    for name, choice in recipe.observers.items():
        with error_context(recipe, choice):
            observers[name] = choice.build()
    return Events(observers)


def _build_slot(recipe: Recipe, loss: Loss, name: str, spec: ModelSpec, device: torch.device) -> SlotState:
    slot, choice = loss.slots[name], recipe.networks[name]
    facts = facts_of(spec, loss, name)
    with error_context(recipe, choice):
        seed = derived_seed(recipe.train.seed, "weights", name)
        module = empty_network(choice, facts, device, seed)
        with isolated_random(device, seed):
            if slot.kind == "generator":
                inputs, expected = torch.randn(2, facts.latent_size, device=device), facts.sample_shape
            else:
                inputs, expected = torch.zeros(2, *facts.sample_shape, device=device), (facts.out_features,)
            check_output(module, inputs, expected, name, facts.labelled)
            if slot.per_sample and mixes_samples(module, torch.randn(4, *facts.sample_shape, device=device)):
                log.warning(MIXED, recipe.where(choice.key), name, choice.registered, recipe.loss.use)
    decay = recipe.ema.decay if recipe.ema and slot.averaged else None
    settings = recipe.optimizers[name][1]
    optimizer = settings.build((p for p in module.parameters() if p.requires_grad), device)
    return SlotState(name, module, average_or_none(module, decay), optimizer, settings)


def facts_of(spec: ModelSpec, loss: Loss, name: str) -> ModelSpec:
    """The spec as the network in one slot meets it."""
    slot = loss.slots[name]
    if slot.kind == "generator":
        return dataclasses.replace(spec, latent_size=loss.in_features(name), labelled=slot.labelled)
    return dataclasses.replace(spec, out_features=loss.out_features(name), labelled=slot.labelled)


def empty_network(choice: ComponentConfig, facts: ModelSpec, device: torch.device, seed: int = 0) -> nn.Module:
    """A network as its author initialises it."""
    network: nn.Module = seeded_network(lambda: choice.build(facts), device, seed)
    return network


def build_extractor(recipe: EvaluationConfig, choice: ComponentConfig, spec: ModelSpec) -> Extractor | None:
    """The extractor that a metric reads, if any; not prepared yet."""
    if choice.features is None:
        return None
    with error_context(recipe, choice.features):
        extractor: Extractor = choice.features.build(spec)
        return extractor


def build_metric(
    recipe: EvaluationConfig, choice: ComponentConfig, spec: ModelSpec, extractor: Extractor | None
) -> Metric:
    """A metric, not prepared yet."""
    with error_context(recipe, choice):
        if extractor is None:
            plain: Metric = choice.build(spec)
            return plain
        lacking = [output for output in choice.registered.cls.reads if output not in extractor.outputs]
        if lacking:
            raise IncompatibleError(
                f"it reads {lacking[0]}, and its features give {', '.join(extractor.outputs)} alone"
            )
        on_features: Metric = choice.build(spec, extractor)
        return on_features


def prepared_metrics(
    recipe: EvaluationConfig, data: Data, spec: ModelSpec, device: torch.device, on_progress: Callable[[str], None]
) -> list[Metric]:
    """Every metric of the recipe; those that name the same extractor with the same settings share it."""
    metrics = []
    extractors: list[tuple[ComponentConfig, Extractor]] = []
    for choice in recipe.metrics:
        on_progress(f"metric {choice.use}")
        shared = _among(extractors, choice.features)
        extractor = shared or build_extractor(recipe, choice, spec)
        metric = build_metric(recipe, choice, spec, extractor)
        if choice.features and extractor and not shared:
            with error_context(recipe, choice.features):
                extractor.prepare(data, device)
            extractors.append((choice.features, extractor))
        with error_context(recipe, choice):
            metric.prepare(data, device)
        metrics.append(metric)
    return metrics


def _among(prepared: Sequence[tuple[ComponentConfig, Extractor]], wanted: ComponentConfig | None) -> Extractor | None:
    """The extractor of the same name and settings, if one is prepared already."""
    for choice, extractor in prepared:
        if wanted and (choice.registered, choice.settings) == (wanted.registered, wanted.settings):
            return extractor
    return None


def _choose_device(recipe: Recipe) -> torch.device:
    try:
        return choose_device(recipe.train.device)
    except GanrunError as error:
        raise error.located(recipe.where(("train", "device"))) from None


@contextmanager
def error_context(recipe: HasLocation, choice: ComponentConfig) -> Iterator[None]:
    """A block whose errors are error_context at the recipe's table and carry the component's name."""
    try:
        yield
    except GanrunError as error:
        error.message = f"{header(choice.key)} {choice.registered}: {error.message}"
        raise error.located(recipe.where(choice.key)) from None
    except Exception as error:
        error.add_note(f"in {choice.registered.kind} {choice.registered}, chosen at {recipe.where(choice.key)}")
        raise


# ── Continuing ────────────────────────────────────────────────────────────────────────────────────────────


def check_place(output: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make sure that a run can start there, or continue.

    Raises:
        RequestError: if not.
    """
    _continues(RunDirectory(output), recipe, resume)


def _continues(directory: RunDirectory, recipe: Recipe, resume: bool) -> bool:
    """Whether the directory holds this very run already.

    Raises:
        RequestError: if it holds a run and `resume` was not said, or another recipe's run.
    """
    if not directory.holds_run:
        directory.check_free()
        return False
    if not resume:
        status = directory.read_json(SUMMARY).get("status", "unknown")
        raise RequestError(f"{directory.path} holds a run already (status: {status}); add --resume to continue it")
    if differences := differences_from(directory, recipe):
        listed = "\n".join(f"  {line}" for line in differences)
        raise RequestError(f"{directory.path} holds a run of another recipe, so it cannot be continued:\n{listed}")
    return True


def differences_from(directory: RunDirectory, recipe: Recipe) -> list[str]:
    """What of the recipe would have given the run in a directory other weights: `train.seed: 0 in the run, 1 now`."""
    new, old = (_mathematics(recipe, tables) for tables in (recipe.resolved(), _stored(directory)))
    return list(_differences(new, old))


def _stored(directory: RunDirectory) -> dict[str, Any]:
    try:
        return tomllib.loads((directory / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{directory / RECIPE} is damaged: {error}") from error


def _mathematics(recipe: Recipe, tables: dict[str, Any]) -> dict[str, Any]:
    """What decides the weights: a run may continue with other metrics, observers, cadences and another device."""
    free = {"device", "log_every_steps", "evaluate_every_steps"}
    if not any(settings.varies for _, settings in recipe.optimizers.values()):
        free.add("steps")
    train = {key: value for key, value in tables.get("train", {}).items() if key not in free}
    names = ("ema", "data", "loss", "optimizer", *recipe.networks)
    return {"train": train, **{name: tables.get(name) for name in names}}


def _differences(new: Any, old: Any, path: str = "") -> Iterator[str]:
    if isinstance(new, dict) and isinstance(old, dict):
        for name in {**old, **new}:
            yield from _differences(new.get(name), old.get(name), f"{path}.{name}".lstrip("."))
    elif new != old:
        yield f"{path}: {old} in the run, {new} now"
