"""How far a decoding has come: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from ganrun import message_console

SECONDS_PER_LINE = 10.0


@contextmanager
def shown_progress(data: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, lines elsewhere; the block gets a function that takes how many more are done."""
    console = message_console()
    title = f"{data}: decoding {total:,} pictures"
    if not console.is_terminal:
        console.print(f"{title}, once and for all", soft_wrap=True)
        yield _Lines(console, data, total).advance
        return
    columns = (bars.TextColumn(title), bars.BarColumn(bar_width=16), bars.TaskProgressColumn())
    with bars.Progress(*columns, _Rate(), bars.TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


class _Rate(bars.ProgressColumn):
    def render(self, task: bars.Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} pictures/s")


class _Lines:
    """At most one line in ten seconds."""

    def __init__(self, console: Console, data: str, total: int) -> None:
        self._console = console
        self._data = data
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._next = self._start + SECONDS_PER_LINE

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + SECONDS_PER_LINE
        rate = self._done / (now - self._start)
        text = f"{self._data}: {self._done:,} of {self._total:,}, {rate:,.0f} pictures/s"
        self._console.print(f"{text}, {(self._total - self._done) / rate:,.0f} s left", soft_wrap=True)
