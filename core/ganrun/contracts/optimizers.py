"""Optimisers, one for each slot of a loss, and the schedules of their learning rates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import nn

from ganrun.contracts.components import Component, Part
from ganrun.contracts.settings import Settings


class Schedule(Component, ABC):
    """How a learning rate changes over a run."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def varies(self) -> bool:
        """Whether the learning rate changes at all; if so, the weights depend on the number of steps."""
        return True

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The factor ≥ 0 of the learning rate. It depends on `progress` alone, so that a resumed run continues exactly.

        Args:
            progress: Share of the run's steps that are done, in [0, 1), counted after the warm-up.
        """


class OptimizerSettings(Settings):
    """The settings of every optimiser. A slot's own table, `[optimizer.discriminator]`, overrides `[optimizer]`."""

    lr: float = Field(2e-4, gt=0)
    """Learning rate, before the schedule."""

    schedule: Part = "constant"
    """How the learning rate changes over the run's steps (never over a phase's repeats), by name, or as a table that
    says use and the schedule's own settings; see `ganrun list schedule`."""

    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate first rises linearly from lr / warmup_steps."""

    clip_norm: float | None = Field(None, gt=0)
    """Largest L2 norm of a slot's whole gradient; larger ones are scaled down. Off unless given."""

    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty on the weights (decoupled for adamw)."""


class Optimizer(Component, ABC):
    """An optimiser of one slot's weights.

        class Settings(ganrun.OptimizerSettings):
            momentum: float = Field(0.9, ge=0, lt=1)
            \"""Momentum.\"""

    Clipping, warm-up and the schedule are the engine's; the class only builds the `torch.optim.Optimizer`.
    """

    Settings = OptimizerSettings
    parts = {"schedule": "schedule"}

    settings: OptimizerSettings

    def __init__(self, settings: Any, schedule: Schedule) -> None:
        self.settings = settings
        self.schedule = schedule

    @classmethod
    def class_fault(cls) -> str | None:
        """As `Component.class_fault`; its settings must also derive from `OptimizerSettings`."""
        if not (isinstance(cls.Settings, type) and issubclass(cls.Settings, OptimizerSettings)):
            return "whose Settings are not a subclass of ganrun.OptimizerSettings"
        return super().class_fault()

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """The optimiser of these parameters, which are on `device`, at the learning rate `settings.lr`."""

    @property
    def varies(self) -> bool:
        """Whether the learning rate changes over the run."""
        return self.schedule.varies or self.settings.warmup_steps > 0

    def scheduled(self, step: int, steps: int) -> Mapping[str, Any]:
        """Further entries of the optimiser's parameter groups at a step, counted from 0, such as `{"betas": …}` from
        settings of type `ganrun.Scheduled`: none, unless overridden."""
        return {}

    def learning_rate(self, step: int, steps: int, lr: float | None = None) -> float:
        """The learning rate of step `step`, counted from 0, of `steps`; before the schedule it is `lr`, or else
        `settings.lr`."""
        lr, warmup = self.settings.lr if lr is None else lr, self.settings.warmup_steps
        if step < warmup:
            return lr * ((step + 1) / warmup)
        return lr * self.schedule.factor((step - warmup) / max(1, steps - warmup))
