"""Autoencoders other than VAEs: plain, adversarial, of discrete codes (VQ-VAE), and with a discriminator (VAE-GAN).

Any generator can be the decoder of all but the VQ-VAE, whose codes are maps, and any discriminator the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss, Network


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `autoencoder`, `aae`, `vae-gan` and `vq-vae`."""
    from ganrun_autoencoders.adversarial import AdversarialAutoencoder
    from ganrun_autoencoders.plain import Autoencoder
    from ganrun_autoencoders.vae_gan import VaeGan
    from ganrun_autoencoders.vector_quantised import VqVae

    return {"autoencoder": Autoencoder, "aae": AdversarialAutoencoder, "vae-gan": VaeGan, "vq-vae": VqVae}


@hookimpl
def ganrun_networks() -> Mapping[str, type[Network]]:
    """The encoder `vq-vae`."""
    from ganrun_autoencoders.networks import VqEncoder

    return {"vq-vae": VqEncoder}


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The decoder `vq-vae`."""
    from ganrun_autoencoders.networks import VqDecoder

    return {"vq-vae": VqDecoder}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `vae-gan`."""
    from ganrun_autoencoders.networks import FeatureDiscriminator

    return {"vae-gan": FeatureDiscriminator}
