"""When a run is scored, and how its scores become known."""

from __future__ import annotations

from ganrun.inference.evaluation import SharedEvaluation, measured
from ganrun.inference.sources import GeneratedSamples
from ganrun.training.run import Run


class Scorer:
    """Scores a run, each step at most once.

    Args:
        run: What is scored.
        owes_scores: Whether the step at which the run continues is to be scored before any other: a break may have
            come before, during or after its evaluation.
    """

    def __init__(self, run: Run, *, owes_scores: bool = False) -> None:
        self._run = run
        self._scored_at: int | None = None
        self.owes_scores = owes_scores

    def is_scheduled(self) -> bool:
        """Whether the recipe wants scores at the run's step, besides those of the last one."""
        cadence = self._run.recipe.train.evaluate_every_steps
        return cadence is not None and self._run.step % cadence == 0

    def score(self) -> None:
        """Measure every metric of the recipe on one set of samples, and report the scores."""
        run = self._run
        if not run.metrics or self._scored_at == run.step:
            return
        scores = measured(run.metrics, evaluation_of(run))
        self._scored_at = run.step
        run.scores.update({score.name: score for score in scores})
        run.record({}, scores)
        run.emit("evaluated", scores=scores)


def evaluation_of(run: Run) -> SharedEvaluation:
    """What metrics are measured on, as of now."""

    def on_progress(what: str, done: int, total: int) -> None:
        run.interruption.check()
        run.events.emit("evaluating", run=run, what=what, done=done, total=total)

    model = run.model
    return SharedEvaluation(
        spec=model.spec,
        device=model.device,
        step=run.step,
        seed=run.seed,
        samples=GeneratedSamples(model.draw, model.spec, model.device, run.seed),
        data=run.data,
        model=model,
        protocol=_protocol(run),
        on_progress=on_progress,
    )


def _protocol(run: Run) -> dict[str, str | int | float | bool]:
    """Which model is scored: of which seed, and whether its average."""
    averaged = any(slot.average is not None for slot in run.state.slots.values())
    return {"ema_decay": run.recipe.ema.decay if averaged and run.recipe.ema else 0.0, "seed": run.seed}
