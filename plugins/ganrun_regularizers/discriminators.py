"""Penalties on a discriminator's outputs: for transformed images, and relative to its past outputs."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ganrun import Batch, Loss, Nets, Regularizer, RegularizerSettings, Scheduled, mean_over_ranks
from ganrun_regularizers.judging import logits

# ── CR-GAN: Zhang et al. 2020, arXiv:1910.12027 ───────────────────────────────────────────────────────────


class Consistency(Regularizer):
    """Consistency: a discriminator's output does not change when an image is mirrored and shifted.

    Zhang et al. 2020 (arXiv:1910.12027), equation 3 at the last layer, on real images.
    """

    second_order = False

    class Settings(RegularizerSettings):
        weight: Scheduled = Field(Scheduled(start=10.0), ge=0)
        """λ."""

        shift: int = Field(4, ge=0)
        """Largest shift in pixels, up, down, left and right; the edge is repeated."""

        flip: bool = True
        """Whether images are mirrored, each with probability ½."""

    settings: Settings

    def __init__(self, settings: Settings, loss: Loss) -> None:
        super().__init__(settings, loss)
        _ = self.spec.image_shape  # refuses points

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """E[(D(x) − D(T(x)))²], T drawn independently for each image."""
        real = self.loss.real_inputs(slot, batch)
        judge = logits(getattr(nets, slot), real.conditions)
        changed = shifted(real.inputs, self.settings.shift)
        changed = mirrored(changed) if self.settings.flip else changed
        return (judge(real.inputs) - judge(changed)).square().mean()


def mirrored(images: Tensor) -> Tensor:
    """Images `(batch, channels, height, width)`, each mirrored with probability ½."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(3), images)


def shifted(images: Tensor, most: int) -> Tensor:
    """Images `(batch, channels, height, width)`, each shifted by up to `most` pixels; the edge is repeated."""
    count, _, height, width = images.shape
    down, right = torch.randint(-most, most + 1, (2, count, 1), device=images.device)
    rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
    index = torch.arange(count, device=images.device)
    moved = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (batch, height, width, channels)
    return moved.permute(0, 3, 1, 2)


# ── LeCam: Tseng et al. 2021, arXiv:2104.03310 ────────────────────────────────────────────────────────────


class LeCam(Regularizer):
    """LeCam: outputs for real images stay near the past mean for samples, and vice versa.

    Tseng et al. 2021 (arXiv:2104.03310), section 3.2. It keeps a discriminator from memorising little data.
    """

    second_order = False

    class Settings(RegularizerSettings):
        weight: Scheduled = Field(Scheduled(start=0.3), ge=0)
        """λ, in units of the discriminator's squared output."""

        decay: float = Field(0.99, ge=0, lt=1)
        """γ: decay of the moving averages α_R and α_F, per penalty."""

    settings: Settings

    def __init__(self, settings: Settings, loss: Loss) -> None:
        super().__init__(settings, loss)
        for name in ("real", "fake", "penalties"):
            self.memory.register_buffer(name, torch.zeros(()))

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """E[(D(x) − α_F)²] + E[(D(G(z)) − α_R)²], where α_R and α_F are moving averages of D(x) and D(G(z)).

        The averages start at the means of the first batch, and follow before they are used.
        """
        view = getattr(nets, slot)
        real, fake = self.loss.real_inputs(slot, batch), self.loss.generated_inputs(slot, nets, batch)
        of_real, of_fake = logits(view, real.conditions)(real.inputs), logits(view, fake.conditions)(fake.inputs)
        self._follow(of_real, of_fake)
        anchor_real, anchor_fake = self.memory.real.clone(), self.memory.fake.clone()
        return (of_real - anchor_fake).square().mean() + (of_fake - anchor_real).square().mean()

    @torch.no_grad()
    def _follow(self, of_real: Tensor, of_fake: Tensor) -> None:
        memory = self.memory
        weight = torch.where(memory.penalties == 0, 1.0, 1 - self.settings.decay)
        memory.real.lerp_(mean_over_ranks(of_real.mean()), weight)
        memory.fake.lerp_(mean_over_ranks(of_fake.mean()), weight)
        memory.penalties.add_(1)
