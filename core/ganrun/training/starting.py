"""Loads the weights of another run into networks whose tables say `from`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ganrun.base.errors import RequestError
from ganrun.base.suggestions import did_you_mean
from ganrun.discovery.registry import load_registry, locate
from ganrun.recipe.recipe import ComponentConfig, ModelConfig
from ganrun.recipe.source import header
from ganrun.rundir.checkpoints import digest_of
from ganrun.rundir.saved import SavedWeights, read_saved

LISTED = 3
"""Maximum tensors that a message names."""


def start_from(
    recipe: ModelConfig, networks: Mapping[str, nn.Module], output: Path | None = None
) -> dict[str, dict[str, Any]]:
    """For each network whose table says `from`, load the weights of the same slot: the averaged ones if that run kept
    an average, because it was scored with those.

    Args:
        recipe: The recipe.
        networks: By slot; changed in place.
        output: The run directory, which no network can start from.

    Returns:
        By slot, for environment.json: `from` as in the recipe, the `path` that was read, the `step` of its weights, and
        their `sha256`, as from `digest_of`.

    Raises:
        RequestError: located at the recipe's line, if it does not exist, lacks the slot, or its network has other
            weights.
    """
    facts = {}
    for slot, config in recipe.networks.items():
        if config.start is not None:
            try:
                facts[slot] = _start(config, slot, networks[slot], output)
            except RequestError as error:
                text = f'{header(config.key)} from = "{config.start}": {error.message}'
                raise RequestError(text, where=recipe.where((*config.key, "from"))) from error
    return facts


def has_same_start(config: ComponentConfig, slot: str, recorded: object) -> bool:
    """Whether a network starts from the path or from the weights that a run has recorded under `starts`; false if they
    cannot be read."""
    then = _recorded_start(recorded, slot)
    if config.start is None or not then:
        return False
    try:
        path = locate(config.start, load_registry()).resolve()
        return str(path) == then.get("path") or digest_of(_weights_of(slot, read_saved(path))) == then.get("sha256")
    except RequestError:
        return False


def check_same_starts(recipe: ModelConfig, found: Mapping[str, Any], recorded: object) -> None:
    """Check that a run that restarts because it has no checkpoint yet starts from the same weights as before.

    Args:
        recipe: The recipe.
        found: What `start_from` returned.
        recorded: What it returned at the run's first start.

    Raises:
        RequestError: located at the recipe's line, if it does not.
    """
    for slot, start in found.items():
        then, now = _recorded_start(recorded, slot).get("sha256"), start["sha256"]
        if then not in (None, now):
            key = recipe.networks[slot].key
            text = f"the weights there have changed since the run started: SHA-256 {then} then, {now} now"
            advice = "bring them back, name the checkpoint that was meant, or choose another --output"
            raise RequestError(f"{header(key)} from: {text}; {advice}", where=recipe.where((*key, "from")))


def _recorded_start(recorded: object, slot: str) -> Mapping[str, Any]:
    start = recorded.get(slot) if isinstance(recorded, dict) else None
    return start if isinstance(start, dict) else {}


def _start(config: ComponentConfig, slot: str, network: nn.Module, output: Path | None) -> dict[str, Any]:
    path = locate(config.start or "", load_registry()).resolve()
    if output is not None and path == output.resolve():
        raise RequestError("that is the run itself; name another one, or write to another --output")
    saved = read_saved(path)
    weights = _weights_of(slot, saved)
    _check_same(slot, network.state_dict(), weights)
    network.load_state_dict(weights)
    step = int(saved.progress["step"])
    return {"from": config.start, "path": str(path), "step": step, "sha256": digest_of(weights)}


def _weights_of(slot: str, saved: SavedWeights) -> Mapping[str, Tensor]:
    if slot not in saved.weights:
        there = [name for name in saved.weights if name != "loss"]
        hint = did_you_mean(slot, there) or f"; there are {', '.join(there)}"
        raise RequestError(f'it holds no weights of a "{slot}"{hint}')
    return saved.weights[slot]


def _check_same(slot: str, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    differences = list(_differences(own, theirs))
    if differences:
        rest = len(differences) - LISTED
        listed = "; ".join(differences[:LISTED]) + (f"; and {rest} more" if rest > 0 else "")
        raise RequestError(f"its {slot} is another network: {listed}")


def _differences(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[str]:
    for name in {**theirs, **own}:
        if name not in own or name not in theirs:
            yield f"{name} is only {'there' if name in theirs else 'here'}"
        elif own[name].shape != theirs[name].shape:
            yield f"{name} is {tuple(theirs[name].shape)} there and {tuple(own[name].shape)} here"
