"""One training step, as a function without arguments."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ganrun.base.randomness import derived_seed, set_random_stream
from ganrun.base.ranks import ranks
from ganrun.contracts.losses import Nets
from ganrun.contracts.views import View
from ganrun.training.components import run_frames
from ganrun.training.drawing import Drawing
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
    state, steps, device = run.state, run.steps, run.model.device
    draw, stop = Drawing(run), torch.zeros((), device=device)
    updates = _updates(run, draw, measurements, stop)
    averages = [slot.average for slot in state.slots.values() if slot.average is not None]
    scheduled = [slot for slot in state.slots.values() if slot.varies]

    def take_step() -> None:
        started = time.perf_counter()
        state.whole = False
        set_random_stream(device, derived_seed(run.seed, "step", 0, state.step))
        draw.steps_done.fill_(state.step)
        stop.fill_(run.interruption.signal_number or 0)
        for slot in scheduled:
            slot.set_learning_rate(state.step, steps)
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


def _updates(run: Run, draw: Drawing, measurements: Measurements, stop: torch.Tensor) -> list[Update]:
    """The phases of the loss, ready to be executed."""
    slots, nets, accumulate = run.state.slots, Nets(_views(run)), run.recipe.train.accumulate
    frame = run_frames(run.recipe, run.recipe.loss)
    return [Update(phase, slots, nets, draw, measurements, accumulate, run.seed, frame, stop) for phase in run.phases]


def _views(run: Run) -> dict[str, View]:
    """The networks as the objectives of a run see them."""
    precision, recipe = PRECISIONS[run.recipe.train.precision], run.recipe
    return {
        name: View(slot.module, precision, frame=run_frames(recipe, recipe.networks[name]))
        for name, slot in run.state.slots.items()
    }
