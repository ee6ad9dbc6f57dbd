"""DCGAN's networks (Radford et al. 2015, arXiv:1511.06434), with the norms that critics of later losses need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `dcgan`."""
    from ganrun_dcgan.networks import DcganGenerator

    return {"dcgan": DcganGenerator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `dcgan`."""
    from ganrun_dcgan.networks import DcganDiscriminator

    return {"dcgan": DcganDiscriminator}
