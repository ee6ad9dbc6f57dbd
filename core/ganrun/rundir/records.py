"""The files of a run: their names, and the formats of metrics.jsonl and summary.json, which only this module knows.

A line of metrics.jsonl has its step and times, then numbers by name or scores:

    {"step": 500, "images_seen": 32000, "seconds": 41.2, "time": 1764100000.1, "loss/generator": 0.71, …}
    {"step": 500, …, "eval/fid": 12.3, "directions": {"fid": "lower"}, "protocols": {"fid": {…}}, "errors": {},
     "floors": {"fid": 3.1}}

summary.json has the same tables, with the values of the scores under `scores` and the step of each under
`score_steps`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePath
from typing import Any, NamedTuple, Self

from ganrun.base.jsons import json_text
from ganrun.base.locks import LATEST
from ganrun.contracts.scores import Score
from ganrun.rundir.contents import is_amount, is_count, parsed

RECIPE, ENVIRONMENT, METRICS, SUMMARY = "recipe.toml", "environment.json", "metrics.jsonl", "summary.json"

RUN_FILES = (RECIPE, ENVIRONMENT, METRICS, SUMMARY)
"""The files of every run that has been measured at least once."""

CONFIG = "config.json"
"""The facts of an exported model; a run has none."""

LONGEST_NAME, LONGEST_PATH = 255, 1_000
"""For files of a run, within its directory: bytes of a name, and characters of a path."""

SCORE_PREFIX = "eval/"
"""Prefix of scores' names among the numbers of a line."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl: numbers, or scores, at one step of a run."""

    step: int
    """Steps done."""

    images_seen: int
    """Real images consumed."""

    seconds: float
    """Time spent in steps."""

    time: float
    """When it was written: seconds since 1970."""

    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers by name, such as `loss/generator`; NaN where the line has no finite number."""

    evaluation: tuple[Score, ...] = ()
    """The scores, if the line belongs to an evaluation."""

    rescored: bool = False
    """Whether the scores were measured by `ganrun eval`, after the run."""

    def scores(self) -> dict[str, Score]:
        """The scores by name."""
        return {score.name: score for score in self.evaluation}

    def to_json(self) -> Json:
        """The line as JSON, with null for NaN and infinity."""
        return {
            "step": self.step,
            "images_seen": self.images_seen,
            "seconds": round(self.seconds, 3),
            "time": round(self.time, 3),
            **({"rescored": True} if self.rescored else {}),
            **{name: _finite_or_none(value) for name, value in self.values.items()},
            **{f"{SCORE_PREFIX}{score.name}": _finite_or_none(score.value) for score in self.evaluation},
            **(_score_tables(self.evaluation) if self.evaluation else {}),
        }

    @classmethod
    def from_json(cls, content: object) -> Self:
        """The record of a line's JSON.

        Raises:
            ValueError: if it is no such line, or does not say how one of its scores was measured.
        """
        if not isinstance(content, dict):
            raise ValueError("a record is a JSON object")
        numbers = {name: value for name, value in content.items() if "/" in name}
        if any(map(_is_score, numbers)) and not content.keys() >= {"directions", "protocols", "errors", "floors"}:
            raise ValueError("a line with scores says how each was measured")
        scores = {name.removeprefix(SCORE_PREFIX): value for name, value in numbers.items() if _is_score(name)}
        return cls(
            step=_whole(content, "step"),
            images_seen=_whole(content, "images_seen"),
            seconds=_number(content, "seconds"),
            time=_time(content),
            values={name: _finite_or_nan(value) for name, value in numbers.items() if not _is_score(name)},
            evaluation=tuple(_scores_of(scores, content)),
            rescored=content.get("rescored") is True,
        )

    @classmethod
    def from_summary(cls, content: Json) -> Self:
        """The latest scores of a run, from the content of its summary.json; the time is unknown, NaN.

        Raises:
            ValueError: if it lacks the steps, the images seen, the seconds, or how a score was measured.
        """
        scores = content.get("scores")
        return cls(
            step=_whole(content, "steps"),
            images_seen=_whole(content, "images_seen"),
            seconds=_number(content, "seconds"),
            time=math.nan,
            evaluation=tuple(_scores_of(scores if isinstance(scores, dict) else {}, content)),
        )

    @classmethod
    def parse(cls, line: str | bytes) -> Self | None:
        """The record of a line's text; None if a crash has cut it short, or it is no record."""
        try:
            return cls.from_json(parsed(line if isinstance(line, str) else line.decode()))
        except ValueError:
            return None

    def text(self) -> str:
        """The line as text, without the newline."""
        return json_text(self.to_json())


