"""A recipe: what one experiment is made of, validated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator

from ganrun.base.devices import NAMES, is_device_name
from ganrun.contracts.optimizers import OptimizerSettings
from ganrun.contracts.settings import Settings
from ganrun.discovery.registry import RegisteredComponent
from ganrun.recipe.source import Key, Source


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
    """ModelConfig that a batch is taken in, to save memory; must divide batch_size."""

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
    features: ComponentConfig | None = None
    """The extractor that a metric on features reads."""

    def build(self, *arguments: Any) -> Any:
        """The component, from its settings and whatever else its kind is built from."""
        return self.registered.cls(self.settings, *arguments)

    def table(self) -> dict[str, Any]:
        """The table with every default written out; an observer's name says by itself what it uses."""
        is_plain = self.registered.kind == "observer" and self.key == (self.use,)
        features = {} if self.features is None else {"features": self.features.table()}  # instead of what was written
        return {**({} if is_plain else {"use": self.use}), **dump(self.settings), **features}


@dataclass(frozen=True, kw_only=True)
class HasLocation:
    """A recipe, or a part of one, whose tables stand somewhere in a file."""

    source: Source

    def where(self, key: Key) -> str:
        """File and line of a table or key."""
        return self.source.where(key)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(HasLocation):
    """What a model consists of."""

    loss: ComponentConfig
    networks: dict[str, ComponentConfig]
    """By slot."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(HasLocation):
    """Which real images samples are compared with, and by which metrics."""

    data: ComponentConfig
    metrics: tuple[ComponentConfig, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe(ModelConfig, EvaluationConfig):
    """A validated recipe."""

    name: str
    requires: tuple[str, ...]
    train: TrainSettings
    ema: EmaSettings | None
    optimizers: dict[str, tuple[str, OptimizerSettings]]
    """By slot: name and settings."""
    observers: dict[str, ComponentConfig]
    silenced: tuple[str, ...] = field(default=())
    """Automatic observers that the recipe turned off."""

    def resolved(self) -> dict[str, Any]:
        """The whole recipe as tables, every default written out; itself a recipe that gives the same run."""
        return {
            "name": self.name,
            **({"requires": list(self.requires)} if self.requires else {}),
            "ema": False if self.ema is None else dump(self.ema),
            **dict.fromkeys(self.silenced, False),
            "train": dump(self.train),
            "data": self.data.table(),
            "loss": self.loss.table(),
            **{slot: choice.table() for slot, choice in self.networks.items()},
            "optimizer": {slot: {"use": use, **dump(each)} for slot, (use, each) in self.optimizers.items()},
            "metric": [choice.table() for choice in self.metrics],
            **{name: choice.table() for name, choice in self.observers.items()},
        }


def dump(settings: Settings) -> dict[str, Any]:
    """Settings as a TOML table; what is off is left out, for TOML has no null."""
    return settings.model_dump(mode="json", exclude_none=True)
