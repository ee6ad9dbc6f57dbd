"""CycleGAN: two translators that undo each other, learned from images without pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    DataSpec,
    ImageToImageLoss,
    IncompatibleError,
    Inputs,
    Nets,
    Phase,
    Ports,
    Reading,
    Slot,
    Terms,
    View,
)
from ganrun_translation.pool import Pool

_JUDGE = Slot("discriminator", augmented=True, boundary=0.5)


class CycleGan(ImageToImageLoss):
    """CycleGAN: L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc(G, F), with least squares in place of logarithms.

    Zhu et al. 2017 (arXiv:1703.10593), equations 1 to 3 and section 4. G, the slot `generator`, translates sources into
    images; F, `inverse_generator`, images into sources. D_Y, `discriminator`, judges images; D_X,
    `source_discriminator`, judges sources. Their objectives are halved (section 7.1), and each sees, in half of the
    cases, an earlier translation from a pool (section 4). The identity loss is that of section 5.2.
    """

    class Settings(ganrun.Settings):
        cycle_weight: float = Field(10.0, ge=0)
        """λ, the weight of the mean absolute errors of both cycles, of pixels in [-1, 1]."""

        identity_weight: float = Field(0.5, ge=0)
        """Weight of the identity loss, as a multiple of λ: a generator should keep what is of its target domain
        already. 0 for none, as between sources and images of different shapes."""

        pool: int = Field(50, ge=0)
        """Earlier translations that each of the two pools holds; 0 for no pools."""

    settings: Settings

    slots = {
        "generator": Slot("network", averaged=True),
        "inverse_generator": Slot("network", averaged=True),
        "discriminator": _JUDGE,
        "source_discriminator": _JUDGE,
    }
    paired = False

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if len(self.seen) > 1:
            raise IncompatibleError(
                f'it translates in both directions, and only one of them would know the field "{self.seen[1]}"'
            )
        if settings.identity_weight and self.source_shape != spec.sample_shape:
            raise IncompatibleError(
                f"by identity_weight, a generator keeps what is of its target domain, and sources are"
                f" {self.source_shape} where images are {spec.sample_shape}; set identity_weight = 0"
            )
        self.memory.image_pool = Pool(settings.pool, spec.image_shape)
        self.memory.source_pool = Pool(settings.pool, self.source_shape)

    def ports(self, slot: str) -> Ports:
        """Sources to images, images to sources, and either to maps of numbers."""
        source, image = self.source_shape, self.spec.sample_shape
        if slot == "inverse_generator":
            return Ports(image, source)
        return Ports(source, (1, ...)) if slot == "source_discriminator" else super().ports(slot)

    def phases(self) -> Sequence[Phase]:
        """Both generators' phase, then one for each discriminator."""
        return (
            Phase("generators", self.generators, trains=("generator", "inverse_generator")),
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
            Phase("source_discriminator", self.source_discriminator, trains=("source_discriminator",)),
        )

    def generators(self, nets: Nets, batch: Batch) -> Terms:
        """E[(D_Y(G(x)) − 1)²] + E[(D_X(F(y)) − 1)²] + λ (E‖F(G(x)) − x‖₁ + E‖G(F(y)) − y‖₁), and the identity loss."""
        source, image, weight = self.sources(batch), batch.images, self.settings.cycle_weight
        made, unmade = nets.generator(source), nets.inverse_generator(image)
        cycles = _distance(nets.inverse_generator(made), source) + _distance(nets.generator(unmade), image)
        return Terms(
            {
                "fake": (nets.discriminator(made) - 1).square().mean(),
                "fake_source": (nets.source_discriminator(unmade) - 1).square().mean(),
                "cycle": weight * cycles,
                **self._identity(nets, source, image),
            }
        )

    def _identity(self, nets: Nets, source: Tensor, image: Tensor) -> Mapping[str, Tensor]:
        """½ λ (E‖G(y) − y‖₁ + E‖F(x) − x‖₁), with the weight that is set in place of ½."""
        weight = self.settings.cycle_weight * self.settings.identity_weight
        if not weight:
            return {}
        kept = _distance(nets.generator(image), image) + _distance(nets.inverse_generator(source), source)
        return {"identity": weight * kept}

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """½ (E[(D_Y(y) − 1)²] + E[D_Y(G(x))²]), G(x) from the pool in half of the cases."""
        made = self.memory.get_submodule("image_pool")(self.made(nets, batch))
        return _least_squares(nets.discriminator, batch.images, made)

    def source_discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """½ (E[(D_X(x) − 1)²] + E[D_X(F(y))²]), F(y) from the pool in half of the cases."""
        made = self.memory.get_submodule("source_pool")(nets.inverse_generator(batch.images))
        return _least_squares(nets.source_discriminator, self.sources(batch), made)

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """Images, or sources for the discriminator of sources."""
        return Inputs(self.sources(batch) if slot == "source_discriminator" else batch.images)

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """A generator's inputs, or the translations for a discriminator, without the pool."""
        if slot == "inverse_generator":
            return Inputs(batch.images)
        if slot == "source_discriminator":
            return Inputs(nets.inverse_generator(batch.images))
        return super().generated_inputs(slot, nets, batch)

    def readings(self) -> Mapping[str, Reading]:
        """`encodings`, images translated into sources, and `reconstructions`, these translated back."""
        return {"encodings": self._encodings, "reconstructions": self._reconstructions}

    def _encodings(self, nets: Nets, batch: Batch) -> Tensor:
        return nets.inverse_generator(batch.images).flatten(1)

    def _reconstructions(self, nets: Nets, batch: Batch) -> Tensor:
        return nets.generator(nets.inverse_generator(batch.images))


def _distance(images: Tensor, others: Tensor) -> Tensor:
    """E‖x − y‖₁, a mean over pixels: a scalar."""
    return (images - others).abs().mean()


def _least_squares(discriminator: View, real: Tensor, made: Tensor) -> Terms:
    outputs, of_made = discriminator(real), discriminator(made)
    return Terms({"real": (outputs - 1).square().mean() / 2, "fake": of_made.square().mean() / 2})
