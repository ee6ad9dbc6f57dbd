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
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError
from ganrun.contracts import settings as base
from ganrun.contracts.beginning import values_of
from ganrun.contracts.components import Component
from ganrun.contracts.data import Split
from ganrun.contracts.memory import Memory
from ganrun.contracts.slots import Slot
from ganrun.contracts.specs import DataSpec, Factor, Ports
from ganrun.contracts.views import View


@dataclass(frozen=True)
class Batch:
    """The input of a phase's objective. Tensors are on the run's device."""

    latents: Tensor
    """`(size, latent_size)`, drawn by the loss's `latents` for each update; given factors come from the batch's own
    records."""

    real_images: Tensor | None = None
    """Read them as `images`."""

    real_labels: Tensor | None = None
    """Read them as `labels`."""

    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """The data's further fields by name; read one as `batch["source"]`."""

    steps_done: Tensor | None = None
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

    def __getitem__(self, name: str) -> Tensor:
        """A field of the data's records `(size, *shape)`, in [-1, 1]: `batch["source"]`.

        Raises:
            ContractError: if the data has no such field, or the phase says `reads_images=False`.
        """
        if name not in self.beside:
            known = ", ".join(self.beside) or "none, or the phase says reads_images=False"
            raise ContractError(f'the objective uses batch["{name}"]; the fields of the data are: {known}')
        return self.beside[name]

    @property
    def step(self) -> Tensor:
        """Steps done so far, as a float scalar on the batch's device, for weights that change during training."""
        return self.latents.new_zeros(()) if self.steps_done is None else self.steps_done

    def chunks(self, count: int) -> Iterator[Batch]:
        """The batch split into `count` equal parts, for gradient accumulation."""
        for part in range(count):
            rows = slice(part * self.size // count, (part + 1) * self.size // count)
            yield replace(
                self,
                latents=self.latents[rows],
                real_images=None if self.real_images is None else self.real_images[rows],
                real_labels=None if self.real_labels is None else self.real_labels[rows],
                beside={name: each[rows] for name, each in self.beside.items()},
            )


class Inputs(NamedTuple):
    """The arguments of a network: `view(at.inputs, **at.conditions)`."""

    inputs: Tensor
    """The first argument, `(size, *ports.inputs)`."""

    conditions: Mapping[str, Tensor] = {}
    """The keyword arguments, by the names in the slot's ports."""


class Nets:
    """The networks of a loss by slot, each as a `View`: `nets.generator(latents)`.

    Networks that the phase does not train are frozen: their weights get no gradient, and they build no graph
    unless an input needs one. So an objective needs no `detach` and no `no_grad`.
    """

    def __init__(self, views: Mapping[str, View]) -> None:
        for slot, view in views.items():  # torch 2.10 cannot export an update of __dict__
            setattr(self, slot, view)

    def __getattr__(self, slot: str) -> View:
        raise ContractError(f'the loss has no slot "{slot}"; its slots are {", ".join(self.__dict__)}')


@dataclass(frozen=True)
class Terms:
    """The result of an objective: scalars, each a mean over the batch."""

    minimise: Mapping[str, Tensor]
    """Their sum is minimised. Every call returns the same names."""

    report: Mapping[str, Tensor] = field(default_factory=dict)
    """Logged only, never differentiated; any real type. NaN and infinity are logged as null and, unlike in a term, do
    not end the run."""


Objective = Callable[[Nets, Batch], Terms]
"""`objective(nets, batch) -> Terms`"""


Reading = Callable[[Nets, Batch], Tensor]
"""`reading(nets, batch) -> Tensor`, `(size, …)`"""


@dataclass(frozen=True)
class Phase:
    """One kind of update within a step."""

    name: str
    """Part of the logged names: `loss/<phase>`, `loss/<phase>.<term>`."""

    objective: Objective

    trains: tuple[str, ...]
    """The slots whose weights it updates; all others are frozen."""

    repeat: int = 1
    """Updates per step, each on a new batch. A recipe's `[train] repeat` goes before it."""

    every: int = 1
    """Runs in steps 1, 1 + every, 1 + 2·every, … (lazy regularisation)."""

    reads_images: bool = True
    """Whether it uses real images. A GAN's generator update does not."""

    second_order: bool = False
    """Whether the objective differentiates a gradient, as a gradient penalty does, or a graph several times. Such a
    phase is never compiled."""

    project: Callable[[nn.Module], None] | None = None
    """Applied to each trained network after each update, without gradients; for example weight clipping."""


class Loss(Component, ABC):
    """A training objective, built from its settings and the data's spec.

    Subclasses define `slots` and `phases`. All other methods have defaults.
    """

    Sampling: ClassVar[type[base.Settings]] = base.Settings
    """How samples are made from latents, without effect on the weights: truncation, steps of a sampler. A nested
    subclass of `ganrun.Settings`, as `Settings` is; its values come from the recipe's table `[sampling]`, may change
    after training and are part of every score's protocol. Each setting needs a default, so that earlier runs have
    one."""

    slots: ClassVar[Mapping[str, Slot]]
    """The networks it needs, by role."""

    paired: ClassVar[bool] = True
    """Whether the parts of a record belong together. If not, images and each field of the data are shuffled
    independently, and their counts may differ (CycleGAN)."""

    memory: Memory
    """State that the loss keeps from step to step: buffers, changed in place. Made by `__init__`, where a loss adds its
    buffers:

        self.memory.register_buffer("path_mean", torch.zeros(()))

    It moves to the run's device, is part of every checkpoint and goes with the model. It holds no parameters: what is
    trained is a slot. Nothing else on a loss may change. `prepare` fills in what depends on the training data."""

    label_factor: ClassVar[str] = "class"
    """The factor of the latents that networks take as labels: `class`, whose labels are the data's, unless the loss
    makes labels itself."""

    repeat: ClassVar[Mapping[str, int]] = {}
    """Updates per step of the phases that train a slot, if its paper uses several: `{"discriminator": 5}`. A recipe
    sets them for any loss, by `[train] repeat`."""

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        self.settings = settings
        self.spec = spec
        self.now = values_of(settings)
        """The present values of its settings of type `Scheduled`, by name."""
        self.memory = Memory()

    @classmethod
    def class_fault(cls) -> str | None:
        """As `Component.class_fault`; a loss must also have slots, and settings of its sampling with defaults."""
        fault = super().class_fault()
        if fault or not getattr(cls, "slots", None):
            return fault or "whose class does not define slots"
        if not (isinstance(cls.Sampling, type) and issubclass(cls.Sampling, base.Settings)):
            return "whose Sampling is not a subclass of ganrun.Settings"
        required = [name for name, field in cls.Sampling.model_fields.items() if field.is_required()]
        return f"whose Sampling.{required[0]} has no default" if required else None

    @property
    def latent_size(self) -> int:
        """Length of a latent vector: the setting `latent_size`, unless overridden."""
        return int(self.settings.latent_size)

    @property
    def classes(self) -> int:
        """Number of classes of the labels that its networks take: that of the data, unless the loss makes labels."""
        return self.spec.classes

    def factors(self) -> Sequence[Factor]:
        """The parts of a latent vector, in order, with distinct names: only noise, unless overridden."""
        return (Factor("noise", self.latent_size, "noise"),)

    def ports(self, slot: str) -> Ports:
        """The shapes that the loss passes to the network in a slot, and expects back.

        Unless overridden, a generator makes samples of whole latent vectors, and a discriminator makes one number, or
        one map of numbers, of each sample.

        Raises:
            ContractError: for a slot of kind network, whose ports only the loss knows.
        """
        kind = self.slots[slot].kind
        if kind == "network":
            raise ContractError(f'the loss does not define the ports of its slot "{slot}"; define ports(slot)')
        return (
            Ports((self.latent_size,), self.spec.sample_shape)
            if kind == "generator"
            else Ports(self.spec.sample_shape, (1, ...))
        )

    def prepare(self, training: Split) -> None:
        """Fill the memory from the training records, for example with class frequencies.

            self.memory.mean.copy_(torch.from_numpy(training.images.mean(axis=0)))

        Called when a run starts or continues, before networks are tried, without gradients and on the CPU. A checkpoint
        overrides the result; loaded and exported models contain their memory. `ganrun check` has no records and uses
        the memory as `__init__` leaves it. Does nothing unless overridden.

        Args:
            training: The share of the train split that the run trains on. Do not change it.

        Raises:
            IncompatibleError: if the loss cannot be trained on them.
        """

    def latents(self, size: int, device: torch.device) -> Tensor:
        """Draw `(size, latent_size)` latents on `device` from the global random stream: noise unless overridden."""
        return self.draw_noise(size, self.latent_size, device)

    def draw_noise(self, size: int, length: int, device: torch.device) -> Tensor:
        """Draw noise, float32 `(size, length)`, for the latents or a part of them: N(0, I) unless overridden."""
        return torch.randn(size, length, device=device)

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """Samples `(size, *sample_shape)` in [-1, 1] for scores and pictures.

        Args:
            nets: In evaluation mode.
            latents: `(size, latent_size)`.
            sampling: An instance of the loss's `Sampling`.
        """
        return nets.generator(latents)

    def real_inputs(self, slot: str, batch: Batch) -> Inputs:
        """The inputs on which objectives call a discriminator for real records; used by regularisers, and to adjust
        augmentations.

        Unless overridden, the images, under the conditions that the slot's ports name: the labels, and the records'
        fields. A loss whose discriminator takes something else, such as pairs of images or a field of the records,
        overrides both methods.

        Args:
            slot: A slot of kind discriminator.
            batch: Real records; it may have no latents.

        Raises:
            ContractError: if the network takes no images, or the data lacks a condition.
        """
        self._check_judges_samples(slot)
        names = self.ports(slot).conditions
        return Inputs(batch.images, {name: _real_condition(name, batch) for name in names})

    def generated_inputs(self, slot: str, nets: Nets, batch: Batch) -> Inputs:
        """The inputs on which objectives call a network for samples of the batch's latents; used by regularisers.

        Unless overridden, the latents for a generator, and their samples for a discriminator, by `generate` and the
        defaults of `Sampling`; under the conditions that the slot's ports name: factors of the latents, with
        `label_factor` as labels.

        Raises:
            ContractError: if the network takes something else, or the latents have no such factor.
        """
        names = self.ports(slot).conditions
        conditions = {name: self._condition_in(batch.latents, slot, name) for name in names}
        if self.slots[slot].kind == "generator":
            return Inputs(batch.latents, conditions)
        self._check_judges_samples(slot)
        return Inputs(self.generate(nets, batch.latents, self.Sampling()), conditions)

    def readings(self) -> Mapping[str, Reading]:
        """Functions that the model computes of real records, by name: `{"log_likelihood": self.log_likelihood}`; none
        by default.

        A reading returns a row for each record, `(size, …)`. It gets networks in evaluation mode, and a batch with the
        records' images, labels (None where the data has none) and fields, latents that `latents` has drawn, and step 0.
        Metrics request it by name; users call `Model.read`. Two names have a fixed meaning:

            encodings          latents `(size, latent_size)`: probabilities of categorical factors, 0 for what cannot be
                               inferred
            reconstructions    samples `(size, *sample_shape)` in [-1, 1]; metrics get them in the data's format
        """
        return {}

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases of a step, in order."""

    def _check_judges_samples(self, slot: str) -> None:
        takes = self.ports(slot).inputs
        if takes != self.spec.sample_shape:
            text = f"its {slot} takes {takes}, and samples are {self.spec.sample_shape}"
            raise ContractError(
                f"{text}; to show it records or samples, the loss must define real_inputs and generated_inputs"
            )

    def _condition_in(self, latents: Tensor, slot: str, name: str) -> Tensor:
        """A condition of a network as the latents have it: `(size, *shape)`, or labels `(size,)`."""
        wanted = self.label_factor if name == "labels" else name
        factors = self.factors()
        for part, factor in zip(torch.split(latents, [each.size for each in factors], dim=1), factors, strict=True):
            if factor.name == wanted:
                shape = self.ports(slot).conditions[name]
                return part.argmax(1) if name == "labels" else part.reshape(-1, *shape)
        text = f'its {slot} needs {name}, and its latents have no factor "{wanted}"'
        raise ContractError(f"{text}; to show it samples, the loss must define generated_inputs")


def _real_condition(name: str, batch: Batch) -> Tensor:
    if name != "labels":
        return batch[name]
    if batch.labels is None:
        raise ContractError("a network takes labels, and the training images have none")
    return batch.labels
