"""One evaluation: metrics request what they need, then one pass over each source serves them all, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import ceil
from typing import TypeVar

import torch
from torch import Tensor

from ganrun.base.arithmetic import exact_float32
from ganrun.base.errors import ContractError, GanrunError, NonFiniteError, PreflightError
from ganrun.base.frames import Frame, called
from ganrun.base.launched import ALONE, Ranks
from ganrun.base.ranks import gathered
from ganrun.contracts.data import Data
from ganrun.contracts.evaluation import Buffer, Collector, EvaluatedModel, Evaluation
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.metrics import Metric
from ganrun.contracts.scores import Score
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.sources import SAMPLES_PER_BATCH, NonFiniteRowsError, RealImages, Rows, Source

C = TypeVar("C", bound=Collector)

OnProgress = Callable[[str, int, int], None]
"""`on_progress(what, done, total)`"""

OnFault = Callable[[int, str, GanrunError], None]
"""`on_fault(place, doing, error)`: called with the first fault of the metric at that place."""


def ignore_progress(what: str, done: int, total: int) -> None:
    """The default for callers that show no progress."""


class Work:
    """A metric in one evaluation.

    Args:
        frame: `frame(doing)` is the frame of a call into it.
        on_fault: `on_fault(doing, error)` is called with its first fault; without `on_fault`, the fault is raised.
    """

    def __init__(self, frame: Frame, on_fault: Callable[[str, GanrunError], None] | None = None) -> None:
        self._frame = frame
        self._on_fault = on_fault
        self.has_failed = False
        """Whether its scores of this evaluation are lost; it is then skipped."""

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """A block of work for the metric. A fault ends the block, and is raised only if it ends the run."""
        try:
            with self._frame(what):
                yield
        except GanrunError as error:
            if self._on_fault is None or error.ends_run:
                raise
            if not self.has_failed:
                self.has_failed = True
                self._on_fault(what, error)

    def within(self, what: str) -> AbstractContextManager[None]:
        """The frame of a call within such a block."""
        return self._frame(what)


class SharedEvaluation(Evaluation):
    """An evaluation whose passes all metrics share: it reads each source once and runs each extractor once.

    Args:
        spec: The facts of the data and the model.
        device: Device of the extractors.
        step: Steps completed.
        seed: The run's seed.
        samples: Source of the samples.
        data: The run's data set, prepared.
        model: Reads real records, and serves metrics; None for a folder of pictures.
        protocol: What the samples depend on, for the protocol of every score.
        on_progress: Called after each batch; may raise to stop the evaluation.
        at: This rank, if all ranks serve the metrics' requests together. The first one alone has the outputs.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        device: torch.device,
        step: int,
        seed: int,
        samples: Source,
        data: Data,
        model: EvaluatedModel | None = None,
        protocol: Mapping[str, str | int | float | bool] | None = None,
        on_progress: OnProgress = ignore_progress,
        at: Ranks = ALONE,
    ) -> None:
        super().__init__(spec=spec, device=device, step=step, seed=seed, model=model)
        shape = "×".join(str(side) for side in spec.sample_shape)
        self.protocol = {"sample_shape": shape, "precision": "f32", "torch": torch.__version__, **(protocol or {})}
        self.on_progress = on_progress
        self.at = at
        self._samples = samples
        self._data = data
        self._passes: dict[str, _Pass] = {}
        """By the source's name."""
        self._work = Work(partial(called, "the evaluation"))
        """The metric that is being served."""

    @contextmanager
    def at_work(self, work: Work, doing: str) -> Iterator[None]:
        """A block that calls a metric; what it requests is served in the metric's frame."""
        before, self._work = self._work, work
        try:
            with work.doing(doing):
                yield
        finally:
            self._work = before

    def collect(self, into: C, *outputs: str, count: int, extractor: Extractor | None = None) -> C:
        """As `Evaluation.collect`."""
        self._samples.check_outputs(outputs, extractor)
        found = self._samples.available
        if found is not None and count > found:
            there = f"there are {found:,}{self._samples.limited_by}"
            raise PreflightError(f"it asks for {count:,} samples, and {there}; say samples = {found}")
        return self._request(self._samples, into, outputs, count, extractor)

    def collect_real(
        self,
        into: C,
        *outputs: str,
        count: int | None = None,
        split: str = "train",
        extractor: Extractor | None = None,
    ) -> C:
        """As `Evaluation.collect_real`."""
        available = len(self._data.split(split))
        source = RealImages(self._data, split, self.device, self.model)
        source.check_outputs(outputs, extractor)
        return self._request(source, into, outputs, available if count is None else min(count, available), extractor)

    def generated(self, count: int) -> Tensor:
        """As `Evaluation.generated`."""
        return self._at_once(self.collect(Buffer(), "samples", count=count))

    def real(self, count: int | None = None, split: str = "train") -> Tensor:
        """As `Evaluation.real`."""
        return self._at_once(self.collect_real(Buffer(), "images", count=count, split=split))

    def run(self) -> None:
        """Serve all requests since the last call, in one pass over each source, which ranks share.

        Raises:
            NonFiniteError: if samples, reconstructions or an extractor's outputs are NaN or infinite.
        """
        self._run(self.at)

    @exact_float32()
    def _run(self, at: Ranks) -> None:
        passes, self._passes = self._passes, {}
        try:
            for each in passes.values():
                each.run(self.on_progress, at)
        except NonFiniteRowsError as error:
            text = f"{error.output} at step {self.step} are not finite, so they cannot be scored"
            raise _of_run(NonFiniteError(text)) from None

    def _at_once(self, buffer: Buffer) -> Tensor:
        self._run(ALONE)  # other ranks need not ask for the same
        return buffer.tensors()[0]

    def _request(self, source: Source, into: C, outputs: tuple[str, ...], count: int, extractor: Extractor | None) -> C:
        request = _Request(into, outputs, count, extractor, self._work)
        self._passes.setdefault(source.name, _Pass(source)).requests.append(request)
        return into


