"""The observer that writes the pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import Run, atomic_path, observes, to_unit_range
from ganrun_samples import pictures
from ganrun_samples.curves import curves
from ganrun_samples.grid import are_images, image_grid, shown
from ganrun_samples.latents import chosen_lines, code_lines, most_active
from ganrun_samples.pictures import Picture, real_samples
from ganrun_samples.rows import row_by_row
from ganrun_samples.scatter import scatter
from ganrun_samples.timelapse import frames, save_time_lapse

POINTS = 2_000
"""Points of each kind in a picture of the plane."""

PAIRED_ROWS = 4
"""Rows of real images in a picture of reconstructions."""

ROWS = 8
"""Of samples beside their neighbours, interpolations, and lines of a traversal."""

STEPS = 10
"""Columns of interpolations and traversals, so that a code of ten values fills a row."""

Extra = Literal["real-and-generated", "neighbours", "interpolation", "traversal", "curves", "time-lapse"]


class Samples(ganrun.Observer):
    """Writes pictures of samples from fixed latents, so that one can watch the same samples get better.

    Drawn from the averaged weights where the loss keeps an average: `samples/step_00000500.png`, after steps 1, 2,
    5, 10, 20, 50, … up to the cadence, then at the cadence and after the last step. Images are laid out in a grid;
    where the loss has a class or another categorical code, each row is one value of it. Points in the plane are drawn
    over real ones. Models that reconstruct write `reconstructions/step_00000500.png` too: real images, each row above
    what the model makes of it. At the end come those of `at_end` that the model allows, each in a folder of its name.
    """

    class Settings(ganrun.Settings):
        every_steps: int = Field(1000, ge=1)
        """Steps between two pictures."""

        count: int = Field(64, ge=1)
        """Samples in a grid; where rows are classes, the number of those decides."""

        columns: int = Field(8, ge=1)
        """Samples in a row."""

        at_end: tuple[Extra, ...] = get_args(Extra)
        """Pictures of the finished run. real-and-generated: side by side; neighbours: samples beside the training
        images nearest to them in pixels, which shows copies; interpolation: from one sample to another; traversal:
        along each code, or a VAE's most active latents; curves: losses and scores, as `curves.png`; time-lapse: the
        grids, as `time-lapse.gif`. A run that was stopped has the last two, which need neither the model nor much
        time."""

    settings: Settings
    automatic = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._first_step: int | None = None
        """Where training began; None before it did."""

    @observes
    def run_started(self, run: Run) -> None:
        """Remember where."""
        self._first_step = run.step

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Write the pictures at the cadence, and oftener at the beginning."""
        if self._is_scheduled(step):
            self._write_progress(run)

    @observes
    def training_ended(self, run: Run, step: int) -> None:
        """Write those of the weights that the run leaves."""
        if step > 0 and not self._is_scheduled(step):
            self._write_progress(run)

    @observes
    def run_ended(self, run: Run, status: str) -> None:
        """Write what was asked for at the end."""
        if self._first_step is None:
            return
        for extra in self.settings.at_end:
            if extra == "time-lapse":
                self._write_time_lapse(run)
            elif extra == "curves":
                self._write_curves(run)
            elif status == "finished":
                picture = self._extra(run, extra)
                if picture is not None:
                    self._write(run, extra, picture)

    def _is_scheduled(self, step: int) -> bool:
        every = self.settings.every_steps
        return step % every == 0 or (step < every and str(step).rstrip("0") in ("1", "2", "5"))

    # ── Pictures ──────────────────────────────────────────────────────────────────────────────────────

    def _grid(self, run: Run) -> Picture:
        count, columns = self.settings.count, self.settings.columns
        latents = run.model.fixed_latents(max(count, columns))
        rows = row_by_row(latents, run.model.spec.factors, columns)
        return image_grid(shown(run.model.decode(latents[:count] if rows is None else rows)), columns).numpy()

    def _pairs(self, run: Run) -> Picture:
        real = real_samples(run.model, run.data, PAIRED_ROWS * self.settings.columns)
        made = run.model.reconstruct(to_unit_range(real))
        assert made is not None, "problem.reconstructs"
        return pictures.pairs(real, made, self.settings.columns)

    def _extra(self, run: Run, extra: Extra) -> Picture | None:
        """A picture of the end; None where this model has none."""
        if not are_images(run.model.spec.sample_shape):
            return None
        if extra == "real-and-generated":
            side = max(1, isqrt(self.settings.count // 2))  # of each a square
            real = real_samples(run.model, run.data, side * side)
            return pictures.real_and_generated(real, _samples(run, side * side), side)
        if extra == "neighbours":
            samples, mirrored = _samples(run, min(ROWS, self.settings.count)), run.recipe.train.horizontal_flip
            return pictures.beside_nearest(samples, run.data.split("train"), mirrored=mirrored)
        if extra == "interpolation":
            latents = run.model.fixed_latents(2 * ROWS)
            return pictures.strip(pictures.interpolations(run.model, latents, STEPS), "from one sample to another")
        return _traversal(run)

    # ── Files ─────────────────────────────────────────────────────────────────────────────────────────

    def _write_progress(self, run: Run) -> None:
        if are_images(run.model.spec.sample_shape):
            self._write(run, "samples", self._grid(run))
            if run.model.spec.reconstructs:
                self._write(run, "reconstructions", self._pairs(run))
        elif run.model.spec.sample_shape == (2,):
            self._write(run, "samples", _scatter(run))

    def _write(self, run: Run, role: str, picture: Picture) -> None:
        self._keep(run, role, _place(run, role), partial(_save, Image.fromarray(picture)))

    def _write_curves(self, run: Run) -> None:
        picture = curves(run.directory.records())
        if picture is not None:
            self._keep(run, "curves", run.directory / "curves.png", partial(_save, Image.fromarray(picture)))

    def _write_time_lapse(self, run: Run) -> None:
        written = sorted((run.directory / "samples").glob(f"step_{8 * '[0-9]'}.png"))
        found = frames([path for path in written if int(path.stem.removeprefix("step_")) <= run.step])
        if len(found) > 1:
            self._keep(run, "time-lapse", run.directory / "time-lapse.gif", partial(save_time_lapse, found))

    def _keep(self, run: Run, role: str, path: Path, save: Callable[[Path], None]) -> None:
        """Have a picture written and told, unless the run was continued at its end, where it is there already."""
        if path.exists() and run.step == self._first_step:
            return
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as unfinished:
            save(unfinished)
        run.announce(path, role)


def _save(picture: Image.Image, path: Path) -> None:
    picture.save(path, "PNG")


def _place(run: Run, role: str) -> Path:
    return run.directory / role / f"step_{run.step:08d}.png"


def _traversal(run: Run) -> Picture | None:
    lines = code_lines(run.model, STEPS)[:ROWS]
    if not lines and run.model.spec.reconstructs:
        lines = chosen_lines(run.model, most_active(run.model, ROWS), STEPS)
    if not lines:
        return None
    rows, names = pictures.traversals(run.model, run.model.fixed_latents(max(1, ROWS // len(lines))), lines)
    return pictures.strip(rows, "one latent at a time", names)


def _samples(run: Run, count: int) -> Tensor:
    return run.model.decode(run.model.fixed_latents(count))


def _scatter(run: Run) -> Picture:
    real = real_samples(run.model, run.data, POINTS)
    return scatter(real, run.model.decode(run.model.fixed_latents(POINTS)).cpu())
