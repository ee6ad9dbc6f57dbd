"""Measures the metrics of a recipe, each of which may fail independently."""

from __future__ import annotations

from collections.abc import Sequence

from ganrun.base.errors import GanrunError
from ganrun.base.faults import METRIC, Faults
from ganrun.contracts.metrics import Metric
from ganrun.contracts.scores import Score
from ganrun.inference.evaluation import SharedEvaluation, measured
from ganrun.recipe.recipe import MetricsConfig
from ganrun.training.components import metric_frames

THEN = "has no score in this evaluation; the run continues"
"""The consequence of a metric's fault."""


def measured_each(
    metrics: Sequence[Metric], evaluation: SharedEvaluation, recipe: MetricsConfig, faults: Faults
) -> tuple[list[Score], list[GanrunError]]:
    """The scores of the metrics that do not fail, and an error of each other one.

    Args:
        metrics: In the order of the recipe.
        evaluation: The evaluation. Where several ranks serve it, the fault of a metric is raised.
        recipe: Whose metrics they are.
        faults: Records the errors of the others.
    """
    errors: list[GanrunError] = []

    def note(place: int, doing: str, error: GanrunError) -> None:
        errors.append(error)
        faults.note(f"{METRIC}{place} {recipe.metrics[place].use}", doing, error, evaluation.step, then=THEN)

    return measured(metrics, evaluation, metric_frames(recipe), note), errors


def measured_any(
    metrics: Sequence[Metric], evaluation: SharedEvaluation, recipe: MetricsConfig, faults: Faults
) -> list[Score]:
    """The same if the scores are the purpose of the call.

    Raises:
        GanrunError: that of a metric, if none can be measured.
    """
    if len(metrics) == 1:
        return measured(metrics, evaluation, metric_frames(recipe))
    scores, errors = measured_each(metrics, evaluation, recipe, faults)
    if errors and not scores:
        raise errors[0]
    return scores
