"""A recipe's published target, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Observer


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """The observer `target`."""
    from ganrun_target.observer import Target

    return {"target": Target}
