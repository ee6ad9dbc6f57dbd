"""One training step, as a function without arguments."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ganrun.base.randomness import derived_seed, set_random_stream
from ganrun.base.ranks import ranks
from ganrun.contracts.losses import Batch, Inputs, Nets, Phase
from ganrun.contracts.views import View
from ganrun.recipe.recipe import Recipe
from ganrun.training.augmenting import Adjuster, Front
from ganrun.training.components import run_frames
from ganrun.training.drawing import Drawing
from ganrun.training.graphs import Graphs, Pools, graphs_of
from ganrun.training.measurements import Measurements
from ganrun.training.phases import Update
from ganrun.training.run import Run
from ganrun.training.state import SlotState
from ganrun.training.views import PRECISIONS


def build_step(run: Run, measurements: Measurements, pools: Pools | None = None) -> Callable[[], None]:
    """A function that takes the run's next step: learning rates, every phase once, augmentations, averages.

    It leaves everything that is a function of the step as it is after the step, for those who look on in between.

    Args:
        run: The run; a step changes its state.
        measurements: Where the terms of the phases are summed.
        pools: Makes the graphs that phases are captured as; those of the run's device unless given.
    """
    state, steps, device = run.state, run.steps, run.model.device
    draw, stop = Drawing(run), torch.zeros((), device=device)
    updates, adjuster = _updates(run, draw, measurements, stop, graphs_of(run, pools)), _adjuster(run, draw)
    averages = [slot.average for slot in state.slots.values() if slot.average is not None]
    has_company = ranks().total > 1

    def take_step() -> None:
        started = time.perf_counter()
        state.whole = False
        set_random_stream(device, derived_seed(run.seed, "step", 0, state.step))
        draw.steps_done.fill_(state.step)
        if has_company:
            stop.fill_(run.interruption.signal_number or 0)
        lr = run.recipe.stage_at(state.step).lr
        for slot in state.slots.values():
            slot.set_rates(state.step, steps, lr)
        if run.recipe.resets_optimizers(state.step):
            state.reset_optimizers()
        for update in updates:
            update.run(state.step)
        adjuster.after(state.step + 1)
        state.step += 1
        for average in averages:
            average.update(state.step)
        run.begin()
        state.whole = True
        if has_company:
            run.interruption.agreed = bool(stop > 0)  # waits for the device
        state.seconds += time.perf_counter() - started

    return take_step


def _updates(
    run: Run, draw: Drawing, measurements: Measurements, stop: torch.Tensor, graphs: Graphs | None
) -> list[Update]:
    """The phases of the loss, ready to be executed."""
    slots, nets, accumulate = run.state.slots, Nets(_views(run)), run.recipe.train.accumulate
    frame = run_frames(run.recipe, run.recipe.loss)

    def update(phase: Phase) -> Update:
        trained = [slot for name, slot in slots.items() if name in phase.trains and slot.optimizer is not None]
        captured = None if graphs is None else graphs.of(phase, trained)
        return Update(phase, slots, nets, draw, measurements, accumulate, run.seed, frame, stop, captured)

    return [update(phase) for phase in run.phases]


def _views(run: Run) -> dict[str, View]:
    """The networks as the objectives of a run see them."""
    precision, recipe = PRECISIONS[run.recipe.train.precision], run.recipe
    return {
        name: View(slot.module, precision, _front(recipe, slot), run_frames(recipe, recipe.networks[name]))
        for name, slot in run.state.slots.items()
    }


def _front(recipe: Recipe, slot: SlotState) -> Front | None:
    """The augmentation before a network's view."""
    if slot.augmentation is None or recipe.augmentation is None:
        return None
    return Front(slot.augmentation, run_frames(recipe, recipe.augmentation))


def _adjuster(run: Run, draw: Drawing) -> Adjuster:
    recipe, loss = run.recipe, run.model.loss
    frame = run_frames(recipe, recipe.loss)

    def real_inputs(slot: str, batch: Batch) -> Inputs:
        with frame("real_inputs"):
            return loss.real_inputs(slot, batch)

    return Adjuster(
        run.state,
        _views(run),
        {name: slot.boundary for name, slot in loss.slots.items()},
        real_inputs,
        draw.last_real,
        recipe.train.accumulate,
        run.seed,
        run.model.device,
        run_frames(recipe, recipe.augmentation or recipe.loss),
    )
