"""Improved techniques for training GANs (Salimans et al. 2016, arXiv:1606.03498): those that are penalties."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ganrun import (
    Batch,
    IncompatibleError,
    Loss,
    Nets,
    Regularizer,
    RegularizerSettings,
    View,
    feature_distance,
)


class FeatureMatching(Regularizer):
    """Feature matching: samples have the same mean features as real images, those of the discriminator.

    Salimans et al. 2016 (arXiv:1606.03498), section 3.1. There it replaces the generator's objective, as in the loss
    `feature-matching`; here it is added to that of any loss.
    """

    second_order = False

    class Settings(RegularizerSettings):
        slot: str = "generator"
        """The network whose samples are matched, by its slot in the loss."""

        discriminator: str = "discriminator"
        """The network with the features, by its slot in the loss. It needs a method `features`."""

    settings: Settings

    def __init__(self, settings: Settings, loss: Loss) -> None:
        super().__init__(settings, loss)
        slots = [name for name, slot in loss.slots.items() if slot.kind == "discriminator"]
        if settings.discriminator not in slots:
            found = ", ".join(slots) or "none"
            raise IncompatibleError(f'the loss has no discriminator "{settings.discriminator}"; it has {found}')

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """‖E[f(x)] − E[f(G(z))]‖₂², summed over features; f sees images before any augmentation."""
        name = self.settings.discriminator
        view = getattr(nets, name)
        _check_features(view, name)
        real, fake = self.loss.real_inputs(name, batch), self.loss.generated_inputs(name, nets, batch)
        return feature_distance(*(view.features(each.inputs, **each.conditions) for each in (real, fake)))


def _check_features(discriminator: View, name: str) -> None:
    if not hasattr(discriminator, "features"):
        raise IncompatibleError(f'the network of the {name} has no method features; take one that has, such as "dcgan"')


class HistoricalAveraging(Regularizer):
    """Historical averaging: weights stay near the mean of their past values, which damps cycles.

    Salimans et al. 2016 (arXiv:1606.03498), section 3.3: a term for each player. So a recipe has one for each slot.
    """

    second_order = False

    reads_images = False

    def __init__(self, settings: Any, loss: Loss) -> None:
        super().__init__(settings, loss)
        self.memory.register_buffer("count", torch.zeros(()))
        self.memory.register_buffer("last_step", torch.full((), -1.0))

    def prepare(self, nets: Nets) -> None:
        """Allocate a mean of every weight."""
        weights = getattr(nets, self.settings.slot).weights()
        self.memory.register_buffer("mean", torch.zeros(sum(each.numel() for each in weights.values())))

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """‖θ − (1/t) Σ θ[i]‖², θ[i] the weights at the start of step i, over all steps until now."""
        weights = torch.cat([each.flatten() for each in getattr(nets, slot).weights().values()])
        self._remember(weights.detach(), batch.step)
        return (weights - self.memory.mean).square().sum()

    def _remember(self, weights: Tensor, step: Tensor) -> None:
        """Once per step, regardless of its number of updates and parts of a batch."""
        memory = self.memory
        is_new = (memory.last_step != step).float()
        memory.count.add_(is_new)
        memory.mean.lerp_(weights, is_new / memory.count)
        memory.last_step.copy_(step)
