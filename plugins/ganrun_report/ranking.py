"""What is compared with what: groups of replicates, and rankings that hold scores of one protocol only."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganrun import RequestError
from ganrun_report.reading import PastRun, Terms, one_line

WATCHERS = ("checkpoints", "mlflow", "progress", "samples", "target")
"""Tables of a recipe that only look on. `early-stopping` is none: it decides how long a run trains."""

IMMATERIAL = ("train.seed", "train.device", "train.log_every_steps", "train.evaluate_every_steps")
"""Settings in which replicates may differ, beside the tables of watchers."""

ABSENT = "–"


@dataclass(frozen=True)
class Group:
    """Runs of one recipe: they differ in their seeds, and in what cannot matter."""

    runs: tuple[PastRun, ...]
    recipe: Mapping[str, str]
    """What matters of it, flat: `optimizer.generator.lr` → `0.0004`."""

    @property
    def key(self) -> str:
        """The same for the same recipe."""
        return json.dumps(self.recipe, sort_keys=True)

    @property
    def name(self) -> str:
        """The recipe's name, or names."""
        return " / ".join(dict.fromkeys(run.name for run in self.runs))


@dataclass(frozen=True)
class Cell:
    """One score of one row: of those of its runs that were scored on the same terms."""

    mean: float
    """Over seeds; NaN where one of the values was no finite number."""

    std: float | None
    """The sample's standard deviation, over n - 1; None for one seed."""

    n: int
    """Seeds. Runs of the same one are no replicates: they count once, with their mean."""

    error: float | None
    """The standard error of the score, where there is one run and it is known."""

    floor: float | None
    """What real images score on the same terms: mean over the runs."""

    terms: Terms

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self.terms["better"] == "higher"


@dataclass(frozen=True)
class Row:
    """A group; or some runs of one, where its replicates were not all scored on the same terms and equally far."""

    group: Group
    runs: tuple[PastRun, ...]
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Block:
    """Rows whose score may be ranked: they have it on the same terms."""

    rows: tuple[Row, ...]
    """The best one first."""

    terms: Terms
    """Of that score."""

    ranks: tuple[int | None, ...]
    """Of each row: 1 + the number of better ones; None where the score is no finite number."""

    unlike: str
    """How its terms differ from those of the first block; empty for that one."""


@dataclass(frozen=True)
class Comparison:
    """Runs held against each other."""

    groups: tuple[Group, ...]
    """In the order of the table."""

    scores: tuple[str, ...]
    """All names, that by which the blocks are ranked first."""

    by: str | None
    """The score that ranks; None where nothing was scored."""

    blocks: tuple[Block, ...]
    unscored: tuple[Row, ...]
    """Rows that do not have that score."""

    usual: Mapping[str, Terms]
    """By score, the terms that most rows share."""

    differences: Mapping[str, Sequence[str]]
    """What of the recipes is not the same in all groups: key → the groups' values, in their order."""

    @property
    def rows(self) -> list[Row]:
        """All of them, from top to bottom."""
        return [*(row for block in self.blocks for row in block.rows), *self.unscored]

    def letter(self, group: Group) -> str:
        """What a group is called for short: A, B, …, Z, A2, …"""
        place = [each.key for each in self.groups].index(group.key)
        return f"{chr(ord('A') + place % 26)}{place // 26 + 1 if place >= 26 else ''}"

    def unlike(self, row: Row, score: str) -> str:
        """How the terms of a row's score differ from the usual ones; empty where they do not."""
        return difference(row.cells[score].terms, self.usual[score]) if score in row.cells else ""


def compared(runs: Sequence[PastRun], by: str | None = None) -> Comparison:
    """Group the runs and rank the groups.

    Args:
        runs: At least one.
        by: The score that ranks; None for the first of those that most groups have.

    Raises:
        RequestError: if no run has that score.
    """
    groups = _grouped(runs)
    by = _chosen(by, groups)
    rows = [row for group in groups for row in _rows(group, by)]
    scores = tuple(dict.fromkeys([*([by] if by else []), *(name for row in rows for name in row.cells)]))
    usual = {score: _most_common([row.cells[score].terms for row in rows if score in row.cells]) for score in scores}
    blocks = tuple(_blocks(rows, by, usual[by])) if by else ()
    unscored = tuple(row for row in rows if by not in row.cells)
    shown = [*(row for block in blocks for row in block.rows), *unscored]
    ordered = {row.group.key: row.group for row in shown}
    differences = _differences(list(ordered.values()))
    return Comparison(tuple(ordered.values()), scores, by, blocks, unscored, usual, differences)


def difference(these: Terms, those: Terms) -> str:
    """`generated 1000 ≠ 2000, torch 2.14.1 ≠ 2.15.0`; empty for equal terms."""
    keys = [key for key in {**these, **those} if terms_key(these.get(key)) != terms_key(those.get(key))]
    return ", ".join(f"{key} {value_text(these.get(key))} ≠ {value_text(those.get(key))}" for key in keys)