class LatestScore(NamedTuple):
    """A score and the step at which it was measured."""

    step: int
    score: Score


def latest_scores(evaluations: Iterable[Record], step: int, sampling: Mapping[str, Any]) -> dict[str, LatestScore]:
    """The latest score of each name among records, at or before a step; of several at one step, the last recorded.

    Args:
        evaluations: Records, in the order of metrics.jsonl.
        step: Steps done.
        sampling: The run's sampling settings, as entries of a protocol. Scores that `ganrun eval` measured with other
            sampling settings are left out.
    """
    until = [each for each in evaluations if each.step <= step]
    return {
        score.name: LatestScore(record.step, score)
        for record in sorted(until, key=lambda record: record.step)
        for score in record.evaluation
        if not record.rescored or _sampling_of(score) in ({}, sampling)
    }


def _sampling_of(score: Score) -> dict[str, Any]:
    """The sampling settings; empty for a score that uses no samples."""
    return {name: value for name, value in score.protocol.items() if name.startswith("sampling.")}


@dataclass(frozen=True)
class Summary:
    """The content of summary.json: the state of a run, or how it ended."""

    name: str
    """The recipe's."""

    status: str
    """`running`, `finished`, `failed` or `interrupted`."""

    steps: int
    """Steps done."""

    images_seen: int
    seconds: float
    images_per_second: float

    device: str
    """The device's name, such as `NVIDIA H200`."""

    error: str | None = None
    """The error that stopped it, if it failed."""

    stopped: str | None = None
    """Why training ended before the recipe's last step, if an observer ended it."""

    scores: Mapping[str, LatestScore] = field(default_factory=dict)
    """By name."""

    last: Mapping[str, str] = field(default_factory=dict)
    """The latest file of each role, relative to the directory."""

    faults: Sequence[Mapping[str, Any]] = ()
    """What observers and metrics failed to do, each with owner, event or method, text, steps and count."""

    notes: Mapping[str, Any] = field(default_factory=dict)
    """Content that observers have added, by name."""

    def to_json(self) -> Json:
        """The file's content."""
        return {
            "name": self.name,
            "status": self.status,
            **({} if self.error is None else {"error": self.error}),
            "steps": self.steps,
            "images_seen": self.images_seen,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1),
            "device": self.device,
            **({} if self.stopped is None else {"stopped": self.stopped}),
            **({} if not self.faults else {"faults": [dict(fault) for fault in self.faults]}),
            **_summary_tables(self.scores),
            "last": dict(self.last),
            **self.notes,
        }


@cache
def summary_entries() -> frozenset[str]:
    """The names of the entries that ganrun itself writes to summary.json; all others are notes of observers."""
    return frozenset(Summary("", "", 0, 0, 0.0, 0.0, "", error="", stopped="", faults=[{}]).to_json())


def notes_in(summary: Mapping[str, Any]) -> Json:
    """The entries that observers have added to a summary.json."""
    return {name: content for name, content in summary.items() if name not in summary_entries()}


def last_files_in(summary: Mapping[str, Any]) -> dict[str, str]:
    """The latest file of each role that a summary.json names, if it may be one of the run's."""
    return {role: path for role, path in _table(summary, "last").items() if isinstance(path, str) and _is_below(path)}


