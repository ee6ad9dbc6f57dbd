"""The adversarial autoencoder: a discriminator tells codes from draws of the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field
from torch.nn.functional import mse_loss

import ganrun
from ganrun import (
    Batch,
    Inputs,
    Loss,
    Nets,
    Phase,
    Ports,
    Reading,
    Slot,
    Terms,
    logistic_terms,
    non_saturating_loss,
)


class AdversarialAutoencoder(Loss):
    """The adversarial autoencoder: an autoencoder whose codes are trained to look like draws from N(0, I).

    Makhzani et al. 2015 (arXiv:1511.05644), section 2, with a deterministic encoder: a reconstruction phase, then a
    regularization phase, in which first the discriminator and then the encoder, as its generator, are updated. To the
    discriminator draws of the prior are real, and codes of images are generated.
    """

    class Settings(ganrun.Settings):
        latent_size: int = Field(16, ge=1)
        """Length of a code; the prior is N(0, I)."""

        adversarial_weight: float = Field(0.1, ge=0)
        """Weight of the encoder's adversarial loss. It balances the encoder's two phases, which share one optimiser."""

    slots = {
        "generator": Slot("generator", averaged=True),
        "encoder": Slot("discriminator", averaged=True),
        "discriminator": Slot("discriminator", boundary=0.0),
    }

    settings: Settings

    def ports(self, slot: str) -> Ports:
        """The encoder returns a code, and the discriminator takes one."""
        ports = super().ports(slot)
        if slot == "encoder":
            return ports._replace(outputs=(self.latent_size,))
        return Ports((self.latent_size,), (1,)) if slot == "discriminator" else ports

    def phases(self) -> Sequence[Phase]:
        """Reconstruction, then the discriminator's update, then the encoder's."""
        return (
            Phase("reconstruction", self.reconstruction, trains=("generator", "encoder")),
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
            Phase("encoder", self.encoder, trains=("encoder",)),
        )

    def reconstruction(self, nets: Nets, batch: Batch) -> Terms:
        """The mean squared error, over pixels in [-1, 1]; also the mean square of codes, which is 1 under the prior."""
        codes = nets.encoder(batch.images)
        error = mse_loss(nets.generator(codes), batch.images)
        return Terms({"reconstruction": error}, {"mean_square_of_codes": codes.square().mean()})

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(z)] − E[log(1 − D(q(x)))], z ~ N(0, I)."""
        real = nets.discriminator(batch.latents)
        return Terms(logistic_terms(real, nets.discriminator(nets.encoder(batch.images))))

    def encoder(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(q(x))], weighted."""
        loss = non_saturating_loss(nets.discriminator(nets.encoder(batch.images)))
        return Terms({"fake": self.settings.adversarial_weight * loss})

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """Draws of the prior."""
        return Inputs(batch.latents)

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """Codes of images for the discriminator, draws of the prior for the decoder, and images for the encoder."""
        if slot == "encoder":
            return Inputs(batch.images)
        return Inputs(nets.encoder(batch.images) if slot == "discriminator" else batch.latents)

    def readings(self) -> Mapping[str, Reading]:
        """The code of an image, and the decoder's output for it."""
        return {
            "encodings": lambda nets, batch: nets.encoder(batch.images),
            "reconstructions": lambda nets, batch: nets.generator(nets.encoder(batch.images)),
        }
