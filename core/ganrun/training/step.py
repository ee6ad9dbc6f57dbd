"""One training step, as a function without arguments."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ganrun.base.frames import called
from ganrun.base.randomness import derived_seed, set_random_stream
from ganrun.base.ranks import ranks
from ganrun.contracts.losses import Batch, Nets, Phase
from ganrun.contracts.views import View
from ganrun.inference.given import with_given
from ganrun.training.batches import RealBatches
from ganrun.training.components import run_frames
from ganrun.training.measurements import Measurements
from ganrun.training.phases import Update
from ganrun.training.run import Run
from ganrun.training.views import PRECISIONS


def build_step(run: Run, measurements: Measurements) -> Callable[[], None]:
    """A function that takes the run's next step: learning rates, every phase once, averages.

    Args:
        run: The run; a step changes its state.
        measurements: Where the terms of the phases are summed.
    """
    state, train, loss, device = run.state, run.recipe.train, run.model.loss, run.model.device
    precision, frame = PRECISIONS[train.precision], run_frames(run.recipe, run.recipe.loss)
    views = {
        name: View(slot.module, precision, frame=run_frames(run.recipe, run.recipe.networks[name]))
        for name, slot in state.slots.items()
    }

    steps_done, stop = torch.zeros((), device=device), torch.zeros((), device=device)
    draw = _drawing(run, frame, steps_done)
    nets = Nets(views)
    updates = [
        Update(phase, state.slots, nets, draw, measurements, train.accumulate, run.seed, frame, stop)
        for phase in loss.phases()
    ]
    averages = [slot.average for slot in state.slots.values() if slot.average is not None]
    scheduled = [slot for slot in state.slots.values() if slot.rule.varies]

    def take_step() -> None:
        started = time.perf_counter()
        state.whole = False
        set_random_stream(device, derived_seed(run.seed, "step", 0, state.step))
        steps_done.fill_(state.step)
        stop.fill_(run.interruption.signal_number or 0)
        for slot in scheduled:
            slot.set_learning_rate(state.step, train.steps)
        for update in updates:
            update.run(state.step)
        state.step += 1
        for average in averages:
            average.update(state.step)
        state.whole = True
        if ranks().total > 1:
            run.interruption.agreed = bool(stop > 0)  # waits for the device
        state.seconds += time.perf_counter() - started

    return take_step


def _drawing(run: Run, frame: Callable[[str], called], steps_done: Tensor) -> Callable[[Phase], Batch]:
    """A function that draws a phase's next batch: latents, and the real records that it reads or that latents hold."""
    state, train, loss, device = run.state, run.recipe.train, run.model.loss, run.model.device
    split, flip = run.data.split("train"), train.horizontal_flip
    data = RealBatches(split, device, run.seed, horizontal_flip=flip, paired=loss.paired)
    spec = run.model.spec
    has_given = any(factor.kind == "given" for factor in spec.factors)

    def draw(phase: Phase) -> Batch:
        with frame("latents"):
            latents = loss.latents(train.batch_size, device)
        if not (phase.reads_images or has_given):
            return Batch(latents, steps_done=steps_done)
        real = data.take(state.images_seen, train.batch_size)
        state.images_seen += train.batch_size
        latents = with_given(latents, spec, real.beside)
        if not phase.reads_images:
            return Batch(latents, steps_done=steps_done)
        return Batch(latents, real.images, real.labels, real.beside, steps_done)

    return draw
