"""Builds the components of a recipe, each from its table; errors get that table's location and the component's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ganrun.base.arithmetic import exact_float32
from ganrun.base.errors import GanrunError, IncompatibleError, PluginError
from ganrun.base.frames import called, method
from ganrun.base.modules import to_device
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.data import Data
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.losses import Loss
from ganrun.contracts.metrics import Metric
from ganrun.contracts.networks import Network
from ganrun.contracts.optimizers import Optimizer
from ganrun.contracts.specs import DataSpec, ModelSpec, NetworkSpec
from ganrun.inference.given import check_given_factors
from ganrun.recipe.recipe import ComponentConfig, EvaluationConfig, HasLocation, MetricsConfig, ModelConfig, Recipe
from ganrun.recipe.source import header
from ganrun.rehearsal.beginning import try_begin
from ganrun.rehearsal.data import check_spec
from ganrun.rehearsal.losses import check_loss
from ganrun.rehearsal.networks import needs_contiguous_images
from ganrun.training.sizes import check_batch
from ganrun.training.views import seeded_network


def owner_of(config: ComponentConfig) -> str:
    """A component of a recipe, as messages name it: `[generator] mlp (ganrun 0.1.0)`."""
    return f"{header(config.key)} {config.registered}"


def frame_of(
    recipe: HasLocation, config: ComponentConfig, doing: str, error: type[GanrunError] = PluginError
) -> called:
    """The frame of a call into a component of a recipe: its errors name the component and locate its table.

    Args:
        recipe: What the component's table is part of.
        config: The component.
        doing: The method that is called.
        error: The error that a foreign exception becomes; `ContractError` once a run has started.
    """
    return called(owner_of(config), doing, recipe.where(config.key), error)


def run_frames(recipe: HasLocation, config: ComponentConfig) -> Callable[[str], called]:
    """The frames of calls into a component while a run executes: `frame(doing)`. Its place is looked up only once."""
    owner, where = owner_of(config), recipe.where(config.key)
    return lambda doing: called(owner, doing, where)


def metric_frames(recipe: MetricsConfig) -> Callable[[int, str], called]:
    """The frames of calls into a recipe's metrics: `frame(place, doing)`."""
    places = [recipe.where(config.key) for config in recipe.metrics]

    def frame(place: int, doing: str) -> called:
        return called(f"metric.{place} {recipe.metrics[place].registered}", doing, places[place])

    return frame


# ── Data and loss ───────────────────────────────────────────────────────────────────────────────────────


def build_data(recipe: EvaluationConfig) -> Data:
    """The data set, not prepared yet."""
    with frame_of(recipe, recipe.data, "__init__"):
        data: Data = recipe.data.build_with_parts()
    return data


def prepared_data(recipe: EvaluationConfig) -> Data:
    """The data set, prepared.

    Raises:
        DataError: if files are missing or damaged, with the steps that fix it.
    """
    data = build_data(recipe)
    with frame_of(recipe, recipe.data, "prepare"):
        data.prepare()
    return data


def build_loss(recipe: Recipe, data: Data) -> tuple[ModelSpec, Loss]:
    """The model's spec, and the loss.

    Raises:
        DataError: if the data's spec is invalid.
        IncompatibleError: if the recipe flips or shifts samples that are not images, if the loss needs pairs and the
            data has none, or as `loss_for`.
    """
    with frame_of(recipe, recipe.data, "spec"):
        spec = data.spec()
        check_spec(spec)
        _check_moves(recipe, spec)
    whole, loss = loss_for(recipe, spec, recipe.train.seed)
    with frame_of(recipe, recipe.data, "spec"):
        if loss.paired and spec.fields and not data.paired:
            text = f"its images and their {', '.join(spec.fields)} are not pairs, and the loss learns from pairs"
            raise IncompatibleError(f"{text}; use a loss for unpaired data")
    return whole, loss


def _check_moves(recipe: Recipe, spec: DataSpec) -> None:
    """Check that records can be mirrored and cropped as `[train]` says."""
    train, is_image = recipe.train, len(spec.sample_shape) == 3
    if train.horizontal_flip and not is_image:
        raise IncompatibleError("its samples are not images, so [train] horizontal_flip cannot mirror them")
    if train.jitter is None:
        return
    where = recipe.where(("train", "jitter"))
    if not is_image:
        raise IncompatibleError("its samples are not images, so [train] jitter cannot enlarge them", where=where)
    for name, shape in spec.fields.items():
        if len(shape) == 3 and shape[1:] != spec.sample_shape[1:]:
            text = f"its {name} is {shape[1]}×{shape[2]} and its images {spec.sample_shape[1]}×{spec.sample_shape[2]}"
            raise IncompatibleError(f"{text}, so [train] jitter cannot cut both alike; leave it out", where=where)


