"""The loop. It knows phases, slots and events, and no loss, model or tracker by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ganrun.base.errors import Interrupted, NonFiniteError, RequestError
from ganrun.base.randomness import derived_seed, set_random_stream
from ganrun.contracts.losses import Batch, Nets, Phase
from ganrun.inference.evaluation import measured
from ganrun.training.batches import RealBatches
from ganrun.training.measurements import Measurements
from ganrun.training.networks import network_view
from ganrun.training.phases import Update
from ganrun.training.run import Run, score_tables

log = logging.getLogger("ganrun")

RANK = 0
"""Which of several processes this is; its random stream is its own."""


def execute(run: Run) -> None:
    """Train, score and close a run. However it ends, its summary is written and its observers hear of it.

    Raises:
        Interrupted: on the first Ctrl-C or SIGTERM, after the step at hand.
        RequestError: if another process trains it, or it cannot be continued as it is; nothing was written then.
        RunError: if the run cannot go on.
    """
    status, fault = "failed", None
    with run.directory.occupied(), run.interruption:
        run.emit("run_starting")
        _check_steps(run)
        try:
            run.write_facts()
            is_due = run.resumed and _rewind(run)
            run.write_summary("running")
            run.emit("run_started")
            _train(run, is_due)
            status = "finished"
        except (Interrupted, KeyboardInterrupt) as wish:
            status = "interrupted"
            run.emit("run_failed", error=wish)
            raise
        except Exception as error:
            fault = error
            run.emit("run_failed", error=error)
            raise
        finally:
            try:
                run.write_summary(status, fault)
            finally:  # also where the disk is full
                run.emit("run_ended", status=status)


def _check_steps(run: Run) -> None:
    if run.step > run.steps:
        told = f"the run has done {run.step} steps already; to train on, say more of them: --set train.steps=N"
        raise RequestError(told).located(run.recipe.where(("train", "steps")))


def _rewind(run: Run) -> bool:
    """Forget what was recorded after the step that was restored; whether that step is to be scored again."""
    if run.step == 0:
        log.warning("%s holds no checkpoint; the run starts again from step 0", run.directory.path)
    had_scores = run.directory.rewind(run.step)
    return had_scores or (run.step > 0 and _is_due(run))


def _train(run: Run, is_due: bool) -> None:
    """Take the steps that are left, with an evaluation before them if one is due that a break may have cut short."""
    train = run.recipe.train
    measurements = Measurements()
    take_step = build_step(run, measurements)
    last_read = (run.step, run.state.seconds, run.images_seen)
    scored_at = None
    if is_due:
        evaluate(run)
        scored_at = run.step
    while run.step < run.steps and run.stopped is None:
        started = time.perf_counter()
        take_step()
        run.state.seconds += time.perf_counter() - started
        is_last = run.step == run.steps
        if is_last or run.step % train.log_every_steps == 0:
            last_read = _measure(run, measurements, last_read)
        run.emit("step_ended")
        if not is_last and _is_due(run):
            evaluate(run)
            scored_at = run.step
        run.interruption.check()
    if scored_at != run.step:
        evaluate(run)


def _is_due(run: Run) -> bool:
    """Whether scores are wanted of this step, besides of the last."""
    cadence = run.recipe.train.evaluate_every_steps
    return cadence is not None and run.step % cadence == 0


def build_step(run: Run, measurements: Measurements) -> Callable[[], None]:
    """One step of training, as a function: every phase once, with all that must be ready bound beforehand."""
    state, train = run.state, run.recipe.train
    data = RealBatches(run.data.split("train"), run.device, run.seed, horizontal_flip=train.horizontal_flip)
    views = {name: network_view(slot.module, run.device, train.precision) for name, slot in state.slots.items()}

    def draw(phase: Phase) -> Batch:
        latents = run.loss.latents(train.batch_size, run.device)
        if not phase.reads_images:
            return Batch(latents, steps_done=state.step)
        images, labels = data.take(state.images_seen, train.batch_size)
        state.images_seen += train.batch_size
        return Batch(latents, images, labels, state.step)

    nets = Nets(views)
    updates = [Update(phase, state.slots, nets, draw, measurements, train.accumulate) for phase in run.loss.phases()]
    averages = [slot.average for slot in state.slots.values() if slot.average is not None]
    scheduled = [slot for slot in state.slots.values() if slot.settings.varies]

    def take_step() -> None:
        state.whole = False
        set_random_stream(run.device, derived_seed(run.seed, "step", RANK, state.step))
        for slot in scheduled:
            slot.set_learning_rate(state.step, train.steps)
        for update in updates:
            update.run(state.step)
        state.step += 1
        for average in averages:
            average.update(state.step)
        state.whole = True

    return take_step


def evaluate(run: Run) -> None:
    """Measure every metric of the recipe on one set of samples, and make the scores known."""
    if not run.metrics:
        return
    scores = measured(run.metrics, run.evaluation())
    run.scores.update({score.name: score for score in scores})
    run.record(**{f"eval/{score.name}": score.value for score in scores}, **score_tables(scores))
    run.emit("evaluated", scores=scores)


def _measure(run: Run, measurements: Measurements, last: tuple[int, float, int]) -> tuple[int, float, int]:
    """Read the means since `last`, and make them known; the new `last`."""
    started = time.perf_counter()
    try:
        values = measurements.read()
    except NonFiniteError as error:
        raise NonFiniteError(_advice(error, last[0], run.step)) from None
    run.state.seconds += time.perf_counter() - started
    step, seconds, images_seen = last
    elapsed = max(run.state.seconds - seconds, 1e-9)
    values["perf/step_milliseconds"] = 1000 * elapsed / (run.step - step)
    values["perf/images_per_second"] = (run.images_seen - images_seen) / elapsed
    values |= {f"lr/{slot.name}": slot.learning_rate() for slot in run.state.slots.values() if slot.settings.varies}
    run.record(**values)
    run.emit("measured", values=values)
    return run.step, run.state.seconds, run.images_seen


def _advice(error: NonFiniteError, first: int, last: int) -> str:
    return (
        f"training is no longer finite after step {first} and by step {last}: {error}\n"
        "  try a lower learning rate ([optimizer] lr), clip_norm, or precision f32; an earlier checkpoint is kept"
    )
