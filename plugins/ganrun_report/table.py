"""A comparison as tables of text, with the lines above and below them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len

from ganrun_report.ranking import Cell, Comparison, Group, Row
from ganrun_report.reading import PastRun
from ganrun_report.text import ABSENT, counted, duration_text, path_text, value_text


@dataclass(frozen=True)
class Column:
    """A column of a table: its head and its cells, from top to bottom."""

    head: str
    cells: Sequence[str]
    side: Literal["left", "right"] = "left"

    @property
    def width(self) -> int:
        """Width of the widest cell, in characters."""
        return max(1, *map(cell_len, (self.head, *self.cells)))


def ranking_tables(comparison: Comparison) -> Iterator[tuple[str, list[Column]]]:
    """A heading, empty for the first, and the columns of each ranking; then of the rows without the score."""
    for ranking in comparison.rankings:
        heading = f"Not ranked with the others ({comparison.by}: {ranking.difference})" if ranking.difference else ""
        yield heading, _columns(comparison, ranking.rows, ranking.ranks)
    if comparison.unscored:
        heading = f"Without {comparison.by}" if comparison.by else ""
        yield heading, _columns(comparison, comparison.unscored, [None] * len(comparison.unscored))


def difference_columns(comparison: Comparison) -> list[Column]:
    """The settings that differ, and each group's values; empty if none do."""
    keys = list(comparison.differences)
    if not keys:
        return []
    values = zip(comparison.groups, zip(*comparison.differences.values(), strict=True), strict=True)
    return [Column("", keys), *(Column(comparison.letter(group), each) for group, each in values)]


# ── Above and below the tables ────────────────────────────────────────────────────────────────────────────


def summary_text(comparison: Comparison) -> str:
    """The number of runs, and the score that ranks them."""
    runs = {run.path for row in comparison.rows for run in row.runs}
    counts = f"{counted(len(runs), 'run')} of {counted(len(comparison.groups), 'recipe')}"
    if comparison.by is None:
        return f"{counts}; none was scored: use ganrun eval RUN --metric NAME"
    direction = comparison.usual[comparison.by]["better"]
    return f"{counts}, ranked by {comparison.by}, {direction} is better"


def legend(comparison: Comparison) -> list[str]:
    """The meaning of the signs in the tables; the protocol of each score; the cells with another protocol."""
    cells = [cell for row in comparison.rows for cell in row.cells.values()]
    signs = []
    if any(cell.std is not None for cell in cells):
        signs.append("± standard deviation over the seeds of a row (n - 1)")
    if any(cell.error is not None for cell in cells):
        signs.append("se: standard error of one run's score")
    if any(cell.floor is not None for cell in cells):
        signs.append("real images: the score of as many held-out real images")
    return [*(["; ".join(signs)] if signs else []), *_protocol_lines(comparison), *_unusual_lines(comparison)]


def _protocol_lines(comparison: Comparison) -> list[str]:
    """`protocol: extractor inception, generated 50000, …`: the entries that all scores share, then each score's own."""
    if not comparison.scores:
        return []
    tables = {score: dict(comparison.usual[score]) for score in comparison.scores}
    first = next(iter(tables.values()))
    shared = {key: value for key, value in first.items() if all(each.get(key) == value for each in tables.values())}
    own = {score: {key: each for key, each in table.items() if key not in shared} for score, table in tables.items()}
    lines = {"protocol": shared, **{f"of {score}": table for score, table in own.items()}}
    return [f"{head}: {text}" for head, table in lines.items() if (text := _protocol_text(table))]


def _protocol_text(protocol: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value_text(value)}" for key, value in protocol.items() if key != "better")


def _unusual_lines(comparison: Comparison) -> list[str]:
    """The cells that are not comparable with the rest of their column."""
    return [
        f"≠ {score} of {comparison.letter(row.group)}: {comparison.unusual(row, score)}"
        for score in comparison.scores[1:]
        for row in comparison.rows
        if comparison.unusual(row, score)
    ]


# ── Columns of a ranking ──────────────────────────────────────────────────────────────────────────────────


