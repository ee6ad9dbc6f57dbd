"""One checkpoint as a folder: safetensors weights, the rest of the training state, and a manifest with checksums."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialised, load_file, save as serialised
from torch import Tensor

from ganrun.base.errors import RequestError, RunError
from ganrun.base.files import atomic_folder
from ganrun.base.frames import in_one_line
from ganrun.base.jsons import LONE_SURROGATES, json_text
from ganrun.base.oserrors import os_reason
from ganrun.rundir.records import RECIPE

log = logging.getLogger("ganrun")

FORMAT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.pt"


class Checkpoint(NamedTuple):
    """A checkpoint's content: on the CPU when loaded, on the run's device when taken from a run."""

    weights: Mapping[str, Mapping[str, Tensor]]
    """Parameters and buffers by network: `{"generator": …, "generator.averaged": …}`."""

    progress: Mapping[str, Any]
    """`optimizers` by slot, `step`, `images_seen` and `seconds`: what `torch.load(weights_only=True)` reads."""


class DamagedCheckpoint(RequestError):  # noqa: N818 - a finding
    """A checkpoint's files do not match its manifest."""


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint; the folder appears only when every file in it is complete.

    Raises:
        RunError: if it cannot be written; a full disk leaves nothing behind.
    """
    try:
        with atomic_folder(folder) as partial:
            _write(checkpoint, partial)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"cannot write the checkpoint {folder}: {os_reason(error) or in_one_line(error)}") from error


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    for network, tensors in checkpoint.weights.items():
        write_weights(folder / f"{network}.safetensors", tensors)
    content = io.BytesIO()  # a full disk is an OSError when ganrun writes, and not when torch does
    torch.save(dict(checkpoint.progress), content)
    (folder / PROGRESS).write_bytes(content.getbuffer())
    checksums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
    facts = {name: checkpoint.progress[name] for name in ("step", "images_seen")}
    manifest = {"format": FORMAT, **facts, "sha256": checksums}
    (folder / MANIFEST).write_text(json_text(manifest, indent=2) + "\n", encoding="utf-8")


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one network's weights, as safetensors, readable by everyone who may read the run's other files.

    Tensors that share memory, such as tied weights, are written each by itself.

    Raises:
        OSError: if they cannot be written.
    """
    # The files of safetensors' save_file are readable by their owner only, whatever the umask.
    path.write_bytes(weights_as_bytes(tensors))


def weights_as_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of the file that `write_weights` writes."""
    content: bytes = serialised(_separate(tensors), metadata={"format": "pt"})
    return content


def bytes_as_weights(content: bytes) -> dict[str, Tensor]:
    """The inverse of `weights_as_bytes`, on the CPU."""
    weights: dict[str, Tensor] = deserialised(content)
    return weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """What `write_weights` has written, on the CPU.

    Raises:
        OSError: if the file cannot be read.
        SafetensorError: if it is damaged.
    """
    if LONE_SURROGATES.search(str(path)):  # safetensors opens files by names in UTF-8 alone
        return bytes_as_weights(path.read_bytes())
    return load_file(path)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256, in hexadecimal, of the file that `write_weights` writes."""
    return hashlib.sha256(weights_as_bytes(tensors)).hexdigest()


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: contiguous, and no two in one storage, which it refuses.

    A view that says "conjugated" or "negated" is carried out, for safetensors copies the memory beneath it.
    """
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in tensors.items():
        whole = value.resolve_conj().resolve_neg().contiguous()
        storage = whole.untyped_storage().data_ptr()
        separate[name] = whole.clone() if storage in storages else whole
        storages.add(storage)
    return separate


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Nothing in it is executed: weights are safetensors, the rest is read with `weights_only`.

    Raises:
        DamagedCheckpoint: if a file is missing or was changed.
        RequestError: if it is undamaged but has another format, or there is no permission to read it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            found = f"{folder} has format {manifest['format']!r}, and this version of ganrun reads format {FORMAT}"
            raise RequestError(f"{found}; use the version that wrote it")
        for name, checksum in manifest["sha256"].items():
            if _checksum(folder / name) != checksum:
                raise DamagedCheckpoint(f"{folder / name} is damaged: its checksum differs from the manifest's")
        weights = {path.name.removesuffix(".safetensors"): read_weights(path) for path in folder.glob("*.safetensors")}
        return Checkpoint(weights, _read_progress(folder / PROGRESS, int(manifest["step"])))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedCheckpoint(f"{folder} is damaged: {error}") from error
    except OSError as error:
        raise RequestError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, RecursionError) as error:
        raise DamagedCheckpoint(f"{folder} is damaged: {error}") from error


def _read_progress(path: Path, step: int) -> Mapping[str, Any]:
    try:
        progress = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch and its readers of archives have many
        raise DamagedCheckpoint(f"{path} is damaged: {in_one_line(error)}") from error
    wanted = {"optimizers", "step", "images_seen", "seconds"}
    if isinstance(progress, dict) and wanted <= progress.keys() and progress["step"] == step:
        return progress
    raise DamagedCheckpoint(f"{path} is damaged: it does not hold the progress of step {step}")


def manifest_path(checkpoint: Path) -> Path:
    """The file that identifies a checkpoint's content: it holds the checksums of all others."""
    return checkpoint / MANIFEST


