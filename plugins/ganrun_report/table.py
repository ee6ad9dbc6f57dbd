"""A comparison as text: tables on a terminal, aligned columns in a pipe, or JSON."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from os.path import commonpath
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganrun_report.ranking import ABSENT, Cell, Comparison, Group, Row, value_text
from ganrun_report.reading import PastRun, Terms, shown

GAP = 3
"""Characters between columns on a terminal."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its head and its cells, from top to bottom."""

    head: str
    cells: Sequence[str]
    side: Literal["left", "right"] = "left"

    @property
    def width(self) -> int:
        """Characters that it takes."""
        return max(1, *map(cell_len, (self.head, *self.cells)))


def print_comparison(comparison: Comparison) -> None:
    """Print the rankings, then what of the recipes differs."""
    screen = _Screen()
    others = f"; --by takes {', '.join(comparison.scores[1:])} too" if comparison.scores[1:] else ""
    screen.say(summary_text(comparison) + others)
    for heading, columns in rankings(comparison):
        if heading:
            screen.say(heading)
        screen.table(columns, keys=2)
    screen.notes(legend(comparison))
    if len(comparison.groups) > 1:
        screen.say("What differs in the recipes" if comparison.differences else "The recipes do not differ")
        screen.table(difference_columns(comparison), keys=1)


class _Screen:
    """Where it is printed: tables of a terminal's width, or plain lines in a pipe."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # where no arrow can be written, the numbers still can
        self._console = Console(highlight=False)

    def say(self, line: str) -> None:
        self._put(line)
        self._put("")

    def notes(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._put(line, "dim")
        self._put("")

    def table(self, columns: Sequence[Column], keys: int) -> None:
        """Columns that do not fit beside each other follow below; the first few, which tell the rows, are repeated."""
        if self._console.is_terminal:
            for band in _bands(columns, keys, self._console.width):
                self._console.print(_drawn(band))
        else:
            for line in (*_aligned(columns), ""):
                self._put(line)

    def _put(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=not self._console.is_terminal)


def _aligned(columns: Sequence[Column]) -> list[str]:
    """Rows of plain text, however long."""
    padded = [[_padded(cell, column) for cell in (column.head, *column.cells)] for column in columns]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _padded(cell: str, column: Column) -> str:
    blank = " " * (column.width - cell_len(cell))
    return blank + cell if column.side == "right" else cell + blank


def _drawn(columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column.head), justify=column.side, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    return table


def _bands(columns: Sequence[Column], keys: int, width: int) -> Iterator[list[Column]]:
    head, rest = list(columns[:keys]), list(columns[keys:])
    while rest:
        band = [*head, rest.pop(0)]
        while rest and sum(column.width + GAP for column in (*band, rest[0])) <= width:
            band.append(rest.pop(0))
        yield band


# ── What is said ──────────────────────────────────────────────────────────────────────────────────────────


def summary_text(comparison: Comparison) -> str:
    """How many runs, and by what they are ranked."""
    runs = {run.path for row in comparison.rows for run in row.runs}
    many = f"{counted(len(runs), 'run')} of {counted(len(comparison.groups), 'recipe')}"
    if comparison.by is None:
        return f"{many}; none was scored: ganrun eval RUN --metric NAME does it afterwards"
    direction = comparison.usual[comparison.by]["better"]
    return f"{many}, ranked by {comparison.by}, {direction} is better"


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def legend(comparison: Comparison) -> list[str]:
    """What the signs of the table mean that occur in it; the terms of the score that ranks; the unlike ones."""
    cells = [cell for row in comparison.rows for cell in row.cells.values()]
    signs = []
    if any(cell.std is not None for cell in cells):
        signs.append("± standard deviation over the seeds of a row (n - 1)")
    if any(cell.error is not None for cell in cells):
        signs.append("se: standard error of one run's score")
    if any(cell.floor is not None for cell in cells):
        signs.append("real images: what as many held-out images score")
    return [*(["; ".join(signs)] if signs else []), *protocol_lines(comparison), *_unlike_lines(comparison)]


def protocol_lines(comparison: Comparison) -> list[str]:
    """`protocol: extractor inception, generated 50000, …`: what all scores have in common, then each one's own."""
    if not comparison.scores:
        return []
    tables = {score: dict(comparison.usual[score]) for score in comparison.scores}
    first = next(iter(tables.values()))
    shared = {key: value for key, value in first.items() if all(each.get(key) == value for each in tables.values())}
    own = {score: {key: each for key, each in table.items() if key not in shared} for score, table in tables.items()}
    lines = {"protocol": shared, **{f"of {score}": table for score, table in own.items()}}
    return [f"{head}: {told}" for head, table in lines.items() if (told := _terms_text(table))]


