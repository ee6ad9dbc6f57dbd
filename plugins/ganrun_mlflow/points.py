"""Lines of metrics.jsonl as MLflow takes them: points of curves and scores, so many to a call."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ganrun_mlflow.labels import key_text

if TYPE_CHECKING:
    from mlflow.entities import Metric

POINTS_PER_CALL = 800
"""MLflow takes 1000 points and tags together."""

SECONDS_BETWEEN_POINTS = 1.0
"""Of a curve. MLflow takes 0.3 ms for each point: all those of a run of short steps would cost it more than a hundredth
of its time, for charts in which they could not be told apart."""


class Call(NamedTuple):
    """Lines of metrics.jsonl that go to the store together."""

    text: bytearray
    records: list[Mapping[str, Any]]
    points: list[Metric]


def calls(lines: Sequence[bytes]) -> Iterator[Call]:
    """All the lines, in as few calls as the store takes.

    Curves are thinned to a point each `SECONDS_BETWEEN_POINTS`, their last among them; scores never are.
    """
    call = Call(bytearray(), [], [])
    for line, record in zip(lines, _thinned([_record(line) for line in lines]), strict=True):
        points = list(_points(record))
        if len(call.points) + len(points) > POINTS_PER_CALL:
            yield call
            call = Call(bytearray(), [], [])
        call.text.extend(line)
        call.records.append(record)
        call.points.extend(points)
    if call.text:
        yield call


def _record(line: bytes) -> dict[str, Any]:
    """A line's content; nothing where a crash spoilt it."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    is_record = isinstance(content, dict) and {"step", "images_seen", "time"} <= content.keys()
    return content if is_record else {}


def _thinned(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records, empty in place of those that would make curves too dense. The last point of a curve is kept."""
    kept: list[Mapping[str, Any]] = []
    shown_at = math.inf
    for record in reversed(records):
        if _is_of_curves(record):
            if abs(shown_at - record["time"]) < SECONDS_BETWEEN_POINTS:
                record = {}
            else:
                shown_at = record["time"]
        kept.append(record)
    return kept[::-1]


def _is_of_curves(record: Mapping[str, Any]) -> bool:
    """Whether it was measured every so many steps, and is no score."""
    return any(name.startswith("loss/") for name in record)


def _points(record: Mapping[str, Any]) -> Iterator[Metric]:
    """The numbers of a record, as MLflow takes them. NaN and infinities, which ruin its charts, are left out."""
    from mlflow.entities import Metric

    numbers = {name: value for name, value in record.items() if "/" in name}
    if _is_of_curves(record):
        numbers["images_seen"] = record["images_seen"]
    # An error's name has a prefix that MLflow's charts put behind the scores.
    numbers |= {f"eval_error/{name}": error for name, error in record.get("errors", {}).items()}
    for name, value in numbers.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield Metric(key_text(name), float(value), int(1000 * record["time"]), record["step"])