def _columns(comparison: Comparison, rows: Sequence[Row], ranks: Sequence[int | None]) -> list[Column]:
    """The status and the device have columns only if they are unusual or differ between rows."""
    runs = [row.runs for row in rows]
    floors = [_floor_text(rows, score) for score in comparison.scores]
    last = [""] if any(floors) else []
    columns = [
        Column("", [*(_rank_text(rank, len(rows)) for rank in ranks), *last], "right"),
        Column("run", [*(row_name(comparison, row.group) for row in rows), *["real images" for _ in last]]),
        Column("seeds", [*map(_seeds_text, runs), *last]),
    ]
    for score, floor in zip(comparison.scores, floors, strict=True):
        cells = [_marked_score(comparison, row, score) for row in rows]
        columns.append(Column(_score_head(comparison, score), [*cells, *[floor for _ in last]], "right"))
    columns += [
        Column("images/s", [*map(_speed_text, runs), *last], "right"),
        Column("time", [*(duration_text(_mean_seconds(each)) for each in runs), *last], "right"),
        Column("steps", [*map(steps_text, runs), *last], "right"),
    ]
    if any(_status_text(row.runs) != "finished" for row in comparison.rows):
        columns.append(Column("status", [*map(_status_text, runs), *last]))
    if len({run.device for row in comparison.rows for run in row.runs}) > 1:
        columns.append(Column("device", [*map(_devices_text, runs), *last]))
    return [*columns, Column("where", [*map(_folder_text, runs), *last])]


def row_name(comparison: Comparison, group: Group) -> str:
    """`A · wgan-gp mnist`."""
    return f"{comparison.letter(group)} · {group.name}"


def _rank_text(rank: int | None, rows: int) -> str:
    """A single row has no rank."""
    return "" if rows == 1 else ABSENT if rank is None else str(rank)


def _score_head(comparison: Comparison, score: str) -> str:
    """`fid ↓`: the arrow points to better values."""
    return f"{score} {'↑' if comparison.usual[score]['better'] == 'higher' else '↓'}"


def _marked_score(comparison: Comparison, row: Row, score: str) -> str:
    """A score; marked if it is not comparable with its column. Of the ranking score, the heading says so."""
    text = score_text(row.cells.get(score), len(row.runs))
    return f"≠ {text}" if score != comparison.by and comparison.unusual(row, score) else text


def score_text(cell: Cell | None, runs: int) -> str:
    """`12.31 ± 0.45`, `8.21 se 0.06`; with n if it is not that of the row's `runs`, and with the step if it is not the
    last; – for an absent score."""
    if cell is None or math.isnan(cell.mean):
        return ABSENT
    spread = f" ± {cell.std:.2g}" if cell.std is not None else f" se {cell.error:.2g}" if cell.error is not None else ""
    count = f" (n = {cell.n})" if cell.n != runs else ""
    earlier = "" if cell.earlier_step is None else f" at step {cell.earlier_step:,}"
    return f"{cell.mean:.4g}{spread}{count}{earlier}"


def _floor_text(rows: Sequence[Row], score: str) -> str:
    floors = {
        f"{row.cells[score].floor:.3g}" for row in rows if score in row.cells and row.cells[score].floor is not None
    }
    return " / ".join(sorted(floors))


def _seeds_text(runs: Sequence[PastRun]) -> str:
    """`0, 1, 2`."""
    return ", ".join(ABSENT if run.seed is None else str(run.seed) for run in runs)


def _speed_text(runs: Sequence[PastRun]) -> str:
    """Mean images per second, over runs with at least one step."""
    speeds = [run.images_per_second for run in runs if not math.isnan(run.images_per_second)]
    return f"{sum(speeds) / len(speeds):,.0f}" if speeds else ABSENT


def _mean_seconds(runs: Sequence[PastRun]) -> float:
    return sum(run.seconds for run in runs) / len(runs)


def steps_text(runs: Sequence[PastRun]) -> str:
    """`800`; `350 of 800` for an unfinished run; the range if they differ."""
    low, high = min(run.step for run in runs), max(run.step for run in runs)
    done = f"{low}" if low == high else f"{low}…{high}"
    planned = {run.steps for run in runs if run.steps is not None}
    return f"{done} of {max(planned)}" if planned and low < max(planned) else done


def _status_text(runs: Sequence[PastRun]) -> str:
    """`finished`; `1 finished, 1 killed` if they differ."""
    counts = Counter(run.status for run in runs)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {status}" for status, n in counts.items())


def _devices_text(runs: Sequence[PastRun]) -> str:
    return " / ".join(dict.fromkeys(run.device for run in runs))


def _folder_text(runs: Sequence[PastRun]) -> str:
    """The folder of one run, or the one that contains all of them."""
    return path_text(Path(commonpath([run.path for run in runs])))
