"""One training step, as a function without arguments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ganrun.base.arithmetic import float32_as
from ganrun.base.randomness import derived_seed, set_random_stream
from ganrun.contracts.losses import Batch, Inputs, Nets, Phase
from ganrun.contracts.views import View
from ganrun.recipe.recipe import Recipe
from ganrun.training.augmenting import Adjuster, Front
from ganrun.training.components import owner_of, run_frames
from ganrun.training.drawing import Drawing
from ganrun.training.graphs import Graphs, Pools, graphs_of
from ganrun.training.measurements import Measurements
from ganrun.training.phases import Update
from ganrun.training.run import Run
from ganrun.training.state import SlotState
from ganrun.training.views import PRECISIONS

if TYPE_CHECKING:
    from ganrun.training.compiling import Compiler, Situation


def build_step(run: Run, measurements: Measurements, pools: Pools | None = None) -> Callable[[], None]:
    """A function that takes the run's next step: learning rates, every phase once, augmentations, averages.

    Afterwards, everything that is a function of the step is set for the new step, for observers.

    Args:
        run: The run; a step changes its state.
        measurements: Where the terms of the phases are summed.
        pools: Makes the graphs that phases are captured as; those of the run's device unless given.
    """
    state, steps, device = run.state, run.steps, run.model.device
    draw = Drawing(run)
    updates, adjuster = _updates(run, draw, measurements, graphs_of(run, pools)), _adjuster(run, draw)
    averages = [slot.average for slot in state.slots.values() if slot.average is not None]

    @float32_as(tf32=run.recipe.train.precision == "tf32")
    def take_step() -> None:
        started = time.perf_counter()
        state.whole = False
        set_random_stream(device, derived_seed(run.seed, "step", 0, state.step, *state.turn))
        draw.steps_done.fill_(state.step)
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
        state.seconds += time.perf_counter() - started

    return take_step


def _updates(run: Run, draw: Drawing, measurements: Measurements, graphs: Graphs | None) -> list[Update]:
    """The phases of the loss, ready to be executed."""
    slots, nets, accumulate = run.state.slots, _nets(run), run.recipe.train.accumulate
    frame = run_frames(run.recipe, run.recipe.loss)

    def update(phase: Phase) -> Update:
        trained = [slot for name, slot in slots.items() if name in phase.trains and slot.optimizer is not None]
        captured = None if graphs is None else graphs.of(phase, trained)
        turn = lambda: run.state.turn  # noqa: E731
        return Update(phase, slots, nets(phase), draw, measurements, accumulate, run.seed, frame, captured, turn)

    return [update(phase) for phase in run.phases]


def _nets(run: Run) -> Callable[[Phase], Nets]:
    """The networks as the objective of each phase sees them; compiled if the recipe says so and the phase is not
    second-order, which torch cannot compile."""
    plain = Nets(_views(run))
    if not run.recipe.train.compile:
        return lambda phase: plain
    from ganrun.training.compiling import Compiler

    def situation() -> Situation:
        return run.step, (run.structure, run.recipe.stage_at(run.step).batch_size)

    compiler = Compiler(situation, 1 + max(phase.every for phase in run.phases))
    compiled = Nets(_views(run, compiler))
    return lambda phase: plain if phase.second_order else compiled


def _views(run: Run, compiler: Compiler | None = None) -> dict[str, View]:
    """The networks as the objectives of a run see them."""
    return {name: _view(run.recipe, name, slot, compiler) for name, slot in run.state.slots.items()}


def _view(recipe: Recipe, name: str, slot: SlotState, compiler: Compiler | None) -> View:
    config = recipe.networks[name]
    place = f"{recipe.where(config.key)}: {owner_of(config)}"
    call = None if compiler is None else compiler.calls(slot.module, place)
    frame = run_frames(recipe, config)
    return View(slot.module, PRECISIONS[recipe.train.precision], _front(recipe, slot), frame, call=call)


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
