"""Exports of trained models: folders that can be used elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def ganrun_commands() -> Mapping[str, click.Command]:
    """The command `export`."""
    from ganrun_export.command import export

    return {"export": export}
