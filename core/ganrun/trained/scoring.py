"""Scores of what is on disk: a run, one of its checkpoints, or pictures in files."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from ganrun.base.devices import choose_device
from ganrun.base.errors import RequestError, RunError
from ganrun.base.faults import Faults
from ganrun.contracts.scores import Score
from ganrun.contracts.settings import setting_names
from ganrun.discovery.registry import Registry, locate
from ganrun.recipe.reader import load_evaluation_config, load_metrics_config, load_model_config, load_recipe
from ganrun.recipe.recipe import EvaluationConfig, Recipe
from ganrun.recipe.shipped import find_recipe
from ganrun.rundir.addresses import without_unconfirmed
from ganrun.rundir.checkpoints import Checkpoint, find_checkpoint
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.opening import open_run
from ganrun.rundir.records import SUMMARY, latest_scores, merged_summary
from ganrun.rundir.stored import made_with
from ganrun.trained.pictures import NPZ, score_against_data, score_against_statistics
from ganrun.training.assembly import assemble, ignore_stage
from ganrun.training.builder import build_events
from ganrun.training.continuing import differences_from
from ganrun.training.identity import warn_if_other_data
from ganrun.training.measuring import measured_any
from ganrun.training.run import Run

log = logging.getLogger("ganrun")

STATISTICS = "statistics"
"""The setting of a metric that compares with published statistics: the path of their file."""

DATA = "data."
"""Prefix of overrides of the data's settings."""

