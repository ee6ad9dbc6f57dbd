"""Comparisons of runs: a table, and a page that can be mailed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def ganrun_commands() -> Mapping[str, click.Command]:
    """The commands `compare` and `report`."""
    from ganrun_report.commands import compare, report

    return {"compare": compare, "report": report}
