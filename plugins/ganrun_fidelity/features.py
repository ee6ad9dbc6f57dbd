"""The base of metrics on features: settings, samples, the real images to compare with, and the floor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from pydantic import Field

from ganrun import Collector, Data, Evaluation, FeatureMetric, Part, PreflightError, Score, Settings
from ganrun_fidelity.real_images import VERSION, Floor, Once, Pending, RealFeatures, Summary, count_of
from ganrun_fidelity.stored import digest_of_text

ScoreProtocol = Mapping[str, str | int | float | bool]


class FidelitySettings(Settings):
    """Settings of every metric on features."""

    features: Part = "inception"
    """The extractor, by name, or as a table with use and the extractor's settings; see `ganrun list extractor`. Only
    scores on Inception compare with published ones; all others carry the extractor's name."""

    samples: int = Field(10_000, ge=2)
    """Generated samples. Scores depend on this number, FID strongly: compare only equal numbers; published scores use
    50,000."""


class ReferenceSettings(FidelitySettings):
    """Settings of a metric that compares with real images."""

    real_samples: int | None = Field(None, ge=2)
    """Real images, the same ones in every run; all images of the split unless given."""

    split: Literal["train", "test"] = "train"
    """The split of the real images."""


class Value(NamedTuple):
    """One number, before it becomes a score."""

    name: str
    value: float
    higher_is_better: bool
    error: float | None = None


# ── Metrics ───────────────────────────────────────────────────────────────────────────────────────────────

C = TypeVar("C", bound=Collector)
R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True)
class Reference(Generic[R]):
    """The real images that samples are compared with."""

    watch: Callable[[Evaluation], Pending[R]]
    """Asks an evaluation for them."""

    floor_split: str | None
    """The split whose images can stand for samples, for the floor; None if there is none."""

    protocol: ScoreProtocol = field(default_factory=dict)
    """How values depend on them."""


class Baseline(NamedTuple, Generic[R]):
    """What a metric needs besides samples: the same at every evaluation of a run."""

    real: R
    floors: Mapping[str, float]


class FidelityMetric(FeatureMetric, Generic[C, R]):
    """A metric of generated pictures by their features, with the score of held-out real images as its floor.

    C is the collector of features, R what is known of the real images.
    """

    settings: FidelitySettings

    def prepare(self, data: Data, device: torch.device) -> None:
        """Find the real images, and those for the floor: it needs as many held-out images as samples.

        Raises:
            PreflightError: if there are too few real images.
        """
        self.device = device
        reference = self.reference(data)
        floor = self._floor_of(data, reference.floor_split)
        self._data_protocol = {**reference.protocol, **(floor.protocol if floor else {})}
        self._baseline = Once(partial(self._request_baseline, reference, floor))
        self._requested = WeakKeyDictionary[Evaluation, tuple[C, Pending[Baseline[R]]]]()

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for the features of samples; and of real images, unless they are known or cached."""
        count = self.settings.samples
        samples = evaluation.collect(self.collector(count), *self.reads, count=count, extractor=self.extractor)
        self._requested[evaluation] = samples, self._baseline.watch(evaluation)

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        """The scores, each with its floor."""
        samples, baseline = self._requested.pop(evaluation)
        real, floors = baseline()
        return [self._score(value, floors.get(value.name)) for value in self.values(samples, real)]

    # ── What each metric defines ──────────────────────────────────────────────────────────────────────

    @property
    def least(self) -> int:
        """Fewest pictures that it can be measured on."""
        return 2

    @property
    def protocol(self) -> ScoreProtocol:
        """How its values depend on its settings."""
        return {}

    @abstractmethod
    def reference(self, data: Data) -> Reference[R]:
        """The real images to compare with.

        Raises:
            PreflightError: if there are too few.
        """

    @abstractmethod
    def collector(self, count: int) -> C:
        """A new collector for the features of `count` pictures."""

    @abstractmethod
    def values(self, samples: C, real: R) -> Sequence[Value]:
        """The values of these samples."""

    # ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _floor_of(self, data: Data, split: str | None) -> Floor[C] | None:
        count = self.settings.samples
        if split is None or count_of(data, split) < max(count, self.least):
            return None
        settings = self.settings.model_dump(mode="json", exclude={"features"})
        digest = data.fingerprint(split)
        prints = (digest, data.fingerprint(_OTHER_SPLIT[split]))
        about = (type(self).__name__, VERSION, settings, self.extractor.key, prints, torch.__version__)

        def request(evaluation: Evaluation) -> C:
            into = self.collector(count)
            return evaluation.collect_real(into, *self.reads, count=count, split=split, extractor=self.extractor)

        return Floor(digest_of_text("floor", *about), {"floor_split": split, "floor_digest": digest}, request)

    def _request_baseline(
        self, reference: Reference[R], floor: Floor[C] | None, evaluation: Evaluation
    ) -> Pending[Baseline[R]]:
        floors = floor.watch(evaluation) if floor else lambda _: {}
        real = reference.watch(evaluation)

        def baseline() -> Baseline[R]:
            known = real()
            return Baseline(
                known, floors(lambda images: {each.name: each.value for each in self.values(images, known)})
            )

        return baseline

    def _score(self, value: Value, floor: float | None) -> Score:
        suffix = f"_{self.extractor.suffix}" if self.extractor.suffix else ""
        about: ScoreProtocol = {"ganrun_fidelity": VERSION, "generated": self.settings.samples}
        protocol = {**self.extractor.protocol, **about, **self.protocol, **self._data_protocol}
        name, number, higher_is_better, error = value
        return Score(f"{name}{suffix}", number, higher_is_better, protocol, error, floor)


class ReferenceMetric(FidelityMetric[Summary[V], V]):
    """A metric that compares the features of samples with those of real images, both summarised the same way."""

    settings: ReferenceSettings

    summary_class: type[Summary[V]]
    """Summarises features."""

    @abstractmethod
    def compare(self, samples: V, real: V) -> Sequence[Value]:
        """The values of samples, given the summaries of both."""

    def usual_count(self, available: int) -> int:
        """Number of real images unless the recipe gives one: all."""
        return available

    def reference(self, data: Data) -> Reference[V]:
        """As many images of a split as the recipe asks for.

        Raises:
            PreflightError: if there are fewer, or too few for the metric.
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
        real = RealFeatures(self.summary_class, self.extractor, data, split, count)
        protocol: ScoreProtocol = {"real": count, "split": split, "real_digest": data.fingerprint(split)}
        return Reference(real.watch, _OTHER_SPLIT[split], protocol)

    def collector(self, count: int) -> Summary[V]:
        """The summary of the samples."""
        return self.summary_class()

    def values(self, samples: Summary[V], real: V) -> Sequence[Value]:
        """The values of these samples."""
        return self.compare(self.summary_class.read(samples.state()), real)


_OTHER_SPLIT = {"train": "test", "test": "train"}
