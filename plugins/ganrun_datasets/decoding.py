"""Pictures decoded once, many at a time, into a memory map in ganrun's cache.

The map `<data>-<size>-<key>.npy` holds pixels alone; `<key>` stands for the pictures and what is made of them. The
record beside it (`.json`) is written last and says what the map must be; a map without a record that fits is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from PIL import Image

import ganrun
from ganrun_datasets.pictures import Picture, Pixels, Source, Transform, UnreadableError, opened

Unreadable = Literal["refuse", "skip"]

VERSION = 1
"""Part of every key: raise it when the same pictures are to become other pixels."""

CHUNK_BYTES = 4 << 20
LARGEST_CHUNK = 64
"""Pictures that a thread decodes at a time."""

NAMED = 5
"""Unreadable pictures that a message names."""

DIGEST_BYTES = 8

log = logging.getLogger("ganrun.datasets")


# ── What is decoded, and what comes of it ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Job:
    """Pictures in their order, and what is to be made of them."""

    data: str
    """The data set's name in a recipe."""

    source: Source
    names: Sequence[str]
    transform: Transform
    check: Callable[[str, bytes, Image.Image], None] = lambda name, content, image: None
    """Looks at every picture, by name, file and pixels. Raises UnreadableError, or DataError to end it all."""

    @cached_property
    def key(self) -> str:
        """A digest of the files' names and stamps and of the transform."""
        stamps = self.source.stamps
        digest = hashlib.blake2b(json.dumps([VERSION, asdict(self.transform)]).encode(), digest_size=DIGEST_BYTES)
        for name in self.names:
            digest.update(f"{name}\0{stamps[name]}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def picture(self, name: str, content: bytes) -> Picture:
        """One picture from its file's content.

        Raises:
            UnreadableError: if it cannot be used.
        """
        image = opened(content)
        self.check(name, content, image)
        return self.transform(image)


class Tally(ganrun.Settings):
    """How many pictures something is true of, and the first of them."""

    count: int = 0
    first: str = ""

    def __add__(self, names: Sequence[str]) -> Tally:
        return Tally(count=self.count + len(names), first=self.first or (shown(names[0]) if names else ""))


class Record(ganrun.Settings):
    """What is known of a map, and what it must be to be trusted."""

    unreadable: tuple[tuple[int, str], ...] = ()
    """Those of the job's pictures that are left out, with the reason."""

    grey: Tally = Tally()
    enlarged: Tally = Tally()
    """Pictures that were stored as grey; pictures smaller than what was made of them."""

    contents: str = ""
    """A digest of the files' names and contents, in order."""

    row_digests: str = ""
    """A digest of each row's pixels, in hexadecimal, one after the other."""

    map_bytes: int = 0
    map_mtime_ns: int = 0


@dataclass(frozen=True)
class Decoded:
    """The pictures that could be read, as pixels."""

    images: Pixels
    """uint8 `(count, channels, size, size)`, a copy-on-write memory map."""

    numbers: npt.NDArray[np.int64]
    """int64 `(count,)`: which of the job's pictures each row is; ascending."""

    record: Record

    def rows(self, begin: int, end: int) -> slice:
        """The rows of the job's pictures from `begin` to before `end`."""
        first, last = np.searchsorted(self.numbers, (begin, end))
        return slice(int(first), int(last))

    def fingerprint(self, rows: slice, labels: npt.NDArray[np.int64] | None) -> str:
        """A digest of some rows' pixels and labels, without reading them."""
        digest = hashlib.blake2b(str(self.images.shape[1:]).encode(), digest_size=DIGEST_BYTES)
        digest.update(bytes.fromhex(self.record.row_digests)[rows.start * DIGEST_BYTES : rows.stop * DIGEST_BYTES])
        digest.update(b"" if labels is None else np.ascontiguousarray(labels).data)
        return digest.hexdigest()


def decoded(job: Job, unreadable: Unreadable) -> Decoded:
    """The job's pictures, from the cache if they are there whole, else decoded now.

    Args:
        job: What to decode.
        unreadable: What to do about pictures that cannot be read: refuse them all, or skip them with a warning.

    Raises:
        DataError: if pictures cannot be read, or the cache cannot hold them.
    """
    path = _cache_folder() / f"{job.data}-{job.transform.size}-{job.key}.npy"
    with _pillow_warns_of_bombs_alone():
        found = _stored(path, job) or _made_by_one(path, job)
    if found.record.unreadable:
        _tell_unreadable(found.record.unreadable, job.names, unreadable)
    return found


def shown(name: str) -> str:
    """A file's name as it can be printed, even where it is not valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _cache_folder() -> Path:
    try:
        return ganrun.cache_directory("data", "pictures")
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> ganrun.DataError:
    return ganrun.DataError(
        f"decoded pictures cannot be kept: {error}\nset GANRUN_CACHE to a folder that may be written to, with space"
    )


@contextmanager
def _pillow_warns_of_bombs_alone() -> Iterator[None]:
    """Pillow's warning of a picture with absurdly many pixels becomes its error; other warnings say nothing here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _tell_unreadable(reasons: Sequence[tuple[int, str]], names: Sequence[str], unreadable: Unreadable) -> None:
    lines = [f"  {shown(names[number])}: {reason}" for number, reason in reasons[:NAMED]]
    if len(reasons) > NAMED:
        lines.append(f"  and {len(reasons) - NAMED:,} more")
    text = "\n".join([f"{len(reasons):,} of {len(names):,} pictures cannot be read:", *lines])
    if unreadable == "skip" and len(reasons) < len(names):
        log.warning("%s\nthey are left out", text)
        return
    hint = ', or set unreadable = "skip" in [data] to leave them out' if len(reasons) < len(names) else ""
    raise ganrun.DataError(f"{text}\nreplace or remove them{hint}")


# ── Keeping ───────────────────────────────────────────────────────────────────────────────────────────────


def _stored(path: Path, job: Job, thorough: bool = False) -> Decoded | None:
    """What the cache holds, or None if that is not whole.

    A map that was written to since it was recorded is not trusted, unless `thorough` reading shows it to be the same.
    """
    try:
        return _trusted(path, job, thorough)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        if thorough:
            log.warning("%s is damaged and is made anew: %s", path, " ".join(str(error).split()))
        return None


def _trusted(path: Path, job: Job, thorough: bool) -> Decoded | None:
    record, facts = _read_record(path), path.stat()
    if facts.st_size != record.map_bytes:
        raise ValueError(f"it has {facts.st_size:,} bytes, not {record.map_bytes:,}")
    is_touched = facts.st_mtime_ns != record.map_mtime_ns
    if (is_touched and not thorough) or _has_mended(record, job):
        return None
    found = _mapped(path, job, record)
    if is_touched:
        _check_rows(found.images, record)
        _write_record(path, record.model_copy(update={"map_mtime_ns": facts.st_mtime_ns}))
    return found


def _mapped(path: Path, job: Job, record: Record) -> Decoded:
    # Copy-on-write, since PyTorch warns about arrays that it may not write to. The file stays as it is.
    images = np.lib.format.open_memmap(path, mode="c")
    numbers = np.delete(np.arange(len(job.names)), [number for number, _ in record.unreadable])
    if images.dtype != np.uint8 or images.shape != (len(numbers), *job.transform.shape):
        raise ValueError(f"it holds {images.dtype} {images.shape}")
    return Decoded(images, numbers, record)


def _has_mended(record: Record, job: Job) -> bool:
    """Whether a picture that could not be read can be now: a file's rights may change and its stamp stay the same."""
    with ExitStack() as stack:
        read = job.source.reader(stack)
        for number, _ in record.unreadable:
            with suppress(UnreadableError):
                job.picture(job.names[number], read(job.names[number]))
                return True
    return False


def _check_rows(images: Pixels, record: Record) -> None:
    digests = bytes.fromhex(record.row_digests)
    for row, image in enumerate(images):
        if _digest(image.data) != digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]:
            raise ValueError(f"row {row:,} has changed")


