"""What run directories tell. Nothing is trusted: what is damaged is named and left out, and costs nothing else."""

from __future__ import annotations

import math
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, model_validator

from ganrun import ProgressReporter, RequestError, RunDirectory, load_registry

RECIPE, ENVIRONMENT, METRICS, SUMMARY = "recipe.toml", "environment.json", "metrics.jsonl", "summary.json"
PICTURE = re.compile(r"step_(\d+)\.png")
DEEPEST = 3
"""Folders below one that was named, in which runs are looked for."""

WHAT_WAS_SCORED = ("seed", "ema_decay")
"""Entries of a protocol that tell which model was scored rather than how."""

Terms = Mapping[str, str | int | float | bool]
"""What a score's value depends on: scores of unlike terms are not ranked together."""


class Point(NamedTuple):
    """A number, and when it was measured."""

    step: int
    images_seen: int
    seconds: float
    value: float


@dataclass(frozen=True)
class Result:
    """A score of one run, as it was last measured."""

    value: float
    """NaN where it was no finite number."""

    step: int

    terms: Terms
    """On what terms it was measured: its protocol, and which direction is `better`; but for `WHAT_WAS_SCORED`."""

    error: float | None
    floor: float | None


@dataclass(frozen=True)
class PastRun:
    """One run directory, read."""

    path: Path
    """Absolute."""

    name: str
    """The recipe's; the folder's where it has none."""

    status: str
    """As `RunDirectory.status`: `finished`, `running`, `failed`, `interrupted`, `killed` or `unknown`."""

    fault: str | None
    """What stopped it, if that was told."""

    recipe_text: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]

    step: int
    """Steps done."""

    images_seen: int
    seconds: float

    results: Mapping[str, Result]
    """By score."""

    curves: Mapping[str, Sequence[Point]]
    """`loss/…` and `eval/…`, in order; what `ganrun eval` measured afterwards is in `results` alone."""

    curve_terms: Mapping[str, Terms]
    """For each of the curves `eval/…`, the terms of its points."""

    pictures: Mapping[str, Mapping[int, Path]]
    """By role, such as `samples`, and step."""

    notes: Sequence[str]
    """What could not be read, or not be relied on; without the folder."""

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
        """What it ran on, in words."""
        return str(self.environment.get("device_name", "unknown"))

    @property
    def images_per_second(self) -> float:
        """Mean speed; NaN before the first step."""
        return self.images_seen / self.seconds if self.seconds > 0 else math.nan

    @property
    def place(self) -> str:
        """Its folder as it is shown: from the working directory, or in full."""
        return shown(self.path)


def shown(path: Path) -> str:
    """A path from the working directory where it lies there, else in full."""
    return one_line(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def one_line(text: str) -> str:
    """A text in which nothing ends a line or moves a terminal's cursor: such characters are spelled, as in `\\n`."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


# ── Which runs ────────────────────────────────────────────────────────────────────────────────────────────


def find_runs(names: Sequence[str], experiment: str | None = None) -> list[Path]:
    """The run directories that are meant, each once.

    Args:
        names: Run directories, folders that hold some, or a tracker's ids of runs.
        experiment: One that a tracker knows by this name.

    Raises:
        RequestError: if one of them names nothing.
    """
    if not names and experiment is None:
        raise RequestError("say which runs: their directories, a folder that holds them, or --experiment NAME")
    found = [run for name in names for run in _runs_at(name)]
    if experiment is not None:
        found += _runs_of(experiment)
    places: dict[Path, Path] = {}
    for path in found:  # one run has many names: links, and ways through ".."
        places.setdefault(path.resolve(), path.absolute())
    return list(places.values())


def _runs_at(name: str) -> list[Path]:
    folder = _located(name)
    if folder.is_file():
        raise RequestError(f"{name} is a file; name the run's directory, or a folder that holds runs")
    runs = list(_runs_in(folder, DEEPEST))
    if not runs:
        holder = next((f"; {each} is one" for each in folder.absolute().parents[:2] if (each / RECIPE).is_file()), "")
        raise RequestError(f"{name} is no run directory and holds none: there is no {RECIPE} in it{holder}")
    return runs


def _located(name: str) -> Path:
    try:
        if Path(name).exists():
            return Path(name)
    except OSError as error:  # a name too long, a folder that may not be read
        raise RequestError(f"cannot look at {name}: {error.strerror}") from error
    from ganrun import locate  # imports torch, which a path that exists can do without

    return locate(name, load_registry())


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    """A folder that may not be looked into counts as a run: reading it then tells why it cannot be."""
    try:
        is_run = (folder / RECIPE).is_file()
        children = [] if is_run or not depth else sorted(filter(Path.is_dir, folder.iterdir()), key=_natural)
    except OSError:
        is_run, children = True, []
    if is_run:
        yield folder
    for child in children:
        yield from _runs_in(child, depth - 1)


def _natural(path: Path) -> list[tuple[int, str]]:
    """`seed_10` comes after `seed_2`."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", path.name)]


