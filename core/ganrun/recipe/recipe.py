"""A validated recipe: the components and settings of one experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from ganrun.base.devices import NAMES, is_device_name
from ganrun.contracts.settings import Settings, parse_settings
from ganrun.discovery.registry import RegisteredComponent
from ganrun.recipe.source import Key, Source

DEFAULT_OPTIMIZER = "adam"
"""The optimiser of an `[optimizer]` table without `use`."""


class TrainSettings(Settings):
    """How long and in what manner to train."""

    steps: int = Field(ge=1)
    """Steps of the run; a step is one pass through the loss's phases (for a GAN: one generator update)."""

    batch_size: int = Field(64, ge=1)
    """Images per update."""

    seed: int = Field(0, ge=0)
    """Decides every random number: weights, order of the data, latents, samples."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; auto takes the best there is."""

    precision: Literal["f32", "bf16"] = "f32"
    """Arithmetic inside the networks; losses are always f32."""

    accumulate: int = Field(1, ge=1)
    """Parts that a batch is taken in, to save memory; must divide batch_size."""

    horizontal_flip: bool = False
    """Whether real images are mirrored at random."""

    log_every_steps: int = Field(50, ge=1)
    """Steps between two lines of metrics.jsonl."""

    evaluate_every_steps: int | None = Field(None, ge=1)
    """Steps between two evaluations; unless given, only after the last step."""

    @field_validator("device")
    @classmethod
    def _names_a_device(cls, device: str) -> str:
        if not is_device_name(device):
            raise ValueError(f"say {NAMES}")
        return device


class EmaSettings(Settings):
    """The moving average of the weights that are scored and shown; `ema = false` turns it off."""

    decay: float = Field(0.999, ge=0, lt=1)
    """Share of the old average that survives a step; reached gradually over the first steps."""


@dataclass(frozen=True)
class ComponentConfig:
    """A component that the recipe uses, with its settings."""

    registered: RegisteredComponent
    use: str
    """As the recipe wrote it."""
    settings: Settings
    key: Key
    """The table it stands in."""
    parts: Mapping[str, ComponentConfig] = field(default_factory=dict)
    """The components that its settings name, by the names of those settings: a metric's extractor, for instance."""

    def build(self, *arguments: Any) -> Any:
        """Build the component from its settings and the further arguments of its kind."""
        return self.registered.cls(self.settings, *arguments)

    def is_like(self, other: ComponentConfig) -> bool:
        """Whether both are the same component, of the same parts; settings may differ."""
        parts = {name: part.registered for name, part in self.parts.items()}
        return self.registered == other.registered and parts == {n: part.registered for n, part in other.parts.items()}

    def table(self) -> dict[str, Any]:
        """The table with every default written out; an observer's name says by itself what it uses."""
        is_plain = self.registered.kind == "observer" and self.key == (self.use,)
        parts = {name: _shortest(part.table()) for name, part in self.parts.items()}  # instead of what was written
        return {**({} if is_plain else {"use": self.use}), **dump(self.settings), **parts}

    def completed(self, table: Any) -> Any:
        """A table that was stored earlier, perhaps by another version, with the defaults of today's settings.

        Returned unchanged if it names another component, or holds settings that this one no longer takes.
        """
        table = {"use": table} if isinstance(table, str) else table
        if not isinstance(table, dict) or not self._is_named_by(table.get("use")):
            return table
        own = {name: value for name, value in table.items() if name != "use"}
        try:
            settings = parse_settings(self.registered.cls.Settings, own)
        except ValidationError:
            return table
        parts = {name: _shortest(part.completed(getattr(settings, name))) for name, part in self.parts.items()}
        return {"use": self.use, **dump(settings), **parts}

    def _is_named_by(self, use: Any) -> bool:
        qualifier, _, bare = str(use).rpartition(":")
        return bare == self.registered.name and self.registered.plugin.is_called(qualifier)


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


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(HasLocation):
    """The tables of an evaluation: real images to compare samples with, and metrics."""

    data: ComponentConfig
    metrics: tuple[ComponentConfig, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ModelConfig):
    """The tables that decide the weights of a run."""

    data: ComponentConfig
    train: TrainSettings
    ema: EmaSettings | None
    optimizers: dict[str, ComponentConfig]
    """By slot."""

    def tables(self) -> dict[str, Any]:
        """These tables, every default written out."""
        return {
            "ema": False if self.ema is None else dump(self.ema),
            "train": dump(self.train),
            "data": self.data.table(),
            "loss": self.loss.table(),
            **{slot: config.table() for slot, config in self.networks.items()},
            "optimizer": {slot: config.table() for slot, config in self.optimizers.items()},
        }

    def completed(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The same tables as stored by a run, with today's defaults for settings that they lack."""
        optimizers = stored.get("optimizer")
        optimizers = optimizers if isinstance(optimizers, dict) else {}
        components = {"data": self.data, "loss": self.loss, **self.networks}
        return {
            "ema": _completed(EmaSettings, stored.get("ema")),
            "train": _completed(TrainSettings, stored.get("train")),
            **{name: config.completed(stored.get(name)) for name, config in components.items()},
            "optimizer": {slot: config.completed(optimizers.get(slot)) for slot, config in self.optimizers.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingConfig, EvaluationConfig):
    """A validated recipe."""

    name: str
    requires: tuple[str, ...]
    observers: dict[str, ComponentConfig]
    silenced: tuple[str, ...] = ()
    """Automatic observers that the recipe turned off."""

    def resolved(self) -> dict[str, Any]:
        """The whole recipe as tables, every default written out; itself a recipe that gives the same run."""
        return {
            "name": self.name,
            **({"requires": list(self.requires)} if self.requires else {}),
            **dict.fromkeys(self.silenced, False),
            **self.tables(),
            "metric": [config.table() for config in self.metrics],
            **{name: config.table() for name, config in self.observers.items()},
        }


def _shortest(part: Any) -> Any:
    """A part by its name alone, where it has no settings."""
    return part["use"] if isinstance(part, dict) and part.keys() == {"use"} else part


def dump(settings: Settings) -> dict[str, Any]:
    """Settings as a TOML table; settings that are off are left out, because TOML has no null."""
    return settings.model_dump(mode="json", exclude_none=True)


def _completed(settings: type[Settings], table: Any) -> Any:
    try:
        return dump(parse_settings(settings, table))
    except (ValidationError, TypeError):
        return table
