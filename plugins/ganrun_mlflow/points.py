"""Converts lines of metrics.jsonl to MLflow's points, in batches of one call each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ganrun import Record
from ganrun_mlflow.labels import key_text

if TYPE_CHECKING:
    from mlflow.entities import Metric

POINTS_PER_CALL = 800
"""MLflow accepts 1000 points and tags together."""

SECONDS_BETWEEN_POINTS = 1.0
"""For each curve. MLflow takes 0.3 ms per point: with short steps, all points would cost over 1 % of a run's time, for
charts that cannot resolve them."""


class Line(NamedTuple):
    """A line of metrics.jsonl, or a piece of one that is too long for a record."""

    text: bytes
    record: Record | None
    """None if it is damaged."""


class Batch(NamedTuple):
    """Lines of metrics.jsonl that are sent in one call."""

    text: bytearray
    records: list[Record]
    points: list[Metric]


def batches(lines: Sequence[Line]) -> Iterator[Batch]:
    """All lines, in as few calls as the store allows.

    Curves are thinned to a point every `SECONDS_BETWEEN_POINTS`; scores and the last point of a curve are always kept.
    Damaged lines have no points.
    """
    batch = Batch(bytearray(), [], [])
    for line, record in zip(lines, _thinned([line.record for line in lines]), strict=True):
        points = list(points_of(record)) if record else []
        if len(batch.points) + len(points) > POINTS_PER_CALL:
            yield batch
            batch = Batch(bytearray(), [], [])
        batch.text.extend(line.text)
        batch.records.extend([record] if record else [])
        batch.points.extend(points)
    if batch.text:
        yield batch


def _thinned(records: Sequence[Record | None]) -> list[Record | None]:
    """The records, with None in place of those that would make a curve too dense."""
    kept: list[Record | None] = []
    next_time = math.inf
    for record in reversed(records):
        if record is not None and _has_losses(record):
            if abs(next_time - record.time) < SECONDS_BETWEEN_POINTS:
                record = None
            else:
                next_time = record.time
        kept.append(record)
    return kept[::-1]


def _has_losses(record: Record) -> bool:
    """Whether the record is one of the regular measurements, which make the curves."""
    return any(name.startswith("loss/") for name in record.values)


def points_of(record: Record) -> Iterator[Metric]:
    """The finite numbers of a record; others would spoil MLflow's charts."""
    from mlflow.entities import Metric

    numbers = {**record.values, **{f"eval/{score.name}": score.value for score in record.evaluation}}
    if _has_losses(record):
        numbers["images_seen"] = record.images_seen
    # The prefix sorts errors after the scores in MLflow's charts.
    numbers |= {f"eval_error/{score.name}": score.error for score in record.evaluation if score.error is not None}
    for name, value in numbers.items():
        if math.isfinite(value):
            yield Metric(key_text(name), float(value), int(1000 * record.time), record.step)
