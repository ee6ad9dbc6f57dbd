"""The life cycle of a run: the manual of the events that observers receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ganrun.contracts.markers import eventspec

if TYPE_CHECKING:
    from ganrun.contracts.scores import Score
    from ganrun.training.run import Run


class RunEvents:
    """The events of one run, in the order in which they fire:

        run_starting → run_started
          → per step: [measured] → step_ended → [evaluating … → evaluated] → [rolled_back → [evaluated]]
          → [measured] → training_ended → [evaluating … → evaluated]
        → [run_failed] → run_ended

    `file_written` comes at any time between. An observer implements any of them as a method marked with
    `ganrun.observes`, taking the arguments it needs:

        class Bell(ganrun.Observer):
            \"""Rings when a run ends.\"""

            @ganrun.observes
            def run_ended(self, status):
                print("\\a", status)

    Delivery is one observer at a time: essential ones first, then by name; `@observes(tryfirst=True)` and
    `@observes(trylast=True)` move one. A fault in an essential observer stops the run. A fault in any other is
    reported under its name, recorded in `run.faults` and in summary.json, and reported again at the end, with exit
    status 1; the run continues. After a transient fault, an `OSError` or a `ganrun.RunError` caused by one, the
    observer still receives all events; after any other it receives only `run_ended`.
    """

    @eventspec
    def run_starting(self, run: Run) -> None:
        """Everything is built and checked, the run directory exists, no step is done. The event for `run.restore`.

        An essential observer refuses a run that it cannot start or continue, by a `RequestError`: nothing has been
        written yet, and no other event follows. Any other observer that raises, at this event or the next, is left
        out, with a warning.
        """

    @eventspec
    def run_started(self, run: Run) -> None:
        """Training begins at `run.step` (0, or the restored step). `run.scores` holds the latest scores so far; those
        that a resumed run measured at exactly this step are emitted again, by `evaluated`."""

    @eventspec
    def step_ended(self, run: Run, step: int, images_seen: int) -> None:
        """After every step, counted from 1. It costs no read from the device; an observer should not add one.

        A run that failed or was interrupted during this event emits it again when it is continued, before all other
        events of the loop, so that observers can finish the step's work.

        Args:
            run: The run.
            step: Steps done.
            images_seen: Real images consumed, over all ranks.
        """

    @eventspec
    def training_ended(self, run: Run, step: int, images_seen: int) -> None:
        """No further step follows: after the recipe's last one, or because of `run.stop`. The weights are final, and
        the last means are recorded. The last scores come next, unless this step has been scored already. Does not fire
        if the run fails or is interrupted.

        Args:
            run: The run.
            step: Steps done.
            images_seen: Real images consumed, over all ranks.
        """

    @eventspec
    def measured(self, run: Run, step: int, images_seen: int, values: Mapping[str, float]) -> None:
        """Every `train.log_every_steps`, and after the last step: means over the steps since the last time, and current
        values.

        Args:
            run: The run.
            step: Steps done.
            images_seen: Real images consumed.
            values: `loss/<phase>`, `loss/<phase>.<term>`, `grad/<slot>` where gradients are clipped,
                `augmentation/<slot>.<name>` as it is now, `lr/<slot>` where it varies, `perf/images_per_second`,
                `perf/step_milliseconds`. Values that a loss or an augmentation only reports may be NaN or infinite; any
                other non-finite value ends the run right after this event.
        """

    @eventspec
    def evaluating(self, run: Run, what: str, done: int, total: int) -> None:
        """After each batch, while samples are drawn, images read and scores computed.

        Args:
            run: The run.
            what: `samples`, `train images`, `test images` or `scores`.
            done: How many of them are done.
            total: How many there are.
        """

    @eventspec
    def evaluated(self, run: Run, step: int, images_seen: int, scores: Sequence[Score]) -> None:
        """Every `train.evaluate_every_steps`, and after the last step, where the recipe has metrics. It does not fire
        if all of them fail.

        Args:
            run: The run; where `run.lacks_scores`, a metric has failed.
            step: Steps done.
            images_seen: Real images consumed.
            scores: Every score of this evaluation, each with its protocol.
        """

    @eventspec
    def rolled_back(self, run: Run, step: int, images_seen: int, reason: str) -> None:
        """The run has gone back to an earlier checkpoint, because an observer has called `run.roll_back`, or because it
        was no longer finite and `run.roll_backs` allow it. It continues from there with other random numbers. The
        state, metrics.jsonl, the checkpoints and `run.scores` are those of this step. Anything that an observer
        remembers of later steps is invalid. Scores of exactly this step are emitted again, by `evaluated`, as when a
        run is resumed.

        Args:
            run: The run; `run.state.attempt` counts how often it has gone back.
            step: The step from which it continues.
            images_seen: Real images consumed so far.
            reason: What went wrong.
        """

    @eventspec
    def rescored(self, run: Run, step: int, images_seen: int, scores: Sequence[Score]) -> None:
        """A run that had ended was scored again, by `ganrun eval`. Of the other events, only `evaluating` comes
        with it.

        Args:
            run: The run, with the weights of a checkpoint; it is not trained further.
            step: The checkpoint's step.
            images_seen: Real images consumed so far.
            scores: What was measured, each with its protocol.
        """

    @eventspec
    def file_written(self, run: Run, path: Path, role: str) -> None:
        """A file or folder of the run is complete on disk.

        Args:
            run: The run.
            path: Absolute; inside the run directory.
            role: Its kind: `recipe`, `environment`, `metrics`, `samples`, `checkpoint`, `summary`, or a plugin's own.
        """

    @eventspec
    def run_failed(self, run: Run, error: BaseException) -> None:
        """An error or the user stopped the run before it was complete; `run_ended` follows.

        Args:
            run: The run.
            error: What stopped it; `ganrun.Interrupted` for a signal and for `[train] limit_seconds`.
        """

    @eventspec
    def run_ended(self, run: Run, status: str) -> None:
        """The last event of every run. It also reaches observers that were left out, whose start may have failed.

        Args:
            run: The run.
            status: `finished`, `failed` or `interrupted`.
        """
