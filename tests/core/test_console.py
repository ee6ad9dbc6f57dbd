"""What takes its time is seen to move: a bar on a terminal, lines elsewhere, and nothing of what is done at once."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ganrun import Waiting


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("ganrun.console.time", found)
    return found


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", of.file.getvalue())


def test_without_a_terminal_there_is_a_line_every_ten_seconds_with_rate_and_time_left(clock: Clock) -> None:
    place = console(terminal=False)
    with Waiting(place) as told:
        for second in range(0, 26):
            clock.now = second
            told("samples", 40 * second, 1000)
    assert text(place).splitlines() == [
        "samples: 400 of 1,000, 40/s, 15 s left",
        "samples: 800 of 1,000, 40/s, 5 s left",
    ]


def test_what_is_done_within_a_second_is_not_shown(clock: Clock) -> None:
    place = console(terminal=True)
    with Waiting(place) as told:
        for done in range(1, 11):
            clock.now += 0.09
            told("samples", done, 10)
    assert text(place) == ""


def test_on_a_terminal_a_bar_comes_after_a_second_and_goes_when_it_is_done(clock: Clock) -> None:
    place = console(terminal=True)
    with Waiting(place) as told:
        for what in ("samples", "train images"):
            for done in range(0, 5):
                clock.now += 0.6
                told(what, done, 4)
    shown = text(place)
    assert "samples" in shown and "train images" in shown and "2/4" in shown
    assert shown.splitlines()[-1].strip() == "", "no bar is left behind"
