"""The observer that shows the progress of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pydantic import Field
from rich import progress as bars
from rich.table import Column

import ganrun
from ganrun import ProgressReporter, Run, Score, message_console, observes, one_line


class Progress(ganrun.Observer):
    """Shows step, speed, time left, losses and the latest scores.

    As a bar if standard error is a terminal; else as lines, at most one every `seconds`.
    """

    class Settings(ganrun.Settings):
        seconds: float = Field(10.0, gt=0)
        """Time between two lines."""

    automatic = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._console = message_console()
        self._evaluation = ProgressReporter(self._console)
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)
        self._losses = ""
        self._scores = ""
        self._next_line = 0.0

    @observes
    def run_started(self, run: Run) -> None:
        """Print what is being trained, and open the bar."""
        device = run.environment["device_name"]
        start = f"step {run.step} of {run.steps}" if run.step else f"{run.steps} steps"
        self._console.print(f"{run.name}: {start} on {device}, in {one_line(str(run.directory.path))}", soft_wrap=True)
        if self._console.is_terminal:
            self._bar = bars.Progress(*_columns(run.steps), console=self._console, refresh_per_second=4, expand=True)
            self._task = self._bar.add_task(run.name, total=run.steps, completed=run.step, speed="", text="")
            self._bar.start()

    @observes
    def step_ended(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    @observes
    def measured(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """Show losses and speed."""
        totals = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss/")}
        self._losses = "  ".join(f"{name} {value:.3f}" for name, value in totals.items() if "." not in name)
        speed = f"{values['perf/images_per_second']:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, speed=speed, text=self._text())
        elif time.monotonic() >= self._next_line or run.done:
            self._next_line = time.monotonic() + self.settings.seconds
            left = _clock((run.steps - step) * values["perf/step_milliseconds"] / 1000)
            self._console.print(f"step {step}/{run.steps}  {self._losses}  {speed}  {left} left", soft_wrap=True)

    @observes
    def evaluating(self, what: str, done: int, total: int) -> None:
        """Show the progress of an evaluation."""
        self._evaluation(what, done, total)

    @observes
    def evaluated(self, step: int, scores: Sequence[Score]) -> None:
        """Show the scores."""
        self._scores = "  ".join(f"{score.name} {score.value:.4g}" for score in scores)
        if self._bar is not None:
            self._bar.update(self._task, text=self._text())
        self._console.print(f"step {step}: {'  '.join(map(str, scores))}", soft_wrap=True)

    @observes(tryfirst=True)
    def run_ended(self, run: Run, status: str) -> None:
        """Close the bar and print totals, before other observers show progress of their own."""
        self._evaluation.close()
        if self._bar is not None:
            self._bar.stop()
        self._console.print(
            f"{status} at step {run.step}: {run.images_seen:,} images in {_clock(run.state.seconds)} of training, "
            f"{run.state.images_per_second:,.0f} images/s",
            soft_wrap=True,
        )

    def _text(self) -> str:
        return "  ".join(filter(None, (self._losses, self._scores)))


def _columns(steps: int) -> Sequence[bars.ProgressColumn]:
    """Bar, steps, time left and speed have fixed widths; on a narrow terminal, losses and scores are truncated."""
    return (
        bars.BarColumn(bar_width=16, table_column=Column(min_width=16)),
        bars.MofNCompleteColumn(table_column=Column(min_width=2 * len(str(steps)) + 1)),
        bars.TimeRemainingColumn(table_column=Column(min_width=7)),
        bars.TextColumn("{task.fields[speed]}", table_column=Column(min_width=16, no_wrap=True)),
        bars.TextColumn(
            "{task.fields[text]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
