"""What every metric on features of pictures shares: settings, real images and their cache, and a floor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from ganrun import (
    Buffer,
    Data,
    DataError,
    Evaluation,
    Extractor,
    FeatureMetric,
    Part,
    PreflightError,
    Score,
    Settings,
)
from ganrun_fidelity.stored import digest_of_text, load_stored, store

VERSION = 2
"""Raised whenever what is computed changes: what was cached is then computed anew, and protocols tell scores apart."""


class FidelitySettings(Settings):
    """What every metric on features takes."""

    features: Part = "inception"
    """Whose features, by name, or as a table that says use and the extractor's own settings; see `ganrun list
    extractor`. Only Inception's scores are comparable with published ones; all others bear the extractor's name."""

    samples: int = Field(10_000, ge=2)
    """Generated samples. Scores depend on it, FID strongly: compare at equal numbers only, published ones at 50,000."""


class ReferenceSettings(FidelitySettings):
    """What a metric takes that compares with real images."""

    real_samples: int | None = Field(None, ge=2)
    """Real images, always the same ones; without it, all of the split."""

    split: Literal["train", "test"] = "train"
    """Which real images to compare with."""


class Value(NamedTuple):
    """One number, before it becomes a score."""

    name: str
    value: float
    higher_is_better: bool
    error: float | None = None


# ── Metrics ───────────────────────────────────────────────────────────────────────────────────────────────

G = TypeVar("G")


class FidelityMetric(FeatureMetric, Generic[G]):
    """A metric of generated pictures by their features; held-out real images are measured the same way, as its floor.

    What is gathered in a pass is of type G.
    """

    settings: FidelitySettings

    def prepare(self, data: Data, device: torch.device) -> None:
        """See whether as many real images as samples are held out, for the floor."""
        self.device = device
        self._floors: Mapping[str, float] | None = None
        self._split = "test" if self.reference_split == "train" else "train"
        self._has_floor = count_of(data, self._split) >= max(self.settings.samples, self.least)
        if self._has_floor:
            settings = self.settings.model_dump(mode="json", exclude={"features"})
            self._floor_digest = data.fingerprint(self._split)
            prints = (self._floor_digest, data.fingerprint(self.reference_split))
            about = (type(self).__name__, VERSION, settings, self.extractor.key, prints)
            self._floor_key = digest_of_text("floor", *about, torch.__version__)

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for the features of samples; and, once per data set, for those of held-out real images."""
        count, by = self.settings.samples, self.extractor
        self._generated: G = evaluation.collect(self.gather(count), *self.reads, count=count, extractor=by)
        self._held_out: G | None = None
        if self._floors is None and not self._has_floor:
            self._floors = {}
        if self._floors is None:
            stored = load_stored("floors", self._floor_key)
            self._floors = stored and {name: float(value) for name, value in stored.facts.items()}
        if self._floors is None:
            into = self.gather(count)
            self._held_out = evaluation.collect_real(into, *self.reads, count=count, split=self._split, extractor=by)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores, each beside its floor."""
        if self._held_out is not None:
            self._floors = {each.name: each.value for each in self.values(self._held_out)}
            store("floors", self._floor_key, {}, self._floors)
        floors = self._floors or {}
        scores = [self._score(each, floors.get(each.name)) for each in self.values(self._generated)]
        del self._generated, self._held_out
        return scores

    def _score(self, value: Value, floor: float | None) -> Score:
        suffix = f"_{self.extractor.suffix}" if self.extractor.suffix else ""
        about = {"ganrun_fidelity": VERSION, "generated": self.settings.samples}
        protocol = {**self.extractor.protocol, **about, **self.protocol}
        if floor is not None:
            protocol |= {"floor_split": self._split, "floor_digest": self._floor_digest}
        name, number, higher_is_better, error = value
        return Score(f"{name}{suffix}", number, higher_is_better, protocol, error, floor)

    # ── For each metric to say ────────────────────────────────────────────────────────────────────────

    least: int = 2
    """Fewest pictures that it can be measured on."""

    reference_split: str = "train"
    """The split that samples are compared with, or else that the model learns from."""

    protocol: Mapping[str, str | int | float | bool] = {}
    """What its values depend on beside the samples and their features."""

    @abstractmethod
    def gather(self, count: int) -> Any:
        """What `count` pictures are gathered in: a new collector of what it `reads`."""

    @abstractmethod
    def values(self, gathered: G) -> Sequence[Value]:
        """The values for these pictures."""


class ReferenceMetric(FidelityMetric[G]):
    """A metric that compares with real images."""

    settings: ReferenceSettings

    def prepare(self, data: Data, device: torch.device) -> None:
        """Check that there are as many real images as asked for.

        Raises:
            PreflightError: if there are not.
        """
        split, wanted = self.settings.split, self.settings.real_samples
        available = count_of(data, split)
        if wanted is not None and wanted > available:
            raise PreflightError(
                f'real_samples = {wanted}, but split "{split}" has {available} images; leave it out to use them all'
            )
        count = wanted or self.usual_count(available)
        if count < self.least:
            raise PreflightError(f'it needs at least {self.least} real images, but split "{split}" has {available}')
        self.reference_split = split
        self.real = RealFeatures(self.summary_of_real, self.extractor, data, split, count)
        self.protocol = {**self.protocol, "real": count, "split": split, "real_digest": data.fingerprint(split)}
        super().prepare(data, device)

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for features of samples and of real images."""
        super().watch(evaluation)
        self.real.watch(evaluation)

    summary_of_real: type[Summary]
    """What is kept of the real images' features."""

    def usual_count(self, available: int) -> int:
        """How many real images it compares with where the recipe does not say: all."""
        return available


def count_of(data: Data, split: str) -> int:
    """Images of a split; 0 where there is no such split."""
    try:
        return len(data.split(split))
    except DataError:
        return 0


# ── Real images ───────────────────────────────────────────────────────────────────────────────────────────


class Summary(Protocol):
    """A collector of features whose result is tensors by name."""

    def add(self, *batch: Tensor) -> None:
        """Take the next features `(batch, n)`."""

    def state(self) -> dict[str, Tensor]:
        """What was collected, on the CPU."""


class Rows(Buffer):
    """All features, row by row, in float32."""

    def add(self, *batch: Tensor) -> None:
        """Take features `(batch, n)`."""
        super().add(batch[0].float())

    def state(self) -> dict[str, Tensor]:
        """`features` `(count, n)`."""
        return {"features": self.tensors()[0]}


class RealFeatures:
    """A summary of real images' features: computed in the first pass that needs it, cached for all later runs.

    The cache's key holds whatever it depends on: the very images, how many of which split, the extractor with its
    weights, and the versions of the code.

    Args:
        summary: What is kept.
        extractor: Prepared.
        data: Prepared.
        split: Which images.
        count: How many.
    """

    def __init__(self, summary: type[Summary], extractor: Extractor, data: Data, split: str, count: int) -> None:
        self._summary = summary
        self._extractor = extractor
        self._split, self._count = split, count
        about = (summary.__name__, VERSION, torch.__version__, extractor.key, data.fingerprint(split), split, count)
        self._key = digest_of_text("real", *about)
        self._state: Mapping[str, Tensor] | None = None
        self._gathered: Summary | None = None

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for the features, unless they are known or in the cache."""
        if self._state is None:
            stored = load_stored("statistics", self._key)
            self._state = stored and stored.tensors
        if self._state is None:
            about: dict[str, Any] = {"count": self._count, "split": self._split, "extractor": self._extractor}
            self._gathered = evaluation.collect_real(self._summary(), "features", **about)

    def state(self) -> Mapping[str, Tensor]:
        """The summary, after the pass."""
        if self._gathered is not None:
            gathered, self._gathered = self._gathered.state(), None
            store("statistics", self._key, gathered, {})
            self._state = gathered
        assert self._state is not None, "watch comes first"
        return self._state
