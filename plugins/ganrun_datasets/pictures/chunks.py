"""Pictures decoded in many threads, chunk by chunk, in the order of the job."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ganrun import UnreadableError
from ganrun_datasets.pictures.job import SIDES, Job, digest
from ganrun_datasets.pictures.picture import Pixels
from ganrun_datasets.pixel_files import available_processors

CHUNK_BYTES = 4 << 20
LARGEST_CHUNK = 64
"""Pictures that a thread decodes at a time: as many as fit `CHUNK_BYTES`, but at most this many."""


@dataclass
class Chunk:
    """Consecutive pictures of a job, decoded."""

    pixels: Pixels
    """uint8 `(count, channels, size, size)`: those that could be read."""

    row_digests: bytes = b""
    """A digest of each row's pixels."""

    sides: bytes = b""
    """For each row, width and height of its picture, as in `SIDES`."""

    contents: bytes = b""
    """For each row its file's name, a zero byte and a digest of the file."""

    unreadable: list[tuple[int, str]] = field(default_factory=list)
    """Positions in the job, with reasons."""

    grey: list[str] = field(default_factory=list)
    enlarged: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)
    animated: list[str] = field(default_factory=list)
    peak: int = 0
    """The largest value of the pictures in `deep`."""


def decode_chunks(job: Job) -> Generator[Chunk, None, None]:
    """All pictures, in order. Only a few chunks are decoded ahead, so memory does not grow with the number of pictures.
    If closed early, as by Ctrl-C, each thread only finishes its current picture.
    """
    at_once = min(max(CHUNK_BYTES // prod(job.transform.shape), 1), LARGEST_CHUNK)
    threads = available_processors()
    with ExitStack() as handles, ThreadPoolExecutor(threads, "decoding") as pool, ExitStack() as ending:
        is_ending = threading.Event()
        ending.callback(pool.shutdown, wait=False, cancel_futures=True)
        ending.callback(is_ending.set)
        decoder = _Decoder(job, handles, is_ending.is_set)
        ahead: deque[Future[Chunk]] = deque()
        for begin in range(0, len(job.names), at_once):
            ahead.append(pool.submit(decoder.chunk, range(begin, min(begin + at_once, len(job.names)))))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class _Decoder:
    """The work of each thread. Pillow's decoders and filters run without Python's global lock."""

    def __init__(self, job: Job, handles: ExitStack, is_ending: Callable[[], bool]) -> None:
        self._job = job
        self._is_ending = is_ending
        self._read = job.source.reader(handles)

    def chunk(self, numbers: range) -> Chunk:
        chunk = Chunk(np.empty((len(numbers), *self._job.transform.shape), np.uint8))
        count = 0
        for number in numbers:
            if self._is_ending():
                break
            try:
                chunk.pixels[count] = self._pixels(self._job.names[number], chunk)
                count += 1
            except UnreadableError as error:
                chunk.unreadable.append((number, str(error)))
        chunk.pixels = chunk.pixels[:count]
        chunk.row_digests = b"".join(digest(pixels.data) for pixels in chunk.pixels)
        return chunk

    def _pixels(self, name: str, chunk: Chunk) -> Pixels:
        """One picture's pixels; records its metadata in the chunk."""
        content = self._read(name)
        picture = self._job.picture(name, content)
        chunk.sides += SIDES.pack(*picture.sides)
        chunk.contents += name.encode("utf-8", "surrogatepass") + b"\0" + digest(content)
        chunk.grey += [name] * picture.was_grey
        chunk.enlarged += [name] * picture.was_enlarged
        chunk.deep += [name] * (picture.peak is not None)
        chunk.animated += [name] * picture.is_animated
        chunk.peak = max(chunk.peak, picture.peak or 0)
        return picture.pixels
