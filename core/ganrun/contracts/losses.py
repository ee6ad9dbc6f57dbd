"""The training objective: its slots, its latents and its phases.

The author of a loss writes the maths. The runner owns devices, precision, freezing, accumulation, averaging,
optimisers and logging; a loss never calls backward.

    class Gan(Loss):
        slots = {"generator": Slot("generator", averaged=True), "discriminator": Slot("discriminator")}

        def phases(self):
            return (
                Phase("discriminator", self.discriminator, trains=("discriminator",)),
                Phase("generator", self.generator, trains=("generator",), reads_images=False),
            )

        def discriminator(self, nets, batch):
            real = nets.discriminator(batch.images)
            fake = nets.discriminator(nets.generator(batch.latents))
            return Terms(minimise={"real": softplus(-real).mean(), "fake": softplus(fake).mean()})

`ganrun.AdversarialLoss` has these slots and phases already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError
from ganrun.contracts.components import Component
from ganrun.contracts.specs import DataSpec, Factor

Network = Callable[..., Tensor]
"""A network as an objective calls it: `network(inputs, labels=None)`. It returns float32 at any precision inside."""


@dataclass(frozen=True)
class Slot:
    """The role of a network in a loss. A recipe has one table per slot, with the slot's name."""

    kind: Literal["generator", "discriminator"]
    """Which kind of component fills it."""

    averaged: bool = False
    """Whether an exponential moving average of its weights is kept. Scores and pictures then use the average."""

    labelled: bool = False
    """Whether objectives call it with labels. A network that ignores its labels is refused."""

    augmented: bool = False
    """Whether it sees both real and generated images, as a discriminator does and an encoder does not: there stands
    the recipe's `[augmentation]`."""

    per_sample: bool = False
    """Whether each output must depend on its own sample alone, as a gradient penalty per sample requires. With batch
    norm it does not; the user is warned of such a network."""


@dataclass(frozen=True)
class Batch:
    """The input of a phase's objective. Tensors are on the run's device."""

    latents: Tensor
    """`(size, latent_size)`, drawn by the loss's `latents` for each update."""

    real_images: Tensor | None = None
    """Read them as `images`."""

    real_labels: Tensor | None = None
    """Read them as `labels`."""

    steps_done: int = 0
    """Read it as `step`."""

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.latents)

    @property
    def images(self) -> Tensor:
        """Real images `(size, *sample_shape)` in [-1, 1].

        Raises:
            ContractError: in a phase with `reads_images=False`.
        """
        if self.real_images is None:
            raise ContractError("the objective uses batch.images, but its phase says reads_images=False")
        return self.real_images

    @property
    def labels(self) -> Tensor | None:
        """int64 labels `(size,)` of `images`, or None where the data has none."""
        return self.real_labels

    @property
    def step(self) -> Tensor:
        """Steps done so far, as a float scalar on the batch's device, for weights that change during training."""
        return torch.tensor(float(self.steps_done), device=self.latents.device)

    def chunks(self, count: int) -> Iterator[Batch]:
        """The batch in `count` equal parts, for gradient accumulation."""
        latents = self.latents.chunk(count)
        images = self.real_images.chunk(count) if self.real_images is not None else [None] * count
        labels = self.real_labels.chunk(count) if self.real_labels is not None else [None] * count
        for part in zip(latents, images, labels, strict=True):
            yield Batch(*part, steps_done=self.steps_done)


class Nets:
    """The networks of a loss by slot: `nets.generator(latents)`.

    Networks that the phase does not train are frozen: their weights get no gradient, and they build no graph
    unless an input needs one. So an objective needs no `detach` and no `no_grad`.
    """

    def __init__(self, networks: Mapping[str, Network]) -> None:
        for slot, network in networks.items():  # torch 2.10 cannot export an update of __dict__
            setattr(self, slot, network)

    def __getattr__(self, slot: str) -> Network:
        raise ContractError(f'the loss has no slot "{slot}"; its slots are {", ".join(self.__dict__)}')


@dataclass(frozen=True)
class Terms:
    """The result of an objective: scalars, each a mean over the batch."""

    minimise: Mapping[str, Tensor]
    """Their sum is minimised. Every call returns the same names."""

    report: Mapping[str, Tensor] = field(default_factory=dict)
    """Logged only, never differentiated."""


Objective = Callable[[Nets, Batch], Terms]
"""`objective(nets, batch) -> Terms`"""


@dataclass(frozen=True)
class Phase:
    """One kind of update within a step."""

    name: str
    """Part of the logged names: `loss/<phase>`, `loss/<phase>.<term>`."""

    objective: Objective

    trains: tuple[str, ...]
    """The slots whose weights it updates; all others are frozen."""

    repeat: int = 1
    """Updates per step, each on a new batch (n_critic)."""

    every: int = 1
    """Runs in steps 1, 1 + every, 1 + 2·every, … (lazy regularisation)."""

    reads_images: bool = True
    """Whether it uses real images. A GAN's generator update does not."""

    second_order: bool = False
    """Whether the objective differentiates a gradient, as a gradient penalty does. Such a phase is never compiled."""

    project: Callable[[nn.Module], None] | None = None
    """Applied to each trained network after each update, without gradients; for example weight clipping."""


class Loss(Component, ABC):
    """A training objective, built from its settings and the data's spec.

    Subclasses define `slots` and `phases`. All other methods have defaults.
    """

    slots: ClassVar[Mapping[str, Slot]]
    """The networks it needs, by role."""

    repeat: ClassVar[Mapping[str, int]] = {}
    """Updates per step of the phases that train a slot, where its paper has several: `{"discriminator": 5}`. A recipe
    sets them for any loss, by `[train] repeat`."""

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        self.settings = settings
        self.spec = spec

    @classmethod
    def class_fault(cls) -> str | None:
        """As `Component.class_fault`; a loss must also have slots."""
        return super().class_fault() or (None if getattr(cls, "slots", None) else "whose class does not define slots")

    @property
    def latent_size(self) -> int:
        """Length of a latent vector: the setting `latent_size`, unless overridden."""
        return int(self.settings.latent_size)

    def factors(self) -> Sequence[Factor]:
        """The parts of a latent vector, in order, with different names: noise alone, unless overridden."""
        return (Factor("noise", self.latent_size, "noise"),)

    def in_features(self, slot: str) -> int:
        """Number of latents that the network in a slot of kind generator takes: all, unless overridden."""
        return self.latent_size

    def out_features(self, slot: str) -> int:
        """Length of the vector that a slot of kind discriminator must return per image: 1, unless overridden."""
        return 1

    def latents(self, size: int, device: torch.device) -> Tensor:
        """Draw `(size, latent_size)` latents on `device` from the global random stream: N(0, I) unless overridden."""
        return torch.randn(size, self.latent_size, device=device)

    def generate(self, nets: Nets, latents: Tensor) -> Tensor:
        """Samples `(size, *sample_shape)` in [-1, 1] for scores and pictures."""
        return nets.generator(latents)

    def encode(self, nets: Nets, images: Tensor) -> Tensor | None:
        """Latents `(size, latent_size)` inferred from real images `(size, *sample_shape)` in [-1, 1].

        Categorical factors are probabilities; what cannot be inferred is 0. None where the model does not encode.
        """
        return None

    def reconstruct(self, nets: Nets, images: Tensor) -> Tensor | None:
        """Reconstructions of real images `(size, *sample_shape)` in [-1, 1]; None where the model has no encoder."""
        return None

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases of a step, in order."""
