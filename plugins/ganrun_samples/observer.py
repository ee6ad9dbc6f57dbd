"""The observer that writes the grids."""

from __future__ import annotations

from PIL import Image
from pydantic import Field

import ganrun
from ganrun import Run, atomic_path, observes, to_uint8
from ganrun_samples.grid import image_grid


class Samples(ganrun.Observer):
    """Writes grids of samples from fixed latents, so that one can watch the same samples get better.

    Drawn from the averaged weights where the loss keeps an average: `samples/step_00000500.png`, after steps 1, 2,
    5, 10, 20, 50, … up to the cadence, then at the cadence and after the last step.
    """

    class Settings(ganrun.Settings):
        every_steps: int = Field(1000, ge=1)
        """Steps between two grids."""

        count: int = Field(64, ge=1)
        """Samples in a grid."""

        columns: int = Field(8, ge=1)
        """Samples in a row."""

    automatic = True

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Write a grid where one is due; points that are no images have none."""
        if len(run.problem.sample_shape) == 3 and self._is_due(step, run.steps):
            self._write(run)

    def _is_due(self, step: int, steps: int) -> bool:
        every = self.settings.every_steps
        return step == steps or step % every == 0 or (step < every and str(step).rstrip("0") in ("1", "2", "5"))

    def _write(self, run: Run) -> None:
        samples = to_uint8(run.samples(run.fixed_latents(self.settings.count))).cpu()
        path = run.directory / "samples" / f"step_{run.step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as partial:
            Image.fromarray(image_grid(samples, self.settings.columns).numpy()).save(partial, "PNG")
        run.announce(path, "samples")
