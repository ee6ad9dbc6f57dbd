"""Text on standard output: aligned columns, short paths, no control characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ganrun.base.texts import one_line, printable


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns; the last column has no fixed width."""
    rows = [[*map(one_line, row[:-1]), printable(row[-1])] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def relative(path: Path) -> Path:
    """A path relative to the working directory if it is inside, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_line(text: str) -> None:
    """Print a line, without control characters."""
    click.echo(printable(text))