def value_text(value: Any) -> str:
    """A value as TOML writes it, but for the quotes of a string; – for None."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


# ── Groups ────────────────────────────────────────────────────────────────────────────────────────────────


def _grouped(runs: Sequence[PastRun]) -> list[Group]:
    found: dict[str, Group] = {}
    for run in runs:
        alone = Group((run,), _material(run.recipe))
        before = found.get(alone.key)
        found[alone.key] = Group((*before.runs, run), before.recipe) if before else alone
    return list(found.values())


def _material(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What of a recipe can matter, flat; `metric = []` says no more than its absence."""
    ignored = ("name", "requires", *WATCHERS)
    kept = {key: each for key, each in recipe.items() if key not in ignored and each != []}
    return {key: value for key, value in flat(kept) if key not in IMMATERIAL}


def flat(table: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested tables with its dotted key. A component in a list goes by its name,
    as in `metric.fid.samples`."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from flat(value, f"{path}.{key}" if path else key)
    elif isinstance(table, list) and table and all(isinstance(each, dict) and "use" in each for each in table):
        seen: Counter[str] = Counter()
        for each in table:
            seen[each["use"]] += 1
            again = f"-{seen[each['use']]}" if seen[each["use"]] > 1 else ""
            yield from flat(each, f"{path}.{each['use']}{again}")
    else:
        yield path, value_text(table)


def _differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    keys = list(dict.fromkeys(key for group in groups for key in group.recipe))
    tables = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    keys.sort(key=lambda key: tables.index(key.rpartition(".")[0]))
    values = {key: [group.recipe.get(key, ABSENT) for group in groups] for key in keys}
    return {key: each for key, each in values.items() if len(set(each)) > 1}


# ── Rankings ──────────────────────────────────────────────────────────────────────────────────────────────


def _chosen(by: str | None, groups: Sequence[Group]) -> str | None:
    owners = Counter(name for group in groups for name in {name: 1 for run in group.runs for name in run.results})
    if by is not None and by not in owners:
        raise RequestError(f"--by {by}: these runs have {', '.join(owners) or 'no scores'}")
    return by or (max(owners, key=lambda name: owners[name]) if owners else None)


def _rows(group: Group, by: str | None) -> Iterator[Row]:
    """One for each set of terms on which the group's runs have the score that ranks, and for each step at which
    unfinished ones were scored; runs without it go with the first."""
    parts: dict[tuple[str, int | None], list[PastRun]] = {}
    without = []
    for run in group.runs:
        if by is not None and by in run.results:
            until = None if run.status == "finished" else run.results[by].step
            parts.setdefault((terms_key(run.results[by].terms), until), []).append(run)
        else:
            without.append(run)
    first, *others = parts.values() or [[]]
    for runs in ([*first, *without], *others):
        yield Row(group, tuple(runs), dict(_cells(runs)))


def _cells(runs: Sequence[PastRun]) -> Iterator[tuple[str, Cell]]:
    for name in dict.fromkeys(name for run in runs for name in run.results):
        scored = [run for run in runs if name in run.results]
        usual = terms_key(_most_common([run.results[name].terms for run in scored]))
        yield name, _cell(name, [run for run in scored if terms_key(run.results[name].terms) == usual])


def _cell(name: str, runs: Sequence[PastRun]) -> Cell:
    results = [run.results[name] for run in runs]
    by_seed: dict[int | Path, list[float]] = {}
    for run, result in zip(runs, results, strict=True):
        by_seed.setdefault(run.path if run.seed is None else run.seed, []).append(result.value)
    values = [statistics.fmean(each) for each in by_seed.values()]
    floors = [result.floor for result in results if result.floor is not None]
    return Cell(
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None,
        n=len(values),
        error=results[0].error if len(results) == 1 else None,
        floor=statistics.fmean(floors) if floors else None,
        terms=results[0].terms,
    )


def terms_key(terms: Any) -> str:
    """Equal for equal terms, or values of them; 1 and true are two."""
    return json.dumps(terms, sort_keys=True, default=str)


def _most_common(terms: Sequence[Terms]) -> Terms:
    """The first of those that are there most often."""
    counts = Counter(terms_key(each) for each in terms)
    return max(terms, key=lambda each: counts[terms_key(each)])


def _blocks(rows: Sequence[Row], by: str, usual: Terms) -> Iterator[Block]:
    parts: dict[str, list[Row]] = {terms_key(usual): []}
    for row in rows:
        if by in row.cells:
            parts.setdefault(terms_key(row.cells[by].terms), []).append(row)
    for part in parts.values():
        ranked = sorted(part, key=lambda row: _badness(row.cells[by]))
        terms = part[0].cells[by].terms
        yield Block(tuple(ranked), terms, _ranks(ranked, by), difference(terms, usual))


def _badness(cell: Cell) -> float:
    """Less is better; infinite for what is no number."""
    return math.inf if math.isnan(cell.mean) else -cell.mean if cell.higher_is_better else cell.mean


def _ranks(rows: Sequence[Row], by: str) -> tuple[int | None, ...]:
    all_bad = [_badness(row.cells[by]) for row in rows]
    return tuple(1 + sum(other < bad for other in all_bad) if math.isfinite(bad) else None for bad in all_bad)
