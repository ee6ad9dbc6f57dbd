"""One checkpoint as a folder: safetensors weights, the rest of the training state, and a manifest with checksums."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import re
import time
import zipfile
from collections.abc import Callable, Mapping
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
from ganrun.base.reading import opened, read_bytes
from ganrun.contracts.scores import Score
from ganrun.rundir.contents import LONGEST_RECORD_BYTES, fitting, is_amount, is_count, is_table, is_texts, read_table
from ganrun.rundir.records import RECIPE, Record

log = logging.getLogger("ganrun")

FORMAT = 1
MANIFEST, PROGRESS, SCORE = "manifest.json", "progress.pt", "score.json"
WEIGHTS = ".safetensors"

UNFIT_FILE = (errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EFBIG)
"""Error codes for entries that are not regular files, such as a pipe, a device or a loop of links."""

IN_PROGRESS: Mapping[str, Callable[[Any], bool]] = {
    "optimizers": lambda value: isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()),
    "step": is_count,
    "images_seen": is_count,
    "seconds": is_amount,
    **dict.fromkeys(("images_adjusted", "records", "attempt"), lambda value: value is None or is_count(value)),
    "summary": lambda value: value is None or isinstance(value, str),
}
"""Required types of the entries of a checkpoint's progress; version 0.1.0 lacks some."""


class Checkpoint(NamedTuple):
    """A checkpoint's content: on the CPU when loaded, on the run's device when taken from a run."""

    weights: Mapping[str, Mapping[str, Tensor]]
    """Parameters and buffers by network: `{"generator": …, "generator.averaged": …}`."""

    progress: Mapping[str, Any]
    """The content of progress.pt: `optimizers` by slot, `step`, `images_seen` and `seconds`; under
    `records` the number of lines of metrics.jsonl so far, and under `summary` the content of summary.json."""


class DamagedCheckpoint(RequestError):  # noqa: N818 - a finding
    """A checkpoint's files do not match its manifest."""


def save_checkpoint(checkpoint: Checkpoint, folder: Path, score: Score | None = None) -> None:
    """Write a checkpoint; the folder appears only when every file in it is complete. One of that name is replaced.

    Args:
        checkpoint: Its content, as from `Run.checkpoint`.
        folder: Its path, as from `checkpoint_path`.
        score: The score for which the state is kept; `score_of` reads it.

    Raises:
        RunError: if it cannot be written; a full disk leaves nothing behind.
    """
    try:
        with atomic_folder(folder) as partial:
            _write(checkpoint, partial, score)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"cannot write the checkpoint {folder}: {os_reason(error) or in_one_line(error)}") from error


def _write(checkpoint: Checkpoint, folder: Path, score: Score | None) -> None:
    for network, tensors in checkpoint.weights.items():
        write_weights(folder / f"{network}.safetensors", tensors)
    facts = {name: checkpoint.progress[name] for name in ("step", "images_seen")}
    if score is not None:
        record = Record(**facts, seconds=checkpoint.progress["seconds"], time=time.time(), evaluation=(score,))
        (folder / SCORE).write_text(f"{record.text()}\n", encoding="utf-8")
    progress = io.BytesIO()  # torch does not say why a file cannot be written
    torch.save(dict(checkpoint.progress), progress)
    (folder / PROGRESS).write_bytes(progress.getbuffer())
    files = sorted(folder.iterdir())
    sizes = {path.name: path.stat().st_size for path in files}
    manifest = {"format": FORMAT, **facts, "sha256": {path.name: _checksum(path) for path in files}, "bytes": sizes}
    (folder / MANIFEST).write_text(json_text(manifest, indent=2) + "\n", encoding="utf-8")


