"""torch's optimisers, in their fastest form on each device."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from ganrun import Optimizer, OptimizerSettings, Scheduled

Beta = Annotated[Scheduled, Field(ge=0, lt=1)]
"""Decay of a running mean: a number, or a schedule of it."""

FUSED_DEVICES = ("cpu", "cuda", "mps")


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv:1412.6980)."""

    class Settings(OptimizerSettings):
        betas: tuple[Beta, Beta] = (Scheduled(start=0.5), Scheduled(start=0.999))
        """Decay of the running means of the gradient and of its square. The defaults are DCGAN's. Each may follow a
        schedule, as β₂ does in R3GAN (arXiv:2501.05441)."""

        eps: float = Field(1e-8, gt=0)
        """Added to the denominator."""

    settings: Settings

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.Adam`, fused."""
        own = self.settings
        return _Adam(parameters, betas=self._betas(0, 1), eps=own.eps, **_common(own, device))

    def scheduled(self, step: int, steps: int) -> Mapping[str, Any]:
        """The betas, if one of them changes."""
        varies = any(beta.end is not None for beta in self.settings.betas)
        return {"betas": self._betas(step, steps)} if varies else {}

    def _betas(self, step: int, steps: int) -> tuple[float, float]:
        first, second = self.settings.betas
        return first.at(step, steps), second.at(step, steps)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.AdamW`, fused."""
        own = self.settings
        return _AdamW(parameters, betas=self._betas(0, 1), eps=own.eps, **_common(own, device))


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture 6e), as in the Wasserstein GAN with weight clipping."""

    class Settings(OptimizerSettings):
        alpha: float = Field(0.99, ge=0, lt=1)
        """Decay of the running mean of the squared gradient."""

        momentum: float = Field(0.0, ge=0, lt=1)
        """Momentum."""

        eps: float = Field(1e-8, gt=0)
        """Added to the denominator."""

    settings: Settings

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.RMSprop`, which has no fused form."""
        own = self.settings
        return _RMSprop(
            parameters,
            lr=own.lr,
            alpha=own.alpha,
            eps=own.eps,
            weight_decay=own.weight_decay,
            momentum=own.momentum,
            foreach=True,
        )


class SGD(Optimizer):
    """Stochastic gradient descent."""

    class Settings(OptimizerSettings):
        momentum: float = Field(0.0, ge=0, lt=1)
        """Momentum."""

    settings: Settings

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """`torch.optim.SGD`, fused."""
        return _SGD(parameters, momentum=self.settings.momentum, **_common(self.settings, device))


def _common(settings: OptimizerSettings, device: torch.device) -> dict[str, Any]:
    return {"fused": device.type in FUSED_DEVICES, "weight_decay": settings.weight_decay, "lr": settings.lr}


class _Uncompiled(torch.optim.Optimizer):
    """An optimiser for uncompiled steps.

    torch wraps these two methods so that `torch.compile` can step around them, and the wrappers import all of
    torch._dynamo when they are first called: more than a second of every start. The unwrapped methods compute the same.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def __init_subclass__(cls) -> None:
        cls.step = torch.no_grad()(inspect.unwrap(cls.step))  # type: ignore[method-assign]


class _Adam(_Uncompiled, torch.optim.Adam):
    pass


class _AdamW(_Uncompiled, torch.optim.AdamW):
    pass


class _RMSprop(_Uncompiled, torch.optim.RMSprop):
    pass


class _SGD(_Uncompiled, torch.optim.SGD):
    pass
