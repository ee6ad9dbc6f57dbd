"""Run directories, read for a comparison. Damaged parts are skipped and noted; the rest is used."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import InvalidVersion, Version

from ganrun import ProgressReporter, Record, RequestError, RunDirectory, Score, one_line
from ganrun_report.faults import fault_notes
from ganrun_report.health import health_notes, health_of
from ganrun_report.protocols import ScoreProtocol, protocol_of
from ganrun_report.text import counted

PICTURE = re.compile(r"step_(\d+)\.png")
LOSS_PREFIX, AUGMENTATION_PREFIX = "loss/", "augmentation/"


class Point(NamedTuple):
    """A number, and when it was measured."""

    step: int
    images_seen: int
    seconds: float
    value: float


class ScoreCurve(NamedTuple):
    """A score during training."""

    protocol: ScoreProtocol
    """Of all points."""

    points: Sequence[Point]


@dataclass(frozen=True)
class Result:
    """A score of one run, as last measured."""

    score: Score
    step: int

    @property
    def protocol(self) -> ScoreProtocol:
        """How it was measured."""
        return protocol_of(self.score)


@dataclass(frozen=True)
class PastRun:
    """One run directory, read."""

    path: Path
    """Absolute."""

    name: str
    """The recipe's; if it has none, the folder's."""

    status: str
    """As `RunDirectory.status`: `finished`, `running`, `failed`, `interrupted`, `killed` or `unknown`."""

    error: str | None
    """The error that stopped it, if known."""

    recipe_text: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]

    step: int
    """Steps done."""

    images_seen: int
    seconds: float

    results: Mapping[str, Result]
    """By score."""

    losses: Mapping[str, Sequence[Point]]
    """Curves by phase and term, such as `generator` or `discriminator.real`; and augmentations' reports, such as
    `augmentation/discriminator.p`."""

    score_curves: Mapping[str, ScoreCurve]
    """By score. Scores that `ganrun eval` measured later are in `results` only."""

    pictures: Mapping[str, Mapping[int, Path]]
    """By role, such as `samples`, and step."""

    notes: Sequence[str]
    """Remarks on what is unreadable, unreliable or missing; without the folder's name."""

    health: str | None = None
    """`good`, or a line for each trouble of the run; None if it was not monitored."""

    @property
    def seed(self) -> int | None:
        """The recipe's seed."""
        seed = _table(self.recipe, "train").get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def steps(self) -> int | None:
        """The recipe's steps."""
        steps = _table(self.recipe, "train").get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def device(self) -> str:
        """The device's name."""
        return str(self.environment.get("device_name", "unknown"))

    @property
    def images_per_second(self) -> float:
        """Mean speed; NaN before the first step."""
        return self.images_seen / self.seconds if self.seconds > 0 else math.nan


def read_runs(paths: Sequence[Path]) -> tuple[list[PastRun], list[str]]:
    """The readable runs, and an error message for each of the others.

    Raises:
        RequestError: if no run is readable.
    """
    runs, errors = [], []
    with ProgressReporter() as on_progress:
        for done, path in enumerate(paths, start=1):
            try:
                runs.append(read_run(path))
            except RequestError as error:
                errors.append(str(error))
            on_progress("reading runs", done, len(paths))
    if not runs:
        raise RequestError("\n".join(errors))
    return runs, errors


