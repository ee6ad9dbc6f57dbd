"""Class-conditional losses on a critic's raw output: hinge, and Wasserstein with gradient penalty.

Both are made for a projection discriminator (Miyato and Koyama 2018, arXiv:1802.05637), and work with any two networks
that take labels.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import (
    AdversarialLoss,
    Batch,
    ClassInLatents,
    DataSpec,
    IncompatibleError,
    Inputs,
    Nets,
    Phase,
    Ports,
    Scheduled,
    Slot,
    Terms,
    distance_from_one,
    gradient_norms,
    interpolates,
    labels_of,
)
from ganrun_conditional.truncation import truncated


class _ConditionalCriticGan(ClassInLatents, AdversarialLoss):
    """Five critic updates per generator update unless the recipe says otherwise."""

    class Settings(ClassInLatents.Settings, AdversarialLoss.Settings):
        noise_size: int = Field(128, ge=1)
        """Length of the noise. The one-hot class follows it in a latent vector."""

        generator_samples: int = Field(1, ge=1)
        """Samples in a generator update, as a multiple of the batch. The authors of SNGAN and WGAN-GP have 2."""

        dequantise: bool = False
        """Whether noise is added to real images, uniform and as wide as one of their 256 grey levels, as the authors of
        SNGAN do. Generated images get none."""

    class Sampling(ganrun.Settings):
        truncation: float | None = Field(None, gt=0)
        """Largest magnitude of the noise of samples, as if larger values were drawn again (BigGAN, section 3.1): less
        trades variety for typical samples. Not truncated unless given. Only for `latents = "normal"`."""

    settings: Settings

    repeat = {"discriminator": 5}

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        if settings.dequantise:
            _ = spec.image_shape  # refuses points

    def ports(self, slot: str) -> Ports:
        """Both networks get the class as labels."""
        return super().ports(slot)._replace(conditions={"labels": ()})

    def discriminator_phase(self) -> Phase:
        """Logged as the critic's."""
        return replace(super().discriminator_phase(), name="critic")

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """The images, dequantised where the recipe says so, and their labels."""
        real = super().real_inputs(slot, batch)
        return real._replace(inputs=dequantised(real.inputs)) if self.settings.dequantise else real

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """The critic's loss, on real images with their labels, and on samples with theirs."""
        real, labels = self.real_inputs("discriminator", batch).inputs, labels_of(batch)
        samples, classes = self._samples(nets, batch.latents)
        values = nets.discriminator(real, labels=labels), nets.discriminator(samples, labels=classes)
        return self.critic_terms(nets, Inputs(real, {"labels": labels}), samples, *values)

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[D(G(z|y)|y)], over `generator_samples` times the batch."""
        more = [self.latents(batch.size, batch.latents.device) for _ in range(self.settings.generator_samples - 1)]
        samples, classes = self._samples(nets, torch.cat([batch.latents, *more]))
        return Terms(minimise={"fake": -self.reward(nets.discriminator(samples, labels=classes))})

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """Samples of the classes in the latents, their noise truncated: `(size, *sample_shape)` in [-1, 1]."""
        noise, classes = self.noise_and_classes(latents)
        samples: Tensor = nets.generator(self._truncated(noise, sampling.truncation), labels=classes)
        return samples

    @abstractmethod
    def critic_terms(self, nets: Nets, at: Inputs, samples: Tensor, real: Tensor, fake: Tensor) -> Terms:
        """The critic's terms, from its values of the real images `at` and of the samples, each `(size, 1)`."""

    def reward(self, fake: Tensor) -> Tensor:
        """The scalar that the generator maximises, from the critic's values of samples."""
        return fake.mean()

    def _truncated(self, noise: Tensor, threshold: float | None) -> Tensor:
        if threshold is None:
            return noise
        if self.settings.latents != "normal":
            text = f'[sampling] truncation bounds normal noise, and [loss] says latents = "{self.settings.latents}"'
            raise IncompatibleError(f"{text}; leave one of them out")
        return truncated(noise, threshold)

    def _samples(self, nets: Nets, latents: Tensor) -> tuple[Tensor, Tensor]:
        noise, classes = self.noise_and_classes(latents)
        return nets.generator(noise, labels=classes), classes