def _terms_text(terms: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value_text(value)}" for key, value in terms.items() if key != "better")


def _unlike_lines(comparison: Comparison) -> list[str]:
    """What stands in a column, and may not be held against the rest of it."""
    return [
        f"≠ {score} of {comparison.letter(row.group)}: {comparison.unlike(row, score)}"
        for score in comparison.scores[1:]
        for row in comparison.rows
        if comparison.unlike(row, score)
    ]


def score_text(cell: Cell | None, runs: int) -> str:
    """`12.31 ± 0.45`, `8.21 se 0.06`; n where it is not that of the row's `runs`; – for what is not there."""
    if cell is None or math.isnan(cell.mean):
        return ABSENT
    spread = f" ± {cell.std:.2g}" if cell.std is not None else f" se {cell.error:.2g}" if cell.error is not None else ""
    return f"{cell.mean:.4g}{spread}{f' (n = {cell.n})' if cell.n != runs else ''}"


def duration_text(seconds: float) -> str:
    """`0:55`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed_text(runs: Sequence[PastRun]) -> str:
    """Mean images per second of runs that made a step."""
    speeds = [run.images_per_second for run in runs if not math.isnan(run.images_per_second)]
    return f"{sum(speeds) / len(speeds):,.0f}" if speeds else ABSENT


def status_text(runs: Sequence[PastRun]) -> str:
    """`finished`; `1 finished, 1 killed` where they differ."""
    counts = Counter(run.status for run in runs)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {status}" for status, n in counts.items())


def steps_text(runs: Sequence[PastRun]) -> str:
    """`800`; `350 of 800` where it did not get there; the range where they differ."""
    low, high = min(run.step for run in runs), max(run.step for run in runs)
    done = f"{low}" if low == high else f"{low}…{high}"
    planned = {run.steps for run in runs if run.steps is not None}
    return f"{done} of {max(planned)}" if planned and low < max(planned) else done


def seeds_text(runs: Sequence[PastRun]) -> str:
    """`0, 1, 2`."""
    return ", ".join(ABSENT if run.seed is None else str(run.seed) for run in runs)


def where_text(runs: Sequence[PastRun]) -> str:
    """The folder of one run, or that which holds all of them."""
    return shown(Path(commonpath([run.path for run in runs])))


# ── Columns ───────────────────────────────────────────────────────────────────────────────────────────────


def rankings(comparison: Comparison) -> Iterator[tuple[str, list[Column]]]:
    """A heading, empty for the first, and the columns of each ranking; then of the rows without the score."""
    for block in comparison.blocks:
        heading = f"Not ranked with the others ({comparison.by}: {block.unlike})" if block.unlike else ""
        yield heading, _columns(comparison, block.rows, block.ranks)
    if comparison.unscored:
        heading = f"Without {comparison.by}" if comparison.by else ""
        yield heading, _columns(comparison, comparison.unscored, [None] * len(comparison.unscored))


def _columns(comparison: Comparison, rows: Sequence[Row], ranks: Sequence[int | None]) -> list[Column]:
    """Of one ranking; what says the same of all rows of the comparison, and nothing new, is left out."""
    everywhere = comparison.rows
    runs = [row.runs for row in rows]
    floors = [_floor_text(rows, score) for score in comparison.scores]
    last = [""] if any(floors) else []
    columns = [
        Column("", [*(_rank_text(rank, len(rows)) for rank in ranks), *last], "right"),
        Column("run", [*(row_name(comparison, row.group) for row in rows), *["real images" for _ in last]]),
        Column("seeds", [*map(seeds_text, runs), *last]),
    ]
    for score, floor in zip(comparison.scores, floors, strict=True):
        cells = [_marked(comparison, row, score) for row in rows]
        columns.append(Column(score_head(comparison, score), [*cells, *[floor for _ in last]], "right"))
    columns += [
        Column("images/s", [*map(speed_text, runs), *last], "right"),
        Column("time", [*(duration_text(_mean_seconds(each)) for each in runs), *last], "right"),
        Column("steps", [*map(steps_text, runs), *last], "right"),
    ]
    if any(status_text(row.runs) != "finished" for row in everywhere):
        columns.append(Column("status", [*map(status_text, runs), *last]))
    if len({run.device for row in everywhere for run in row.runs}) > 1:
        columns.append(Column("device", [*map(_devices, runs), *last]))
    return [*columns, Column("where", [*map(where_text, runs), *last])]


def _rank_text(rank: int | None, rows: int) -> str:
    """A row that stands alone has none."""
    return "" if rows == 1 else ABSENT if rank is None else str(rank)


def row_name(comparison: Comparison, group: Group) -> str:
    """`A · wgan-gp mnist`."""
    return f"{comparison.letter(group)} · {group.name}"


def score_head(comparison: Comparison, score: str) -> str:
    """`fid ↓`: the arrow points to where it is better."""
    return f"{score} {'↑' if comparison.usual[score]['better'] == 'higher' else '↓'}"


def _marked(comparison: Comparison, row: Row, score: str) -> str:
    """A score; marked where it may not be held against its column, which for the one that ranks the block tells."""
    text = score_text(row.cells.get(score), len(row.runs))
    return f"≠ {text}" if score != comparison.by and comparison.unlike(row, score) else text


def _floor_text(rows: Sequence[Row], score: str) -> str:
    floors = {
        f"{row.cells[score].floor:.3g}" for row in rows if score in row.cells and row.cells[score].floor is not None
    }
    return " / ".join(sorted(floors))


def _mean_seconds(runs: Sequence[PastRun]) -> float:
    return sum(run.seconds for run in runs) / len(runs)


def _devices(runs: Sequence[PastRun]) -> str:
    return " / ".join(dict.fromkeys(run.device for run in runs))


def difference_columns(comparison: Comparison) -> list[Column]:
    """The keys that differ, and each group's values."""
    keys = list(comparison.differences)
    if not keys:
        return []
    values = zip(comparison.groups, zip(*comparison.differences.values(), strict=True), strict=True)
    return [Column("", keys), *(Column(comparison.letter(group), each) for group, each in values)]


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────