def _is_below(path: str) -> bool:
    """Whether a path leads to a place below the folder that it is relative to, and can exist."""
    place = PurePath(path)
    try:
        is_possible = "\0" not in path and all(len(os.fsencode(part)) <= LONGEST_NAME for part in place.parts)
    except UnicodeEncodeError:
        return False
    return is_possible and len(path) <= LONGEST_PATH and not place.is_absolute() and ".." not in place.parts


def merged_summary(summary: Mapping[str, Any], scores: Mapping[str, LatestScore]) -> Json:
    """The content of a summary.json with further scores, which replace those of the same names."""
    kept = {
        table: {name: value for name, value in _table(summary, table).items() if name not in scores}
        for table in _summary_tables({})
    }
    return {**summary, **{table: {**kept[table], **new} for table, new in _summary_tables(scores).items()}}


def _summary_tables(latest: Mapping[str, LatestScore]) -> dict[str, Json]:
    scores = [each.score for each in latest.values()]
    return {
        "scores": {score.name: _finite_or_none(score.value) for score in scores},
        "score_steps": {name: each.step for name, each in latest.items()},
        **_score_tables(scores),
    }


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name)
    return table if isinstance(table, dict) else {}


def _score_tables(scores: Iterable[Score]) -> dict[str, Json]:
    """Everything about scores except their values, by name: better direction, protocol, error, floor."""
    listed = list(scores)
    return {
        "directions": {score.name: "higher" if score.higher_is_better else "lower" for score in listed},
        "protocols": {score.name: _protocol_table(score) for score in listed},
        "errors": {score.name: score.error for score in listed if score.error is not None},
        "floors": {score.name: score.floor for score in listed if score.floor is not None},
    }


def _protocol_table(score: Score) -> Json:
    """The protocol with texts for NaN and infinity, so that unlike protocols stay unlike."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in score.protocol.items()
    }


def _scores_of(values: Mapping[str, object], tables: Mapping[str, Any]) -> list[Score]:
    """Scores from their values by name and the tables of `_score_tables`; the inverse of the latter.

    Raises:
        ValueError: if the tables do not say how one of them was measured.
    """
    return [_score(name, value, tables) for name, value in values.items()]


def _score(name: str, value: object, tables: Mapping[str, Any]) -> Score:
    direction, protocol = _entry(tables, "directions", name), _entry(tables, "protocols", name)
    if direction not in ("higher", "lower") or not isinstance(protocol, dict):
        raise ValueError(f"nothing says how {name} was measured")
    if not all(isinstance(each, str | int | float | bool) for each in protocol.values()):
        raise ValueError(f"the protocol of {name} holds more than texts and numbers")
    error, floor = (_finite_or_nan(_entry(tables, table, name)) for table in ("errors", "floors"))
    return Score(
        name=name,
        value=_finite_or_nan(value),
        higher_is_better=direction == "higher",
        protocol=protocol,
        error=_finite_or_none(error),
        floor=_finite_or_none(floor),
    )


def _entry(tables: Mapping[str, Any], table: str, name: str) -> object:
    return _table(tables, table).get(name)


def _is_score(name: str) -> bool:
    return name.startswith(SCORE_PREFIX)


def _whole(content: Json, key: str) -> int:
    value = content.get(key)
    if not isinstance(value, int) or not is_count(value):
        raise ValueError(f"{key} is not an integer of at least 0")
    return value


def _number(content: Json, key: str) -> float:
    value: Any = content.get(key)
    if not is_amount(value):
        raise ValueError(f"{key} is not a number of at least 0")
    return float(value)


def _time(content: Json) -> float:
    time = _number(content, "time")
    if time >= LATEST:
        raise ValueError("time is not a plausible number of seconds since 1970")
    return time


def _finite_or_nan(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return math.nan
    return float(value)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
