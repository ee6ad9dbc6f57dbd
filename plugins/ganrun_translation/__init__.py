"""Image-to-image translation: pix2pix (arXiv:1611.07004), CycleGAN (arXiv:1703.10593), and their networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Loss, Network


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `pix2pix`, of pairs, and `cyclegan`, without pairs."""
    from ganrun_translation.cyclegan import CycleGan
    from ganrun_translation.pix2pix import Pix2Pix

    return {"pix2pix": Pix2Pix, "cyclegan": CycleGan}


@hookimpl
def ganrun_networks() -> Mapping[str, type[Network]]:
    """`u-net`, pix2pix's generator, and `translator`, CycleGAN's."""
    from ganrun_translation.residual import Translator
    from ganrun_translation.u_net import UNet

    return {"u-net": UNet, "translator": Translator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """`patch`, the discriminator of both."""
    from ganrun_translation.patch import PatchDiscriminator

    return {"patch": PatchDiscriminator}
