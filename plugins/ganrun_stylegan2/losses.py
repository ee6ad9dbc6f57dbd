"""StyleGAN2's objectives: logistic losses, style mixing, and truncated styles for samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    ClassInLatents,
    Inputs,
    LogisticLoss,
    Nets,
    Ports,
    Slot,
    Terms,
    non_saturating_loss,
)


class _Settings(LogisticLoss.Settings):
    mixing: float = Field(0.9, ge=0, le=1)
    """Probability that a batch's styles are mixed: from a random layer on, they are those of other latents."""


class StyleGan2(LogisticLoss):
    """StyleGAN2: the non-saturating GAN loss on styles that are mixed in training, and truncated for samples.

    Karras et al. 2020 (arXiv:1912.04958); style mixing and truncation are those of Karras et al. 2019
    (arXiv:1812.04948), section 3.1 and appendix B. Path length and R1 are regularisers of a recipe.
    """

    class Settings(_Settings):
        latent_size: int = Field(512, ge=1)
        """Length of z."""

    class Sampling(ganrun.Settings):
        psi: float = Field(1.0, ge=0)
        """ψ of w̄ + ψ (w − w̄), where w̄ is the mean style: 1 leaves styles unchanged, less trades variety for typical
        samples, 0 yields only the mean image."""

    slots = {
        **LogisticLoss.slots,
        "generator": Slot("generator", averaged=True, methods=("mapping", "synthesis")),
    }

    settings: _Settings

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """E[softplus(−D(x))] + E[softplus(D(g(w)))]."""
        fake = self.generated_inputs("discriminator", nets, batch)
        real = self.real_inputs("discriminator", batch)
        of_real, of_fake = (nets.discriminator(each.inputs, **each.conditions) for each in (real, fake))
        return Terms(self.logistic_terms(of_real, of_fake), {"sign_real": of_real.sign().mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """E[softplus(−D(g(w)))]."""
        fake = self.generated_inputs("discriminator", nets, batch)
        return Terms({"fake": non_saturating_loss(nets.discriminator(fake.inputs, **fake.conditions))})

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """g(w̄ + ψ (w − w̄)), in [-1, 1]."""
        noise, conditions = self.split(latents)
        styles = nets.generator.mapping(noise, **conditions)
        truncated = torch.lerp(nets.generator.style_mean, styles, sampling.psi)
        samples: Tensor = nets.generator.synthesis(truncated)
        return samples.clamp(-1, 1)

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """For the discriminator, samples as in training: of mixed styles, and not bounded."""
        noise, conditions = self.split(batch.latents)
        if slot == "generator":
            return Inputs(noise, conditions)
        samples = nets.generator.synthesis(self.mixed_styles(nets, batch.latents))
        return Inputs(samples, conditions)

    def mixed_styles(self, nets: Nets, latents: Tensor) -> Tensor:
        """A style for each layer, `(batch, layers, style_size)`.

        With probability `mixing`, layers from one on that is drawn for the whole batch have the styles of other noise.
        """
        noise, conditions = self.split(latents)
        styles: Tensor = nets.generator.mapping(noise, **conditions)
        if self.settings.mixing == 0:
            return styles
        drawn = self.draw_noise(len(noise), noise.shape[1], noise.device)
        others = nets.generator.mapping(drawn, **conditions, remembered=False)
        return torch.where(self._is_other(styles.shape[1], styles.device)[:, None], others, styles)

    def split(self, latents: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The generator's inputs: noise `(size, n)`, and its conditions."""
        return latents, {}

    def _is_other(self, layers: int, device: torch.device) -> Tensor:
        """Which layers have other styles, `(layers,)`: those from one of 1, …, layers − 1 on, or none."""
        start = torch.randint(1, layers, (), device=device)
        start = torch.where(torch.rand((), device=device) < self.settings.mixing, start, layers)
        return torch.arange(layers, device=device) >= start


class ConditionalStyleGan2(StyleGan2, ClassInLatents):
    """StyleGAN2 by class: both networks get the class as labels.

    As `stylegan2`, with the class as in Karras et al. 2020 (arXiv:2006.06676). The authors draw the classes of samples
    from the labels of the training images, as `draw_classes = "as-data"` does. Unless a recipe says so, all classes are
    equally likely here.
    """

    class Settings(ClassInLatents.Settings, _Settings):
        noise_size: int = Field(512, ge=1)
        """Length of z. The one-hot class follows it in a latent vector."""

    settings: Settings

    def ports(self, slot: str) -> Ports:
        """Both networks get the class as labels."""
        return super().ports(slot)._replace(conditions={"labels": ()})

    def split(self, latents: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Noise, and the class as labels."""
        noise, classes = self.noise_and_classes(latents)
        return noise, {"labels": classes}
