"""What takes its time is seen to move: a bar on a terminal, lines elsewhere, and nothing of what is done at once."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from ganrun import ProgressReporter, cli, message_console, spinner


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("ganrun.base.console.time", found)
    return found


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return plain(of.file.getvalue())


def plain(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def test_without_a_terminal_there_is_a_line_every_ten_seconds_with_rate_and_time_left(clock: Clock) -> None:
    place = console(terminal=False)
    with ProgressReporter(place) as told:
        for second in range(0, 26):
            clock.now = second
            told("samples", 40 * second, 1000)
    assert text(place).splitlines() == [
        "samples: 400 of 1,000, 40/s, 15 s left",
        "samples: 800 of 1,000, 40/s, 5 s left",
    ]


def test_what_was_done_before_the_first_word_counts_for_no_speed(clock: Clock) -> None:
    """As of an evaluation, which is heard of when its first batch is done: 256 samples in each 20 seconds."""
    place = console(terminal=False)
    with ProgressReporter(place) as told:
        for batch in range(1, 5):
            clock.now = 20 * batch
            told("samples", 256 * batch, 1024)
    assert text(place).splitlines() == [
        "samples: 512 of 1,024, 13/s, 40 s left",
        "samples: 768 of 1,024, 13/s, 20 s left",
    ]


def test_what_takes_seconds_each_has_a_speed_too(clock: Clock) -> None:
    place = console(terminal=False)
    with ProgressReporter(place) as told:
        for done in range(3):
            clock.now = 20 * done
            told("scores", done, 3)
    assert text(place).splitlines()[0] == "scores: 1 of 3, 0.05/s, 40 s left"


def test_what_is_done_within_a_second_is_not_shown(clock: Clock) -> None:
    place = console(terminal=True)
    with ProgressReporter(place) as told:
        for done in range(1, 11):
            clock.now += 0.09
            told("samples", done, 10)
    assert text(place) == ""


def test_on_a_terminal_a_bar_comes_after_a_second_and_goes_when_it_is_done(clock: Clock) -> None:
    place = console(terminal=True)
    with ProgressReporter(place) as told:
        for what in ("samples", "train images"):
            for done in range(0, 5):
                clock.now += 0.6
                told(what, done, 4)
    shown = text(place)
    assert "samples" in shown and "train images" in shown and "2/4" in shown
    assert shown.splitlines()[-1].strip() == "", "no bar is left behind"


# ── Spinners ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has rich take what is written to for a terminal, which a console asks once."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    message_console.cache_clear()
    yield
    message_console.cache_clear()


@pytest.mark.usefixtures("terminal")
def test_a_spinner_tells_what_is_done_and_for_how_long_with_bars_and_lines_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("ganrun")
    for name in ("handlers", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    cli._set_up_logging()
    with spinner("loading PyTorch") as told:
        told("preparing data [b]")
        logger.warning("odd [/b] thing")
        monkeypatch.setattr("ganrun.base.console.SECONDS_UNSEEN", 0)
        with ProgressReporter() as waiting:
            for done in range(1, 4):
                waiting("decoding", done, 4)
                time.sleep(0.15)
    shown = plain(capsys.readouterr().err)
    assert "loading PyTorch 0:00:00" in shown and "preparing data [b] 0:00:00" in shown
    assert "\rWARNING: odd [/b] thing\n" in shown, "a line of its own, as it is"
    assert re.search(r"preparing data \[b\] 0:00:00\ndecoding .*2/4", shown), "a bar below it"
    assert shown.splitlines()[-1].strip() == "", "nothing is left behind"


def test_without_a_terminal_a_spinner_tells_what_is_done_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    with spinner("loading PyTorch") as told:
        told("preparing data [/b] :warning:")
        told("preparing metric fid")
    assert capsys.readouterr().err.splitlines() == ["preparing data [/b] :warning:", "preparing metric fid"]


def test_a_message_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    message_console().print("in runs/a[/b]c[bold] :warning:", soft_wrap=True)
    assert capsys.readouterr().err == "in runs/a[/b]c[bold] :warning:\n"
