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
from ganrun.base.errors import IncompatibleError, PluginError, RequestError, RunError
from ganrun.base.frames import called
from ganrun.contracts.data import Data
from ganrun.contracts.scores import Score
from ganrun.contracts.specs import ModelSpec
from ganrun.discovery.registry import Registry, locate
from ganrun.inference.evaluation import SharedEvaluation, measured
from ganrun.inference.sources import FoundSamples
from ganrun.recipe.reader import load_component_config, load_evaluation_config, load_model_config, load_recipe
from ganrun.recipe.recipe import EvaluationConfig
from ganrun.recipe.shipped import find_recipe
from ganrun.rehearsal.data import check_data
from ganrun.rundir.addresses import without_unconfirmed
from ganrun.rundir.checkpoints import Checkpoint, find_checkpoint
from ganrun.rundir.directory import RunDirectory, open_run
from ganrun.rundir.records import SUMMARY, merged_summary
from ganrun.rundir.stored import made_with
from ganrun.training.assembly import assemble, ignore_stage
from ganrun.training.builder import build_events
from ganrun.training.components import frame_of, metric_frames, prepared_data, prepared_metrics
from ganrun.training.continuing import differences_from
from ganrun.training.run import Run

log = logging.getLogger("ganrun")

FOLDER_DATA = "image-folder"
"""The data set that reads a folder of pictures."""

NO_METRIC = "there is nothing to measure; say --metric NAME, one of: ganrun list metric"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for scores, as `ganrun eval` takes it.

    Args:
        path: A run directory, a tracker's id of a run, a checkpoint, or a folder of pictures.
        against: Data set or recipe whose real images the samples are compared with; a run's own if None.
        metrics: Names of metrics; those of the recipe if there are none.
        overrides: `key.path=value`, as after `--set`.
        device: Where to compute.
    """

    path: Path
    against: str | None = None
    metrics: Sequence[str] = ()
    overrides: Sequence[str] = ()
    device: str = "auto"

    def all_overrides(self) -> list[str]:
        """The named metrics as an override, then `overrides`."""
        named = ", ".join(f'{{ use = "{name}" }}' for name in self.metrics)
        return [*([f"metric=[{named}]"] if named else []), *self.overrides]


def score(request: Request, registry: Registry, on_stage: Callable[[str], None] = ignore_stage) -> list[Score]:
    """Measure the scores of a run, a checkpoint or a folder of pictures; those of a run are added to its records.

    Args:
        request: What to score, and how.
        registry: The installed components.
        on_stage: Called with a description of the current stage.

    Raises:
        RequestError: if something that the request names is missing or does not fit.
        NonFiniteError: if samples or reconstructions are NaN or infinite.
    """
    folder = locate(request.path, registry)
    found = find_checkpoint(folder)
    if found is not None:
        run, checkpoint = found
        return _score_run(request, open_run(run), checkpoint, registry, on_stage)
    if request.against is None:
        raise RequestError(
            f"{folder} is no run directory, so it is taken for pictures; say what to compare them with: --against DATA"
        )
    return _score_pictures(request, request.against, registry, on_stage)


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────


def _score_run(
    request: Request,
    directory: RunDirectory,
    checkpoint: Checkpoint,
    registry: Registry,
    on_stage: Callable[[str], None],
) -> list[Score]:
    overrides = [*_data_overrides(request, registry), *request.all_overrides()]
    recipe = load_recipe(directory.recipe_path, registry, overrides, made_with(directory.recipe_path))
    changed = [each for each in differences_from(directory, recipe) if not each.startswith("data.")]
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise RequestError(f"what was trained cannot be scored as something else:\n{listed}")
    if not recipe.metrics:
        raise RequestError(NO_METRIC)
    run = Run(assemble(recipe, on_stage), directory, build_events(without_unconfirmed(recipe)), resumed=True)
    is_other_data = run.environment["data_fingerprint"] != directory.environment().get("data_fingerprint")
    try:
        run.restore(checkpoint)
    except RequestError as error:
        raise RequestError(f"{error}{_shape_of(run) if is_other_data else ''}") from None
    on_stage(f"samples of step {run.step}")
    with run.interruption:
        scores = measured(run.metrics, run.evaluation(), metric_frames(recipe))
    if is_other_data:
        scores = [dataclasses.replace(each, name=f"{each.name}@{recipe.data.use}") for each in scores]
    own = load_model_config(directory.recipe_path, registry, (), made_with(directory.recipe_path))
    try:
        _add_scores(run, scores, is_own=own.sampling == recipe.sampling)
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
    table = _against(against, registry).data.table()
    return [device, f"data={{ {', '.join(f'{name} = {json.dumps(value)}' for name, value in table.items())} }}"]


def _against(against: str, registry: Registry, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """The data set, or the recipe's data and metrics."""
    if not against.endswith(".toml"):
        return load_evaluation_config(against, registry, overrides)
    path = find_recipe(Path(against))
    return load_evaluation_config(str(path), registry, overrides, made_with(path))


def _shape_of(run: Run) -> str:
    """A hint for networks that do not fit the data compared with: the shape of that data."""
    shape, data = "×".join(str(side) for side in run.model.spec.sample_shape), run.recipe.data.use
    return (
        f"\n  data {data} is {shape} with {run.model.spec.classes} classes; fit it by --set data.size, data.channels, …"
    )


def _add_scores(run: Run, scores: Sequence[Score], *, is_own: bool) -> None:
    """Add the scores to metrics.jsonl and, if they are of the run's last step and its own sampling, to summary.json."""
    run.record({}, scores, rescored=True)
    summary = run.directory.summary()
    if is_own and summary.get("steps") == run.step:
        run.directory.write_json(SUMMARY, merged_summary(summary, scores))


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────


def _score_pictures(request: Request, against: str, registry: Registry, on_stage: Callable[[str], None]) -> list[Score]:
    config = _against(against, registry, request.all_overrides())
    if not config.metrics:
        raise RequestError(NO_METRIC)
    device = choose_device(request.device)
    on_stage(f"data {config.data.use}")
    real = prepared_data(config)
    with frame_of(config, config.data, "spec"):
        check_data(real, paired=False)
        spec = ModelSpec.from_facts(real.spec().facts())
        pictures = _pictures(request.path, spec, registry)
    on_stage(f"pictures in {request.path}")
    images = _prepared_images(pictures, request.path)
    metrics = prepared_metrics(config, real, spec, device, on_stage)
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
        return measured(metrics, evaluation, metric_frames(config))


def _pictures(folder: Path, spec: ModelSpec, registry: Registry) -> Data:
    """The folder as a data set of the spec's shape."""
    channels, height, width = spec.image_shape
    if height != width:
        raise IncompatibleError(f"pictures are read as squares, and these images are {height}×{width}")
    settings = {"size": height, "channels": channels, "crop": "exact", "labelled": "false"}
    overrides = [f"root={json.dumps(str(folder))}", *(f"{name}={value}" for name, value in settings.items())]
    data: Data = load_component_config("data", FOLDER_DATA, registry, overrides).build()
    return data


def _prepared_images(pictures: Data, folder: Path) -> Tensor:
    with called(f"data {FOLDER_DATA}", "prepare", str(folder), PluginError):
        pictures.prepare()
        return torch.from_numpy(pictures.split("train").images)
