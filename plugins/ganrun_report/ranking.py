"""Groups of replicates, and their rankings: each ranks scores of one protocol."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganrun import RequestError, is_local_path, without_secrets
from ganrun_report.earlier import up_to_date
from ganrun_report.protocols import ScoreProtocol, most_common, protocol_difference, protocol_key
from ganrun_report.reading import PastRun
from ganrun_report.text import ABSENT, last_component, value_text

PASSIVE_OBSERVERS = ("checkpoints", "mlflow", "progress", "samples", "target", "watch")
"""Observers that do not affect training, as `early-stopping` does: it decides how long a run trains. `watch` does not
unless a recipe says so."""

FREE_SETTINGS = (
    "train.seed",
    "train.device",
    "train.log_every_steps",
    "train.evaluate_every_steps",
    "train.limit_seconds",
)
"""Settings in which replicates may differ, besides the tables of passive observers."""


@dataclass(frozen=True)
class Group:
    """Runs of one recipe: they differ only in their seeds, and in settings that do not affect training."""

    runs: tuple[PastRun, ...]
    recipe: Mapping[str, str]
    """The settings that affect training, flat: `optimizer.generator.lr` → `0.0004`."""

    @property
    def key(self) -> str:
        """Equal for equal recipes."""
        return json.dumps(self.recipe, sort_keys=True)

    @property
    def name(self) -> str:
        """The recipe's name, or names."""
        return " / ".join(dict.fromkeys(run.name for run in self.runs))


@dataclass(frozen=True)
class Cell:
    """One score of one row, over those of its runs that were scored with the same protocol."""

    mean: float
    """Over seeds; NaN if one of the values is not finite."""

    std: float | None
    """The sample's standard deviation, over n - 1; None for one seed."""

    n: int
    """Seeds. Runs with equal seeds are no replicates: they count once, with their mean."""

    error: float | None
    """The standard error of the score, if there is one run and it is known."""

    floor: float | None
    """The score of real images by the same protocol: mean over the runs."""

    protocol: ScoreProtocol

    earlier_step: int | None = None
    """The first step at which it was measured, if a run continued after it; None if all were measured at the end."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self.protocol["better"] == "higher"


@dataclass(frozen=True)
class Row:
    """A group; or a part of it, if its runs were scored with different protocols or after different steps."""

    group: Group
    runs: tuple[PastRun, ...]
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Ranking:
    """Rows that can be ranked together: they have the score with the same protocol."""

    rows: tuple[Row, ...]
    """Best first."""

    protocol: ScoreProtocol

    ranks: tuple[int | None, ...]
    """For each row: 1 + the number of better ones; None if the score is not finite."""

    difference: str
    """How the protocol differs from that of the first ranking; empty for that one."""


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, ranked."""

    groups: tuple[Group, ...]
    """In the order of the table."""

    scores: tuple[str, ...]
    """All names; the one that ranks comes first."""

    by: str | None
    """The score that ranks; None if no run was scored."""

    rankings: tuple[Ranking, ...]
    unscored: tuple[Row, ...]
    """Rows without that score."""

    usual: Mapping[str, ScoreProtocol]
    """By score, the protocol that most rows share."""

    differences: Mapping[str, Sequence[str]]
    """Settings that differ between groups: key → the groups' values, in their order."""

    @property
    def rows(self) -> list[Row]:
        """All rows, from top to bottom."""
        return [*(row for ranking in self.rankings for row in ranking.rows), *self.unscored]

    def letter(self, group: Group) -> str:
        """A group's short name: A, B, …, Z, A2, …"""
        place = [each.key for each in self.groups].index(group.key)
        return f"{chr(ord('A') + place % 26)}{place // 26 + 1 if place >= 26 else ''}"

    def unusual(self, row: Row, score: str) -> str:
        """How the protocol of a row's score differs from the usual one; empty if it does not."""
        return protocol_difference(row.cells[score].protocol, self.usual[score]) if score in row.cells else ""


