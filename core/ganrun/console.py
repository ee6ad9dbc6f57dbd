"""Where messages to the user go while something takes its time."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console


def message_console() -> Console:
    """A console on the error stream, which falls silent where nobody reads it any more: no message is worth a run."""
    return _Unfailing(stderr=True, highlight=False)


class _Unfailing(Console):
    """A console that outlives its terminal and its pipe."""

    def on_broken_pipe(self) -> None:
        """Fall silent, also for whoever else writes there."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def print(self, *objects: Any, **options: Any) -> None:
        """As usual; a terminal that has gone away is no fault."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True