def _runs_of(experiment: str) -> list[Path]:
    trackers = load_registry().trackers().values()
    answers = [tracker.runs_of(experiment) for tracker in trackers]
    known = [answer for answer in answers if answer is not None]
    if not known:
        there = ", ".join(f'"{name}"' for tracker in trackers for name in tracker.experiments()) or "none"
        raise RequestError(
            f'no tracker knows an experiment called "{experiment}"; they know {there}; or name the runs\' directories'
        )
    runs = [path for answer in known for path in answer]
    if not runs:
        raise RequestError(f'the experiment "{experiment}" holds no runs yet')
    return runs


# ── One run ───────────────────────────────────────────────────────────────────────────────────────────────


def read_runs(paths: Sequence[Path]) -> tuple[list[PastRun], list[str]]:
    """The runs that can be read, and why the others cannot.

    Raises:
        RequestError: if none can.
    """
    runs, faults = [], []
    with ProgressReporter() as told:
        for done, path in enumerate(paths, start=1):
            try:
                runs.append(read_run(path))
            except RequestError as error:
                faults.append(str(error))
            told("reading runs", done, len(paths))
    if not runs:
        raise RequestError("\n".join(faults))
    return runs, faults


def read_run(path: Path) -> PastRun:
    """One run directory.

    Raises:
        RequestError: if its recipe cannot be read.
    """
    directory = RunDirectory(path)
    text, recipe = _recipe(directory)
    summary, environment = directory.read_json(SUMMARY), directory.read_json(ENVIRONMENT)
    lines, damaged = _lines(directory)
    are_scored = any(line.scores for line in lines)
    lines += [] if are_scored else _summed_up(summary)
    trained = [line for line in lines if not line.rescored]
    latest = _results(trained)
    last = lines[-1] if lines else Line(step=0, images_seen=0, seconds=0.0)
    return PastRun(
        path=directory.path,
        name=one_line(str(recipe.get("name") or directory.path.name)),
        status=directory.status,
        fault=str(summary["error"]) if "error" in summary else None,
        recipe_text=text,
        recipe=recipe,
        environment=environment,
        step=int(max(last.step, _number(summary, "steps"))),
        images_seen=int(max(last.images_seen, _number(summary, "images_seen"))),
        seconds=max(last.seconds, _number(summary, "seconds")),
        results=_results(lines),
        curves=_curves(trained, latest),
        curve_terms={f"eval/{name}": each.terms for name, each in latest.items()},
        pictures=_pictures(directory),
        notes=tuple(_notes(directory, summary, environment, damaged, are_scored)),
    )


class Line(BaseModel):
    """A line of metrics.jsonl."""

    model_config = ConfigDict(extra="allow", frozen=True)

    step: int
    images_seen: int
    seconds: FiniteFloat
    rescored: bool = False
    directions: dict[str, Literal["higher", "lower"]] = {}
    protocols: dict[str, dict[str, str | int | float | bool]] = {}
    errors: dict[str, float] = {}
    floors: dict[str, float] = {}

    @cached_property
    def values(self) -> dict[str, float]:
        """`loss/…` and `eval/…`; NaN for what is no finite number."""
        told = {key: each for key, each in (self.model_extra or {}).items() if key.startswith(("loss/", "eval/"))}
        return {key: _finite(each) for key, each in told.items()}

    @cached_property
    def scores(self) -> dict[str, float]:
        """The values of the scores, by name."""
        return {key.removeprefix("eval/"): each for key, each in self.values.items() if key.startswith("eval/")}

    def terms(self, score: str) -> Terms:
        """On what terms a score was measured."""
        protocol = {key: value for key, value in self.protocols[score].items() if key not in WHAT_WAS_SCORED}
        return {**protocol, "better": self.directions[score]}

    @model_validator(mode="after")
    def _scores_are_whole(self) -> Line:
        for name in self.scores:
            if name not in self.directions or name not in self.protocols:
                raise ValueError(f"nothing tells how {name} was measured")
        return self