def compare_runs(runs: Sequence[PastRun], by: str | None = None) -> Comparison:
    """Group the runs and rank the groups.

    Args:
        runs: At least one.
        by: The score that ranks; None for the one that most groups have.

    Raises:
        RequestError: if no run has that score.
    """
    groups = _groups(runs)
    by = _ranking_score(by, groups)
    rows = [row for group in groups for row in _rows(group, by)]
    scores = tuple(dict.fromkeys([*([by] if by else []), *(name for row in rows for name in row.cells)]))
    usual = {score: most_common([row.cells[score].protocol for row in rows if score in row.cells]) for score in scores}
    rankings = tuple(_rankings(rows, by, usual[by])) if by else ()
    unscored = tuple(row for row in rows if by not in row.cells)
    shown = [*(row for ranking in rankings for row in ranking.rows), *unscored]
    ordered = {row.group.key: row.group for row in shown}
    differences = _differences(list(ordered.values()))
    return Comparison(tuple(ordered.values()), scores, by, rankings, unscored, usual, differences)


# ── Groups ────────────────────────────────────────────────────────────────────────────────────────────────


def _groups(runs: Sequence[PastRun]) -> list[Group]:
    found: dict[str, Group] = {}
    for run, settings in zip(runs, _with_short_names(runs), strict=True):
        alone = Group((run,), settings)
        before = found.get(alone.key)
        found[alone.key] = Group((*before.runs, run), before.recipe) if before else alone
    return list(found.values())


def _training_settings(runs: Sequence[PastRun]) -> list[dict[str, str]]:
    """The settings of each run that affect training, flat; `metric = []` means the same as no metric.

    Paths are replaced by content: data by its fingerprint, and `from` by the digest of the weights.
    """
    ignored = ("name", "requires", *PASSIVE_OBSERVERS)
    recipes = up_to_date([run.recipe for run in runs])
    kept = [{key: each for key, each in recipe.items() if key not in ignored and each != []} for recipe in recipes]
    settings = [{key: value for key, value in flat(each) if not _is_free(key, value)} for each in kept]
    places = {key for each in settings for key, value in each.items() if _is_place(key, value)}
    return [
        dict(_by_content(key, value, run, places) for key, value in each.items())
        for each, run in zip(settings, runs, strict=True)
    ]


def _is_free(key: str, value: str) -> bool:
    """Whether replicates may differ in a setting; a slot that no setting names has one update per step."""
    return key in FREE_SETTINGS or (key.startswith("train.repeat.") and value == "1")


def _is_place(key: str, value: str) -> bool:
    return is_local_path(value) or (key.startswith("data.") and "/" in value)


def _by_content(key: str, value: str, run: PastRun, places: Collection[str]) -> tuple[str, str]:
    """A setting; a path is represented by its content or, if that is unknown, by its last component."""
    fingerprint, digest = run.environment.get("data_fingerprint"), _digest(key, run)
    if digest:
        return key, f"weights {digest[:12]}"
    if key not in places:
        return key, without_secrets(value)
    is_data = key.startswith("data.") and isinstance(fingerprint, str)
    return ("data.fingerprint", value_text(fingerprint)) if is_data else (key, last_component(value))


def _digest(key: str, run: PastRun) -> str:
    """The recorded digest of the weights that a network's `from` names; empty for other keys."""
    table, _, name = key.rpartition(".")
    starts = run.environment.get("starts")
    start = starts.get(table) if name == "from" and isinstance(starts, dict) else None
    return str(start.get("sha256", "")) if isinstance(start, dict) else ""


def _with_short_names(runs: Sequence[PastRun]) -> list[dict[str, str]]:
    """The settings of each run that affect training; a component is qualified with its plugin's name only if another
    run uses a component of that name from another plugin. ganrun 0.1.0 wrote no plugins' names."""
    settings = _training_settings(runs)
    for each, run in zip(settings, runs, strict=True):  # an observer is identified by its table's name
        for key in [key for key, value in each.items() if key == f"{_short(value, run)}.use"]:
            del each[key]
    plugins: dict[tuple[str, str], set[str]] = {}
    for each, run in zip(settings, runs, strict=True):
        for key, value in each.items():
            if _short(value, run) != value:
                plugins.setdefault((key, _short(value, run)), set()).add(value)
    return [
        {
            key: value if len(plugins.get((key, _short(value, run)), ())) > 1 else _short(value, run)
            for key, value in each.items()
        }
        for each, run in zip(settings, runs, strict=True)
    ]


def _short(value: str, run: PastRun) -> str:
    """A component's name without its plugin's, if the value is one; else the value."""
    plugin, _, name = value.partition(":")
    recorded = run.environment.get("plugins")
    return name if isinstance(recorded, dict) and plugin in recorded and name else value


