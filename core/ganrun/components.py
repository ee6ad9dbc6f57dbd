"""The contracts of the components: what a generator, discriminator, data set, metric or observer is.

A component is a class with nested `Settings`, built from a recipe's table. Its docstring's first line is
its summary in `ganrun list`. The training objective has a page of its own: `ganrun.losses`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ganrun import settings as base
from ganrun.errors import DataError, MisfitError

if TYPE_CHECKING:
    from ganrun.evaluation import Evaluation


@dataclass(frozen=True)
class Factor:
    """A part of the latent vector that has a meaning of its own; factors follow each other without a gap."""

    name: str
    """`class` for the data's own classes; else whatever suits, such as `code_1`."""

    size: int
    """How many latents it takes."""

    kind: Literal["noise", "categorical", "continuous"]
    """noise means nothing in particular; a categorical factor is one-hot; a continuous one is in (-1, 1)."""


@dataclass(frozen=True)
class Problem:
    """The facts that a component is built for."""

    sample_shape: tuple[int, ...]
    """One sample without the batch: (channels, height, width) for images, (features,) for points."""

    classes: int = 0
    """Number of classes of the labels; 0 where the data has none."""

    latent_size: int = 0
    """Length of the vector that a generator takes; 0 for components that take none."""

    out_features: int = 1
    """Length of the vector that a discriminator returns per image, as its slot in the loss asks for."""

    factors: tuple[Factor, ...] = ()
    """What the loss's latent vector is made of; known to networks and metrics."""

    encodes: bool = False
    """Whether the model reads latents off images."""

    reconstructs: bool = False
    """Whether the model makes images of images."""

    labelled: bool = False
    """Whether the network is called with labels, as its slot in the loss says, and must make use of them."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width).

        Raises:
            MisfitError: if the samples are not images.
        """
        if len(self.sample_shape) != 3:
            raise MisfitError(f"works on images (channels, height, width), not on samples of shape {self.sample_shape}")
        channels, height, width = self.sample_shape
        return channels, height, width


class Component:
    """What every component has: settings of its own, and a summary taken from its docstring."""

    Settings: ClassVar[type[base.Settings]] = base.Settings

    @classmethod
    def summary(cls) -> str:
        """The docstring's first line."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


class Generator(nn.Module, Component):
    """A network from latents to samples.

    `forward(latents, labels=None)` takes latents `(batch, problem.latent_size)` and, for conditional models,
    int64 labels `(batch,)`; it returns `(batch, *problem.sample_shape)` in [-1, 1].

    A plain module: it knows nothing of devices, precision, optimisers or averaging. Raise `MisfitError` in
    `__init__` where the problem cannot be met. The random stream is seeded when `__init__` runs. Where
    `problem.labelled` is set, labels are always given: `ganrun.LabelledLatents` puts them beside the latents.
    """

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__()
        self.settings = settings
        self.problem = problem


class Discriminator(nn.Module, Component):
    """A network from images to one vector each: a critic, a classifier's trunk with heads, or an encoder.

    `forward(images, labels=None)` takes images `(batch, *problem.sample_shape)` in [-1, 1] and returns
    `(batch, problem.out_features)`. No sigmoid and no softmax: losses work on logits. Where `problem.labelled` is
    set, labels are always given: `ganrun.LabelledImages` puts them beside the images.
    """

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__()
        self.settings = settings
        self.problem = problem


@dataclass(frozen=True)
class Split:
    """One part of a data set, as arrays or memory maps."""

    images: npt.NDArray[Any]
    """uint8 `(count, channels, height, width)`, which the core maps to [-1, 1]; or float32 `(count, …)` as it is.
    Writable, as far as numpy knows: open memory maps copy-on-write (`mmap_mode="c"`)."""

    labels: npt.NDArray[np.int64] | None = None
    """int64 `(count,)` in [0, classes), or None."""

    def __len__(self) -> int:
        return len(self.images)


SPLITS = ("train", "test")
"""The parts that a data set may have."""


class Data(Component, ABC):
    """A data set: whole arrays, by split.

    The core shuffles, flips, scales and moves them; a data set only says what is there. Nothing may be
    downloaded unless the recipe or `ganrun data fetch` asks for it.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def problem(self) -> Problem:
        """Sample shape and number of classes; from the settings alone where that is possible.

        Raises:
            DataError: if the files are needed for it and are absent or damaged.
        """

    def locate(self) -> Path | None:
        """Where its files are: a folder or an archive. None for data that needs no files.

        Only looks, and reads nothing that takes long: `ganrun data list` and `ganrun doctor` ask every data set.

        Raises:
            DataError: if they are absent, with the exact steps that mend it.
        """
        return None

    def fetch(self) -> None:
        """Download what is absent, for `ganrun data fetch`; does nothing where all is there.

        Raises:
            DataError: if the download fails, or no program may do it, with the exact steps to do it by hand.
        """
        self.locate()

    @abstractmethod
    def prepare(self) -> None:
        """Check that everything is there, and decode what has to be decoded. Runs before anything is trained.

        Raises:
            DataError: with the exact steps that mend it.
        """

    @abstractmethod
    def split(self, name: str) -> Split:
        """The split `"train"` or `"test"`, after `prepare`.

        Raises:
            DataError: if the data set has no such split.
        """

    def fingerprint(self, name: str = "train") -> str:
        """A short digest of a split's contents. Override it where reading them all is slow."""
        split = self.split(name)
        digest = hashlib.blake2b(str((split.images.shape, split.images.dtype)).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(split.images).data)
        if split.labels is not None:
            digest.update(np.ascontiguousarray(split.labels).data)
        return digest.hexdigest()

    def manifest(self) -> Mapping[str, Any]:
        """What exactly the pictures are, as JSON for the run's environment.json; after `prepare`.

        `counts` by split and `fingerprint` are always there. Data read from files adds `files` (each with a digest of
        its contents), `published` (whether all of them are the published ones) and `transform` (crop, size, filter).
        """
        counts = {}
        for name in SPLITS:
            with suppress(DataError):
                counts[name] = len(self.split(name))
        return {"counts": counts, "fingerprint": self.fingerprint()}

    def class_names(self) -> tuple[str, ...]:
        """A name for each class, for tables and pictures."""
        return tuple(str(label) for label in range(self.problem().classes))


