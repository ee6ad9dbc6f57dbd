"""Progressive growing of GANs (Karras et al. 2017, arXiv:1710.10196): networks that grow, and their loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `progressive`."""
    from ganrun_progressive.networks import ProgressiveGenerator

    return {"progressive": ProgressiveGenerator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `progressive`."""
    from ganrun_progressive.networks import ProgressiveDiscriminator

    return {"progressive": ProgressiveDiscriminator}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The loss `progressive`."""
    from ganrun_progressive.losses import ProgressiveGan

    return {"progressive": ProgressiveGan}
