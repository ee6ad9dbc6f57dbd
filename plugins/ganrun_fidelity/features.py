"""The base of metrics on features: settings, and summaries of samples and of real images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from pydantic import Field

from ganrun import Collector, Data, Evaluation, FeatureMetric, Part, PreflightError
from ganrun_fidelity.floors import OTHER_SPLIT, FlooredMetric, Reference, SampleSettings, ScoreProtocol, Value
from ganrun_fidelity.real_images import RealFeatures, Summary, count_of

C = TypeVar("C", bound=Collector)
R = TypeVar("R")
V = TypeVar("V")


class FidelitySettings(SampleSettings):
    """Settings of every metric on features."""

    features: Part = "inception"
    """The extractor, by name, or as a table that says use and the extractor's settings; see `ganrun list extractor`.
    Only scores on Inception can be compared with published ones; all others carry the extractor's name."""

    samples: int = Field(10_000, ge=2)
    """Generated samples. Scores depend on their number, FID strongly: compare only equal numbers; published scores use
    50,000."""


class ReferenceSettings(FidelitySettings):
    """Settings of a metric that compares with real images."""

    real_samples: int | None = Field(None, ge=2)
    """Real images, the same ones in every run; all images of the split unless given."""

    split: Literal["train", "test"] = "train"
    """The split of the real images."""


# ── Metrics ───────────────────────────────────────────────────────────────────────────────────────────────


class FidelityMetric(FlooredMetric[C, R], FeatureMetric, Generic[C, R]):
    """A metric of generated pictures by their features, with the score of held-out real images as its floor."""

    settings: FidelitySettings

    @property
    def source(self) -> str:
        """The extractor's key."""
        return self.extractor.key

    @property
    def source_protocol(self) -> ScoreProtocol:
        """How the features are computed."""
        return self.extractor.protocol

    @property
    def suffix(self) -> str:
        """The extractor's."""
        return self.extractor.suffix

    @abstractmethod
    def collector(self, count: int) -> C:
        """A new collector for the features of `count` pictures."""

    def request(self, evaluation: Evaluation, count: int) -> C:
        """Ask for the features of samples."""
        return evaluation.collect(self.collector(count), *self.reads, count=count, extractor=self.extractor)

    def request_real(self, evaluation: Evaluation, count: int, split: str) -> C:
        """Ask for the features of real images."""
        into = self.collector(count)
        return evaluation.collect_real(into, *self.reads, count=count, split=split, extractor=self.extractor)


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
        return Reference(real.watch, OTHER_SPLIT[split], protocol)

    def collector(self, count: int) -> Summary[V]:
        """A new summary."""
        return self.summary_class()

    def values(self, samples: Summary[V], real: V) -> Sequence[Value]:
        """The values of these samples."""
        return self.compare(self.summary_class.read(samples.state()), real)
