"""Penalties on weights, and on how far samples move with their latents."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ganrun import (
    Batch,
    IncompatibleError,
    Loss,
    Nets,
    Regularizer,
    RegularizerSettings,
    Scheduled,
    View,
    mean_over_ranks,
)

# ── BigGAN: Brock et al. 2018, arXiv:1809.11096 ───────────────────────────────────────────────────────────


class Orthogonal(Regularizer):
    """Orthogonal regularisation: the filters of a layer are orthogonal to each other, at any norm.

    Brock et al. 2018 (arXiv:1809.11096), equation 3, without the diagonal. It makes a generator amenable to truncation.
    """

    second_order = False

    reads_images = False

    class Settings(RegularizerSettings):
        slot: str = "generator"
        """The network whose weights are meant, by its slot in the loss."""

        weight: Scheduled = Field(Scheduled(start=1e-4), ge=0)
        """β."""

        without: tuple[str, ...] = ()
        """Weights that are left out, by name, with * for anything: ["classes.*"] are the vectors of classes of
        `biggan`, as in the authors' program; ["*.scale", "*.shift"] the tables of classes of `sngan` and `sagan`."""

    settings: Settings

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """Σ ‖W Wᵀ ⊙ (1 − I)‖²_F over all weights of at least two dimensions, each as one row for each first index."""
        weights = {name: weight for name, weight in getattr(nets, slot).weights().items() if weight.dim() > 1}
        names = set(weights) - _matching(weights, self.settings.without)
        if not names:
            raise IncompatibleError(f"finds no weights of two dimensions in the {slot}, besides those in without")
        return torch.stack([_off_diagonal(weights[name].flatten(1)) for name in weights if name in names]).sum()


def _matching(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """The names that match a pattern.

    Raises:
        IncompatibleError: if a pattern matches none.
    """
    found = {pattern: fnmatch.filter(names, pattern) for pattern in patterns}
    unused = [pattern for pattern, fitting in found.items() if not fitting]
    if unused:
        first = next(iter(names), "none")
        raise IncompatibleError(f'no weights of two dimensions are called "{unused[0]}"; the first of them is {first}')
    return {name for fitting in found.values() for name in fitting}


def _off_diagonal(rows: Tensor) -> Tensor:
    products = rows @ rows.T
    return (products - products.diagonal().diag()).square().sum()


# ── StyleGAN2: Karras et al. 2020, arXiv:1912.04958 ───────────────────────────────────────────────────────


class PathLength(Regularizer):
    """Path length: a step of fixed size in the latents changes every sample equally.

    Karras et al. 2020 (arXiv:1912.04958), equation 4. The paper applies it every 8 steps.
    """

    reads_images = False

    class Settings(RegularizerSettings):
        slot: str = "generator"
        """The generator, by its slot in the loss."""

        weight: Scheduled = Field(Scheduled(start=2.0), ge=0)
        """γ_pl."""

        decay: float = Field(0.99, ge=0, lt=1)
        """Decay of the moving average a of path lengths, per penalty."""

        space: Literal["z", "w"] = "z"
        """The latents whose steps are measured: those that the generator takes, or what its method `mapping` makes of
        them, from which its method `synthesis` makes samples, as in the paper."""

    settings: Settings

    def __init__(self, settings: Settings, loss: Loss) -> None:
        super().__init__(settings, loss)
        slot = loss.slots[settings.slot]
        if slot.kind != "generator":
            raise IncompatibleError(f"measures the paths of a generator, and the slot {settings.slot} is not one")
        self.memory.register_buffer("mean_length", torch.zeros(()))

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """E[(‖Jᵀy‖ − a)²], y ~ N(0, I) over the pixels and scaled by 1 / √(height · width)."""
        lengths = self._lengths(getattr(nets, slot), nets, batch)
        mean = self.memory.mean_length
        mean.lerp_(mean_over_ranks(lengths.detach().mean()), 1 - self.settings.decay)
        return (lengths - mean.clone()).square().mean()

    def _lengths(self, view: View, nets: Nets, batch: Batch) -> Tensor:
        """‖Jᵀy‖ of each sample, `(batch,)`; over layers with a w each, the root of the mean square."""
        given = self.loss.generated_inputs(self.settings.slot, nets, batch)
        with torch.enable_grad():
            if self.settings.space == "w":
                _check_style(view)
                latents = view.mapping(given.inputs, **given.conditions)
                samples = view.synthesis(latents)
            else:
                latents = given.inputs.detach().requires_grad_()
                samples = view(latents, **given.conditions)
            noise = torch.randn_like(samples) / samples[0, 0].numel() ** 0.5
            (gradients,) = torch.autograd.grad((samples * noise).sum(), latents, create_graph=True)
        squares: Tensor = gradients.square().sum(-1)
        return (squares.reshape(len(squares), -1).mean(1) + 1e-12).sqrt()


def _check_style(generator: View) -> None:
    if not (hasattr(generator, "mapping") and hasattr(generator, "synthesis")):
        raise IncompatibleError('space = "w" needs a generator with methods mapping and synthesis; say space = "z"')
