"""Super-resolution: SRResNet and SRGAN (Ledig et al. 2017, arXiv:1609.04802), and perceptual networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Loss, Network


@hookimpl
def ganrun_networks() -> Mapping[str, type[Network]]:
    """`srresnet`, which enlarges images; the perceptual networks `vgg19` and `efficientnet-lite0`."""
    from ganrun_superresolution.efficientnet import EfficientNetLite0
    from ganrun_superresolution.networks import SrResNet
    from ganrun_superresolution.vgg import Vgg19

    return {"srresnet": SrResNet, "vgg19": Vgg19, "efficientnet-lite0": EfficientNetLite0}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `srgan`."""
    from ganrun_superresolution.networks import SrGanDiscriminator

    return {"srgan": SrGanDiscriminator}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The loss `srgan`."""
    from ganrun_superresolution.losses import SrGan

    return {"srgan": SrGan}
