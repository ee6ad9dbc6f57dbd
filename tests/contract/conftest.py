"""The life cycle that every mini-plugin in this folder goes through: trained, resumed, loaded, scored, exported."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ganrun import Metric, Registry, Run, Score, checkpoints_in, find_saved_model, hookimpl, step_of
from ganrun.testing import registry_with, train
from ganrun.trained.scoring import Request, score
from ganrun_export.exporting import Request as ExportRequest, export_run

Tables = dict[str, Any]

STEPS, HALF = 4, 2

BASE: Tables = {
    "train": {"steps": STEPS, "batch_size": 4, "device": "cpu", "seed": 3, "log_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "metric": [{"use": "brightness"}],
    "checkpoints": {"every_steps": HALF, "keep": 5},
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}
"""What all recipes here share: digits of 8×8 pixels, one metric, a checkpoint in the middle and one at the end."""

MODES = {"f32": {}, "bf16": {"precision": "bf16"}, "accumulated": {"accumulate": 2}}
"""Settings of `[train]` under which every plugin trains."""


class Brightness(Metric):
    """The mean of the samples' pixels."""

    def measure(self, evaluation: Any) -> list[Score]:
        value = evaluation.generated(8).float().mean().item()
        return [Score("brightness", value, higher_is_better=True, protocol={"samples": 8})]


class Gauge:
    """Offers the metric."""

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[Metric]]:
        return {"brightness": Brightness}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """One of `MODES`."""
    return str(request.param)


@pytest.fixture
def journey(mode: str, tmp_path: Path) -> Callable[..., Run]:
    """`journey(tables, *plugins)` trains, resumes, loads, scores and exports what the tables say beyond `BASE`.

    Returns the run that was trained without a break.
    """

    def travel(tables: Mapping[str, Any], *plugins: object, exports: bool = True) -> Run:
        recipe = merged(merged(BASE, tables), {"train": MODES[mode]})
        offered = (*plugins, Gauge())
        run = train(recipe, tmp_path / "whole", *offered)
        check_resumes(recipe, run, tmp_path / "broken", offered)
        if mode == "f32":
            registry = registry_with(*offered)
            check_loads(run, run.directory.path, registry)
            check_scores(run, registry)
            if exports:
                folder = export_run(ExportRequest(str(run.directory.path), tmp_path / "exported"), registry=registry)
                check_loads(run, folder, registry)
        return run

    return travel


def merged(tables: Mapping[str, Any], more: Mapping[str, Any]) -> Tables:
    """Tables with further ones laid over them."""
    found = copy.deepcopy(dict(tables))
    for name, value in more.items():
        is_table = isinstance(value, Mapping) and isinstance(found.get(name), dict)
        found[name] = merged(found[name], value) if is_table else copy.deepcopy(value)
    return found


def check_resumes(recipe: Tables, run: Run, place: Path, plugins: tuple[object, ...]) -> None:
    """A run that stops half-way and is resumed has the same checkpoint, bit for bit."""
    shutil.copytree(run.directory.path, place)
    for later in [each for each in checkpoints_in(place) if step_of(each) > HALF]:
        shutil.rmtree(later)
    resumed = train(recipe, place, *plugins, resume=True)
    whole, again = (each.state.weights() for each in (run, resumed))
    assert whole.keys() == again.keys()
    for name, tensors in whole.items():
        assert tensors.keys() == again[name].keys()
        changed = [key for key in tensors if not torch.equal(tensors[key], again[name][key])]
        assert not changed, f"{name}: {changed} differ after a resume"


def check_loads(run: Run, place: Path, registry: Registry) -> None:
    """What was trained gives the same samples when it is loaded."""
    model = find_saved_model(place, registry).model("cpu")
    latents = run.model.fixed_latents(4)
    samples = model.decode(latents)
    assert torch.equal(samples, run.model.decode(latents))
    assert samples.isfinite().all() and samples.abs().max() <= 1


def check_scores(run: Run, registry: Registry) -> None:
    """Scored once more, it has the score that the run recorded."""
    found = score(Request(run.directory.path, device="cpu"), registry)
    assert [each.value for each in found] == [each.value for each in run.scores.values()]