class ConditionalHingeGan(_ConditionalCriticGan):
    """The hinge loss with classes: that of conditional SNGAN, SAGAN and BigGAN.

    Miyato and Koyama 2018 (arXiv:1802.05637), on the loss of arXiv:1802.05957, equations 16 and 17. The loss does not
    bound the critic: use one with spectral norm.
    """

    class Settings(_ConditionalCriticGan.Settings):
        top_share: Scheduled = Field(Scheduled(start=1.0), gt=0, le=1)
        """Share of its samples that the generator learns from: those that the critic rates highest. 1 in the papers;
        top-k training (Sinha et al. 2020, arXiv:2002.06224) lowers it exponentially to 0.5."""

    settings: Settings

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, boundary=0.0)}

    def critic_terms(self, nets: Nets, at: Inputs, samples: Tensor, real: Tensor, fake: Tensor) -> Terms:
        """E[max(0, 1 − D(x|y))] + E[max(0, 1 + D(G(z|y)|y))]."""
        return Terms(minimise={"real": (1 - real).relu().mean(), "fake": (1 + fake).relu().mean()})

    def reward(self, fake: Tensor) -> Tensor:
        """The mean of the highest values; of all of them unless `top_share` is below 1."""
        if self.settings.top_share == Scheduled(start=1.0):
            return fake.mean()
        return top_mean(fake.flatten(1).mean(1), self.now["top_share"])


class ConditionalPenalisedWassersteinGan(_ConditionalCriticGan):
    """WGAN-GP with classes: the gradient is penalised between real images and samples, under the real images' labels.

    Gulrajani et al. 2017 (arXiv:1704.00028), equation 3. The penalty is computed per sample, so the critic must have no
    batch norm; layer norm is allowed.
    """

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True, per_sample=True)}

    class Settings(_ConditionalCriticGan.Settings):
        penalty_weight: float = Field(10.0, ge=0)
        """λ, the weight of the gradient penalty."""

        sided: Literal["two", "one"] = "two"
        """Whether the penalty pulls the gradient's norm to 1 from both sides, or only from above."""

    settings: Settings

    def discriminator_phase(self) -> Phase:
        """The penalty differentiates a gradient."""
        return replace(super().discriminator_phase(), second_order=True)

    def critic_terms(self, nets: Nets, at: Inputs, samples: Tensor, real: Tensor, fake: Tensor) -> Terms:
        """E[D(G(z|y)|y)] − E[D(x|y)] + λ·E[(‖∇D(x̂|y)‖₂ − 1)²]."""
        norms = gradient_norms(
            lambda images: nets.discriminator(images, **at.conditions), interpolates(at.inputs, samples)
        )
        penalty = self.settings.penalty_weight * distance_from_one(norms, self.settings.sided)
        means = {"real": -real.mean(), "fake": fake.mean()}
        report = {"wasserstein": real.mean() - fake.mean(), "gradient_norm": norms.mean()}
        return Terms(minimise={**means, "penalty": penalty}, report=report)


def dequantised(images: Tensor) -> Tensor:
    """Images of 256 grey levels in [-1, 1] as (level + u) / 128 − 1, u ~ U(0, 1): still in [-1, 1]."""
    levels = (images + 1) * 127.5
    return (levels + torch.rand_like(levels)) / 128 - 1


def top_mean(values: Tensor, share: Tensor) -> Tensor:
    """The mean of the highest ⌈share · n⌉ of n values `(n,)`; the others get no gradient."""
    counted = torch.arange(len(values), device=values.device) < (share * len(values)).ceil()
    return (values.sort(descending=True).values * counted).sum() / counted.sum()
