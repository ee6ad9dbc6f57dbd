"""The means of what a run reports, read from the device at its logging interval."""

from __future__ import annotations

import time

from ganrun.base.errors import NonFiniteError
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run


class Meter:
    """Reads a run's measurements, records them and emits `measured`.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.measurements = Measurements()
        """What the steps add to."""
        self._run = run
        self._start_interval()

    def is_scheduled(self) -> bool:
        """Whether the means are read after the run's step: at the logging interval, and after the last step."""
        return self._run.done or self._run.step % self._run.recipe.train.log_every_steps == 0

    def read(self) -> None:
        """Read the means since the last call, and the speed; does nothing if no step was taken since then.

        Raises:
            NonFiniteError: if any mean is NaN or infinite.
        """
        run = self._run
        if run.step == self._step:
            return
        values = self._values()
        elapsed = max(run.state.seconds - self._seconds, 1e-9)
        values["perf/step_milliseconds"] = 1000 * elapsed / (run.step - self._step)
        values["perf/images_per_second"] = (run.images_seen - self._images_seen) / elapsed
        stages = any(stage.lr is not None for stage in run.recipe.stages)
        trained = [slot for slot in run.state.slots.values() if slot.varies or (stages and slot.rule is not None)]
        values |= {f"lr/{slot.name}": slot.learning_rate() for slot in trained}
        self._start_interval()
        run.record(values)
        run.emit("measured", values=values)

    def _values(self) -> dict[str, float]:
        started = time.perf_counter()
        try:
            values = self.measurements.read()
        except NonFiniteError as error:
            raise NonFiniteError(self._advice(error)) from None
        self._run.state.seconds += time.perf_counter() - started
        return values

    def _start_interval(self) -> None:
        self._step, self._seconds, self._images_seen = self._run.step, self._run.state.seconds, self._run.images_seen

    def _advice(self, error: NonFiniteError) -> str:
        return (
            f"training is no longer finite after step {self._step} and by step {self._run.step}: {error}\n"
            "  try a lower learning rate ([optimizer] lr), clip_norm, or precision f32; an earlier checkpoint is kept"
        )
