"""A validated recipe: the components and settings of one experiment."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from ganrun.contracts.outside import local_paths
from ganrun.contracts.settings import Settings, dump_settings, parse_settings
from ganrun.discovery.made_with import MadeWith
from ganrun.discovery.registry import RegisteredComponent
from ganrun.recipe.engine import EmaSettings, Stage, StageSettings, TrainSettings
from ganrun.recipe.lines import Key
from ganrun.recipe.moves import move_settings
from ganrun.recipe.source import Source

DEFAULT_OPTIMIZER = "adam"
"""The optimiser of an `[optimizer]` table without `use`."""


@dataclass(frozen=True)
class ComponentConfig:
    """A component that the recipe uses, with its settings."""

    registered: RegisteredComponent
    settings: Settings
    key: Key
    """The table it stands in."""
    parts: Mapping[str, ComponentConfig] = field(default_factory=dict)
    """The components that its settings name, by the names of those settings: a metric's extractor, for instance."""
    start: str | None = None
    """A network's `from`: a run, a checkpoint or an exported folder, from whose weights in the same slot it starts. A
    relative path is relative to the working directory."""

    @property
    def use(self) -> str:
        """Its unqualified name; `registered` tells which plugin provides it."""
        return self.registered.name

    def build(self, *arguments: Any, **parts: Any) -> Any:
        """Build the component from its settings and the further arguments of its kind."""
        return self.registered.cls(self.settings, *arguments, **parts)

    def build_with_parts(self) -> Any:
        """Build a component that takes its parts as keyword arguments, as data does."""
        return self.build(**{name: part.build_with_parts() for name, part in self.parts.items()})

    def is_like(self, other: ComponentConfig) -> bool:
        """Whether both are the same component with the same parts; settings that do not name scores may differ."""
        return self._named() == other._named()

    def _named(self) -> tuple[Any, ...]:
        parts = {name: part.registered for name, part in self.parts.items()}
        by = {name: getattr(self.settings, name) for name in getattr(self.registered.cls, "named_by", ())}
        return self.registered, parts, by

    def table(self) -> dict[str, Any]:
        """The table with every default written out, and with the plugin's name, so that it stays unambiguous if other
        plugins are installed later."""
        parts = {name: _shortest(part.table()) for name, part in self.parts.items()}  # instead of what was written
        return {**self._head(self.start), **dump_settings(self.settings), **parts}

    def completed(self, table: Any, made_with: MadeWith) -> Any:
        """A table that was stored earlier, perhaps by another version, with the defaults of today's settings.

        Returned unchanged if it names another component, or holds settings that this one no longer has.
        """
        table = {"use": table} if isinstance(table, str) else table
        if not isinstance(table, dict) or not made_with.means(table.get("use"), self.registered):
            return table
        own = {name: value for name, value in table.items() if name not in ("use", "from")}
        try:
            settings = parse_settings(self.registered.cls.Settings, own)
        except ValidationError:
            return table
        parts = {
            name: _shortest(part.completed(getattr(settings, name), made_with)) for name, part in self.parts.items()
        }
        return {**self._head(table.get("from")), **dump_settings(settings), **parts}

    def without_paths(self, table: Any) -> Any:
        """A table as from `table` or `completed` without paths of this machine, which are locations, not content."""
        if not isinstance(table, dict):
            return table
        parts = {name: _shortest(part.without_paths(table[name])) for name, part in self.parts.items() if name in table}
        paths = local_paths(self.registered.cls.Settings)
        return {name: value for name, value in {**table, **parts}.items() if name not in paths}

    def paths(self) -> list[Key]:
        """The places in the recipe of its settings that are paths of this machine; not of those of its parts."""
        return [(*self.key, name) for name in local_paths(self.registered.cls.Settings)]

    def with_parts(self) -> Iterator[ComponentConfig]:
        """It, and the components that it names, at any depth."""
        yield self
        for part in self.parts.values():
            yield from part.with_parts()

    def _head(self, start: Any) -> dict[str, Any]:
        return {"use": self.registered.full_name, **({} if start is None else {"from": start})}


