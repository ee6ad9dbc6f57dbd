"""A comparison on a terminal, as tables; in a pipe, as aligned columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ganrun import one_line
from ganrun_report.ranking import Comparison
from ganrun_report.table import Column, difference_columns, legend, ranking_tables, summary_text

GAP = 3
"""Characters between columns on a terminal."""


def print_comparison(comparison: Comparison) -> None:
    """Print the rankings, then the differences between the recipes."""
    screen = _Screen()
    others = f"; --by also takes {', '.join(comparison.scores[1:])}" if comparison.scores[1:] else ""
    screen.paragraph([summary_text(comparison) + others])
    for heading, columns in ranking_tables(comparison):
        if heading:
            screen.paragraph([heading])
        screen.table(columns, keys=2)
    screen.paragraph(legend(comparison), style="dim")
    if len(comparison.groups) > 1:
        screen.paragraph(["Differences between the recipes" if comparison.differences else "The recipes do not differ"])
        screen.table(difference_columns(comparison), keys=1)


class _Screen:
    """Standard output: a terminal, whose width tables keep to, or a pipe."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def paragraph(self, lines: Sequence[str], style: str = "") -> None:
        """Lines, and an empty one."""
        for line in (*lines, ""):
            self._console.print(Text(one_line(line), style=style), soft_wrap=not self._console.is_terminal)

    def table(self, columns: Sequence[Column], keys: int) -> None:
        """Columns. On a terminal, those that do not fit follow below, with the first `keys` columns repeated."""
        if not self._console.is_terminal:
            self.paragraph(_aligned(columns))
            return
        for band in _bands(columns, keys, self._console.width):
            self._console.print(_drawn(band))


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
        table.add_column(Text(one_line(column.head)), justify=column.side, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


def _bands(columns: Sequence[Column], keys: int, width: int) -> Iterator[list[Column]]:
    head, rest = list(columns[:keys]), list(columns[keys:])
    while rest:
        band = [*head, rest.pop(0)]
        while rest and sum(column.width + GAP for column in (*band, rest[0])) <= width:
            band.append(rest.pop(0))
        yield band
