"""Losses on critics (Wasserstein with gradient penalty or clipping, hinge) and residual networks (arXiv:1704.00028)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `wgan-gp-resnet`."""
    from ganrun_wgan_gp.networks import ResnetGenerator

    return {"wgan-gp-resnet": ResnetGenerator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `wgan-gp-resnet`."""
    from ganrun_wgan_gp.networks import ResnetCritic

    return {"wgan-gp-resnet": ResnetCritic}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `wgan-gp`, `wgan` and `hinge`."""
    from ganrun_wgan_gp.losses import ClippedWassersteinGan, HingeGan, PenalisedWassersteinGan

    return {"wgan-gp": PenalisedWassersteinGan, "wgan": ClippedWassersteinGan, "hinge": HingeGan}
