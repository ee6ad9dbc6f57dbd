"""Early stopping: ends a run when a score no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Observer


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """The observer `early-stopping`."""
    from ganrun_early_stopping.observer import EarlyStopping

    return {"early-stopping": EarlyStopping}
