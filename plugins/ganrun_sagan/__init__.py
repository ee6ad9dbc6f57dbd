"""Residual networks with class-conditional norms, projection and attention: conditional SNGAN, SAGAN and BigGAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generators `sngan`, `sagan` and `biggan`."""
    from ganrun_sagan.generators import BigganGenerator, SaganGenerator, SnganGenerator

    return {"sngan": SnganGenerator, "sagan": SaganGenerator, "biggan": BigganGenerator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminators `sngan` and `sagan`."""
    from ganrun_sagan.discriminators import SaganDiscriminator, SnganDiscriminator

    return {"sngan": SnganDiscriminator, "sagan": SaganDiscriminator}