def step_of(folder: Path) -> int | None:
    """The step of a checkpoint, from its manifest; None if there is none."""
    try:
        return int(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def latest_checkpoint(run: Path) -> Checkpoint | None:
    """The latest undamaged checkpoint of a run; None if there is none at all. Skips damaged ones with a warning.

    Raises:
        RequestError: if all checkpoints are damaged, or one cannot be read.
    """
    return _latest(run, "; to train it again from step 0, move that directory away")


def _latest(run: Path, advice: str) -> Checkpoint | None:
    damaged: list[DamagedCheckpoint] = []
    for folder in reversed(checkpoints_in(run)):
        try:
            found = load_checkpoint(folder)
        except DamagedCheckpoint as error:
            damaged.append(error)
        else:
            for each in damaged:
                log.warning("%s; one before it is taken, step %d", each, step_of(folder))
            return found
    if damaged:
        listed = "\n".join(f"  {each}" for each in damaged)
        raise RequestError(f"every checkpoint in {run} is damaged{advice}:\n{listed}")
    return None


def find_checkpoint(folder: Path) -> tuple[Path, Checkpoint] | None:
    """The run directory and the checkpoint that a folder stands for: a checkpoint itself, or the latest one of a run.

    Returns:
        None if the folder is neither a checkpoint nor a run directory.

    Raises:
        RequestError: if the run has no undamaged checkpoint, or the checkpoint is damaged or cannot be read.
    """
    run = _run_of(folder)
    if run is not None:
        return run, load_checkpoint(folder)
    if not (folder / RECIPE).is_file():
        return None
    latest = _latest(folder, ", so its weights are gone")
    if latest is None:
        raise RequestError(f"{folder} holds no checkpoint, so its weights are gone; train it again")
    return folder, latest


def checkpoint_path(run: Path, step: int | None = None) -> Path:
    """The folder of a run's checkpoint after `step`, or of the one that scored best if `step` is None."""
    return run / "checkpoints" / ("best" if step is None else f"step_{step:08d}")


def checkpoints_in(run: Path) -> list[Path]:
    """The complete checkpoints in a run's directory, the latest last."""
    found = [path for path in (run / "checkpoints").glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def _run_of(checkpoint: Path) -> Path | None:
    """The directory of the run that a checkpoint belongs to; None if the folder is no checkpoint."""
    place = checkpoint.absolute()
    return place.parents[1] if place.parent.name == "checkpoints" and (place / MANIFEST).is_file() else None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