def score_of(folder: Path) -> tuple[int, Score] | None:
    """The step of a checkpoint and the score for which it is kept; None if it records none, like `best` in ganrun
    0.1.0.

    The checkpoint's checksums, which `load_checkpoint` verifies, include the file.
    """
    try:
        record = Record.parse(read_bytes(folder / SCORE, LONGEST_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    return (record.step, record.evaluation[0]) if record is not None and record.evaluation else None


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one network's weights as safetensors, with the same permissions as the run's other files.

    Tensors that share memory, such as tied weights, are written separately.

    Raises:
        OSError: if they cannot be written.
    """
    # Files from safetensors' save_file are readable by their owner only, regardless of the umask.
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
    """Read the file that `write_weights` writes, to the CPU.

    Raises:
        OSError: if the file cannot be read.
        SafetensorError: if it is damaged.
    """
    with opened(path):  # safetensors does not refuse a pipe or a device
        pass
    try:
        if LONE_SURROGATES.search(str(path)):  # safetensors opens only files with UTF-8 names
            return bytes_as_weights(path.read_bytes())
        return load_file(path)
    except (OSError, SafetensorError):
        raise
    except Exception as error:  # a type that torch does not have, sizes beyond memory, and others
        raise SafetensorError(in_one_line(error)) from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256, in hexadecimal, of the file that `write_weights` writes."""
    return hashlib.sha256(weights_as_bytes(tensors)).hexdigest()


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors requires them: contiguous, and no two in one storage. Lazy views ("conjugated",
    "negated") are resolved, because safetensors copies the underlying memory.
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
        DamagedCheckpoint: if a file is missing or was changed, or has content that no checkpoint can have.
        RequestError: if it is undamaged but has another format, or may not be read.
    """
    try:
        manifest = _read_manifest(folder)
        for name in manifest.checksums:
            _check_size(folder / name, manifest.sizes.get(name))
        for name, checksum in manifest.checksums.items():
            if _checksum(folder / name) != checksum:
                raise DamagedCheckpoint(f"{folder / name} is damaged: its checksum differs from the manifest's")
        networks = [Path(name) for name in manifest.checksums if name.endswith(WEIGHTS)]
        weights = {name.stem: read_weights(folder / name) for name in networks}
        return Checkpoint(weights, _read_progress(folder / PROGRESS, manifest))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedCheckpoint(f"{folder} is damaged: {error}") from error
    except OSError as error:
        kind = DamagedCheckpoint if error.errno in UNFIT_FILE else RequestError
        raise kind(f"cannot read {error.filename or folder}: {error.strerror}") from error
    except (ValueError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{folder} is damaged: {in_one_line(error)}") from error


class _Manifest(NamedTuple):
    step: int
    images_seen: int | None
    """None if unknown."""
    checksums: Mapping[str, str]
    """The SHA-256 of each file, by its name in the folder."""
    sizes: Mapping[str, int]
    """The bytes of each file, by which most damage shows before anything is hashed; version 0.1.0 recorded none."""


def _read_manifest(folder: Path) -> _Manifest:
    """A checkpoint's manifest.

    Raises:
        OSError, ValueError: if it cannot be read, or is damaged.
        RequestError: if a newer ganrun wrote it.
    """
    content = read_table(folder / MANIFEST)
    form, images_seen = content.get("format"), content.get("images_seen")
    step: Any = content.get("step")
    sums: Any = content.get("sha256")
    sizes: Any = content.get("bytes")
    if is_count(form) and form != FORMAT:
        found = f"{folder} has format {form!r}, and this version of ganrun reads format {FORMAT}"
        raise RequestError(f"{found}; use the version that wrote it")
    if form != FORMAT or not is_count(step) or not is_texts(sums) or PROGRESS not in sums:
        raise ValueError(f"{MANIFEST} does not say its format, its step and the checksums of its files")
    if not all(name == Path(name).name for name in sums):
        raise ValueError(f"{MANIFEST} names files outside of the folder")
    sizes = fitting(sizes, dict.fromkeys(sizes, is_count)) if is_table(sizes) else {}
    return _Manifest(step, images_seen if is_count(images_seen) else None, sums, sizes)


def _read_progress(path: Path, manifest: _Manifest) -> Mapping[str, Any]:
    try:
        _check_unpacked(path)
        progress = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch and its archive readers raise many types
        raise DamagedCheckpoint(f"{path} is damaged: {in_one_line(error)}") from error
    if not isinstance(progress, dict) or progress.get("step") != manifest.step:
        raise DamagedCheckpoint(f"{path} is damaged: it does not hold the progress of step {manifest.step}")
    odd = [name for name, fits in IN_PROGRESS.items() if not fits(progress.get(name))]
    if odd or manifest.images_seen not in (None, progress["images_seen"]):
        raise DamagedCheckpoint(f"{path} is damaged: no run has such {odd[0] if odd else 'images_seen'}")
    return progress


def _check_unpacked(path: Path) -> None:
    """Check that an archive is uncompressed, as torch writes it: compressed content could expand to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"it would unpack to {size:,} bytes")


def manifest_path(checkpoint: Path) -> Path:
    """The file that identifies a checkpoint's content: it holds the checksums of all the others."""
    return checkpoint / MANIFEST


def step_of(folder: Path) -> int | None:
    """The step of a checkpoint, from its manifest; None if there is none."""
    try:
        step = read_table(folder / MANIFEST).get("step")
    except (OSError, ValueError):
        return None
    return step if isinstance(step, int) and is_count(step) else None


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
                log.warning("%s; using an earlier one, of step %d", each, step_of(folder))
            return found
    if damaged:
        listed = "\n".join(f"  {each}" for each in damaged)
        raise RequestError(f"every checkpoint in {run} is damaged{advice}:\n{listed}")
    return None


def find_checkpoint(folder: Path) -> tuple[Path, Checkpoint] | None:
    """Resolve a folder to a run directory and a checkpoint: the folder itself, or the latest checkpoint of a run.

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
    found = [path for path in (run / "checkpoints").glob("step_*") if re.fullmatch(r"step_[0-9]{1,19}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def _run_of(checkpoint: Path) -> Path | None:
    """The directory of the run that a checkpoint belongs to; None if the folder is no checkpoint."""
    place = checkpoint.absolute()
    return place.parents[1] if place.parent.name == "checkpoints" and (place / MANIFEST).is_file() else None


def _check_size(path: Path, size: int | None) -> None:
    if size is not None and (found := path.stat().st_size) != size:
        raise DamagedCheckpoint(f"{path} is damaged: it has {found:,} bytes, and the manifest says {size:,}")


def _checksum(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
