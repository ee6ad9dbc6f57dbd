"""Regularisers: penalties on one network, added to any loss that has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from ganrun.contracts.beginning import values_of
from ganrun.contracts.components import Component
from ganrun.contracts.losses import Batch, Loss, Nets
from ganrun.contracts.memory import Memory
from ganrun.contracts.scheduled import Scheduled
from ganrun.contracts.settings import Settings


class RegularizerSettings(Settings):
    """The settings of every regulariser."""

    slot: str = "discriminator"
    """The network that it acts on, by its slot in the loss."""

    weight: Scheduled = Field(Scheduled(start=1.0), ge=0)
    """Factor of the penalty; a schedule may change it."""

    every: int = Field(1, ge=1)
    """Steps between two penalties; each is then scaled by that number (lazy regularisation, StyleGAN2, section 3.1)."""


class Regularizer(Component, ABC):
    """A penalty on the network in one slot, minimised together with the loss's own terms: R1, DRAGAN, path length.

        class R1(ganrun.Regularizer):
            \"""Gradient penalty on real images (Mescheder et al. 2018, equation 9).\"""

            class Settings(ganrun.RegularizerSettings):
                weight: ganrun.Scheduled = Field(ganrun.Scheduled(start=10.0), ge=0)
                \"""γ.\"""

            def penalty(self, nets, batch, slot):
                real = self.loss.real_inputs(slot, batch)
                critic = partial(getattr(nets, slot), **real.conditions)
                return ganrun.squared_gradient_norms(critic, real.inputs).mean() / 2

    Built from its settings and the loss, which knows how its networks are called: `self.loss.real_inputs` and
    `self.loss.generated_inputs` give images with their labels. `__init__` raises `IncompatibleError` if the loss or its
    data are unsuitable; the random stream is seeded when it runs.

    The weight and `every` are the engine's: `penalty` knows neither. With `every = 1`, the penalty is a term of each
    phase that trains the slot; else it is a phase itself, in which it counts `every` times.
    """

    Settings = RegularizerSettings

    second_order: ClassVar[bool] = True
    """Whether the penalty differentiates a gradient. Such a phase is never compiled."""

    reads_images: ClassVar[bool] = True
    """Whether it uses real images. The phase that it joins then reads them too."""

    per_sample: ClassVar[bool] = False
    """Whether each output of the network must depend on its own sample alone, as for `Slot.per_sample`."""

    settings: RegularizerSettings

    def __init__(self, settings: Any, loss: Loss) -> None:
        self.settings = settings
        self.loss = loss
        self.spec = loss.spec
        self.now = values_of(settings)
        """The present values of its settings of type `Scheduled`, by name."""
        self.memory = Memory()
        """State kept from step to step, such as a mean: buffers, changed in place. They are part of a checkpoint."""

    @classmethod
    def class_fault(cls) -> str | None:
        """As `Component.class_fault`; its settings must also derive from `RegularizerSettings`."""
        if not (isinstance(cls.Settings, type) and issubclass(cls.Settings, RegularizerSettings)):
            return "whose Settings are not a subclass of ganrun.RegularizerSettings"
        return super().class_fault()

    def prepare(self, nets: Nets) -> None:
        """Add buffers to the memory whose size depends on a network's weights, such as their mean:

            weights = getattr(nets, self.settings.slot).weights()
            self.memory.register_buffer("mean", torch.zeros(sum(each.numel() for each in weights.values())))

        Called once, with freshly initialised networks, without gradients. When a run continues, its checkpoint then
        overwrites the memory. Does nothing unless overridden.

        Raises:
            IncompatibleError: if the networks are unsuitable.
        """

    @abstractmethod
    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        """The penalty, a scalar ≥ 0: a mean over the batch, or a function of weights alone.

        Args:
            nets: The networks; `getattr(nets, slot)` is the one that it acts on. Those that the phase does not train
                are frozen.
            batch: Real images, unless the class says `reads_images = False`, and latents.
            slot: The setting `slot`.
        """
