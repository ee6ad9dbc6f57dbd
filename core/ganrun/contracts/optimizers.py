"""Optimisers and learning-rate schedules: one optimiser per slot."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from ganrun.contracts.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running mean."""

FUSED_DEVICES = ("cpu", "cuda", "mps")


class OptimizerSettings(Settings):
    """What every optimiser has. A slot's own table, `[optimizer.discriminator]`, overrides `[optimizer]`."""

    lr: float = Field(2e-4, gt=0)
    """Learning rate, before the schedule."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to 0 over the run's steps (never over a phase's repeats)."""

    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate first rises linearly from lr / warmup_steps."""

    clip_norm: float | None = Field(None, gt=0)
    """Largest L2 norm of a slot's whole gradient; larger ones are scaled down. Off unless given."""

    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty on the weights (decoupled for adamw)."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """The optimiser of one slot."""

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by in step `step`, counted from 0, of `steps`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        if self.schedule == "linear":
            return 1 - progress
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    @property
    def varies(self) -> bool:
        """Whether the learning rate changes over the run."""
        return self.schedule != "constant" or self.warmup_steps > 0

    def _fused(self, device: torch.device) -> dict[str, Any]:
        return {"fused": device.type in FUSED_DEVICES, "weight_decay": self.weight_decay, "lr": self.lr}


class Adam(OptimizerSettings):
    """Adam (Kingma and Ba, arXiv:1412.6980)."""

    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """Decay of the running means of the gradient and of its square. The defaults are DCGAN's."""

    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.Adam`, fused."""
        return torch.optim.Adam(parameters, betas=self.betas, eps=self.eps, **self._fused(device))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.AdamW`, fused."""
        return torch.optim.AdamW(parameters, betas=self.betas, eps=self.eps, **self._fused(device))


class RMSprop(OptimizerSettings):
    """RMSprop (Hinton's lecture 6e), as in the Wasserstein GAN with weight clipping."""

    alpha: float = Field(0.99, ge=0, lt=1)
    """Decay of the running mean of the squared gradient."""

    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum."""

    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.RMSprop`, which has no fused form."""
        return torch.optim.RMSprop(
            parameters,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            foreach=True,
        )


class SGD(OptimizerSettings):
    """Stochastic gradient descent."""

    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.SGD`, fused."""
        return torch.optim.SGD(parameters, momentum=self.momentum, **self._fused(device))


OPTIMIZERS: dict[str, type[OptimizerSettings]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}
"""What `[optimizer] use = "…"` may say."""
