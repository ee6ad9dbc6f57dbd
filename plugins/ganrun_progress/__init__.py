"""Progress in the terminal: a bar on a screen, plain lines in a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Observer


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """The observer `progress`."""
    from ganrun_progress.observer import Progress

    return {"progress": Progress}