def frame_by_place(place: int, doing: str) -> called:
    """The frame of a metric that is known only by its place in the recipe."""
    return called(f"metric.{place}", doing)


@exact_float32()
def measured(
    metrics: Sequence[Metric],
    evaluation: SharedEvaluation,
    frames: Callable[[int, str], called] = frame_by_place,
    on_fault: OnFault | None = None,
) -> list[Score]:
    """The scores of all metrics, from one pass over each source, each with its whole protocol. All of it is computed in
    exact float32, even where the process allows TF32.

    Args:
        metrics: In the order of the recipe.
        evaluation: The evaluation.
        frames: `frames(place, doing)` is the frame of calls into the metric at that place.
        on_fault: Called if a metric fails; its scores are then missing, and the others are measured. Several ranks
            serve all metrics together, so there, and without `on_fault`, the fault is raised.

    Raises:
        PreflightError: if a metric, named by its place, asks for more samples than there are.
        NonFiniteError: if samples, reconstructions or an extractor's outputs are NaN or infinite; those of an extractor
            are a fault of the metric.
        ContractError: if a metric fails or returns anything but scores, or two scores have the same name.
    """
    heard = on_fault if evaluation.at.total == 1 else None
    works = [Work(partial(frames, place), heard and partial(heard, place)) for place in range(len(metrics))]
    for metric, work in zip(metrics, works, strict=True):
        with evaluation.at_work(work, "watch"):
            metric.watch(evaluation)
    evaluation.run()
    scores: list[Score] = []
    givers: dict[str, int] = {}
    for place, metric in enumerate(metrics if evaluation.at.number == 0 else ()):
        scores += _measured(metric, works[place], evaluation, place, givers)
        evaluation.on_progress("scores", place + 1, len(metrics))
    return [dataclasses.replace(score, protocol={**score.protocol, **evaluation.protocol}) for score in scores]


def _measured(
    metric: Metric, work: Work, evaluation: SharedEvaluation, place: int, givers: dict[str, int]
) -> Sequence[Score]:
    """The scores of the metric at `place`, none if it has failed; `givers` gets its place by their names."""
    scores: Sequence[Score] = ()
    if not work.has_failed:
        with evaluation.at_work(work, "measure"):
            scores = _checked(metric.measure(evaluation), place, givers)
    if work.has_failed:
        return ()
    givers.update((score.name, place) for score in scores)
    return scores


def _checked(scores: Sequence[Score], place: int, givers: Mapping[str, int]) -> Sequence[Score]:
    """The scores of the metric at `place`; no other metric, of those in `givers`, gives one of the same name."""
    if not isinstance(scores, Sequence) or not all(isinstance(score, Score) for score in scores):
        raise ContractError(f"measure gives {type(scores).__name__} where a list of ganrun.Score is expected")
    taken = dict(givers)
    for name in (score.name for score in scores):
        if name in taken:
            raise ContractError(f"gives a score named {name}, as metric.{taken[name]} does; leave one of them out")
        taken[name] = place
    return list(map(_with_number, scores))


