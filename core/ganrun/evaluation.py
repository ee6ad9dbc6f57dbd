"""One evaluation: every metric says what it needs; then samples are drawn and real images read, once, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.components import Data, Extractor, Metric, Problem, Score, Split, to_uint8, to_unit_range
from ganrun.errors import ContractError, NonFiniteError, PreflightError
from ganrun.randomness import derived_seed, isolated_random

SAMPLES_PER_BATCH = 256
"""Fixed, because each batch of latents has a seed of its own: sample i is the same however many are asked for."""

GENERATED = ("samples", "latents")
REAL = ("images", "labels", "encodings", "reconstructions")


class Collector(Protocol):
    """What a metric gathers in a pass: a running sum, a histogram, or everything."""

    def add(self, *batch: Tensor) -> None:
        """Take the next batch: one tensor for each output that was asked for, `(batch, …)`, on the run's device."""


C = TypeVar("C", bound=Collector)


class Kept:
    """A collector that keeps everything, on the CPU: memory grows with the number of samples."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []

    def add(self, *batch: Tensor) -> None:
        """Keep a batch."""
        self._batches.append(tuple(each.cpu() for each in batch))

    def tensors(self) -> tuple[Tensor, ...]:
        """All rows of each output, in order."""
        self._batches = [tuple(torch.cat(parts) for parts in zip(*self._batches, strict=True))]
        return self._batches[0]


class Evaluation:
    """What a metric is given: everything it may need of one moment of a run.

    Samples come from the averaged weights where the loss asks for an average, in evaluation mode, from latents
    that are the same at every evaluation. Nothing here touches training's random stream.

    Args:
        problem: The facts of the data.
        device: Where extractors should compute.
        step: Steps done.
        seed: The run's seed.
        draw: `draw(count)` gives `count` fresh latents from the current random stream, and their samples in [-1, 1]; or
            the samples themselves, as the data holds its own, where they were found and not drawn.
        data: The run's data set, prepared.
        encode: `encode(images)` gives the latents that the model reads off images in [-1, 1], or None.
        reconstruct: `reconstruct(images)` gives what the model makes of images in [-1, 1], or None.
        protocol: What else the samples depend on, for every score.
        told: `told(what, done, total)` hears after each batch how far it is; it may raise to stop the evaluation.
    """

    def __init__(
        self,
        *,
        problem: Problem,
        device: torch.device,
        step: int,
        seed: int,
        draw: Callable[[int], tuple[Tensor, Tensor]] | Tensor,
        data: Data,
        encode: Callable[[Tensor], Tensor | None] = lambda _: None,
        reconstruct: Callable[[Tensor], Tensor | None] = lambda _: None,
        protocol: Mapping[str, str | int | float | bool] | None = None,
        told: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        self.problem = problem
        self.device = device
        self.step = step
        self.seed = seed
        shape = "×".join(str(side) for side in problem.sample_shape)
        self.protocol = {"sample_shape": shape, "precision": "f32", "torch": torch.__version__, **(protocol or {})}
        self._draw = draw
        self._data = data
        self._encode = encode
        self._reconstruct = reconstruct
        self.told = told
        self._wishes: dict[str | None, list[_Wish]] = {}
        """By split; None stands for generated samples."""

    # ── Asking ────────────────────────────────────────────────────────────────────────────────────────

    def collect(self, into: C, *outputs: str, count: int, extractor: Extractor | None = None) -> C:
        """Ask for the first `count` generated samples, batch by batch, as soon as they are drawn.

        Args:
            into: Is given each batch, by `add`.
            outputs: What of it, in this order: `samples` (images as uint8, by `ganrun.to_uint8`; points as they are),
                `latents` `(batch, latent_size)`, or what the extractor gives, such as `features`.
            count: How many.
            extractor: Whose features; computed once for all that ask for them.

        Returns:
            `into`.

        Raises:
            PreflightError: if samples were found, and not that many.
        """
        if isinstance(self._draw, Tensor) and count > (found := len(self._draw)):
            raise PreflightError(f"it asks for {count:,} samples, and there are {found:,}; say samples = {found}")
        return self._wish(None, into, outputs, count, extractor)

    def collect_real(
        self,
        into: C,
        *outputs: str,
        count: int | None = None,
        split: str = "train",
        extractor: Extractor | None = None,
    ) -> C:
        """Ask for `count` real images of a split, the same ones in every run; for all of them where `count` is None.

        Args:
            into: Is given each batch, by `add`.
            outputs: What of it: `images` as the data set holds them, `labels` (int64, where the data has any),
                `encodings` `(batch, latent_size)` and `reconstructions` (where `problem.encodes` and
                `problem.reconstructs` say that there are any), or what the extractor gives.
            count: How many.
            split: `train` or `test`.
            extractor: Whose features; computed once for all that ask for them.

        Returns:
            `into`.
        """
        available = len(self._data.split(split))
        return self._wish(split, into, outputs, available if count is None else min(count, available), extractor)

    def run(self) -> None:
        """Draw and read all that was asked for since the last time, once."""
        wishes, self._wishes = self._wishes, {}
        for split, group in wishes.items():
            self._pass(split, group)

    # ── At once ───────────────────────────────────────────────────────────────────────────────────────

    def generated(self, count: int) -> Tensor:
        """The first `count` generated samples, on the CPU: `(count, *sample_shape)`. Draws them anew: what `watch`
        asks for by `collect` is drawn once for all metrics."""
        return self._now(self.collect(Kept(), "samples", count=count))

    def real(self, count: int | None = None, split: str = "train") -> Tensor:
        """`count` real images of a split as the data set holds them, on the CPU; all where `count` is None."""
        return self._now(self.collect_real(Kept(), "images", count=count, split=split))

    def _now(self, kept: Kept) -> Tensor:
        self.run()
        return kept.tensors()[0]

    # ── Passes ────────────────────────────────────────────────────────────────────────────────────────

    def _wish(self, split: str | None, into: C, outputs: tuple[str, ...], count: int, extractor: Extractor | None) -> C:
        known = {*(GENERATED if split is None else REAL), *(extractor.outputs if extractor else ())}
        for output in outputs:
            if output not in known:
                raise ValueError(f'there is no output "{output}" here; there are {", ".join(sorted(known))}')
        self._wishes.setdefault(split, []).append(_Wish(into, outputs, count, extractor))
        return into

    @torch.no_grad()
    def _pass(self, split: str | None, wishes: list[_Wish]) -> None:
        count = max(wish.count for wish in wishes)
        needed: dict[str, int] = {}
        for wish in wishes:
            if wish.extractor is not None:
                needed[wish.extractor.key] = max(wish.count, needed.get(wish.extractor.key, 0))
        done = 0
        for batch in self._batches(split, count):
            batch.needed = needed
            for wish in wishes:
                rows = batch.ranks < wish.count
                if rows.any():
                    wish.into.add(*(batch.output(name, wish.extractor, wish.count) for name in wish.outputs))
            done = min(done + len(batch.ranks), count)
            self.told("samples" if split is None else f"{split} images", done, count)

    def _batches(self, split: str | None, count: int) -> Iterator[_Batch]:
        if split is not None:
            return self._real(self._data.split(split), split, count)
        return self._found(self._draw, count) if isinstance(self._draw, Tensor) else self._drawn(self._draw, count)

    def _drawn(self, draw: Callable[[int], tuple[Tensor, Tensor]], count: int) -> Iterator[_Batch]:
        for number, start in enumerate(range(0, count, SAMPLES_PER_BATCH)):
            with isolated_random(self.device, derived_seed(self.seed, "evaluation", number)):
                latents, drawn = draw(SAMPLES_PER_BATCH)
            samples = self._as_data(drawn)
            ranks = torch.arange(start, start + len(samples), device=self.device)
            yield _Batch(samples, ranks, {"samples": _always(samples), "latents": _always(latents)})

    def _found(self, pictures: Tensor, count: int) -> Iterator[_Batch]:
        for places, ranks in chosen_batches(len(pictures), "pictures", count):
            samples = pictures[torch.from_numpy(places)].to(self.device)
            latents: Callable[[], Tensor] = partial(_given, None, "latents")
            yield _Batch(samples, ranks.to(self.device), {"samples": _always(samples), "latents": latents})

    def _real(self, whole: Split, split: str, count: int) -> Iterator[_Batch]:
        for places, ranks in chosen_batches(len(whole), split, count):
            images = torch.from_numpy(np.ascontiguousarray(whole.images[places])).to(self.device)
            yield _Batch(images, ranks.to(self.device), self._of_real(images, whole.labels, places))

    def _of_real(
        self, images: Tensor, labels: npt.NDArray[np.int64] | None, places: npt.NDArray[np.int64]
    ) -> dict[str, Callable[[], Tensor]]:
        return {
            "images": _always(images),
            "labels": lambda: torch.from_numpy(np.asarray(_given(labels, "labels")[places])).to(self.device),
            "encodings": lambda: _given(self._encode(to_unit_range(images)), "encodings"),
            "reconstructions": lambda: self._as_data(
                _given(self._reconstruct(to_unit_range(images)), "reconstructions")
            ),
        }

    def _as_data(self, samples: Tensor) -> Tensor:
        """Samples in the form in which the data set holds its own.

        Raises:
            NonFiniteError: if they are no numbers, which as pictures would be black.
        """
        if not samples.isfinite().all():
            raise NonFiniteError(f"samples at step {self.step} are not finite, so they cannot be scored")
        return to_uint8(samples) if len(self.problem.sample_shape) == 3 else samples


def measured(metrics: Sequence[Metric], evaluation: Evaluation) -> list[Score]:
    """The scores of all metrics, from one pass over each source, each score with the whole of its protocol.

    Raises:
        PreflightError: if a metric, told by its place, asks for what is not there.
        ContractError: if two scores have one name.
    """
    for place, metric in enumerate(metrics):
        try:
            metric.watch(evaluation)
        except PreflightError as error:
            raise error.located(f"metric.{place}") from None
    evaluation.run()
    scores: list[Score] = []
    for place, metric in enumerate(metrics):
        scores += metric.measure(evaluation)
        evaluation.told("scores", place + 1, len(metrics))
    names = [score.name for score in scores]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ContractError(f"two metrics give a score named {min(twice)}; leave one out")
    return [dataclasses.replace(score, protocol={**score.protocol, **evaluation.protocol}) for score in scores]


def chosen_batches(available: int, source: str, count: int) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """The places of `count` of the available images, in order, batch by batch; and the rank of each.

    Which they are is drawn once and for all: `count` images are always those of rank below `count`. So images that lie
    class by class are not taken class by class, and fewer are a part of more.
    """
    # RandomState's stream is the one that numpy promises never to change.
    random = np.random.RandomState(derived_seed(0, "real", source) % 2**32)
    ranks = np.argsort(random.permutation(available))
    chosen = np.flatnonzero(ranks < count)
    for places in np.array_split(chosen, ceil(len(chosen) / SAMPLES_PER_BATCH)):
        yield places, torch.from_numpy(ranks[places])


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What one metric asked for."""

    into: Collector
    outputs: tuple[str, ...]
    count: int
    extractor: Extractor | None