def no_such_split(name: str, known: Iterable[str]) -> DataError:
    """The error for a split that a data set lacks."""
    return DataError(f'has no split "{name}"; it has {", ".join(known)}')


@dataclass(frozen=True)
class Score:
    """One number of an evaluation, with how it was made: scores of unlike protocol must not be ranked together."""

    name: str
    """As it appears everywhere: `fid` is Inception's alone; on other features it is `fid_<features>`."""

    value: float

    higher_is_better: bool

    protocol: Mapping[str, str | int | float | bool]
    """Extractor, weights hash, numbers of samples, split, resizer: whatever the value depends on."""

    error: float | None = None
    """Standard error of the value for these very weights: what other samples would make of it. None if unknown."""

    floor: float | None = None
    """What as many held-out real images score on the same terms: about what a perfect model would. None if unknown."""

    def improves_on(self, best: Score | None) -> bool:
        """Whether it is better than the best one of its name so far, or the first on its terms; NaN never is."""
        if best is None or best.protocol != self.protocol:
            return not isnan(self.value)
        return self.value > best.value if self.higher_is_better else self.value < best.value

    def __str__(self) -> str:
        """`fid 12.31 (real images 3.15)`, `inception_score 8.21 ± 0.06 (real images 11.2)`."""
        error = "" if self.error is None else f" ± {self.error:.2g}"
        floor = "" if self.floor is None else f" (real images {self.floor:.3g})"
        return f"{self.name} {self.value:.4g}{error}{floor}"


class Extractor(Component, ABC):
    """A network that turns pictures into features, for metrics.

    Built from its settings and the problem; raises `MisfitError` in `__init__` for samples that it cannot look at.
    """

    outputs: ClassVar[tuple[str, ...]] = ("features",)
    """What it gives, by name: `features` `(batch, n)`; `logits` `(batch, classes)` where it is a classifier."""

    suffix: ClassVar[str]
    """Ends the names of scores on its features, `fid_classifier`. Empty for the one features of published scores."""

    def __init__(self, settings: Any, problem: Problem) -> None:
        self.settings = settings
        self.problem = problem

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the weights, or whatever else it needs.

        Args:
            data: The run's data set, prepared.
            device: Where it should compute.

        Raises:
            PreflightError: if they are absent or damaged, with the steps that mend it.
        """

    @property
    @abstractmethod
    def key(self) -> str:
        """Whatever its features depend on: equal keys mean equal features, which are then computed once. After
        `prepare`."""

    @property
    @abstractmethod
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """The same for people: extractor, weights hash, resizing. It enters the protocol of every score."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """The outputs for uint8 images `(batch, channels, height, width)` on its device, each float `(batch, …)`."""


class Metric(Component, ABC):
    """A way of scoring samples.

    Built from its settings and the problem; `prepare` runs before the first step, then at every evaluation `watch`
    says what is needed, and `measure` makes scores of it.
    """

    def __init__(self, settings: Any, problem: Problem) -> None:
        self.settings = settings
        self.problem = problem

    def prepare(self, data: Data, device: torch.device) -> None:
        """Prove that `measure` will be able to run: weights present, enough real images, labels there.

        Args:
            data: The run's data set, prepared.
            device: Where extractors should live.

        Raises:
            PreflightError: with the steps that mend it.
        """

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for samples, images and features, by `evaluation.collect` and `collect_real`, before any is made."""

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores of one evaluation, of what was collected since `watch`."""


class FeatureMetric(Metric):
    """A metric on an extractor's features. Its settings have a field `features`, whose default names one:

    features: ganrun.Features = "inception"
    """

    reads: ClassVar[tuple[str, ...]] = ("features",)
    """The extractor's outputs that it cannot do without."""

    def __init__(self, settings: Any, problem: Problem, extractor: Extractor) -> None:
        super().__init__(settings, problem)
        self.extractor = extractor


Features = str | dict[str, Any]
"""The type of that field: an extractor's name, or a table of its settings that says `use`."""


class Observer(Component):
    """A component that hears the events of one run, in methods marked with `ganrun.observes`.

    See `ganrun.hookspecs.RunEvents` for the events; a method takes those of an event's arguments that it needs.
    """

    essential: ClassVar[bool] = False
    """Whether a fault of this observer stops the run. One that is not essential is reported and left out."""

    automatic: ClassVar[bool] = False
    """Whether it takes part in every run unless the recipe says `name = false`."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0…255 to float32 [-1, 1]: x / 127.5 - 1. Other types pass as they are."""
    if images.dtype != torch.uint8:
        return images
    return images.to(torch.float32).mul_(1 / 127.5).sub_(1)


def to_uint8(samples: Tensor) -> Tensor:
    """[-1, 1] to uint8 0…255: round((x + 1) · 127.5), clipped. The inverse of `to_unit_range`, and the one rule
    by which ganrun turns samples into pictures, for scores and for files."""
    return samples.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
