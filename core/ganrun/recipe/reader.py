"""Reads recipes: from text to a validated recipe, or to an error that lists every fault."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from ganrun.base.errors import RecipeError
from ganrun.base.suggestions import did_you_mean
from ganrun.contracts.losses import Slot
from ganrun.discovery.registry import Registry
from ganrun.recipe.components import ComponentReader
from ganrun.recipe.faults import shown
from ganrun.recipe.recipe import (
    DEFAULT_OPTIMIZER,
    ComponentConfig,
    EmaSettings,
    EvaluationConfig,
    ModelConfig,
    Recipe,
    TrainSettings,
)
from ganrun.recipe.source import Key, Source, header, laid_over, read_source
from ganrun.recipe.tables import Tables

log = logging.getLogger("ganrun")

ENGINE_KEYS = ("name", "requires", "train", "ema", "data", "loss", "optimizer", "metric")


# ── Recipes and parts of recipes ──────────────────────────────────────────────────────────────────────────


def load_recipe(path: Path, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, lay the overrides over it, and validate it against the installed components.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: with every fault, each with its place.
    """
    reader = _reader(read_source(path, overrides), registry)
    tables = reader.tables
    name, requires = tables.text("name", tables.source.path.stem), _requirements(tables)
    train = tables.engine_settings("train", TrainSettings, required=True)
    ema = None if tables.content.get("ema") is False else tables.engine_settings("ema", EmaSettings)
    data, loss = reader.read(("data",), "data"), reader.read(("loss",), "loss")
    slots = _slots(reader)
    networks, optimizers = _networks(reader, slots or {}), _optimizers(reader, slots)
    metrics, (observers, silenced) = _metrics(reader), _observers(reader, slots or {})
    _check_names(reader, slots)
    if train and train.batch_size % train.accumulate:
        text = f"accumulate = {train.accumulate} does not divide batch_size = {train.batch_size}"
        tables.fault(("train", "accumulate"), text)
    tables.check()
    assert train and data and loss, "what is missing is a fault"
    return Recipe(
        source=tables.source,
        name=name,
        requires=requires,
        train=train,
        ema=ema,
        data=data,
        loss=loss,
        networks=networks,
        optimizers=optimizers,
        metrics=metrics,
        observers=observers,
        silenced=silenced,
    )


def load_component_config(kind: str, use: str, registry: Registry, overrides: Sequence[str] = ()) -> ComponentConfig:
    """A component by itself, outside any recipe; each override is `setting=value`.

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
        raise RecipeError(reader.tables.faults)
    return config


def load_evaluation_config(against: str, registry: Registry, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """The data and metrics of a recipe's file, or of overrides over a data set's defaults.

    Args:
        against: `fashion-mnist`, or the path of a recipe.
        registry: The installed components.
        overrides: `data.size=32`, `metric.0.samples=500`.

    Raises:
        RequestError: if there is no such file or data set, or an override is malformed.
        RecipeError: with every fault of these tables.
    """
    if against.endswith(".toml"):
        source = read_source(Path(against), overrides)
    else:
        registry.find("data", against)
        source = laid_over({"data": {"use": against}}, overrides, Path(f"data {against}"))
    reader = _reader(source, registry)
    data, metrics = reader.read(("data",), "data"), _metrics(reader)
    reader.tables.check()
    assert data, "what is missing is a fault"
    return EvaluationConfig(source=source, data=data, metrics=metrics)


def load_model_config(path: Path, registry: Registry) -> ModelConfig:
    """The loss and the networks of a recipe; the rest of it may name what is not installed here.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: with every fault of these tables.
    """
    reader = _reader(read_source(path), registry)
    loss = reader.read(("loss",), "loss")
    networks = _networks(reader, _slots(reader) or {})
    reader.tables.check()
    assert loss, "what is missing is a fault"
    return ModelConfig(source=reader.tables.source, loss=loss, networks=networks)


# ── Tables of several components ──────────────────────────────────────────────────────────────────────────


def _reader(source: Source, registry: Registry) -> ComponentReader:
    return ComponentReader(Tables(source), registry)


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
        return f'"{requirement}" is no requirement such as "ganrun-stylegan>=0.3": {str(error).splitlines()[0]}'
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return f'the recipe requires {requirement}, which is not installed; say: pip install "{requirement}"'
    if not wanted.specifier.contains(installed, prereleases=True):
        return f'the recipe requires {requirement}, but {installed} is installed; say: pip install "{requirement}"'
    return None


def _slots(reader: ComponentReader) -> Mapping[str, Slot] | None:
    """The slots of the recipe's loss, even if its settings have faults; None if there is no such loss."""
    loss = reader.found.get(("loss",))
    slots: Mapping[str, Slot] | None = None if loss is None else loss.cls.slots
    return slots


def _networks(reader: ComponentReader, slots: Mapping[str, Slot]) -> dict[str, ComponentConfig]:
    found = {name: reader.read((name,), slot.kind) for name, slot in slots.items()}
    return {name: config for name, config in found.items() if config is not None}


