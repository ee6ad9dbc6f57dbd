"""Reads recipes: from text to a validated recipe, or to an error that lists every fault."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from ganrun.base.errors import RecipeError
from ganrun.base.suggestions import did_you_mean
from ganrun.base.texts import encodable
from ganrun.contracts.settings import Settings
from ganrun.discovery.made_with import MadeWith
from ganrun.discovery.registry import Registry
from ganrun.recipe.components import ComponentReader
from ganrun.recipe.engine import EmaSettings, StageSettings, TrainSettings
from ganrun.recipe.faults import Owner
from ganrun.recipe.lines import Key
from ganrun.recipe.moves import Move, move_settings
from ganrun.recipe.recipe import (
    DEFAULT_OPTIMIZER,
    ComponentConfig,
    EvaluationConfig,
    MetricsConfig,
    ModelConfig,
    Recipe,
    sampling_of,
    with_repeats,
)
from ganrun.recipe.sections import (
    Slots,
    add_unknown_slot,
    read_augmentation,
    read_metrics,
    read_networks,
    read_observers,
    read_optimizers,
    read_regularizers,
    read_slots,
)
from ganrun.recipe.source import Source, laid_over, listed, read_source
from ganrun.recipe.tables import Tables

log = logging.getLogger("ganrun")

ENGINE_KEYS = (
    "name",
    "requires",
    "train",
    "stage",
    "ema",
    "data",
    "loss",
    "augmentation",
    "regularizer",
    "optimizer",
    "sampling",
    "metric",
)


# ── Recipes and parts of recipes ──────────────────────────────────────────────────────────────────────────


def load_recipe(
    path: Path, registry: Registry, overrides: Sequence[str] = (), made_with: MadeWith | None = None
) -> Recipe:
    """Read a recipe, apply the overrides, and validate it against the installed components.

    Args:
        path: The file.
        registry: The installed components.
        overrides: `train.steps=500`.
        made_with: The plugins of the run whose own recipe it is.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: with every fault, each with its place.
    """
    reader = _reader(read_source(path, overrides), registry, made_with)
    for move in _moves(reader):
        log.warning("%s: %s", reader.tables.source.where(move.old), move)
    recipe = _recipe(reader)
    _warn_of_other_versions(reader)
    return recipe


def load_component_config(kind: str, use: str, registry: Registry, overrides: Sequence[str] = ()) -> ComponentConfig:
    """A single component, outside any recipe; each override is `setting=value`.

    Raises:
        RequestError: if there is no such component, or an override is malformed.
        RecipeError: with every fault of its settings.
    """
    registry.find(kind, use)
    source = laid_over({kind: {"use": use}}, [f"{kind}.{each}" for each in overrides], Path(f"{kind} {use}"))
    typed = {place: override.removeprefix(f"{kind}.") for place, override in source.overrides.items()}
    reader = _reader(dataclasses.replace(source, overrides=typed), registry)
    config = reader.read((kind,), kind)
    if config is None:
        raise RecipeError(listed(reader.tables.faults))
    return config


def load_evaluation_config(
    against: str, registry: Registry, overrides: Sequence[str] = (), made_with: MadeWith | None = None
) -> EvaluationConfig:
    """The data and metrics of a recipe's file, or of overrides over a data set's defaults.

    Args:
        against: `fashion-mnist`, or the path of a recipe.
        registry: The installed components.
        overrides: `data.size=32`, `metric.0.samples=500`.
        made_with: The plugins of the run whose own recipe it is.

    Raises:
        RequestError: if there is no such file or data set, or an override is malformed.
        RecipeError: with every fault of these tables.
    """
    if against.endswith(".toml"):
        source = read_source(Path(against), overrides)
    else:
        registry.find("data", against)
        source = laid_over({"data": {"use": against}}, overrides, Path(f"data {against}"))
    reader = _reader(source, registry, made_with)
    _moves(reader)
    data, metrics = reader.read(("data",), "data"), read_metrics(reader)
    reader.tables.check()
    assert data, "missing tables are reported as faults"
    _warn_of_other_versions(reader)
    return EvaluationConfig(source=source, data=data, metrics=metrics)


def load_metrics_config(registry: Registry, overrides: Sequence[str]) -> MetricsConfig:
    """Only metrics, outside any recipe: `metric=[{ use = "fid" }]`, `metric.0.samples=500`.

    Raises:
        RequestError: if an override is malformed.
        RecipeError: with every fault of their settings.
    """
    reader = _reader(laid_over({}, overrides, Path("metrics")), registry)
    metrics = read_metrics(reader)
    reader.tables.check()
    return MetricsConfig(source=reader.tables.source, metrics=metrics)


def load_model_config(
    path: Path, registry: Registry, overrides: Sequence[str] = (), made_with: MadeWith | None = None
) -> ModelConfig:
    """The loss, the networks and the sampling of a recipe; the rest may name components that are not installed here.

    Args:
        path: The file.
        registry: The installed components.
        overrides: `sampling.psi=0.5`.
        made_with: The plugins of the run whose own recipe it is.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: with every fault of these tables.
    """
    reader = _reader(read_source(path, overrides), registry, made_with)
    _moves(reader)
    loss = reader.read(("loss",), "loss")
    networks, sampling = read_networks(reader, read_slots(reader) or {}), _sampling(reader)
    reader.tables.check()
    assert loss, "missing tables are reported as faults"
    _warn_of_other_versions(reader)
    return ModelConfig(source=reader.tables.source, loss=loss, networks=networks, sampling=sampling)


# ── A whole recipe ────────────────────────────────────────────────────────────────────────────────────────


def _recipe(reader: ComponentReader) -> Recipe:
    """The whole recipe; every table is read before any fault is reported."""
    tables = reader.tables
    name, requires = tables.text("name", encodable(tables.source.path.stem)), _requirements(tables)
    train = tables.engine_settings(("train",), TrainSettings, required=True)
    ema = None if tables.content.get("ema") is False else tables.engine_settings(("ema",), EmaSettings)
    data, loss = reader.read(("data",), "data"), reader.read(("loss",), "loss")
    slots = read_slots(reader)
    networks, optimizers = read_networks(reader, slots or {}), read_optimizers(reader, slots)
    augmentation, regularizers = read_augmentation(reader, slots), read_regularizers(reader, slots)
    stages, sampling = _stages(reader, train), _sampling(reader)
    metrics, (observers, silenced) = read_metrics(reader), read_observers(reader, slots or {})
    _check_names(reader, slots)
    _check_train(reader, train, slots)
    tables.check()
    assert train and data and loss, "missing tables are reported as faults"
    return Recipe(
        source=tables.source,
        name=name,
        requires=requires,
        train=with_repeats(train, loss.registered.cls.repeat),
        stages=stages,
        ema=ema,
        data=data,
        loss=loss,
        networks=networks,
        augmentation=augmentation,
        regularizers=regularizers,
        optimizers=optimizers,
        sampling=sampling,
        metrics=metrics,
        observers=observers,
        silenced=silenced,
    )


# ── What a run's own recipe, or an earlier version's, needs ───────────────────────────────────────────────


def _reader(source: Source, registry: Registry, made_with: MadeWith | None = None) -> ComponentReader:
    return ComponentReader(Tables(source), registry, made_with)


def _moves(reader: ComponentReader) -> list[Move]:
    """Settings of earlier versions, each moved to where it is now."""
    content, source, moves = reader.tables.content, reader.tables.source, []
    for key, kind, use in named_tables(reader):
        found = reader.named(kind, use)
        moves += [] if found is None else list(move_settings(content, key, found.cls.moved))
    source.moved.update({move.new: move.old for move in moves if not move.is_said})
    return moves


def named_tables(reader: ComponentReader) -> Iterator[tuple[Key, str, object]]:
    """Every table of the recipe that names a component, with its kind and `use`."""
    content = reader.tables.content
    loss = reader.named("loss", _use(content.get("loss")))
    kinds = {"data": "data", "loss": "loss", "augmentation": "augmentation", "optimizer": "optimizer"}
    kinds |= {name: slot.kind for name, slot in (loss.cls.slots.items() if loss else ())}
    kinds |= dict.fromkeys(reader.registry.names("observer"), "observer")
    for name, kind in kinds.items():
        if isinstance(content.get(name), dict):
            yield (name,), kind, _use(content[name]) or {"optimizer": DEFAULT_OPTIMIZER, "observer": name}.get(kind)
    optimizers = content.get("optimizer")
    for slot, table in optimizers.items() if isinstance(optimizers, dict) else ():
        if isinstance(table, dict):
            yield ("optimizer", slot), "optimizer", _use(table) or _use(optimizers) or DEFAULT_OPTIMIZER
    for kind in ("metric", "regularizer"):
        entries = content.get(kind)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            yield (kind, index), kind, _use(entry)


def _use(table: Any) -> object:
    return table.get("use") if isinstance(table, dict) else None


def _warn_of_other_versions(reader: ComponentReader) -> None:
    """Warn where a run was made with another version of a plugin than is installed."""
    plugins = dict.fromkeys(found.plugin for found in reader.found.values())
    for text in dict.fromkeys(filter(None, map(reader.made_with.other_version, plugins))):
        log.warning("%s: %s", reader.tables.source.path, text)


# ── The engine's own tables ───────────────────────────────────────────────────────────────────────────────


def _requirements(tables: Tables) -> tuple[str, ...]:
    """`requires`, checked against the installed packages."""
    wanted = tables.content.get("requires", [])
    if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
        tables.fault(("requires",), 'requires must be a list of texts such as "ganrun-stylegan>=0.3"')
        return ()
    for index, text in enumerate(wanted):
        fault = _unmet(text)
        if fault:
            tables.fault(("requires", index), fault)
    return tuple(wanted)


def _unmet(requirement: str) -> str | None:
    """Why an entry of `requires` is not met by the installed packages, or None if it is."""
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement as error:
        return f'"{requirement}" is not a requirement such as "ganrun-stylegan>=0.3": {str(error).splitlines()[0]}'
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return f'the recipe requires {requirement}, which is not installed; say: pip install "{requirement}"'
    if not wanted.specifier.contains(installed, prereleases=True):
        return f'the recipe requires {requirement}, but {installed} is installed; say: pip install "{requirement}"'
    return None


def _check_train(reader: ComponentReader, train: TrainSettings | None, slots: Slots | None) -> None:
    if train is None:
        return
    if train.batch_size % train.accumulate:
        text = f"accumulate = {train.accumulate} does not divide batch_size = {train.batch_size}"
        reader.tables.fault(("train", "accumulate"), text)
    for name in train.repeat:
        if slots and name not in slots:
            add_unknown_slot(reader, ("train", "repeat", name), slots, name)


def _stages(reader: ComponentReader, train: TrainSettings | None) -> tuple[StageSettings, ...]:
    tables, found, before = reader.tables, [], 0
    for key in tables.entries("stage"):
        stage = tables.engine_settings(key, StageSettings)
        if stage is None:
            continue
        if stage.start <= before:
            text = f"the stage before it begins at {before}, and stages follow each other"
            tables.fault((*key, "from"), f"[[stage]] from = {stage.start}: {text}")
        before = max(before, stage.start)
        for name, fault in _stage_faults(stage, train):
            tables.fault((*key, name), f"[[stage]] {fault}")
        found.append(stage)
    return tuple(found)


def _stage_faults(stage: StageSettings, train: TrainSettings | None) -> Iterator[tuple[str, str]]:
    """Conflicts with `[train]`, each with its key."""
    if train and stage.start >= train.steps:
        yield "from", f"from = {stage.start}: it never begins, since the run ends after {train.steps} steps"
    if train and stage.batch_size and stage.batch_size % train.accumulate:
        yield "batch_size", f"batch_size = {stage.batch_size}: accumulate = {train.accumulate} does not divide it"


def _sampling(reader: ComponentReader) -> Settings:
    """The table `[sampling]`, whose settings are the loss's; its defaults, with a fault, if there is no such loss."""
    loss = reader.found.get(("loss",))
    table = reader.tables.table(("sampling",))
    if loss is None or table is None:
        return Settings()
    owner = Owner(f"sampling with {loss}", f"ganrun show loss {loss.name}")
    return reader.tables.settings(("sampling",), sampling_of(loss), table, owner) or Settings()


# ── Names that mean nothing ───────────────────────────────────────────────────────────────────────────────


def _check_names(reader: ComponentReader, slots: Slots | None) -> None:
    """Every table and key of the top level must belong to the engine, a slot or an observer."""
    tables, registry = reader.tables, reader.registry
    known = [*ENGINE_KEYS, *(slots or ()), *registry.names("observer")]
    blocked = {plugin.name for plugin in registry.plugins.found if plugin.blocked}
    for name, value in tables.content.items():
        if name in known or name in blocked or (slots is None and isinstance(value, dict)):
            continue
        absent = reader.made_with.missing(registry, str(_use(value) or "").rpartition(":")[0])
        if absent and isinstance(value, dict | bool):
            tables.fault((name,), f"[{name}] belongs to no plugin that is installed\n  {absent}")
        elif slots and isinstance(value, dict) and "use" in value:
            add_unknown_slot(reader, (name,), slots, name)
        else:
            what = "table" if isinstance(value, dict | list) else "key"
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            broken = "".join(f"\n  plugin {name} is broken: {why}" for name, why in registry.broken().items())
            tables.fault((name,), f'a recipe has no {what} "{name}"{hint}{broken}')
