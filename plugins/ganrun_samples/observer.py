"""The observer that writes pictures during training and at its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

import ganrun
from ganrun import Run, atomic_path, observes, read_bytes
from ganrun_samples.curves import curves
from ganrun_samples.grid import are_images
from ganrun_samples.pictures import Picture, png
from ganrun_samples.run_pictures import AT_END, point_cloud, reconstruction_pairs, record_sheet, sample_grid
from ganrun_samples.sheets import image_fields
from ganrun_samples.timelapse import time_lapse

Extra = Literal["real-and-generated", "neighbours", "interpolation", "traversal", "curves", "time-lapse"]


class Samples(ganrun.Observer):
    """Writes pictures of samples from fixed latents, which show the same samples improve.

    Drawn from the averaged weights if the loss keeps an average: `samples/step_00000500.png`, after steps 1, 2, 5, 10,
    20, 50, … until `every_steps`, then at that interval and after the last step. Images are arranged in a grid; if the
    loss has a class or another categorical code, each row shows one of its values; if it makes images from images, each
    row shows a record: source, sample and target. Points in the plane are drawn over real ones. Models that reconstruct
    also write `reconstructions/step_00000500.png`: rows of real images, each above its reconstructions. The pictures of
    `at_end` follow, if the model allows them, each in a folder of its name.
    """

    class Settings(ganrun.Settings):
        every_steps: int = Field(1000, ge=1)
        """Steps between two pictures."""

        count: int = Field(64, ge=1)
        """Samples in a grid; if its rows show the values of a code, their number takes precedence. At most eight
        records are shown."""

        columns: int = Field(8, ge=1)
        """Samples in a row."""

        at_end: tuple[Extra, ...] = get_args(Extra)
        """Pictures of the finished run. real-and-generated: side by side; neighbours: samples beside the training
        images nearest to them in pixels, which shows copies; interpolation: from one sample to another; traversal:
        along each code, or a VAE's most active latents; curves: losses and scores, as `curves.png`; time-lapse: the
        grids, as `time-lapse.gif`. Failed and interrupted runs have only the last two, which take little time and do
        not need the model."""

    settings: Settings
    automatic = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._first_step: int | None = None
        """Where training starts or continues; None before that."""
        self._drawn_step: int | None = None
        """The step of the latest progress pictures."""

    @observes
    def run_started(self, run: Run) -> None:
        """Note where training starts."""
        self._first_step = run.step

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        """Draw the progress pictures at their interval, and more often at the beginning."""
        if self._is_scheduled(step):
            self._draw_progress(run)

    @observes
    def training_ended(self, run: Run, step: int) -> None:
        """Draw the progress pictures of the final weights."""
        if step not in (0, self._drawn_step):
            self._draw_progress(run)

    @observes
    def run_ended(self, run: Run, status: str) -> None:
        """Draw the pictures of `at_end`."""
        if self._first_step is None:
            return
        can_use_model = status == "finished" and are_images(run.model.spec.sample_shape)
        for extra in self.settings.at_end:
            if can_use_model or extra not in AT_END:
                self._draw_extra(run, extra)

    def _is_scheduled(self, step: int) -> bool:
        every = self.settings.every_steps
        return step % every == 0 or (step < every and str(step).rstrip("0") in ("1", "2", "5"))

    def _draw_progress(self, run: Run) -> None:
        spec, count, columns = run.model.spec, self.settings.count, self.settings.columns
        if are_images(spec.sample_shape) and image_fields(spec):
            self._write_png(run, "samples", lambda: record_sheet(run, count))
        elif are_images(spec.sample_shape):
            self._write_png(run, "samples", lambda: sample_grid(run, count, columns))
            if "reconstructions" in spec.readings:
                self._write_png(run, "reconstructions", lambda: reconstruction_pairs(run, columns))
        elif spec.sample_shape == (2,):
            self._write_png(run, "samples", lambda: point_cloud(run))
        self._drawn_step = run.step

    def _draw_extra(self, run: Run, extra: Extra) -> None:
        directory = run.directory
        if extra == "curves":
            self._write(run, extra, directory / "curves.png", lambda: png(curves(directory.records())))
        elif extra == "time-lapse":
            self._write(run, extra, directory / "time-lapse.gif", lambda: time_lapse(directory / "samples", run.step))
        else:
            self._write_png(run, extra, lambda: AT_END[extra](run, self.settings.count))

    def _write_png(self, run: Run, role: str, draw: Callable[[], Picture | None]) -> None:
        """Write a picture of the current weights. A resumed run without further steps already has it."""
        path = run.directory / role / f"step_{run.step:08d}.png"
        if run.step == self._first_step and path.is_file():
            self._mention(run, role, path)
        else:
            self._write(run, role, path, lambda: png(draw()))

    def _write(self, run: Run, role: str, path: Path, draw: Callable[[], bytes | None]) -> None:
        """Write and announce a file, if there is anything to draw. An existing one, as after a run that was killed or
        interrupted at its end, is only mentioned."""
        content = draw()
        if content is None:
            return
        if _holds(path, content):
            self._mention(run, role, path)
            return
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_bytes(content)
        run.announce(path, role)

    def _mention(self, run: Run, role: str, path: Path) -> None:
        run.last_files[role] = str(path.relative_to(run.directory.path))


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file has this content."""
    try:
        return read_bytes(path, len(content)) == content
    except OSError:
        return False
