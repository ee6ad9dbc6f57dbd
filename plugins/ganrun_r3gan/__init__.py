"""R3GAN: the relativistic pairing loss with R1 and R2 (Huang et al. 2025, arXiv:2501.05441), and its networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `r3gan`."""
    from ganrun_r3gan.networks import R3ganGenerator

    return {"r3gan": R3ganGenerator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `r3gan`."""
    from ganrun_r3gan.networks import R3ganDiscriminator

    return {"r3gan": R3ganDiscriminator}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `r3gan` and `conditional-r3gan`."""
    from ganrun_r3gan.losses import ConditionalR3Gan, R3Gan

    return {"r3gan": R3Gan, "conditional-r3gan": ConditionalR3Gan}
