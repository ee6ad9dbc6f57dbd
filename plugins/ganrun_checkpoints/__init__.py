"""Checkpoints: a run's state on disk, written completely or not at all, and restored on resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Observer


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """The observer `checkpoints`."""
    from ganrun_checkpoints.observer import Checkpoints

    return {"checkpoints": Checkpoints}
