"""What is told of a model that is handed over: config.json, and from there the model card."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ganrun import Model, RequestError, RunDirectory, SavedModel

PACKAGES = ("ganrun", "torch", "torchvision")
"""Packages whose versions may change what a run gives."""


def facts_of(trained: SavedModel, model: Model) -> dict[str, Any]:
    """What config.json tells beside what `ganrun.load` needs, as JSON.

    Nothing of the machine that trained it but its device: no host, no paths, no command line.

    Raises:
        RequestError: if the run's recipe, environment.json or metrics.jsonl is damaged.
    """
    run = RunDirectory(trained.folder)
    tables = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    environment = run.read_json("environment.json")
    try:
        averaged = [slot for slot, each in model.loss.slots.items() if each.averaged and tables["ema"]]
        return {
            "name": tables["name"],
            "ganrun": version("ganrun"),
            "plugins": environment["plugins"],
            "loss": tables["loss"],
            "networks": {slot: {**tables[slot], "averaged": slot in averaged} for slot in model.networks},
            "latent_size": model.spec.latent_size,
            "factors": [asdict(factor) for factor in model.spec.factors],
            "device": str(model.device),
            "seed": trained.seed,
            "data": {"use": tables["data"]["use"], **_without_paths(environment["data"])},
            "training": _training(environment),
            "scores": scores_at(run, trained.step),
        }
    except KeyError as error:
        raise RequestError(f"{run.path} is damaged: none of its files tells {error}") from error


def scores_at(run: RunDirectory, step: int) -> dict[str, dict[str, Any]]:
    """What was measured of these very weights, during the run or afterwards, by the scores' names; the latest of each.

    Each has `value`, `better` ("higher" or "lower"), `error`, `floor` and `protocol`; error and floor may be None.
    """
    latest = {score.name: score for record in run.records() if record.step == step for score in record.evaluation}
    return {
        name: {
            "value": score.value,
            "better": "higher" if score.higher_is_better else "lower",
            "error": score.error,
            "floor": score.floor,
            "protocol": score.protocol,
        }
        for name, score in latest.items()
    }


def _training(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment["packages"]
    return {
        "device": environment["device_name"],
        "python": environment["python"],
        "packages": {name: packages[name] for name in PACKAGES if name in packages},
        "git": environment["git"],
    }


def _without_paths(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the data is, without the names of the files that it was read from."""
    return {key: value for key, value in manifest.items() if key != "files"}
