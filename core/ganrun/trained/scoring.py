"""Scores of what is on disk: a run, one of its checkpoints, or a folder of pictures."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ganrun.base.console import ProgressReporter
from ganrun.base.devices import choose_device
from ganrun.base.errors import IncompatibleError, RequestError, RunError
from ganrun.contracts.data import Data
from ganrun.contracts.scores import Score
from ganrun.contracts.specs import ModelSpec
from ganrun.discovery.registry import Registry, locate
from ganrun.inference.evaluation import SharedEvaluation, measured
from ganrun.inference.sources import FoundSamples
from ganrun.recipe.reader import load_component_config, load_evaluation_config, load_recipe
from ganrun.recipe.shipped import find_recipe
from ganrun.rundir.checkpoints import Checkpoint, latest_checkpoint, load_checkpoint, run_of
from ganrun.rundir.directory import RunDirectory, open_run
from ganrun.rundir.records import ENVIRONMENT, RECIPE, SUMMARY, merged_summary
from ganrun.training.assembly import assemble, ignore_stage
from ganrun.training.builder import build_events
from ganrun.training.building import error_context, prepared_data, prepared_metrics
from ganrun.training.continuing import differences_from
from ganrun.training.run import Run

log = logging.getLogger("ganrun")

FOLDER_DATA = "image-folder"
"""The data set that reads a folder of pictures."""

NO_METRIC = "there is nothing to measure; say --metric NAME, one of: ganrun list metric"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be scored, and how.

    Args:
        path: A run directory or a tracker's name for one, a checkpoint, or a folder of pictures.
        against: Data set or recipe whose real images are compared with; where None, a run's own.
        metrics: Names; where there are none, those of the recipe.
        overrides: Typed after `--set`.
        device: Where to compute.
    """

    path: Path
    against: str | None = None
    metrics: Sequence[str] = ()
    overrides: Sequence[str] = ()
    device: str = "auto"

    def all_overrides(self) -> list[str]:
        """The metrics that were named, then what was typed."""
        named = ", ".join(f'{{ use = "{name}" }}' for name in self.metrics)
        return [*([f"metric=[{named}]"] if named else []), *self.overrides]


def score(request: Request, registry: Registry, on_progress: Callable[[str], None] = ignore_stage) -> list[Score]:
    """Measure, and of a run add the scores to what it recorded.

    Raises:
        RequestError: if what is asked for is not there or does not fit.
    """
    folder = locate(request.path, registry)
    if (folder / RECIPE).is_file():
        found = latest_checkpoint(folder)
        if found is None:
            raise RequestError(f"{folder} holds no checkpoint, so its weights are gone; train it again")
        return _score_run(request, open_run(folder), found, registry, on_progress)
    run = run_of(folder)
    if run is not None:
        return _score_run(request, open_run(run), load_checkpoint(folder), registry, on_progress)
    if request.against is None:
        raise RequestError(
            f"{folder} is no run directory, so it is taken for pictures; say what to compare them with: --against DATA"
        )
    return _score_pictures(request, request.against, registry, on_progress)


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────


def _score_run(
    request: Request,
    directory: RunDirectory,
    checkpoint: Checkpoint,
    registry: Registry,
    on_progress: Callable[[str], None],
) -> list[Score]:
    recipe = load_recipe(directory / RECIPE, registry, [*_data_overrides(request, registry), *request.all_overrides()])
    changed = [each for each in differences_from(directory, recipe) if not each.startswith("data.")]
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise RequestError(f"what was trained cannot be scored as something else:\n{listed}")
    if not recipe.metrics:
        raise RequestError(NO_METRIC)
    run = Run(assemble(recipe, on_progress), directory, build_events(recipe), resumed=True)
    is_other_data = run.environment["data_fingerprint"] != directory.read_json(ENVIRONMENT).get("data_fingerprint")
    try:
        run.restore(checkpoint.weights, checkpoint.progress)
    except RequestError as error:
        raise RequestError(f"{error}{_shape_of(run) if is_other_data else ''}") from None
    on_progress(f"samples of step {run.step}")
    with run.interruption:
        scores = measured(run.metrics, run.evaluation())
    if is_other_data:
        scores = [dataclasses.replace(each, name=f"{each.name}@{recipe.data.use}") for each in scores]
    try:
        _note(run, scores)
    except RunError as error:
        log.warning("the scores are not added to the run: %s", error)
    run.emit("rescored", scores=scores)
    return scores


def _data_overrides(request: Request, registry: Registry) -> list[str]:
    """The other data set that a run is compared with, as overrides of its recipe; and where to compute."""
    device, against = f"train.device={request.device}", request.against
    if against is None:
        return [device]
    if not against.endswith(".toml"):
        return [device, f"data.use={against}"]
    table = load_evaluation_config(str(find_recipe(Path(against))), registry).data.table()
    return [device, f"data={{ {', '.join(f'{name} = {json.dumps(value)}' for name, value in table.items())} }}"]


def _shape_of(run: Run) -> str:
    """What other data is like, for a run whose networks are not made for it."""
    shape, data = "×".join(str(side) for side in run.model.spec.sample_shape), run.recipe.data.use
    return (
        f"\n  data {data} is {shape} with {run.model.spec.classes} classes; fit it by --set data.size, data.channels, …"
    )


def _note(run: Run, scores: Sequence[Score]) -> None:
    """Add a line to metrics.jsonl; and to summary.json, where these are the run's last weights."""
    run.record({}, scores, rescored=True)
    summary = run.directory.read_json(SUMMARY)
    if summary.get("steps") == run.step:
        run.directory.write_json(SUMMARY, merged_summary(summary, scores))


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────


def _score_pictures(
    request: Request, against: str, registry: Registry, on_progress: Callable[[str], None]
) -> list[Score]:
    place = str(find_recipe(Path(against))) if against.endswith(".toml") else against
    chosen = load_evaluation_config(place, registry, request.all_overrides())
    if not chosen.metrics:
        raise RequestError(NO_METRIC)
    device = choose_device(request.device)
    on_progress(f"data {chosen.data.use}")
    real = prepared_data(chosen)
    with error_context(chosen, chosen.data):
        spec = ModelSpec(**dataclasses.asdict(real.spec()))
        pictures = _pictures(request.path, spec, registry)
    on_progress(f"pictures in {request.path}")
    images = _prepared_images(pictures, request.path)
    metrics = prepared_metrics(chosen, real, spec, device, on_progress)
    with ProgressReporter() as report:
        evaluation = SharedEvaluation(
            spec=spec,
            device=device,
            step=0,
            seed=0,
            samples=FoundSamples(images, device),
            data=real,
            on_progress=report,
        )
        return measured(metrics, evaluation)


def _pictures(folder: Path, spec: ModelSpec, registry: Registry) -> Data:
    """The folder as a data set of the spec's shape."""
    channels, height, width = spec.image_shape
    if height != width:
        raise IncompatibleError(f"pictures are read as squares, and these images are {height}×{width}")
    settings = {"size": height, "channels": channels, "crop": "exact", "labelled": "false"}
    overrides = [f"root={json.dumps(str(folder))}", *(f"{name}={value}" for name, value in settings.items())]
    choice = load_component_config("data", FOLDER_DATA, registry, overrides)
    data: Data = choice.build()
    return data


def _prepared_images(pictures: Data, folder: Path) -> Tensor:
    try:
        pictures.prepare()
    except RequestError as error:
        raise error.located(str(folder)) from None
    return torch.from_numpy(pictures.split("train").images)