@dataclass(frozen=True, kw_only=True)
class HasLocation:
    """A recipe or a part of one, which knows where its tables are in the file."""

    source: Source

    def where(self, key: Key) -> str:
        """File and line of a table or key."""
        return self.source.where(key)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(HasLocation):
    """The tables that define a model."""

    loss: ComponentConfig
    networks: dict[str, ComponentConfig]
    """By slot."""
    sampling: Settings
    """How samples are made of latents: the loss's `Sampling`. It may change after training."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(HasLocation):
    """The tables of an evaluation by metrics alone."""

    metrics: tuple[ComponentConfig, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(MetricsConfig):
    """The tables of an evaluation: metrics, and the data whose real images samples are compared with."""

    data: ComponentConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ModelConfig):
    """The tables that decide the weights of a run."""

    data: ComponentConfig
    train: TrainSettings
    stages: tuple[StageSettings, ...]
    """In the order in which they begin."""
    ema: EmaSettings | None
    augmentation: ComponentConfig | None
    """Applied before every slot that the loss marks as `augmented`."""
    regularizers: tuple[ComponentConfig, ...]
    """Each for the slot that its settings name."""
    optimizers: dict[str, ComponentConfig]
    """By slot."""

    def stage_at(self, step: int) -> Stage:
        """Batch size and learning rate after all stages up to a step, counted from 0."""
        if not self.stages:
            return Stage(self.train.batch_size, None)
        begun = [stage for stage in self.stages if stage.start <= step]
        sizes = [stage.batch_size for stage in begun if stage.batch_size is not None]
        rates = [stage.lr for stage in begun if stage.lr is not None]
        return Stage([self.train.batch_size, *sizes][-1], rates[-1] if rates else None)

    def resets_optimizers(self, step: int) -> bool:
        """Whether a stage that begins at a step, counted from 0, resets the state of every optimiser."""
        return any(stage.start == step and stage.reset_optimizers for stage in self.stages)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Images per update, for every stage."""
        return tuple(self.stage_at(step).batch_size for step in (0, *(stage.start for stage in self.stages)))

    def deciding_components(self) -> Iterator[ComponentConfig]:
        """Every component that decides the weights, with its parts."""
        extra = [] if self.augmentation is None else [self.augmentation]
        networks, optimizers = self.networks.values(), self.optimizers.values()
        for config in (self.data, self.loss, *networks, *extra, *self.regularizers, *optimizers):
            yield from config.with_parts()

    def tables(self) -> dict[str, Any]:
        """These tables, every default written out."""
        optional = {
            "stage": [dump_settings(stage) for stage in self.stages],
            "augmentation": self.augmentation and self.augmentation.table(),
            "regularizer": [config.table() for config in self.regularizers],
        }
        return {
            "ema": False if self.ema is None else dump_settings(self.ema),
            "train": _train_table(self.train),
            "data": self.data.table(),
            "loss": self.loss.table(),
            **{slot: config.table() for slot, config in self.networks.items()},
            **{name: table for name, table in optional.items() if table},
            "optimizer": {slot: config.table() for slot, config in self.optimizers.items()},
        }

    def completed(self, stored: Mapping[str, Any], made_with: MadeWith) -> dict[str, Any]:
        """The same tables as stored by a run, with today's defaults for settings that they lack.

        Args:
            stored: The run's recipe.
            made_with: The run's plugins.
        """
        stored = self._moved(stored)
        optimizers = _table_of(stored, "optimizer")
        components = {"data": self.data, "loss": self.loss, **self.networks}
        if self.augmentation is not None:
            components["augmentation"] = self.augmentation
        kept = {name: stored[name] for name in ("augmentation", "stage", "regularizer") if stored.get(name)}
        if self.regularizers and isinstance(stored.get("regularizer"), list):
            kept["regularizer"] = _completed_each(self.regularizers, stored["regularizer"], made_with)
        return {
            "ema": _completed(EmaSettings, stored.get("ema")),
            "train": self._completed_train(stored.get("train")),
            **kept,
            **{name: each.completed(stored.get(name), made_with) for name, each in components.items()},
            "optimizer": {
                slot: config.completed(optimizers.get(slot), made_with) for slot, config in self.optimizers.items()
            },
        }

    def _moved(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The stored tables, with settings of earlier versions moved to their new place."""
        tables = copy.deepcopy(dict(stored))
        for key, config in self._places().items():
            list(move_settings(tables, key, config.registered.cls.moved))
        return tables

    def _places(self) -> dict[Key, ComponentConfig]:
        """The components of these tables, by their place."""
        return {
            ("data",): self.data,
            ("loss",): self.loss,
            **({} if self.augmentation is None else {("augmentation",): self.augmentation}),
            **{(slot,): config for slot, config in self.networks.items()},
            **{("regularizer", number): config for number, config in enumerate(self.regularizers)},
            **{("optimizer", slot): config for slot, config in self.optimizers.items()},
        }

    def without_paths(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """Tables as from `tables` or `completed` without paths of this machine."""
        found: Any = copy.deepcopy(dict(tables))
        for key, config in self._places().items():
            with suppress(KeyError, IndexError, TypeError):  # a stored recipe may have no such table
                holder = found if len(key) == 1 else found[key[0]]
                holder[key[-1]] = config.without_paths(holder[key[-1]])
        return cast("dict[str, Any]", found)

    def _completed_train(self, table: Any) -> Any:
        try:
            train = parse_settings(TrainSettings, table)
        except (ValidationError, TypeError):
            return table
        return _train_table(with_repeats(train, self.loss.registered.cls.repeat))


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingConfig, EvaluationConfig):
    """A validated recipe."""

    name: str
    requires: tuple[str, ...]
    observers: dict[str, ComponentConfig]
    silenced: tuple[str, ...] = ()
    """Automatic observers that the recipe turned off."""

    def components(self) -> Iterator[ComponentConfig]:
        """Every component that it uses, with its parts."""
        yield from self.deciding_components()
        for config in (*self.metrics, *self.observers.values()):
            yield from config.with_parts()

    def resolved(self) -> dict[str, Any]:
        """The whole recipe as tables, every default and every plugin written out; itself a recipe that gives the same
        run."""
        sampling = dump_settings(self.sampling)
        return {
            "name": self.name,
            **({"requires": list(self.requires)} if self.requires else {}),
            **dict.fromkeys(self.silenced, False),
            **self.tables(),
            **({"sampling": sampling} if sampling else {}),
            "metric": [config.table() for config in self.metrics],
            **{name: config.table() for name, config in self.observers.items()},
        }

    def resolved_like(self, stored: Mapping[str, Any], made_with: MadeWith) -> dict[str, Any]:
        """A run's stored recipe as `resolved` would give it today: with today's defaults for settings that it lacks."""
        metrics = stored.get("metric")
        observers = {name: config for name, config in self.observers.items() if name in stored}
        return {
            **stored,
            **self.completed(stored, made_with),
            "metric": _completed_each(self.metrics, metrics if isinstance(metrics, list) else [], made_with),
            **{name: config.completed(stored[name], made_with) for name, config in observers.items()},
        }


def sampling_of(loss: RegisteredComponent) -> type[Settings]:
    """The settings that a loss's recipes may have in `[sampling]`."""
    settings: type[Settings] = getattr(loss.cls, "Sampling", Settings)
    return settings


def with_repeats(train: TrainSettings, usual: Mapping[str, int]) -> TrainSettings:
    """The settings with the repeats that a loss has unless a recipe says otherwise."""
    return train.model_copy(update={"repeat": {**usual, **train.repeat}})


def _train_table(train: TrainSettings) -> dict[str, Any]:
    return {name: value for name, value in dump_settings(train).items() if value != {}}


def _shortest(part: Any) -> Any:
    """A part by its name alone, where it has no settings."""
    return part["use"] if isinstance(part, dict) and part.keys() == {"use"} else part


def _table_of(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name)
    return table if isinstance(table, dict) else {}


def _completed(settings: type[Settings], table: Any) -> Any:
    try:
        return dump_settings(parse_settings(settings, table))
    except (ValidationError, TypeError):
        return table


def _completed_each(configs: Iterable[ComponentConfig], tables: list[Any], made_with: MadeWith) -> list[Any]:
    """Stored entries of a list of components, each completed by the one in its place now."""
    pairs = zip(configs, tables, strict=False)
    completed = [config.completed(table, made_with) for config, table in pairs]
    return [*completed, *tables[len(completed) :]]
