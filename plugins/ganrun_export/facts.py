"""The facts of an exported model: they make up config.json and, from it, the model card."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ganrun import Model, RequestError, RunDirectory, SavedModel, Score, without_local_paths

log = logging.getLogger("ganrun")

PACKAGES = ("ganrun", "torch", "torchvision")
"""Packages whose versions may change the result of a run."""


def facts_of(saved: SavedModel, model: Model) -> dict[str, Any]:
    """The content of config.json, except for the entries that `SavedModel.save` adds.

    Contains nothing about the machine that trained the model except its device: no host name, paths or command line.

    Raises:
        RequestError: if the run's recipe or environment.json is damaged, or a record is damaged other than by a
            crash, or its records cannot be read.
    """
    run = RunDirectory(saved.folder)
    recipe = tomllib.loads(saved.recipe_text())
    environment = run.environment()
    try:
        averaged = [name for name, slot in model.loss.slots.items() if slot.averaged and recipe["ema"]]
        return {
            "name": recipe["name"],
            "ganrun": version("ganrun"),
            "plugins": environment["plugins"],
            "loss": recipe["loss"],
            "networks": {slot: {**recipe[slot], "averaged": slot in averaged} for slot in model.networks},
            "latent_size": model.spec.latent_size,
            "factors": [asdict(factor) for factor in model.spec.factors],
            "device": str(model.device),
            "seed": saved.seed,
            "sampling": model.sampling.model_dump(mode="json", by_alias=True, exclude_none=True),
            "data": {"use": recipe["data"]["use"], **_without_paths(environment["data"])},
            "training": _training(environment),
            "scores": _scores_at(run, saved.step, model.sampling_protocol),
        }
    except KeyError as error:
        raise RequestError(f"{run.path} is damaged: its files lack {error}") from error
    except TypeError as error:
        raise RequestError(f"{run.path} is damaged: its files hold other values in place of tables") from error


def _scores_at(run: RunDirectory, step: int, sampling: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of the weights after `step`, by name: measured during the run or later, each as last measured; without
    those of other sampling settings."""
    records, damaged = run.read_records()
    if any(map(_is_whole, damaged)):
        raise RequestError(f"{run.metrics_path} is damaged: a line does not say how its scores were measured")
    if damaged:
        log.warning("%s has a line that was cut short: the model card may lack scores", run.metrics_path)
    found = [score for record in records if record.step == step for score in record.evaluation]
    latest = {score.name: score for score in found if _sampling_of(score) in ({}, sampling)}
    return {
        name: {
            "value": score.value,
            "better": "higher" if score.higher_is_better else "lower",
            "error": score.error,
            "floor": score.floor,
            "protocol": without_local_paths(score.protocol),
        }
        for name, score in latest.items()
    }


def _sampling_of(score: Score) -> dict[str, Any]:
    return {name: value for name, value in score.protocol.items() if name.startswith("sampling.")}


def _is_whole(line: str) -> bool:
    """Whether a damaged line is complete JSON, and so was not merely cut short by a crash."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _training(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment["packages"]
    return {
        "device": environment["device_name"],
        "python": environment["python"],
        "packages": {name: packages[name] for name in PACKAGES if name in packages},
        "git": environment["git"],
    }


def _without_paths(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's manifest without the names of its files, and without paths."""
    return without_local_paths({key: value for key, value in manifest.items() if key != "files"})
