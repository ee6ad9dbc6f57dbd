"""Where messages to the user go while something takes its time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Self

from rich import progress as bars
from rich.console import Console


@cache
def message_console() -> Console:
    """A console on the error stream, which falls silent where nobody reads it any more: no message is worth a run.

    The same one for all, so that bars and spinners stand below each other, and lines above them.
    """
    return _Unfailing(stderr=True, highlight=False, markup=False, emoji=False)


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


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """A block that may take a while: on a terminal, a spinner says what is being done and for how long.

    Elsewhere each further text that it is told is a line.
    """
    console = message_console()
    if not console.is_terminal:
        yield lambda told: console.print(told, soft_wrap=True)
        return
    named = bars.TextColumn("{task.description}", markup=False)
    with bars.Progress(bars.SpinnerColumn(), named, bars.TimeElapsedColumn(), console=console, transient=True) as shown:
        task = shown.add_task(text)
        yield lambda told: shown.reset(task, description=told)


SECONDS_UNSEEN = 1.0
"""What takes no longer is not worth a bar."""

SECONDS_PER_LINE = 10.0


class ProgressReporter:
    """Shows how far something that takes its time has come: a bar on a terminal, a line every ten seconds elsewhere.

        with ProgressReporter() as told:
            for done, picture in enumerate(pictures, start=1):
                ...
                told("decoding", done, len(pictures))

    Whatever is done within a second is not shown.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or message_console()
        self._bar: bars.Progress | None = None
        self._what = ""
        self._first = 0
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
            # What was done before the first word took a time that is not known.
            self._what, self._first, self._began, self._next_line = what, done, now, now + SECONDS_PER_LINE
        rate = (done - self._first) / max(now - self._began, 1e-9)
        if self._console.is_terminal:
            if self._bar is not None or now - self._began >= SECONDS_UNSEEN:
                self._move(done, total, rate)
        elif now >= self._next_line and done < total:
            self._next_line = now + SECONDS_PER_LINE
            left = f", {(total - done) / rate:,.0f} s left" if rate else ""
            self._console.print(f"{what}: {done:,} of {total:,}, {_speed(rate)}{left}", soft_wrap=True)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take away what is shown."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._what = None, ""

    def _move(self, done: int, total: int, rate: float) -> None:
        if self._bar is None:
            self._bar = bars.Progress(*_columns(), console=self._console, transient=True)
            self._bar.add_task(self._what, completed=done, total=total, speed=_speed(rate))
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, speed=_speed(rate))


def _speed(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _columns() -> tuple[bars.ProgressColumn, ...]:
    named, speed = bars.TextColumn("{task.description}", markup=False), bars.TextColumn("{task.fields[speed]}")
    return named, bars.BarColumn(bar_width=16), bars.MofNCompleteColumn(), speed, bars.TimeRemainingColumn()
