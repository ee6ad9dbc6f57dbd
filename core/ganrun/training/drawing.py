"""Draws batches: latents, and data records at the run's position in their stream, which latents may hold.

A draw has two parts. The host fetches rows; the device turns them into a batch and draws all random numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ganrun.contracts.losses import Batch, Phase
from ganrun.inference.given import with_given
from ganrun.training.batches import RealBatches, Rows
from ganrun.training.components import run_frames
from ganrun.training.run import Run


class Drawing:
    """Draws the batches of a run's updates, each the same on every rank.

    Args:
        run: The run; a draw moves its place in the data.
    """

    def __init__(self, run: Run) -> None:
        train, loss = run.recipe.train, run.model.loss
        self._run = run
        self._loss = loss
        self._device = run.model.device
        self._has_given = bool(run.model.spec.given)
        self._frame = run_frames(run.recipe, run.recipe.loss)
        self._real = RealBatches(
            run.training_split,
            self._device,
            run.seed,
            horizontal_flip=train.horizontal_flip,
            jitter=train.jitter or 0,
            paired=loss.paired,
        )
        self.steps_done: Tensor = torch.zeros((), device=self._device)
        """`Batch.step`, which the step fills in place."""

    def __call__(self, phase: Phase) -> Batch:
        """A new batch for an update of a phase."""
        return self.make(phase, self.fetch(phase))

    def fetch(self, phase: Phase) -> Rows | None:
        """The rows of the data for a new batch, if it has any: the host's part, which draws no random number."""
        if not (phase.reads_images or self._has_given):
            return None
        state, size = self._run.state, self.size
        rows = self._real.fetch(state.images_seen, size)
        state.images_seen += size
        return rows

    def make(self, phase: Phase, rows: Rows | None) -> Batch:
        """A batch of these rows, with new latents: work of the device alone."""
        with self._frame("latents"):
            latents = self._loss.latents(self.size, self._device)
        if rows is None:
            return Batch(latents, steps_done=self.steps_done)
        real = self._real.make(rows)
        latents = with_given(latents, self._run.model.spec, real.beside)
        if not phase.reads_images:
            return Batch(latents, steps_done=self.steps_done)
        return Batch(latents, real.images, real.labels, real.beside, self.steps_done)

    @property
    def size(self) -> int:
        """Images per update, in the run's present step."""
        return self._run.recipe.stage_at(self._run.state.step).batch_size

    def last_real(self) -> Batch:
        """The last batch of real records, mirrored and cropped again, without latents. It is read again rather than
        kept, so it depends only on the run's state, and a resumed run gets the same one.
        """
        state = self._run.state
        size = min(self.size, state.images_seen)
        real = self._real.take(state.images_seen - size, size)
        return Batch(real.images.new_empty(size, 0), real.images, real.labels, real.beside, self.steps_done)
