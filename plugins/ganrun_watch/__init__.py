"""Monitors a run's health: warns when training goes wrong, and can stop it or roll it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Observer


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """The observer `watch`."""
    from ganrun_watch.observer import Watch

    return {"watch": Watch}
