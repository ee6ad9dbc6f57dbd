"""Checkpoints: a run's state on disk, written whole or not at all, and taken up again on resume."""

from __future__ import annotations

from collections.abc import Mapping

from ganrun import Observer, hookimpl


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    from ganrun_checkpoints.observer import Checkpoints

    return {"checkpoints": Checkpoints}
