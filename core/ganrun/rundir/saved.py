"""Trained weights on disk: of a run, a checkpoint or an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from ganrun.base.errors import RequestError
from ganrun.rundir.checkpoints import WEIGHTS, find_checkpoint, read_weights
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.records import CONFIG, ENVIRONMENT

FORMAT = 1
"""Of exported folders."""


class SavedWeights(NamedTuple):
    """Weights on disk, read to the CPU."""

    folder: Path
    """The run directory, or the exported folder."""

    facts: str
    """The name of its file that states what the networks were built for."""

    progress: Mapping[str, Any]
    """`step`, `images_seen` and `seconds`, as found."""

    weights: Mapping[str, Mapping[str, Tensor]]
    """By slot, averaged if available; and under `loss`, the loss's memory."""


def read_saved(folder: Path) -> SavedWeights:
    """The weights in a run directory (its latest checkpoint), a checkpoint or an exported folder.

    Raises:
        RequestError: if the folder is none of these, or is damaged.
    """
    if (folder / CONFIG).is_file():
        return _exported(folder)
    found = find_checkpoint(folder)
    if found is None:
        raise RequestError(f"{folder} is not a run directory, a checkpoint or an exported folder")
    run, checkpoint = found
    own = [name for name in checkpoint.weights if "." not in name]  # no averages or training-only state
    weights = {name: checkpoint.weights.get(f"{name}.averaged", checkpoint.weights[name]) for name in own}
    return SavedWeights(run, ENVIRONMENT, checkpoint.progress, weights)


def _exported(folder: Path) -> SavedWeights:
    facts = RunDirectory(folder).config()
    if "format" not in facts:
        raise RequestError(f"{folder / CONFIG} is damaged, or not written by ganrun: it states no format")
    if facts["format"] != FORMAT:
        found = (
            f"{folder / CONFIG} has format {facts['format']!r:.60}, and this version of ganrun reads format {FORMAT}"
        )
        raise RequestError(f"{found}; use the version that wrote it")
    try:
        weights = {path.stem: read_weights(path) for path in folder.glob(f"[!.]*{WEIGHTS}")}
    except (OSError, SafetensorError) as error:
        raise RequestError(f"the weights in {folder} are damaged: {error}") from error
    return SavedWeights(folder, CONFIG, facts, weights)
