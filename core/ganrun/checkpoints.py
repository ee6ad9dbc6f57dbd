"""One checkpoint as a folder: safetensors weights, the rest of the training state, and a manifest with checksums."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganrun.errors import RunError
from ganrun.files import atomic_folder
from ganrun.state import TrainingState

FORMAT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.pt"


class Checkpoint(NamedTuple):
    """A checkpoint's content, on the CPU."""

    weights: dict[str, dict[str, Tensor]]
    progress: dict[str, Any]


class DamagedCheckpoint(RunError):  # noqa: N818 - a finding
    """A checkpoint's files do not match its manifest."""


def save_checkpoint(state: TrainingState, folder: Path) -> None:
    """Write a checkpoint; the folder appears only when every file in it is complete.

    Raises:
        NonFiniteError: if a weight is NaN or infinite; nothing is written then.
    """
    weights = state.weights()
    with atomic_folder(folder) as partial:
        for network, tensors in weights.items():
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial / f"{network}.safetensors")
        torch.save(state.progress(), partial / PROGRESS)
        checksums = {path.name: _checksum(path) for path in sorted(partial.iterdir())}
        manifest = {"format": FORMAT, "step": state.step, "images_seen": state.images_seen, "sha256": checksums}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Nothing in it is executed: weights are safetensors, the rest is read with `weights_only`.

    Raises:
        DamagedCheckpoint: if a file is missing, changed or of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise DamagedCheckpoint(
                f"{folder} has format {manifest['format']}; this version of ganrun reads format {FORMAT}"
            )
        for name, checksum in manifest["sha256"].items():
            if _checksum(folder / name) != checksum:
                raise DamagedCheckpoint(f"{folder / name} is damaged: its checksum differs from the manifest's")
        weights = {path.name.removesuffix(".safetensors"): load_file(path) for path in folder.glob("*.safetensors")}
        return Checkpoint(weights, torch.load(folder / PROGRESS, map_location="cpu", weights_only=True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, pickle.UnpicklingError) as error:
        raise DamagedCheckpoint(f"{folder} is damaged: {error}") from error


def checkpoint_path(run: Path, step: int | None = None) -> Path:
    """Where the run in this directory keeps the state after `step`; the one that scored best where that is None."""
    return run / "checkpoints" / ("best" if step is None else f"step_{step:08d}")


def run_of(checkpoint: Path) -> Path | None:
    """The directory of the run that a checkpoint belongs to; None if the folder is no checkpoint."""
    place = checkpoint.absolute()
    return place.parents[1] if place.parent.name == "checkpoints" and (place / MANIFEST).is_file() else None


def checkpoints_in(run: Path) -> list[Path]:
    """The complete checkpoints in a run's directory, the latest last."""
    found = [path for path in (run / "checkpoints").glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
