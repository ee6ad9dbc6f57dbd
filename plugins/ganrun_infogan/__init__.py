"""InfoGAN (Chen et al. 2016, arXiv:1606.03657): its loss with any mix of codes, and its networks for MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `infogan-mnist`."""
    from ganrun_infogan.networks import MnistGenerator

    return {"infogan-mnist": MnistGenerator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `infogan-mnist`."""
    from ganrun_infogan.networks import MnistDiscriminator

    return {"infogan-mnist": MnistDiscriminator}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The loss `infogan`."""
    from ganrun_infogan.losses import InfoGan

    return {"infogan": InfoGan}