def _read_record(path: Path) -> Record:
    checksum, _, text = path.with_suffix(".json").read_text(encoding="utf-8").partition("\n")
    if checksum != _digest(text.encode()).hex():
        raise ValueError("its record has another checksum")
    return Record.model_validate_json(text)


def _write_record(path: Path, record: Record) -> None:
    text = record.model_dump_json()
    with ganrun.atomic_path(path.with_suffix(".json")) as partial:
        partial.write_text(f"{_digest(text.encode()).hex()}\n{text}", encoding="utf-8")


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


# ── Making, by one process at a time ──────────────────────────────────────────────────────────────────────


def _made_by_one(path: Path, job: Job) -> Decoded:
    """Decode, or wait for another process that is decoding the same and take what it has made."""
    try:
        with _locked(path, job.data):
            return _stored(path, job, thorough=True) or _made(path, job)
    except OSError as error:
        raise _unwritable(error) from error


@contextmanager
def _locked(path: Path, data: str) -> Iterator[None]:
    """A lock that the kernel frees when its process dies, however that happens."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        ganrun.message_console().print(
            f"{data}: another process is decoding these pictures; waiting for it", soft_wrap=True
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _made(path: Path, job: Job) -> Decoded:
    _remove_partial_files(path)
    _check_space(path.parent, len(job.names) * prod(job.transform.shape))
    with ganrun.atomic_path(path) as partial, partial.open("wb") as file:
        record = _decode_into(file, job)
    facts = path.stat()
    record = record.model_copy(update={"map_bytes": facts.st_size, "map_mtime_ns": facts.st_mtime_ns})
    _write_record(path, record)
    return _mapped(path, job, record)


def _remove_partial_files(path: Path) -> None:
    """Those that dead processes have left: whoever is alive holds the lock of what it writes."""
    for partial in path.parent.glob(".*.partial"):
        stem = partial.name[1:].rsplit(".", 3)[0]
        lock = FileLock(path.with_name(f"{stem}.lock"))
        with suppress(Timeout, OSError):
            if stem != path.stem:
                lock.acquire(timeout=0)
            partial.unlink()
        lock.release()


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ganrun.DataError(
            f"the decoded pictures take {_gigabytes(needed_bytes)}, but {folder} has {_gigabytes(free_bytes)} left; "
            "make room there, or set GANRUN_CACHE to a folder on another disk"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"


def _decode_into(file: IO[bytes], job: Job) -> Record:
    """Write the pictures that can be read as an array in NumPy's format, and return what is known of them."""
    record, contents, digests = Record(), hashlib.blake2b(digest_size=DIGEST_BYTES), bytearray()
    _write_header(file, len(job.names), job)
    title = f"{job.data}: decoding {len(job.names):,} pictures, once and for all"
    ganrun.message_console().print(title, soft_wrap=True)
    done = 0
    with ganrun.ProgressReporter() as told, closing(_chunks(job)) as chunks:
        for chunk in chunks:
            file.write(chunk.pixels.data)
            digests += chunk.row_digests
            contents.update(chunk.contents)
            record = chunk.added_to(record)
            done += len(chunk.pixels) + len(chunk.unreadable)
            told(f"{job.data}: decoding pictures", done, len(job.names))
    count = len(job.names) - len(record.unreadable)
    if not count:
        _tell_unreadable(record.unreadable, job.names, "refuse")
    # NumPy leaves space in the header for another count.
    file.seek(0)
    _write_header(file, count, job)
    return record.model_copy(update={"contents": contents.hexdigest(), "row_digests": digests.hex()})


