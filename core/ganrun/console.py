"""Where messages to the user go while something takes its time."""

from __future__ import annotations

import os
import time
from typing import Any, Self

from rich import progress as bars
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


SECONDS_UNSEEN = 1.0
"""What takes no longer is not worth a bar."""

SECONDS_PER_LINE = 10.0


class Waiting:
    """Shows how far something that takes its time has come: a bar on a terminal, a line every ten seconds elsewhere.

        with Waiting() as told:
            for done, picture in enumerate(pictures, start=1):
                ...
                told("decoding", done, len(pictures))

    Whatever is done within a second is not shown.

    Args:
        console: Where to.
        bar: One that is shown already, for a further line in it.
    """

    def __init__(self, console: Console | None = None, bar: bars.Progress | None = None) -> None:
        self._console = console or message_console()
        self._bar = bar
        self._own: bars.Progress | None = None
        self._task: bars.TaskID | None = None
        self._what = ""
        self._began = self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that `done` of `total` are done of `what`; another `what` begins a new bar."""
        now = time.monotonic()
        if what != self._what:
            self.close()
            self._what, self._began, self._next_line = what, now, now + SECONDS_PER_LINE
        if self._console.is_terminal:
            self._move(done, total, now)
        elif now >= self._next_line and done < total:
            self._next_line = now + SECONDS_PER_LINE
            rate = done / (now - self._began)
            left = f", {(total - done) / rate:,.0f} s left" if rate else ""
            self._console.print(f"{what}: {done:,} of {total:,}, {rate:,.0f}/s{left}", soft_wrap=True)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take away what is shown."""
        if self._task is not None and self._bar is not None:
            self._bar.remove_task(self._task)
        if self._own is not None:
            self._own.stop()
            self._bar = self._own = None
        self._task, self._what = None, ""

    def _move(self, done: int, total: int, now: float) -> None:
        if self._task is None and now - self._began < SECONDS_UNSEEN:
            return
        speed = f"{done / max(now - self._began, 1e-9):,.0f}/s"
        if self._bar is None:
            self._bar = self._own = bars.Progress(*_columns(), console=self._console, transient=True)
        if self._task is None:
            self._task = self._bar.add_task(self._what, total=total, completed=done, speed=speed, text=self._what)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, speed=speed)


def _columns() -> tuple[bars.ProgressColumn, ...]:
    named, speed = bars.TextColumn("{task.description}"), bars.TextColumn("{task.fields[speed]}")
    return named, bars.BarColumn(bar_width=16), bars.MofNCompleteColumn(), speed, bars.TimeRemainingColumn()
