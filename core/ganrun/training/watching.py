"""Tries metrics' requests before a run starts, in an evaluation that is discarded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ganrun.base.errors import IncompatibleError
from ganrun.contracts.data import Data, Split
from ganrun.contracts.metrics import Metric
from ganrun.contracts.specs import DataSpec
from ganrun.inference.evaluation import SharedEvaluation
from ganrun.inference.given import GivenRecords
from ganrun.inference.model import Model
from ganrun.inference.samples import GeneratedSamples
from ganrun.recipe.recipe import Recipe
from ganrun.rehearsal.stand_in import StandIn
from ganrun.training.components import frame_of


def try_requests(recipe: Recipe, metrics: Sequence[Metric], model: Model, data: Data) -> None:
    """Let each metric make its requests; only immediate ones are served.

    Args:
        recipe: The recipe that names the metrics.
        metrics: In the recipe's order, prepared.
        model: The model.
        data: The run's, prepared.

    Raises:
        RequestError: located at the metric's table, if it requests something that does not exist, such as a reading
            that the loss lacks or a split that the data lacks, or if its `watch` fails.
    """
    samples = GeneratedSamples(model.draw, model.spec, model.device, model.seed, model.given)
    for config, metric in zip(recipe.metrics, metrics, strict=True):
        with frame_of(recipe, config, "watch"):
            metric.watch(_evaluation(model, data, samples))


def try_unprepared(recipe: Recipe, metrics: Sequence[Metric], model: Model) -> None:
    """As `try_requests`, without data: only finds requests for outputs that do not exist.

    Raises:
        IncompatibleError: located at the metric's table.
    """
    data = StandIn(model.spec, lambda name: _no_records(model.spec))
    given = GivenRecords(data, model.spec, model.device) if model.spec.given else None
    samples = GeneratedSamples(_draw_none, model.spec, model.device, model.seed, given)
    for config, metric in zip(recipe.metrics, metrics, strict=True):
        with frame_of(recipe, config, "watch"):
            try:
                metric.watch(_evaluation(model, data, samples))
            except IncompatibleError:
                raise
            except Exception:  # it may lack state that its `prepare` derives from the data
                continue


def _evaluation(model: Model, data: Data, samples: GeneratedSamples) -> SharedEvaluation:
    return SharedEvaluation(
        spec=model.spec, device=model.device, step=0, seed=model.seed, samples=samples, data=data, model=model
    )


def _draw_none(count: int, start: int) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("there are no samples yet")


def _no_records(spec: DataSpec) -> Split:
    """A split of the data's shapes, without a record."""
    images, *beside = [_none_of(shape) for shape in (spec.sample_shape, *spec.fields.values())]
    labels = np.zeros(0, np.int64) if spec.classes else None
    return Split(images, labels, dict(zip(spec.fields, beside, strict=True)))


def _none_of(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.zeros((0, *shape), np.float32)
