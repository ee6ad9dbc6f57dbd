"""What networks start from: the weights of another run, where their tables say `from`."""

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
"""Tensors that a message names."""


def start_from(
    recipe: ModelConfig, networks: Mapping[str, nn.Module], output: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Load into each network whose table says `from` the weights of the same slot there: the averaged ones, where that
    run kept an average, since these are what it was scored by.

    Args:
        recipe: The recipe.
        networks: By slot; changed in place.
        output: The run directory, which no network can start from.

    Returns:
        By slot, for environment.json: `from` as the recipe says it, the `path` that was read, the `step` of its
        weights, and their `sha256`, as `digest_of` has it.

    Raises:
        RequestError: located at the recipe's line, if there is no such thing, it has no such slot, or its network has
            other weights.
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
