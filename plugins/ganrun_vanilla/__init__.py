"""The first GAN (Goodfellow et al. 2014, arXiv:1406.2661): its two losses, LSGAN's, and simple networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generators `mlp` and `conv`."""
    from ganrun_vanilla.networks import ConvGenerator, MlpGenerator

    return {"mlp": MlpGenerator, "conv": ConvGenerator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminators `mlp` and `conv`."""
    from ganrun_vanilla.networks import ConvDiscriminator, MlpDiscriminator

    return {"mlp": MlpDiscriminator, "conv": ConvDiscriminator}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `gan`, `minimax`, `lsgan` and `feature-matching`."""
    from ganrun_vanilla.losses import FeatureMatchingGan, LeastSquaresGan, MinimaxGan, NonSaturatingGan

    return {
        "gan": NonSaturatingGan,
        "minimax": MinimaxGan,
        "lsgan": LeastSquaresGan,
        "feature-matching": FeatureMatchingGan,
    }
