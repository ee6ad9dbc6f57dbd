"""Long work shows its progress: a bar on a terminal, lines elsewhere, and nothing for short work."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from ganrun import ProgressReporter, message_console, spinner
from ganrun.commands.group import set_up_logging


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
    target = console(terminal=False)
    with ProgressReporter(target) as report:
        for second in range(0, 26):
            clock.now = second
            report("samples", 40 * second, 1000)
    assert text(target).splitlines() == [
        "samples: 400 of 1,000, 40/s, 15 s left",
        "samples: 800 of 1,000, 40/s, 5 s left",
    ]


def test_items_done_before_the_first_report_do_not_count_for_the_rate(clock: Clock) -> None:
    """As in an evaluation, which first reports after its first batch: 256 samples every 20 seconds."""
    target = console(terminal=False)
    with ProgressReporter(target) as report:
        for batch in range(1, 5):
            clock.now = 20 * batch
            report("samples", 256 * batch, 1024)
    assert text(target).splitlines() == [
        "samples: 512 of 1,024, 13/s, 40 s left",
        "samples: 768 of 1,024, 13/s, 20 s left",
    ]


def test_a_rate_below_one_per_second_is_shown(clock: Clock) -> None:
    target = console(terminal=False)
    with ProgressReporter(target) as report:
        for done in range(3):
            clock.now = 20 * done
            report("scores", done, 3)
    assert text(target).splitlines()[0] == "scores: 1 of 3, 0.05/s, 40 s left"


def test_work_that_takes_less_than_a_second_is_not_shown(clock: Clock) -> None:
    target = console(terminal=True)
    with ProgressReporter(target) as report:
        for done in range(1, 11):
            clock.now += 0.09
            report("samples", done, 10)
    assert text(target) == ""


def test_on_a_terminal_a_bar_appears_after_a_second_and_disappears_at_the_end(clock: Clock) -> None:
    target = console(terminal=True)
    with ProgressReporter(target) as report:
        for stage in ("samples", "train images"):
            for done in range(0, 5):
                clock.now += 0.6
                report(stage, done, 4)
    shown = text(target)
    assert "samples" in shown and "train images" in shown and "2/4" in shown
    assert shown.splitlines()[-1].strip() == "", "no bar is left behind"


# ── Spinners ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes new consoles believe that they write to a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    message_console.cache_clear()
    yield
    message_console.cache_clear()


@pytest.mark.usefixtures("terminal")
def test_a_spinner_shows_stage_and_time_together_with_bars_and_log_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("ganrun")
    for name in ("handlers", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    set_up_logging()
    with spinner("loading PyTorch") as show_stage:
        show_stage("preparing data [b]")
        logger.warning("odd [/b] thing")
        monkeypatch.setattr("ganrun.base.console.SECONDS_BEFORE_BAR", 0)
        shown = ""
        with ProgressReporter() as report:
            for done in range(1, 4):
                report("decoding", done, 4)
                deadline = time.monotonic() + 30
                while f"{done}/4" not in plain(shown):  # the bar is drawn by a thread
                    assert time.monotonic() < deadline, "the bar was not drawn in time"
                    shown += capsys.readouterr().err
    shown = plain(shown + capsys.readouterr().err)
    assert "loading PyTorch 0:00:00" in shown and "preparing data [b] 0:00:00" in shown
    assert "\rWARNING: odd [/b] thing\n" in shown, "a separate line, verbatim"
    assert re.search(r"preparing data \[b\] 0:00:00\ndecoding .*2/4", shown), "a bar below it"
    assert shown.splitlines()[-1].strip() == "", "nothing is left behind"


def test_without_a_terminal_a_spinner_prints_each_stage_as_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with spinner("loading PyTorch") as show_stage:
        show_stage("preparing data [/b] :warning:")
        show_stage("preparing metric fid")
    assert capsys.readouterr().err.splitlines() == ["preparing data [/b] :warning:", "preparing metric fid"]


def test_a_message_is_printed_verbatim(capsys: pytest.CaptureFixture[str]) -> None:
    message_console().print("in runs/a[/b]c[bold] :warning:", soft_wrap=True)
    assert capsys.readouterr().err == "in runs/a[/b]c[bold] :warning:\n"