def loss_for(config: ModelConfig, spec: DataSpec, seed: int = 0) -> tuple[ModelSpec, Loss]:
    """The model's spec, which is the data's with the facts that the loss adds, and the loss.

    Random numbers for the loss's memory come from a separate stream.

    Raises:
        IncompatibleError: if the loss needs labels or record fields that the data lacks, or as `check_loss`.
    """
    with frame_of(config, config.loss, "__init__"):
        with isolated_random(torch.device("cpu"), derived_seed(seed, "loss")):
            loss: Loss = config.loss.build(spec)
        if loss.classes < 2 and any(network_spec(loss, name).labelled for name in loss.slots):
            count = f"{spec.classes} class" if spec.classes else "no labels"
            raise IncompatibleError(f"it needs labels of at least 2 classes, and the data has {count}")
        check_batch(config, loss)
        check_loss(loss)
        whole = dataclasses.replace(
            ModelSpec.from_facts(spec.facts()),
            latent_size=loss.latent_size,
            factors=tuple(loss.factors()),
            readings=tuple(loss.readings()),
            paired=loss.paired,
        )
        check_given_factors(whole)
    return whole, loss


# ── Networks ────────────────────────────────────────────────────────────────────────────────────────────


def network_spec(loss: Loss, name: str) -> NetworkSpec:
    """The spec that the network in slot `name` is built for."""
    with method("ports"):
        return NetworkSpec(*loss.ports(name), classes=loss.classes)


def framed_spec(recipe: ModelConfig, loss: Loss, name: str) -> NetworkSpec:
    """As `network_spec`; an error in the loss's `ports` is attributed to the loss, not to the network."""
    with frame_of(recipe, recipe.loss, "ports"):
        return network_spec(loss, name)


def build_network(
    config: ComponentConfig, spec: NetworkSpec, device: torch.device, seed: int = 0, steps: int = 1
) -> Network:
    """A network on the device, initialised by its author's code under `seed`; its images are laid out as it needs.

    It is begun at the first of `steps` steps.
    """
    network: Network = seeded_network(lambda: config.build(spec), device, seed)
    try_begin(network, 0, steps, device)
    if len(spec.inputs) == 3 and needs_contiguous_images(network, spec, device):
        network.memory_format = torch.contiguous_format
        to_device(network, device)
    return network


def build_like(network: nn.Module, config: ComponentConfig, spec: NetworkSpec, steps: int = 1) -> Network:
    """The same network built, begun and prepared again, on the CPU, from the current random stream."""
    twin: Network = config.build(spec)
    try_begin(twin, 0, steps, torch.device("cpu"))
    twin.prepare(torch.device("cpu"))
    twin.memory_format = network.memory_format  # type: ignore[assignment]
    return twin


def build_optimizer(config: ComponentConfig) -> Optimizer:
    """The optimiser component of a slot, with its schedule."""
    optimizer: Optimizer = config.build(config.parts["schedule"].build())
    return optimizer


# ── Metrics ─────────────────────────────────────────────────────────────────────────────────────────────


def build_extractor(recipe: MetricsConfig, metric: ComponentConfig, spec: ModelSpec) -> Extractor | None:
    """The extractor of a metric, if any; not prepared yet."""
    config = metric.parts.get("features")
    if config is None:
        return None
    with frame_of(recipe, config, "__init__"):
        extractor: Extractor = config.build(spec)
        return extractor


def build_metric(
    recipe: MetricsConfig, config: ComponentConfig, spec: ModelSpec, extractor: Extractor | None
) -> Metric:
    """A metric, not prepared yet.

    Raises:
        IncompatibleError: if the extractor lacks an output that the metric reads.
    """
    with frame_of(recipe, config, "__init__"):
        if extractor is not None:
            lacking = [output for output in config.registered.cls.reads if output not in extractor.outputs]
            if lacking:
                raise IncompatibleError(
                    f"it reads {lacking[0]}, and its features give only {', '.join(extractor.outputs)}"
                )
        metric: Metric = config.build(spec) if extractor is None else config.build(spec, extractor)
        return metric


@exact_float32()
def prepared_metrics(
    recipe: MetricsConfig, data: Data, spec: ModelSpec, device: torch.device, on_stage: Callable[[str], None]
) -> list[Metric]:
    """Every metric of the recipe; those that name the same extractor with the same settings share it."""
    metrics = []
    extractors: list[tuple[ComponentConfig, Extractor]] = []
    for config in recipe.metrics:
        on_stage(f"metric {config.use}")
        features = config.parts.get("features")
        shared = _among(extractors, features)
        extractor = shared or build_extractor(recipe, config, spec)
        metric = build_metric(recipe, config, spec, extractor)
        if features and extractor and not shared:
            with frame_of(recipe, features, "prepare"):
                extractor.prepare(data, device)
            extractors.append((features, extractor))
        with frame_of(recipe, config, "prepare"):
            metric.prepare(data, device)
        metrics.append(metric)
    return metrics


def _among(prepared: Sequence[tuple[ComponentConfig, Extractor]], wanted: ComponentConfig | None) -> Extractor | None:
    """The extractor of the same name and settings, if one is prepared already."""
    for config, extractor in prepared:
        if wanted and (config.registered, config.settings) == (wanted.registered, wanted.settings):
            return extractor
    return None