def _optimizers(reader: ComponentReader, slots: Mapping[str, Slot] | None) -> dict[str, ComponentConfig]:
    """One for each slot: `[optimizer]`, overlaid with the slot's own table where both use the same one."""
    table = reader.tables.table(("optimizer",)) or {}
    settings = reader.setting_names("optimizer", table.get("use", DEFAULT_OPTIMIZER))
    own = {name: value for name, value in table.items() if isinstance(value, dict) and name not in settings}
    shared = {name: value for name, value in table.items() if name not in own}
    is_used = bool(shared) or any(slot not in own for slot in slots or ())
    common = _optimizer(reader, ("optimizer",), shared) if is_used else None
    found: dict[str, ComponentConfig | None] = dict.fromkeys(slots or (), common)
    inherited = _inherited(shared, common)
    for name, overlay in own.items():
        if slots is not None and name not in slots:
            _add_unknown_slot(reader, ("optimizer", name), slots)
        elif is_used and _same_use(shared, overlay):
            found[name] = _optimizer(reader, ("optimizer", name), {**inherited, **overlay}, overlay)
        else:
            found[name] = _optimizer(reader, ("optimizer", name), overlay)
    return {slot: config for slot, config in found.items() if config is not None}


def _optimizer(
    reader: ComponentReader, key: Key, table: Mapping[str, Any], written: Mapping[str, Any] | None = None
) -> ComponentConfig | None:
    return reader.from_table(key, "optimizer", {"use": DEFAULT_OPTIMIZER, **table}, written)


def _inherited(shared: Mapping[str, Any], common: ComponentConfig | None) -> Mapping[str, Any]:
    """What slots inherit of `[optimizer]`: not what `--set optimizer.use=…` has left out of it."""
    if common is None:
        return shared
    return {name: value for name, value in shared.items() if name == "use" or name in common.settings.model_fields_set}


def _same_use(shared: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    common = shared.get("use", DEFAULT_OPTIMIZER)
    return bool(own.get("use", common) == common)


def _metrics(reader: ComponentReader) -> tuple[ComponentConfig, ...]:
    entries = reader.tables.content.get("metric", [])
    if not isinstance(entries, list):
        text = "metrics are written as [[metric]], with two brackets, since there may be several"
        reader.tables.fault(("metric",), text)
        return ()
    named = [reader.read(("metric", index), "metric") for index in range(len(entries))]
    found = [config for config in named if config is not None]
    for place, config in enumerate(found):
        if any(config.is_like(other) for other in found[:place]):
            on = "".join(f" on {part.use}" for part in config.parts.values())
            text = f"{config.use}{on} once more, and its scores would have the same names"
            reader.tables.fault(config.key, f"{header(config.key)} is {text}")
    return tuple(found)


def _observers(reader: ComponentReader, slots: Collection[str]) -> tuple[dict[str, ComponentConfig], tuple[str, ...]]:
    """Those that take part, by name; and the automatic ones that the recipe turned off.

    A table that is a slot of the loss is no observer's: one of the same name does not take part.
    """
    found: dict[str, ComponentConfig] = {}
    silenced = []
    for name in reader.registry.names("observer"):
        if name in slots:
            log.warning('the observer "%s" is left out, because the loss has a slot of that name', name)
            continue
        wanted = reader.tables.content.get(name)
        if wanted is False:
            silenced.append(name)
        elif wanted is not None or reader.registry.is_automatic(name):
            config = _observer(reader, name)
            if config:
                found[name] = config
    return found, tuple(silenced)


def _observer(reader: ComponentReader, name: str) -> ComponentConfig | None:
    """The observer of that name; `use = "plugin:name"` in its table picks one of several."""
    table = {} if reader.tables.content.get(name) is True else reader.tables.table((name,))
    if table is None:
        return None
    use = table.get("use", name)
    if not isinstance(use, str) or use.rpartition(":")[2] != name:
        text = f'[{name}] use = {shown(use)}: it can only say which plugin\'s "{name}" is meant'
        reader.tables.fault((name, "use"), text)
        return None
    return reader.from_table((name,), "observer", {**table, "use": use})


def _check_names(reader: ComponentReader, slots: Mapping[str, Slot] | None) -> None:
    """Every table and key of the top level must belong to the engine, a slot or an observer."""
    tables, registry = reader.tables, reader.registry
    known = [*ENGINE_KEYS, *(slots or ()), *registry.names("observer")]
    blocked = {plugin.name for plugin in registry.plugins.found if plugin.blocked}
    for name, value in tables.content.items():
        if name in known or name in blocked or (slots is None and isinstance(value, dict)):
            continue
        if slots and isinstance(value, dict) and "use" in value:
            _add_unknown_slot(reader, (name,), slots)
        else:
            what = "table" if isinstance(value, dict | list) else "key"
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            broken = "".join(f"\n  plugin {name} is broken: {why}" for name, why in registry.broken().items())
            tables.fault((name,), f'a recipe has no {what} "{name}"{hint}{broken}')


def _add_unknown_slot(reader: ComponentReader, key: Key, slots: Mapping[str, Slot]) -> None:
    name = str(key[-1])
    hint = did_you_mean(name, slots) or f"; its slots are {', '.join(slots)}"
    reader.tables.fault(key, f'the loss {reader.found["loss",].name} has no slot "{name}"{hint}')