NO_METRIC = "there is nothing to measure; say --metric NAME, one of: ganrun list metric"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for scores, as `ganrun eval` takes it.

    Args:
        path: A run directory, a tracker's id of a run, a checkpoint, a folder of pictures, or an .npz of samples.
        against: Data set or recipe whose real images the samples are compared with, or an .npz of statistics; a run's
            own data if None.
        metrics: Names of metrics; if there are none, those of the recipe, or those that compare with statistics.
        overrides: `key.path=value`, as after `--set`.
        device: Where to compute.
        statistics: The name of the file of statistics, which the scores of a run then carry.
    """

    path: Path
    against: str | None = None
    metrics: Sequence[str] = ()
    overrides: Sequence[str] = ()
    device: str = "auto"
    statistics: str = ""

    def all_overrides(self) -> list[str]:
        """The named metrics as an override, then `overrides`."""
        named = ", ".join(f'{{ use = "{name}" }}' for name in self.metrics)
        return [*([f"metric=[{named}]"] if named else []), *self.overrides]

    def with_statistics(self, registry: Registry) -> Request:
        """The same request with its statistics as a setting of each metric, in place of `against`.

        Raises:
            RequestError: if a metric does not compare with statistics.
        """
        assert self.against is not None
        takers = [each.name for each in registry.components("metric") if STATISTICS in setting_names(each.cls.Settings)]
        path, names = str(Path(self.against).resolve()), self.metrics or takers
        if others := [name for name in names if registry.find("metric", name).name not in takers]:
            only = ", ".join(takers) or "no installed one"
            raise RequestError(
                f"metric {others[0]} needs real images, and {path} holds statistics; {only} compares with them"
            )
        named = ", ".join(f'{{ use = "{name}", {STATISTICS} = {json.dumps(path)} }}' for name in names)
        overrides = [f"metric=[{named}]", *self.overrides]
        return dataclasses.replace(self, against=None, metrics=(), overrides=overrides, statistics=Path(path).stem)


def score(
    request: Request,
    registry: Registry,
    on_stage: Callable[[str], None] = ignore_stage,
    faults: Faults | None = None,
) -> list[Score]:
    """Measure the scores of a run, a checkpoint or pictures in files; those of a run are added to its records.

    Args:
        request: What to score, and how.
        registry: The installed components.
        on_stage: Called with a description of the current stage.
        faults: Records what metrics and observers failed to do; the others continue.

    Raises:
        RequestError: if something named in the request is missing or incompatible.
        NonFiniteError: if samples or reconstructions are NaN or infinite.
        GanrunError: the error of a metric, if none could be measured.
    """
    faults = Faults() if faults is None else faults
    folder = locate(request.path, registry)
    has_statistics = request.against is not None and request.against.endswith(NPZ)
    found = find_checkpoint(folder)
    if found is not None:
        run, checkpoint = found
        asked = request.with_statistics(registry) if has_statistics else request
        return _score_run(asked, open_run(run), checkpoint, registry, on_stage, faults)
    if request.against is None:
        raise RequestError(
            f"{folder} is not a run directory, so it is read as pictures; say what to compare them with: --against DATA"
        )
    if has_statistics:
        return _score_by_statistics(request.with_statistics(registry), folder, registry, on_stage, faults)
    config = _against(request.against, registry, request.all_overrides())
    if not config.metrics:
        raise RequestError(NO_METRIC)
    return score_against_data(folder, config, registry, choose_device(request.device), on_stage, faults)


def _score_by_statistics(
    request: Request, path: Path, registry: Registry, on_stage: Callable[[str], None], faults: Faults
) -> list[Score]:
    overrides = request.all_overrides()
    config = load_metrics_config(registry, [each for each in overrides if not each.startswith(DATA)])
    of_data = [each.removeprefix(DATA) for each in overrides if each.startswith(DATA)]
    device = choose_device(request.device)
    return score_against_statistics(path, config, registry, device, on_stage, faults, of_data)


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────


def _score_run(
    request: Request,
    directory: RunDirectory,
    checkpoint: Checkpoint,
    registry: Registry,
    on_stage: Callable[[str], None],
    faults: Faults,
) -> list[Score]:
    overrides = [*_data_overrides(request, registry), *request.all_overrides()]
    recipe = load_recipe(directory.recipe_path, registry, overrides, made_with(directory.recipe_path))
    if changed := differences_from(directory, recipe):
        listed = "\n".join(f"  {line}" for line in changed)
        raise RequestError(f"a trained model cannot be scored as another one:\n{listed}")
    if not recipe.metrics:
        raise RequestError(NO_METRIC)
    _check_against(request, recipe)
    run = Run(assemble(recipe, on_stage), directory, build_events(without_unconfirmed(recipe)), resumed=True)
    manifest, asked = run.environment["data"], request.against is not None
    is_other_data = warn_if_other_data(directory, recipe, manifest, asked=asked)
    try:
        run.restore(checkpoint)
    except RequestError as error:
        raise RequestError(f"{error}{_shape_of(run) if is_other_data else ''}") from None
    on_stage(f"samples of step {run.step}")
    run.faults = faults
    with run.interruption:
        scores = measured_any(run.metrics, run.evaluation(), recipe, faults)
    if other := recipe.data.use if is_other_data else request.statistics:
        scores = [dataclasses.replace(each, name=f"{each.name}@{other}") for each in scores]
    own = load_model_config(directory.recipe_path, registry, (), made_with(directory.recipe_path))
    try:
        _add_scores(run, scores, is_own=own.sampling == recipe.sampling)
    except RunError as error:
        log.warning("the scores are not added to the run: %s", error)
    run.emit("rescored", scores=scores)
    return scores


def _check_against(request: Request, recipe: Recipe) -> None:
    """Check that no metric ignores the data that a run is to be compared with."""
    takers = [metric.use for metric in recipe.metrics if getattr(metric.settings, STATISTICS, None) is not None]
    if request.against is not None and takers:
        raise RequestError(
            f"metric {takers[0]} compares with published statistics, and not with {request.against}; to measure it on "
            f"real images, say --metric {takers[0]}"
        )


def _data_overrides(request: Request, registry: Registry) -> list[str]:
    """The data set that a run is compared with, as overrides of its recipe; and the device."""
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
    """Add the scores to metrics.jsonl and, if they use the run's own sampling settings and are the latest of their
    names, to summary.json."""
    run.record({}, scores, rescored=True)
    run.directory.flush_records()
    summary = run.directory.summary()
    if is_own and isinstance(steps := summary.get("steps"), int) and run.step <= steps:
        found = latest_scores(run.directory.evaluations(), steps, run.model.sampling_protocol)
        run.directory.write_json(SUMMARY, merged_summary(summary, found))