class _Batch:
    """One batch of a pass; whatever is asked of it is made once.

    Args:
        pictures: What extractors look at.
        ranks: Of each row; who asks for `count` gets the rows of rank below it.
        own: How its own outputs are made.
    """

    def __init__(self, pictures: Tensor, ranks: Tensor, own: Mapping[str, Callable[[], Tensor]]) -> None:
        self.ranks = ranks
        self.needed: Mapping[str, int] = {}
        """The largest count that is asked of each extractor, by its key."""
        self._pictures = pictures
        self._own = own
        self._made: dict[str, Tensor] = {}
        self._features: dict[str, Mapping[str, Tensor]] = {}

    def output(self, name: str, extractor: Extractor | None, count: int) -> Tensor:
        """One of its own outputs, or one of an extractor's, of the rows of rank below `count`."""
        if name in self._own:
            if name not in self._made:
                self._made[name] = self._own[name]()
            return self._made[name][self.ranks < count]
        assert extractor is not None
        seen = self.ranks < self.needed[extractor.key]
        if extractor.key not in self._features:
            self._features[extractor.key] = extractor(self._pictures[seen])
        return self._features[extractor.key][name][self.ranks[seen] < count]


T = TypeVar("T")


def _always(value: T) -> Callable[[], T]:
    return lambda: value


def _given(value: T | None, name: str) -> T:
    if value is None:
        raise ValueError(f"there are no {name}: look at the problem before asking for them")
    return value