def _write_header(file: IO[bytes], count: int, job: Job) -> None:
    shape = (count, *job.transform.shape)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


# ── In many threads ───────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Chunk:
    """Some pictures that follow each other, decoded."""

    pixels: Pixels
    """uint8 `(count, channels, size, size)`"""

    row_digests: bytes = b""
    contents: bytes = b""
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    grey: list[str] = field(default_factory=list)
    enlarged: list[str] = field(default_factory=list)

    def added_to(self, record: Record) -> Record:
        return record.model_copy(
            update={
                "unreadable": (*record.unreadable, *self.unreadable),
                "grey": record.grey + self.grey,
                "enlarged": record.enlarged + self.enlarged,
            }
        )


class _Reading:
    """What each thread does; Pillow's decoders and filters run without Python's lock."""

    def __init__(self, job: Job, handles: ExitStack, is_ending: Callable[[], bool]) -> None:
        self._job = job
        self._is_ending = is_ending
        self._read = job.source.reader(handles)

    def chunk(self, numbers: range) -> _Chunk:
        chunk = _Chunk(np.empty((len(numbers), *self._job.transform.shape), np.uint8))
        count = 0
        for number in numbers:
            if self._is_ending():
                break
            try:
                chunk.pixels[count] = self._picture(self._job.names[number], chunk)
                count += 1
            except UnreadableError as error:
                chunk.unreadable.append((number, str(error)))
        chunk.pixels = chunk.pixels[:count]
        chunk.row_digests = b"".join(_digest(pixels.data) for pixels in chunk.pixels)
        return chunk

    def _picture(self, name: str, chunk: _Chunk) -> Pixels:
        content = self._read(name)
        picture = self._job.picture(name, content)
        chunk.contents += name.encode("utf-8", "surrogatepass") + b"\0" + _digest(content)
        chunk.grey += [name] * picture.was_grey
        chunk.enlarged += [name] * picture.was_enlarged
        return picture.pixels


def _chunks(job: Job) -> Generator[_Chunk, None, None]:
    """All pictures in order. Only so many chunks are decoded ahead that memory does not grow with their number.

    Closed early, as by Ctrl-C, it lets each thread finish the picture at hand, and no more.
    """
    at_once = min(max(CHUNK_BYTES // prod(job.transform.shape), 1), LARGEST_CHUNK)
    threads = _processors()
    with ExitStack() as handles, ThreadPoolExecutor(threads, "decoding") as pool, ExitStack() as ending:
        is_ending = threading.Event()
        ending.callback(pool.shutdown, wait=False, cancel_futures=True)
        ending.callback(is_ending.set)
        reading = _Reading(job, handles, is_ending.is_set)
        ahead: deque[Future[_Chunk]] = deque()
        for begin in range(0, len(job.names), at_once):
            ahead.append(pool.submit(reading.chunk, range(begin, min(begin + at_once, len(job.names)))))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
