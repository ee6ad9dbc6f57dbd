"""The engine's own tables of a recipe: `[train]`, `[ema]` and `[[stage]]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from ganrun.base.devices import NAMES, is_device_name
from ganrun.contracts.scheduled import Scheduled
from ganrun.contracts.settings import Settings


class TrainSettings(Settings):
    """How to train, and for how long."""

    steps: int = Field(ge=1)
    """Steps of the run; a step is one pass through the loss's phases (for a GAN: one generator update)."""

    batch_size: int = Field(64, ge=1)
    """Images per update."""

    seed: int = Field(0, ge=0)
    """Decides every random number: weights, order of the data, latents, samples."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; auto takes the best available."""

    precision: Literal["auto", "f32", "tf32", "bf16"] = "f32"
    """Arithmetic inside the networks. f32 is float32 on every device. tf32 lets an NVIDIA GPU round the factors of
    convolutions and matrix products to 10 bits. bf16 is bfloat16, with losses in f32. auto is bf16 on a GPU that has
    it, and f32 elsewhere. Samples and scores are always f32."""

    compile: bool = False
    """Whether networks are compiled by torch.compile in the phases that differentiate once. It takes some minutes at
    the start, and is worthwhile on a GPU. A network that cannot be compiled runs uncompiled, and a log line says
    why."""

    graphs: bool = True
    """Whether, on a single CUDA GPU, each phase is captured as a graph and launched at once, which is much faster. A
    phase that cannot be captured runs as usual, and a log line says why."""

    accumulate: int = Field(1, ge=1)
    """Parts into which a batch is split, to save memory; must divide batch_size. Batch norm, and anything else that
    looks across a batch, then sees each part separately, not the whole batch."""

    repeat: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Updates per step, by slot of the loss, each on a new batch: { discriminator = 5 }. Default: the loss's own, which
    is mostly 1."""

    horizontal_flip: bool = False
    """Whether real images are mirrored at random."""

    jitter: int | None = Field(None, ge=1, le=1024)
    """Pixels by which real images are enlarged before a random crop of the original size: 30 is pix2pix's 286 → 256.
    All images of a record get the same crop. Scores use unchanged records."""

    share: float = Field(1.0, gt=0, le=1)
    """Share of the train split to train on, equal for every class. Metrics compare with the whole split."""

    share_seed: int = Field(0, ge=0)
    """Decides which records belong to that share, and nothing else. A smaller share is a subset of a larger one."""

    log_every_steps: int = Field(50, ge=1)
    """Steps between two lines of metrics.jsonl."""

    evaluate_every_steps: int | None = Field(None, ge=1)
    """Steps between two evaluations; unless given, only after the last step."""

    limit_seconds: float | None = Field(None, gt=0)
    """Seconds after which this start of the run ends as after a signal: with a checkpoint, and with exit status 75. The
    limit restarts when the run is resumed, so an evaluation must take less."""

    @field_validator("device")
    @classmethod
    def _names_a_device(cls, device: str) -> str:
        if not is_device_name(device):
            raise ValueError(f"say {NAMES}")
        return device


class EmaSettings(Settings):
    """The moving average of the weights that are scored and shown; `ema = false` turns it off."""

    decay: Scheduled = Field(Scheduled(start=0.999), ge=0, lt=1)
    """Weight of the old average in each update; reached gradually over the first steps."""

    half_life: Scheduled | None = None
    """Instead of decay: half-life of the average in steps, ≥ 0, from the first step on. A schedule from 0 makes a
    gradual start."""

    @model_validator(mode="before")
    @classmethod
    def _says_one_of_two(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and {"decay", "half_life"} <= table.keys():
            raise ValueError("set decay or half_life, not both")
        return table

    @field_validator("half_life")
    @classmethod
    def _is_a_length(cls, half_life: Scheduled | None) -> Scheduled | None:
        if half_life is not None and not half_life >= 0:
            raise ValueError("input should be greater than or equal to 0")
        return half_life

    @model_serializer(mode="wrap")
    def _one_of_two(self, table: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = table(self)
        return found if self.half_life is None else {"half_life": found["half_life"]}

    @property
    def text(self) -> float | str:
        """The decay, or a text such as `half-life 500 steps`; for a schedule, `half-life linear 0 → 500 steps`."""
        return self.decay.text if self.half_life is None else f"half-life {self.half_life.text} steps"


class StageSettings(Settings):
    """A part of the run with another batch size or learning rate, or reset optimizers, as in progressive growing.
    Stages are listed in order. Each changes only the settings that it contains.
    """

    start: int = Field(alias="from", ge=1)
    """Steps done when it begins."""

    batch_size: int | None = Field(None, ge=1)
    """Images per update; accumulate must divide it."""

    lr: float | None = Field(None, gt=0)
    """Learning rate of every optimizer, before its schedule."""

    reset_optimizers: bool | None = None
    """Whether every optimizer resets its running means when the stage begins, as in progressive growing at each new
    resolution. Off by default."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.batch_size is None and self.lr is None and not self.reset_optimizers:
            raise ValueError("a stage must set batch_size, lr or reset_optimizers = true")
        return self


class Stage(NamedTuple):
    """The settings in force at a step."""

    batch_size: int
    """Images per update."""

    lr: float | None
    """Learning rate of every optimizer, before its schedule; None for that of the optimizer's own table."""
