"""The base of metrics with a floor: samples, the real images to compare with, and the score of held-out ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from pydantic import Field

from ganrun import Collector, Data, Evaluation, Metric, Score, Settings
from ganrun_fidelity.real_images import VERSION, Once, Pending, count_of
from ganrun_fidelity.stored import digest_of_text, load_stored, store

C = TypeVar("C", bound=Collector)
R = TypeVar("R")

ScoreProtocol = Mapping[str, str | int | float | bool]


class SampleSettings(Settings):
    """Settings of every metric of samples."""

    samples: int = Field(10_000, ge=2)
    """Generated samples. Scores may depend on their number: compare only equal numbers."""


class Value(NamedTuple):
    """One number, before it becomes a score."""

    name: str
    value: float
    higher_is_better: bool
    error: float | None = None


class FlooredMetric(Metric, Generic[C, R]):
    """A metric of generated pictures, with the score of held-out real images as its floor.

    C is the collector of pictures or their features; R is what the metric knows of the real images.
    """

    settings: SampleSettings

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
        """Ask for samples; and for real images, unless what is needed of them is known or cached."""
        samples = self.request(evaluation, self.settings.samples)
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

    @property
    def floor_samples(self) -> int | None:
        """Images that the floor needs: as many as samples; None if the expected value is the same for any number."""
        return self.settings.samples

    @property
    def source(self) -> str:
        """Identifies what it reads of pictures: part of the floor's cache key."""
        return "pixels"

    @property
    def source_protocol(self) -> ScoreProtocol:
        """How values depend on what it reads of pictures."""
        return {}

    @property
    def suffix(self) -> str:
        """Suffix of its scores' names."""
        return ""

    @abstractmethod
    def reference(self, data: Data) -> Reference[R]:
        """The real images to compare with.

        Raises:
            PreflightError: if there are too few.
        """

    @abstractmethod
    def request(self, evaluation: Evaluation, count: int) -> C:
        """Ask for what is read of `count` samples."""

    @abstractmethod
    def request_real(self, evaluation: Evaluation, count: int, split: str) -> C:
        """Ask for the same of real images."""

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
        """The floor on this split; None if it holds too few images."""
        available = 0 if split is None else count_of(data, split)
        if split is None or available < max(self.floor_samples or 0, self.least):
            return None
        count = min(self.settings.samples, available)

        def request(evaluation: Evaluation) -> C:
            return self.request_real(evaluation, count, split)

        settings = self.settings.model_dump(mode="json", exclude={"features"})
        digest, reference_digest = data.fingerprint(split), data.fingerprint(OTHER_SPLIT[split])
        about = (
            type(self).__name__,
            VERSION,
            settings,
            dict(self.protocol),
            self.source,
            (digest, reference_digest),
        )
        key = digest_of_text("floor", *about, torch.__version__)
        return _Floor(key, {"floor_split": split, "floor_digest": digest}, request)

    def _score(self, value: Value, floor: float | None) -> Score:
        suffix = f"_{self.suffix}" if self.suffix else ""
        about: ScoreProtocol = {"ganrun_fidelity": VERSION, "generated": self.settings.samples}
        protocol = {**self.source_protocol, **about, **self.protocol, **self._data_protocol}
        name, number, higher_is_better, error = value
        return Score(f"{name}{suffix}", number, higher_is_better, protocol, error, floor)


# ── Real images ───────────────────────────────────────────────────────────────────────────────────────────

OTHER_SPLIT = {"train": "test", "test": "train"}
"""The split that is held out from a metric that compares with the other one."""


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
    """The floor's dependencies, besides the score's own."""

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
    """A metric's inputs besides samples, the same at every evaluation of a run."""

    real: R
    floors: Mapping[str, float]