def _finite(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan


def _finite_or_none(value: Any) -> float | None:
    number = _finite(value)
    return None if math.isnan(number) else number


def _number(table: Mapping[str, Any], key: str) -> float:
    """A number of a table; 0 where it has none."""
    return _finite_or_none(table.get(key)) or 0.0


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name)
    return table if isinstance(table, dict) else {}


def _recipe(directory: RunDirectory) -> tuple[str, dict[str, Any]]:
    try:
        text = (directory / RECIPE).read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise RequestError(f"{directory / RECIPE} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{directory / RECIPE} is damaged, so its run is left out: {error}") from error


def _lines(directory: RunDirectory) -> tuple[list[Line], int]:
    """The lines of metrics.jsonl that are sound, and how many are not."""
    lines, damaged = [], 0
    try:
        is_there = (directory / METRICS).is_file()  # it is not where a run stopped before the first measurement
        written = (directory / METRICS).read_bytes().splitlines() if is_there else []
    except OSError as error:
        raise RequestError(f"{directory / METRICS} cannot be read: {error.strerror}") from error
    for text in filter(None, written):
        try:
            lines.append(Line.model_validate_json(text))
        except ValidationError:
            damaged += 1
    return lines, damaged


def _summed_up(summary: Mapping[str, Any]) -> list[Line]:
    """The scores of summary.json as a line; none where it has none."""
    told = {name: _table(summary, name) for name in ("directions", "protocols", "errors", "floors")}
    scores = {f"eval/{name}": value for name, value in _table(summary, "scores").items()}
    facts = {"step": summary.get("steps"), "images_seen": summary.get("images_seen"), "seconds": summary.get("seconds")}
    try:
        return [Line.model_validate({**facts, **told, **scores})] if scores else []
    except ValidationError:
        return []


def _results(lines: Iterable[Line]) -> dict[str, Result]:
    """Each score at the latest step at which it was measured, as it was measured last."""
    found: dict[str, Result] = {}
    for line in sorted(lines, key=lambda each: each.step):
        for name, value in line.scores.items():
            found[name] = Result(
                value=value,
                step=line.step,
                terms=line.terms(name),
                error=_finite_or_none(line.errors.get(name)),
                floor=_finite_or_none(line.floors.get(name)),
            )
    return found


def _curves(lines: Iterable[Line], latest: Mapping[str, Result]) -> dict[str, list[Point]]:
    """Scores on their latest terms alone: a run may have been resumed on others."""
    curves: dict[str, list[Point]] = defaultdict(list)
    for line in lines:
        unlike = {f"eval/{name}" for name in line.scores if line.terms(name) != latest[name].terms}
        for key, value in line.values.items():
            if not math.isnan(value) and key not in unlike:
                curves[key].append(Point(line.step, line.images_seen, line.seconds, value))
    return dict(curves)


def _pictures(directory: RunDirectory) -> dict[str, dict[int, Path]]:
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(directory.path.glob("*/step_*.png")):
        match = PICTURE.fullmatch(path.name)
        if match:
            found[path.parent.name][int(match[1])] = path
    return dict(found)


def _notes(
    directory: RunDirectory, summary: Mapping[str, Any], environment: Mapping[str, Any], damaged: int, are_scored: bool
) -> Iterator[str]:
    newer = _newer_version(environment)
    if newer:
        yield f"written by ganrun {newer}, and this is {version('ganrun')}: what is new there is not shown"
    for name, content in ((SUMMARY, summary), (ENVIRONMENT, environment)):
        if not content:
            yield f"{name} is {'damaged' if (directory / name).exists() else 'missing'}"
    if damaged:
        yield f"{damaged} {'line' if damaged == 1 else 'lines'} of {METRICS} left out as damaged"
    if _table(summary, "scores") and not are_scored:
        yield f"{METRICS} has no scores; those of {SUMMARY} are shown"


def _newer_version(environment: Mapping[str, Any]) -> str | None:
    written_by = str(_table(environment, "packages").get("ganrun", "0"))
    try:
        return written_by if Version(written_by) > Version(version("ganrun")) else None
    except InvalidVersion:
        return None
