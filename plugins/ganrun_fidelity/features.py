"""The base of metrics on features: settings, samples, the real images to compare with, and the floor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Generic, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from pydantic import Field

from ganrun import Collector, Data, Evaluation, FeatureMetric, Part, PreflightError, Score, Settings
from ganrun_fidelity.real_images import VERSION, Once, Pending, RealFeatures, Summary, count_of
from ganrun_fidelity.stored import digest_of_text, load_stored, store

C = TypeVar("C", bound=Collector)
R = TypeVar("R")
V = TypeVar("V")

ScoreProtocol = Mapping[str, str | int | float | bool]


class FidelitySettings(Settings):
    """Settings of every metric on features."""

    features: Part = "inception"
    """The extractor, by name, or as a table that says use and the extractor's settings; see `ganrun list extractor`.
    Only scores on Inception compare with published ones; all others carry the extractor's name."""

    samples: int = Field(10_000, ge=2)
    """Generated samples. Scores depend on their number, FID strongly: compare only equal numbers; published scores use
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


class FidelityMetric(FeatureMetric, Generic[C, R]):
    """A metric of generated pictures by their features, with the score of held-out real images as its floor.

    C is the collector of features; R is what the metric knows of the real images.
    """

    settings: FidelitySettings

    def prepare(self, data: Data, device: torch.device) -> None:
        """Find the real images to compare with, and those for the floor: as many held-out images as samples.

        Raises:
            PreflightError: if there are too few real images to compare with.
        """
        self.device = device
        reference = self.reference(data)
        floor = self._floor_of(data, reference.floor_split)
        self._data_protocol = {**reference.protocol, **(floor.protocol if floor else {})}
        self._baseline = Once(partial(self._request_baseline, reference, floor))
        # The keys are weak: the samples of an interrupted evaluation, which is never measured, go with it.
        self._requested = WeakKeyDictionary[Evaluation, tuple[C, Pending[_Baseline[R]]]]()

    def watch(self, evaluation: Evaluation) -> None:
        """Ask for the features of samples; and for those of real images, unless they are known or cached."""
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

    # ── Samples and baseline to scores ────────────────────────────────────────────────────────────────

    def _request_baseline(
        self, reference: Reference[R], floor: _Floor[C] | None, evaluation: Evaluation
    ) -> Pending[_Baseline[R]]:
        floors = floor.watch(evaluation) if floor else lambda _: {}
        real = reference.watch(evaluation)

        def baseline() -> _Baseline[R]:
            known = real()
            return _Baseline(known, floors(lambda held_out: self.values(held_out, known)))

        return baseline

    def _floor_of(self, data: Data, split: str | None) -> _Floor[C] | None:
        """The floor on this split; None if it holds fewer images than the metric takes samples."""
        count = self.settings.samples
        if split is None or count_of(data, split) < max(count, self.least):
            return None

        def request(evaluation: Evaluation) -> C:
            into = self.collector(count)
            return evaluation.collect_real(into, *self.reads, count=count, split=split, extractor=self.extractor)

        settings = self.settings.model_dump(mode="json", exclude={"features"})
        digest, reference_digest = data.fingerprint(split), data.fingerprint(_OTHER_SPLIT[split])
        about = (
            type(self).__name__,
            VERSION,
            settings,
            dict(self.protocol),
            self.extractor.key,
            (digest, reference_digest),
        )
        key = digest_of_text("floor", *about, torch.__version__)
        return _Floor(key, {"floor_split": split, "floor_digest": digest}, request)

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
    """How features are summarised."""

    @abstractmethod
    def compare(self, samples: V, real: V) -> Sequence[Value]:
        """The values of samples, given both summaries."""

    def usual_count(self, available: int) -> int:
        """Number of real images where the recipe gives none: all."""
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
        """A new summary."""
        return self.summary_class()

    def values(self, samples: Summary[V], real: V) -> Sequence[Value]:
        """The values of these samples."""
        return self.compare(self.summary_class.read(samples.state()), real)


# ── Real images ───────────────────────────────────────────────────────────────────────────────────────────

_OTHER_SPLIT = {"train": "test", "test": "train"}


@dataclass(frozen=True)
class Reference(Generic[R]):
    """The real images that a metric compares samples with."""

    watch: Callable[[Evaluation], Pending[R]]
    """Asks an evaluation for them."""

    floor_split: str | None
    """The split whose images take the place of samples for the floor; None for a metric without a floor."""

    protocol: ScoreProtocol = field(default_factory=dict)
    """How values depend on them."""


@dataclass(frozen=True)
class _Floor(Generic[C]):
    """The values of held-out real images: cached, or measured after the first pass that needs them."""

    key: str
    """Cache key."""

    protocol: ScoreProtocol
    """What the floor depends on, beside what the score itself does."""

    request: Callable[[Evaluation], C]
    """Asks an evaluation for the held-out images."""

    def watch(self, evaluation: Evaluation) -> Callable[[Callable[[C], Sequence[Value]]], Mapping[str, float]]:
        """Ask for the held-out images, unless the floor is cached. The result, given a way to measure them, returns
        the floor of each value by name; call it after the pass."""
        stored = load_stored("floors", self.key)
        if stored is not None:
            known = {name: float(value) for name, value in stored.facts.items()}
            return lambda _: known
        held_out = self.request(evaluation)

        def measured(measure: Callable[[C], Sequence[Value]]) -> Mapping[str, float]:
            floors = {each.name: each.value for each in measure(held_out) if isfinite(each.value)}
            store("floors", self.key, {}, floors)
            return floors

        return measured


class _Baseline(NamedTuple, Generic[R]):
    """What a metric needs besides samples, the same at every evaluation of a run."""

    real: R
    floors: Mapping[str, float]
