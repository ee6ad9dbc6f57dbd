"""Messages and progress on the error stream."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any, Self

from rich import progress as bars
from rich.console import Console

from ganrun.base.texts import one_line, printable


@cache
def message_console() -> Console:
    """The console on the error stream, one for the whole process: bars and spinners stand below each other, and lines
    above them. It goes silent if its reader has gone away: a lost message must not end a run.
    """
    return _ResilientConsole(stderr=True, highlight=False, markup=False, emoji=False)


class _ResilientConsole(Console):
    """A console that survives the loss of its terminal or pipe."""

    def on_broken_pipe(self) -> None:
        """Discard all further output, including that of other writers to the same file."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def print(self, *objects: Any, **options: Any) -> None:
        """Print without control characters; if the terminal has gone away, go silent."""
        try:
            super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)
        except OSError:
            self.quiet = True

    def _check_buffer(self) -> None:
        """As rich does; progress bars, which a separate thread draws, also pass through here."""
        try:
            super()._check_buffer()
        except OSError:
            self.quiet = True


SECONDS_BEFORE_BAR = 1.0
"""Shorter work is not shown."""

SECONDS_PER_LINE = 10.0


class ProgressReporter:
    """Shows the progress of long work: a bar on a terminal, elsewhere a line every ten seconds.

        with ProgressReporter() as report:
            for done, picture in enumerate(pictures, start=1):
                ...
                report("decoding", done, len(pictures))

    Work that takes less than a second is not shown.

    Args:
        console: Where to show it; by default the message console.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or message_console()
        self._bar: bars.Progress | None = None
        self._stage = ""
        self._done_at_start = 0
        self._start_time = self._next_line_time = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` items of a stage are done; another `stage` starts a new bar."""
        now, stage = time.monotonic(), one_line(stage)
        if stage != self._stage:
            self._start(stage, done, now)
        rate = (done - self._done_at_start) / max(now - self._start_time, 1e-9)
        if self._console.is_terminal:
            if self._bar is not None or now - self._start_time >= SECONDS_BEFORE_BAR:
                self._update_bar(done, total, rate)
        elif now >= self._next_line_time and done < total:
            self._next_line_time = now + SECONDS_PER_LINE
            self._print_line(done, total, rate)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._stage = None, ""

    def _start(self, stage: str, done: int, now: float) -> None:
        self.close()
        # The time that the first items took is unknown, so they do not count for the rate.
        self._stage, self._done_at_start = stage, done
        self._start_time, self._next_line_time = now, now + SECONDS_PER_LINE

    def _update_bar(self, done: int, total: int, rate: float) -> None:
        if self._bar is None:
            self._bar = bars.Progress(*_columns(), console=self._console, transient=True)
            self._bar.add_task(self._stage, completed=done, total=total, speed=_speed(rate))
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, speed=_speed(rate))

    def _print_line(self, done: int, total: int, rate: float) -> None:
        left = f", {(total - done) / rate:,.0f} s left" if rate else ""
        self._console.print(f"{self._stage}: {done:,} of {total:,}, {_speed(rate)}{left}", soft_wrap=True)


def _speed(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _columns() -> tuple[bars.ProgressColumn, ...]:
    stage, speed = bars.TextColumn("{task.description}", markup=False), bars.TextColumn("{task.fields[speed]}")
    return stage, bars.BarColumn(bar_width=16), bars.MofNCompleteColumn(), speed, bars.TimeRemainingColumn()
