"""Progress in the terminal: a bar on a screen, plain lines in a log."""

from __future__ import annotations

from collections.abc import Mapping

from ganrun import Observer, hookimpl


@hookimpl
def ganrun_observers() -> Mapping[str, type[Observer]]:
    from ganrun_progress.observer import Progress

    return {"progress": Progress}