def _with_number(score: Score) -> Score:
    """The score with its value as a float; metrics may give any type of number.

    Raises:
        ContractError: if the value is not a number.
    """
    try:
        return dataclasses.replace(score, value=float(score.value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ContractError(f"the score {score.name} is not a number: {error}") from error


def _of_run(error: GanrunError) -> GanrunError:
    """The error as one that ends a run, regardless of the metric."""
    error.ends_run = True
    return error


# ── Passes ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class _Request:
    """One call of `collect` or `collect_real`."""

    into: Collector
    outputs: tuple[str, ...]
    count: int
    extractor: Extractor | None
    work: Work


_Served = list[list[Tensor]]
"""The outputs of one batch for each request."""


class _Pass:
    """One pass over a source, for all requests."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.requests: list[_Request] = []

    @torch.no_grad()
    def run(self, on_progress: OnProgress, at: Ranks) -> None:
        """Serve every request with every batch.

        Several ranks share the batches in turn, and the first one collects their outputs in order: the same outputs as
        in a single process. A request whose metric has failed is left out.
        """
        total = max((request.count for request in self._open()), default=0)
        batches = iter(self.source.batches(total, at))
        for turn in range(ceil(total / (SAMPLES_PER_BATCH * at.total))):
            if not self._open():
                return
            for served in gathered(self._served(batches), at):
                self._collect(served)
            on_progress(self.source.name, min((turn + 1) * SAMPLES_PER_BATCH * at.total, total), total)

    def _open(self) -> list[_Request]:
        return [request for request in self.requests if not request.work.has_failed]

    def _served(self, batches: Iterator[Rows]) -> _Served:
        """Each request's rows of the next batch."""
        rows = self._next(batches)
        if rows is None:
            return []
        features = _Features(rows, self._counts(), self.source.name)
        return [self._outputs(request, rows, features) for request in self.requests]

    def _next(self, batches: Iterator[Rows]) -> Rows | None:
        """The next batch; an error while it is made names the source, and no metric."""
        try:
            with called(self.source.name, "making a batch"):
                return next(batches, None)
        except GanrunError as error:
            raise _of_run(error) from error.__cause__

    def _collect(self, served: _Served) -> None:
        for request, batch in zip(self.requests, served, strict=False):
            if batch and not request.work.has_failed:
                with request.work.doing("add"):
                    request.into.add(*batch)

    def _outputs(self, request: _Request, rows: Rows, features: _Features) -> list[Tensor]:
        """The rows that a request asks for; nothing if there are none in this batch, or its metric has failed."""
        wanted = rows.ranks < request.count
        if request.work.has_failed or not wanted.any():
            return []
        found: list[Tensor] = []
        with request.work.doing("its request"):
            found += [
                self._output(request, rows, name)[wanted] if name in self.source.outputs else features.of(request, name)
                for name in request.outputs
            ]
        return found

    def _output(self, request: _Request, rows: Rows, name: str) -> Tensor:
        with request.work.within(name), called(self.source.name, name):
            return rows.output(name)

    def _counts(self) -> dict[str, int]:
        """The largest count requested of each extractor, by key."""
        counts: dict[str, int] = {}
        for request in self._open():
            if request.extractor is not None:
                counts[request.extractor.key] = max(request.count, counts.get(request.extractor.key, 0))
        return counts


class _Features:
    """The extractors' outputs for one batch, computed once for each key on all rows that any request needs."""

    def __init__(self, rows: Rows, counts: Mapping[str, int], source: str) -> None:
        self._rows = rows
        self._counts = counts
        self._source = source
        self._found: dict[str, Mapping[str, Tensor]] = {}
        self._checked: set[tuple[str, str]] = set()

    def of(self, request: _Request, name: str) -> Tensor:
        """The output `name` of a request's extractor, for the rows of rank below its count."""
        extractor, ranks = request.extractor, self._rows.ranks
        assert extractor is not None, "outputs were checked when they were requested"
        with request.work.within(f"its extractor {type(extractor).__name__}"):
            seen = ranks < self._counts[extractor.key]
            if extractor.key not in self._found:
                self._found[extractor.key] = extractor(self._rows.pictures[seen])
            found = self._found[extractor.key][name]
            self._check(found, extractor, name)
            return found[ranks[seen] < request.count]

    def _check(self, found: Tensor, extractor: Extractor, name: str) -> None:
        """Refuse features that are not finite: a metric might still compute a number from them."""
        if (extractor.key, name) in self._checked:
            return
        if not bool(found.isfinite().all()):
            bad = sum(not row.isfinite().all() for row in found)
            text = (
                f"its extractor {type(extractor).__name__} gives {name} that are not finite for {bad} of {len(found)}"
            )
            where = f"pictures in a batch of {self._source}, so they cannot be scored"
            raise NonFiniteError(f"{text} {where}; if it computes in half precision, use float32")
        self._checked.add((extractor.key, name))