def comparison_json(comparison: Comparison) -> str:
    """The same for programs. Rows stand in the order of the table; what is no finite number is null."""
    told = {
        "by": comparison.by,
        "rankings": [
            {
                **_terms_facts(block.terms),
                "rows": [
                    {"rank": rank, **_row_facts(comparison, row)}
                    for row, rank in zip(block.rows, block.ranks, strict=True)
                ],
            }
            for block in comparison.blocks
        ],
        "unscored": [_row_facts(comparison, row) for row in comparison.unscored],
        "differences": {
            key: dict(zip(map(comparison.letter, comparison.groups), values, strict=True))
            for key, values in comparison.differences.items()
        },
    }
    return json.dumps(told, indent=2)


def _row_facts(comparison: Comparison, row: Row) -> dict[str, Any]:
    return {
        "group": comparison.letter(row.group),
        "name": row.group.name,
        "runs": [_run_facts(run) for run in row.runs],
        "scores": {score: _cell_facts(cell) for score, cell in row.cells.items()},
    }


def _run_facts(run: PastRun) -> dict[str, Any]:
    speed = run.images_per_second
    return {
        "path": str(run.path),
        "seed": run.seed,
        "status": run.status,
        "step": run.step,
        "seconds": run.seconds,
        "images_per_second": None if math.isnan(speed) else round(speed, 1),
        "device": run.device,
    }


def _cell_facts(cell: Cell) -> dict[str, Any]:
    return {
        "mean": None if math.isnan(cell.mean) else cell.mean,
        "std": cell.std,
        "n": cell.n,
        "error": cell.error,
        "floor": cell.floor,
        **_terms_facts(cell.terms),
    }


def _terms_facts(terms: Terms) -> dict[str, Any]:
    return {"better": terms["better"], "protocol": {key: value for key, value in terms.items() if key != "better"}}
