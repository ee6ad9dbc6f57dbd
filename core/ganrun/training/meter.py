"""The means of what a run reports, read from the device at its logging interval."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from ganrun.base.errors import NonFiniteError
from ganrun.rundir.checkpoints import checkpoints_in
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run, add_line

log = logging.getLogger("ganrun")


class Meter:
    """Reads a run's measurements, records them and emits `measured`.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.measurements = Measurements()
        """What the steps add to."""
        self._run = run
        self._warned: set[str] = set()
        """Reported names that have been not finite."""
        self._start_interval()

    def is_scheduled(self) -> bool:
        """Whether the means are read after the run's step: at the logging interval, and after the last step."""
        return self._run.done or self._run.step % self._run.recipe.train.log_every_steps == 0

    def read(self) -> None:
        """Read the means since the last call, and the speed; does nothing if no step was taken since then.

        Raises:
            NonFiniteError: if any mean of what is minimised is NaN or infinite; all means are recorded before.
        """
        run = self._run
        if run.step == self._step:
            return
        means = self._means()
        values = {**means, **self._speed(), **self._learning_rates()}
        add_line(run, values)
        run.emit("measured", values=values)
        self._check(means)
        self._start_interval()

    def _means(self) -> dict[str, float]:
        started = time.perf_counter()
        means = self.measurements.read()
        self._run.state.seconds += time.perf_counter() - started
        return means

    def _speed(self) -> dict[str, float]:
        run = self._run
        elapsed = max(run.state.seconds - self._seconds, 1e-9)
        return {
            "perf/step_milliseconds": 1000 * elapsed / (run.step - self._step),
            "perf/images_per_second": (run.images_seen - self._images_seen) / elapsed,
        }

    def _learning_rates(self) -> dict[str, float]:
        """Those that change during the run."""
        run = self._run
        stages = any(stage.lr is not None for stage in run.recipe.stages)
        trained = [slot for slot in run.state.slots.values() if slot.varies or (stages and slot.rule is not None)]
        return {f"lr/{slot.name}": slot.learning_rate() for slot in trained}

    def _start_interval(self) -> None:
        self._step, self._seconds, self._images_seen = self._run.step, self._run.state.seconds, self._run.images_seen

    # ── What is not finite ────────────────────────────────────────────────────────────────────────────

    def _check(self, means: Mapping[str, float]) -> None:
        """Warn of what is only reported, once for each name; raise for all else."""
        bad = {name: value for name, value in means.items() if not math.isfinite(value)}
        reported = self.measurements.reported()
        if fatal := [f"{name} = {value}" for name, value in bad.items() if name not in reported]:
            raise NonFiniteError(self._advice(", ".join(fatal)))
        for name in bad.keys() - self._warned:
            log.warning("%s is %s at step %d; it is recorded as null, now and later", name, bad[name], self._run.step)
        self._warned |= bad.keys()

    def _advice(self, bad: str) -> str:
        earlier = checkpoints_in(self._run.directory.path)
        kept = f"the last checkpoint is {earlier[-1].name}" if earlier else "there was no checkpoint yet"
        return (
            f"training is no longer finite after step {self._step} and by step {self._run.step}: {bad}\n"
            f"  try a lower learning rate ([optimizer] lr), clip_norm, or precision f32; {kept}"
        )
