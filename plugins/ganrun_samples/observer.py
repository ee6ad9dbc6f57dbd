"""The observer that writes the pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import DataError, Run, atomic_path, observes, to_uint8, to_unit_range
from ganrun_samples.grid import image_grid
from ganrun_samples.rows import row_by_row
from ganrun_samples.scatter import scatter

POINTS = 2_000
"""Points of each kind in a picture of the plane."""

PAIRED_ROWS = 4
"""Rows of real images in a picture of reconstructions."""


class Samples(ganrun.Observer):
    """Writes pictures of samples from fixed latents, so that one can watch the same samples get better.

    Drawn from the averaged weights where the loss keeps an average: `samples/step_00000500.png`, after steps 1, 2,
    5, 10, 20, 50, … up to the cadence, then at the cadence and after the last step. Images are laid out in a grid;
    where the loss has a class or another categorical code, each row is one value of it. Points in the plane are drawn
    over real ones. Models that reconstruct write `reconstructions/step_00000500.png` too: real images, each row above
    what the model makes of it.
    """

    class Settings(ganrun.Settings):
        every_steps: int = Field(1000, ge=1)
        """Steps between two pictures."""

        count: int = Field(64, ge=1)
        """Samples in a grid; where rows are classes, the number of those decides."""

        columns: int = Field(8, ge=1)
        """Samples in a row."""

    settings: Settings
    automatic = True

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Write the pictures where they are due."""
        if not self._is_due(step, run.steps):
            return
        if len(run.problem.sample_shape) == 3:
            _write(run, "samples", self._grid(run))
            pairs = self._pairs(run)
            if pairs is not None:
                _write(run, "reconstructions", pairs)
        elif run.problem.sample_shape == (2,):
            _write(run, "samples", _scatter(run))

    def _is_due(self, step: int, steps: int) -> bool:
        every = self.settings.every_steps
        return step == steps or step % every == 0 or (step < every and str(step).rstrip("0") in ("1", "2", "5"))

    def _grid(self, run: Run) -> npt.NDArray[np.uint8]:
        count, columns = self.settings.count, self.settings.columns
        latents = run.model.fixed_latents(max(count, columns))
        rows = row_by_row(latents, run.problem.factors, columns)
        samples = run.model.decode(latents[:count] if rows is None else rows)
        return image_grid(to_uint8(samples).cpu(), columns).numpy()

    def _pairs(self, run: Run) -> npt.NDArray[np.uint8] | None:
        """Rows of real images, each above its reconstructions."""
        real = _held_out(run, PAIRED_ROWS * self.settings.columns)
        made = run.model.reconstruct(to_unit_range(real))
        if made is None:
            return None
        columns = min(self.settings.columns, len(real))
        whole = len(real) // columns * columns
        rows = zip(torch.split(real[:whole], columns), torch.split(to_uint8(made[:whole]).cpu(), columns), strict=True)
        return image_grid(torch.cat([each for pair in rows for each in pair]), columns).numpy()


def _scatter(run: Run) -> npt.NDArray[np.uint8]:
    return scatter(_held_out(run, POINTS), run.model.decode(run.model.fixed_latents(POINTS)).cpu())


def _held_out(run: Run, count: int) -> Tensor:
    """Always the same real samples, of the test split where there is one."""
    try:
        return run.evaluation().real(count, "test")
    except DataError:
        return run.evaluation().real(count, "train")


def _write(run: Run, role: str, picture: npt.NDArray[np.uint8]) -> None:
    path = run.directory / role / f"step_{run.step:08d}.png"
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as partial:
        Image.fromarray(picture).save(partial, "PNG")
    run.announce(path, role)
