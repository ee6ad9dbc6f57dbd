"""Resampled images on disk, so that they are computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import numpy as np

import ganrun
from ganrun_datasets.pixel_files import SUFFIX, Pixels, Record, load_pixels, new_pixels

FOLDER = "data/resampled"

DIGESTED_ROWS = 1024

log = logging.getLogger("ganrun.datasets")


def cached(name: str, source: Pixels, make: Callable[[], Pixels], *, whole: bool = False) -> Pixels:
    """The images that `make` returns, as a memory map of a file in ganrun's cache; made only if there is none.

    The file's checksums are compared, and a damaged file is made again. If the cache cannot be written, the images are
    made every time, with a warning.

    Args:
        name: What the images are and how they are made, such as `fashion-mnist-train-32`.
        source: The images that they are made from; their contents are part of the key.
        make: Returns uint8 `(count, channels, height, width)`.
        whole: Whether to check every byte of a large file, too.
    """
    try:
        path = ganrun.cache_path(FOLDER, f"{name}-{_digest(source)}{SUFFIX}")
    except ganrun.CacheError as error:
        return _uncached(make(), error)
    found = load_pixels(path, Record, whole=whole)
    if found is not None:
        return found[0]
    images = make()
    try:
        with new_pixels(path) as writer:
            writer.write(images)
            writer.finish(Record(), images.shape[1:])
    except OSError as error:
        return _uncached(images, error)
    stored = load_pixels(path, Record)
    return images if stored is None else stored[0]


def _digest(source: Pixels) -> str:
    """A digest of the bytes, copied a few rows at a time where their order in memory is another one."""
    hasher = hashlib.blake2b(digest_size=8)
    for begin in range(0, len(source), DIGESTED_ROWS):
        hasher.update(np.ascontiguousarray(source[begin : begin + DIGESTED_ROWS]).data)
    return hasher.hexdigest()


def _uncached(images: Pixels, error: Exception) -> Pixels:
    log.warning("resampled images cannot be cached, so every run resamples them: %s", error)
    return images
