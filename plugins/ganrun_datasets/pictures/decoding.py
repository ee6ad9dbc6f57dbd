"""Pictures decoded once into ganrun's cache, by one process at a time."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from math import prod
from pathlib import Path

from PIL import Image

import ganrun
from ganrun_datasets.pictures.chunks import Chunk, decode_chunks
from ganrun_datasets.pictures.job import DIGEST_BYTES, Job
from ganrun_datasets.pictures.maps import Decoded, PictureMap, Record
from ganrun_datasets.pixel_files import SUFFIX, PixelWriter, new_pixels

FOLDER = "data/pictures"

LISTED = 5
"""Unreadable pictures that a message names."""

log = logging.getLogger("ganrun.datasets")


def decode(job: Job, *, whole: bool = False) -> Decoded:
    """The job's pictures: from the cache if they are there and intact, otherwise decoded now.

    Args:
        job: What to decode.
        whole: Whether to check every byte of a large file of the cache, too.

    Raises:
        DataError: if pictures cannot be read and the job does not skip them, none can be read, or the cache cannot
            hold them.
        CacheError: if the cache's folder cannot be created.
    """
    stored = PictureMap(ganrun.cache_path(FOLDER, f"{job.data}-{job.transform.size}-{job.key}{SUFFIX}"), job)
    with _decompression_bombs_as_errors():
        found = stored.load(whole=whole) or _decode_alone(stored, whole)
    if found.record.unreadable:
        _report_unreadable(found.record.unreadable, job)
    return found


@contextmanager
def _decompression_bombs_as_errors() -> Iterator[None]:
    """Turn Pillow's warning about pictures with absurdly many pixels into an error, and silence its other warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _report_unreadable(reasons: Sequence[tuple[int, str]], job: Job) -> None:
    """Warn about unreadable pictures if the job skips them and others remain; raise DataError otherwise."""
    lines = [f"  {ganrun.one_line(job.names[number])}: {reason}" for number, reason in reasons[:LISTED]]
    if len(reasons) > LISTED:
        lines.append(f"  and {len(reasons) - LISTED:,} more")
    text = "\n".join([f"{len(reasons):,} of {len(job.names):,} pictures cannot be read:", *lines])
    some_remain = len(reasons) < len(job.names)
    if some_remain and job.unreadable == "skip":
        log.warning("%s\nthey are skipped", text)
        return
    hint = ', or set unreadable = "skip" in [data] to skip them' if some_remain and job.unreadable else ""
    raise ganrun.DataError(f"{text}\nreplace or remove them{hint}")


# ── One process at a time ─────────────────────────────────────────────────────────────────────────────────


def _decode_alone(stored: PictureMap, whole: bool) -> Decoded:
    """Decode, or wait for another process that decodes the same pictures and use its map."""
    try:
        with _locked(stored):
            return stored.load_if_sound(whole=whole) or _decode_now(stored)
    except OSError as error:
        raise ganrun.DataError(
            f"decoded pictures cannot be cached: {error}\nset GANRUN_CACHE to a writable folder with enough space"
        ) from error


@contextmanager
def _locked(stored: PictureMap) -> Iterator[None]:
    """A block in which this process alone decodes; it waits for another one that does."""
    message = f"{stored.job.data}: another process is decoding these pictures; waiting for it"

    def tell() -> None:
        ganrun.message_console().print(message, soft_wrap=True)

    with ganrun.locked(stored.path.with_suffix(".lock"), str(stored.path), patience_seconds=0, on_wait=tell):
        yield


def _decode_now(stored: PictureMap) -> Decoded:
    job = stored.job
    _remove_partial_files(stored.path)
    _check_space(stored.path.parent, len(job.names) * prod(job.transform.shape))
    with new_pixels(stored.path) as writer:
        _write_pictures(writer, job)
    found = stored.load()
    if found is None:
        raise ganrun.DataError(f"{stored.path} is not as it was written; try again, and if it recurs, check the disk")
    return found


def _remove_partial_files(path: Path) -> None:
    """Remove what dead processes left behind; a live one holds the lock of the map that it writes."""
    for partial in path.parent.glob(".*.partial"):
        stem = partial.name[1:].rsplit(".", 3)[0]
        with suppress(ganrun.LockedError, OSError):
            if stem == path.stem:  # this process has the lock
                partial.unlink()
            else:
                with ganrun.locked(path.with_name(f"{stem}.lock"), stem, patience_seconds=0):
                    partial.unlink()


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ganrun.DataError(
            f"the decoded pictures need {_gigabytes(needed_bytes)}, but {folder} has only {_gigabytes(free_bytes)} "
            "free; free some space there, as by ganrun cache clear, or set GANRUN_CACHE to a folder on another disk"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"


# ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────


def _write_pictures(writer: PixelWriter, job: Job) -> None:
    """Decode all pictures, and write those that can be read."""
    title = f"{job.data}: decoding {len(job.names):,} pictures; later runs reuse them"
    ganrun.message_console().print(title, soft_wrap=True)
    recorder = _Recorder()
    with ganrun.ProgressReporter() as report, closing(decode_chunks(job)) as chunks:
        for chunk in chunks:
            writer.write(chunk.pixels)
            recorder.add(chunk)
            report(f"{job.data}: decoding pictures", recorder.done, len(job.names))
    record = recorder.record()
    if len(record.unreadable) == len(job.names):
        _report_unreadable(record.unreadable, job)
    writer.finish(record, job.transform.shape)


class _Recorder:
    """Gathers a map's record, chunk by chunk."""

    def __init__(self) -> None:
        self.done = 0
        self._record = Record()
        self._contents = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._row_digests, self._sides = bytearray(), bytearray()

    def add(self, chunk: Chunk) -> None:
        self.done += len(chunk.pixels) + len(chunk.unreadable)
        self._contents.update(chunk.contents)
        self._row_digests += chunk.row_digests
        self._sides += chunk.sides
        self._record = self._record.model_copy(
            update={
                "unreadable": (*self._record.unreadable, *chunk.unreadable),
                "grey": self._record.grey + chunk.grey,
                "enlarged": self._record.enlarged + chunk.enlarged,
                "deep": self._record.deep + chunk.deep,
                "animated": self._record.animated + chunk.animated,
                "peak": max(self._record.peak, chunk.peak),
            }
        )

    def record(self) -> Record:
        digests = {"contents": self._contents.hexdigest(), "row_digests": self._row_digests.hex()}
        return self._record.model_copy(update={**digests, "sides": self._sides.hex()})