def read_run(path: Path) -> PastRun:
    """One run directory.

    Raises:
        RequestError: if its recipe or its records cannot be read.
    """
    directory = RunDirectory(path)
    source = directory.recipe_source()
    recipe, summary, environment = source.tables, directory.summary(), directory.environment()
    records, damaged = directory.read_records()
    substitute = [] if any(record.evaluation for record in records) else _summary_record(summary)
    records += substitute
    trained = [record for record in records if not record.rescored]
    return PastRun(
        path=directory.path,
        name=one_line(str(recipe.get("name") or directory.path.name)),
        status=directory.status,
        error=str(summary["error"]) if "error" in summary else None,
        health=health_of(summary),
        recipe_text=source.text,
        recipe=recipe,
        environment=environment,
        step=int(_largest(summary.get("steps"), *(record.step for record in records))),
        images_seen=int(_largest(summary.get("images_seen"), *(record.images_seen for record in records))),
        seconds=_largest(summary.get("seconds"), *(record.seconds for record in records)),
        results=_results(records),
        losses=_losses(trained),
        score_curves=_score_curves(trained),
        pictures=_pictures(directory),
        notes=[
            *_version_notes(environment),
            *_missing_notes({directory.summary_path: summary, directory.environment_path: environment}),
            *_record_notes(directory, len(damaged), is_substituted=bool(substitute)),
            *fault_notes(summary),
            *health_notes(health_of(summary)),
        ],
    )


def _summary_record(summary: dict[str, Any]) -> list[Record]:
    """The scores of summary.json as a record; empty if it has none."""
    try:
        record = Record.from_summary(summary)
    except ValueError:
        return []
    return [record] if record.evaluation else []


def _largest(*values: object) -> float:
    """The largest of the finite numbers among some values; 0 if there are none."""
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return max(numbers, default=0)


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name)
    return table if isinstance(table, dict) else {}


# ── Scores, curves and pictures ───────────────────────────────────────────────────────────────────────────


def _results(records: Iterable[Record]) -> dict[str, Result]:
    """Each score at the last step for which it was measured; of several measurements there, the last."""
    in_order = sorted(records, key=lambda record: record.step)
    return {score.name: Result(score, record.step) for record in in_order for score in record.evaluation}


def _losses(records: Iterable[Record]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = defaultdict(list)
    for record in records:
        for name, value in record.values.items():
            if name.startswith((LOSS_PREFIX, AUGMENTATION_PREFIX)) and not math.isnan(value):
                curves[name.removeprefix(LOSS_PREFIX)].append(_point(record, value))
    return dict(curves)


def _score_curves(records: Sequence[Record]) -> dict[str, ScoreCurve]:
    """Only points of the last protocol: a run may have been resumed with another one."""
    protocols = {name: result.protocol for name, result in _results(records).items()}
    points: dict[str, list[Point]] = {name: [] for name in protocols}
    for record in records:
        for score in record.evaluation:
            if not math.isnan(score.value) and protocol_of(score) == protocols[score.name]:
                points[score.name].append(_point(record, score.value))
    return {name: ScoreCurve(protocol, points[name]) for name, protocol in protocols.items()}


def _point(record: Record, value: float) -> Point:
    return Point(record.step, record.images_seen, record.seconds, value)


def _pictures(directory: RunDirectory) -> dict[str, dict[int, Path]]:
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(directory.path.glob("*/step_*.png")):
        match = PICTURE.fullmatch(path.name)
        if match:
            found[path.parent.name][int(match[1])] = path
    return dict(found)


# ── Notes ─────────────────────────────────────────────────────────────────────────────────────────────────


def _version_notes(environment: Mapping[str, Any]) -> Iterator[str]:
    here, there = version("ganrun"), str(_table(environment, "packages").get("ganrun", "0"))
    try:
        is_newer = Version(there) > Version(here)
    except InvalidVersion:
        return
    if is_newer:
        yield f"written by ganrun {there}, which is newer than this version, {here}: some of it may not be shown"


def _missing_notes(contents: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    for path, content in contents.items():
        if not content:
            yield f"{path.name} is {'damaged' if path.exists() else 'missing'}"


def _record_notes(directory: RunDirectory, damaged: int, *, is_substituted: bool) -> Iterator[str]:
    metrics, summary = directory.metrics_path.name, directory.summary_path.name
    if damaged:
        yield f"skipped {counted(damaged, 'damaged line')} of {metrics}"
    if is_substituted:
        yield f"{metrics} has no scores; showing those of {summary}"