def flat(table: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested tables with its dotted key. Components in a list have their names for keys, as in
    `metric.fid.samples`."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from flat(value, f"{path}.{key}" if path else key)
    elif isinstance(table, list) and table and all(isinstance(each, dict) and "use" in each for each in table):
        seen: Counter[str] = Counter()
        for each in table:
            name = str(each["use"]).rpartition(":")[2]
            seen[name] += 1
            number = f"-{seen[name]}" if seen[name] > 1 else ""
            yield from flat(each, f"{path}.{name}{number}")
    else:
        yield path, value_text(table)


def _differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    keys = list(dict.fromkeys(key for group in groups for key in group.recipe))
    tables = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    keys.sort(key=lambda key: tables.index(key.rpartition(".")[0]))
    values = {key: [group.recipe.get(key, ABSENT) for group in groups] for key in keys}
    return {key: each for key, each in values.items() if len(set(each)) > 1}


# ── Rankings ──────────────────────────────────────────────────────────────────────────────────────────────


def _ranking_score(by: str | None, groups: Sequence[Group]) -> str | None:
    owners = Counter(name for group in groups for name in {name: 1 for run in group.runs for name in run.results})
    if by is not None and by not in owners:
        raise RequestError(f"--by {by}: these runs have {', '.join(owners) or 'no scores'}")
    return by or (max(owners, key=lambda name: owners[name]) if owners else None)


def _rows(group: Group, by: str | None) -> Iterator[Row]:
    """A row for each protocol with which the group's runs have the ranking score; unfinished runs have a row for each
    step at which they were scored. Runs without the score are in the first row."""
    parts: dict[tuple[str, int | None], list[PastRun]] = {}
    without = []
    for run in group.runs:
        if by is not None and by in run.results:
            until = None if run.status == "finished" else run.results[by].step
            parts.setdefault((protocol_key(run.results[by].protocol), until), []).append(run)
        else:
            without.append(run)
    first, *others = parts.values() or [[]]
    for runs in ([*first, *without], *others):
        yield Row(group, tuple(runs), dict(_cells(runs)))


def _cells(runs: Sequence[PastRun]) -> Iterator[tuple[str, Cell]]:
    for name in dict.fromkeys(name for run in runs for name in run.results):
        scored = [run for run in runs if name in run.results]
        usual = protocol_key(most_common([run.results[name].protocol for run in scored]))
        yield name, _cell(name, [run for run in scored if protocol_key(run.results[name].protocol) == usual])


def _deviation(values: Sequence[float]) -> float | None:
    """None for a single value, and if it is no finite number."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    with suppress(OverflowError):
        return statistics.stdev(values)
    return None


def _cell(name: str, runs: Sequence[PastRun]) -> Cell:
    results = [run.results[name] for run in runs]
    by_seed: dict[int | Path, list[float]] = {}
    for run, result in zip(runs, results, strict=True):
        by_seed.setdefault(run.path if run.seed is None else run.seed, []).append(result.score.value)
    values = [statistics.mean(each) for each in by_seed.values()]
    floors = [result.score.floor for result in results if result.score.floor is not None]
    return Cell(
        mean=statistics.mean(values),
        std=_deviation(values),
        n=len(values),
        error=results[0].score.error if len(results) == 1 else None,
        floor=statistics.mean(floors) if floors else None,
        protocol=results[0].protocol,
        earlier_step=min(
            (each.step for run, each in zip(runs, results, strict=True) if each.step < run.step), default=None
        ),
    )


def _rankings(rows: Sequence[Row], by: str, usual: ScoreProtocol) -> Iterator[Ranking]:
    parts: dict[str, list[Row]] = {protocol_key(usual): []}
    for row in rows:
        if by in row.cells:
            parts.setdefault(protocol_key(row.cells[by].protocol), []).append(row)
    for part in parts.values():
        ranked = sorted(part, key=lambda row: _cost(row.cells[by]))
        protocol = part[0].cells[by].protocol
        yield Ranking(tuple(ranked), protocol, _ranks(ranked, by), protocol_difference(protocol, usual))


def _cost(cell: Cell) -> float:
    """Lower is better; infinity for NaN."""
    return math.inf if math.isnan(cell.mean) else -cell.mean if cell.higher_is_better else cell.mean


def _ranks(rows: Sequence[Row], by: str) -> tuple[int | None, ...]:
    costs = [_cost(row.cells[by]) for row in rows]
    return tuple(1 + sum(other < cost for other in costs) if math.isfinite(cost) else None for cost in costs)
