"""Reads a run's reported values from the device at its logging interval: means of its losses, and its augmentations."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Set

from torch import Tensor

from ganrun.base.errors import NonFiniteError
from ganrun.rundir.checkpoints import checkpoints_in
from ganrun.training.augmenting import Reports
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
        """The sums that steps add to."""
        self._run = run
        self._reports = Reports(run.recipe, run.state, run.model.device)
        self._warned: set[str] = set()
        """Reported names that have had non-finite values."""
        self._known: set[str] = set()
        """Numbers of augmentations that have not been NaN."""
        self._start_interval()

    def is_scheduled(self) -> bool:
        """Whether the means are read after the run's step: at the logging interval, and after the last step."""
        return self._run.done or self._run.step % self._run.recipe.train.log_every_steps == 0

    def read(self) -> None:
        """Read the means since the last call, the augmentations' current reports, and the speed; does nothing if no
        step was taken since then.

        Raises:
            NonFiniteError: if any mean of a minimised term is NaN or infinite; everything is recorded first.
            ContractError: if an augmentation's report is invalid.
        """
        run = self._run
        if run.step == self._step:
            return
        present = self._reports.present()
        found = self._on_host(present)
        values = {**found, **self._speed(), **self._learning_rates()}
        add_line(run, values)
        run.emit("measured", values=values)
        self._check(found, present.keys())
        self._start_interval()

    def restart(self) -> None:
        """Discard the sums since the last call of `read`, after the run has gone back."""
        self.measurements.read()
        self._start_interval()

    def _on_host(self, present: Mapping[str, Tensor]) -> dict[str, float]:
        started = time.perf_counter()
        found = self.measurements.read(present)
        self._run.state.seconds += time.perf_counter() - started
        return found

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

    def _check(self, found: Mapping[str, float], present: Set[str]) -> None:
        """Warn about values that are only reported, once for each name; raise for all others."""
        bad = {name: value for name, value in found.items() if not math.isfinite(value)}
        reported = self.measurements.reported() | present
        if fatal := [f"{name} = {value}" for name, value in bad.items() if name not in reported]:
            raise NonFiniteError(self._advice(", ".join(fatal)))
        newly = bad.keys() - self._warned - self._unknown(found, present)
        for name in newly:
            log.warning("%s is %s at step %d; it is recorded as null, now and later", name, bad[name], self._run.step)
        self._warned |= newly

    def _unknown(self, found: Mapping[str, float], present: Set[str]) -> set[str]:
        """Names whose augmentation does not know the value yet: NaN so far."""
        unknown = {name for name in present if math.isnan(found[name])} - self._known
        self._known |= present - unknown
        return unknown

    def _advice(self, bad: str) -> str:
        earlier = checkpoints_in(self._run.directory.path)
        kept = f"the last checkpoint is {earlier[-1].name}" if earlier else "there was no checkpoint yet"
        return (
            f"training is no longer finite after step {self._step} and by step {self._run.step}: {bad}\n"
            f"  try a lower learning rate ([optimizer] lr), clip_norm, or precision f32; {kept}"
        )
