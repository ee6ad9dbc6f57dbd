"""Resampled and degraded images on disk, so that they are computed once."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

import ganrun
from ganrun_datasets.pixel_files import SUFFIX, Pixels, Record, load_pixels, new_pixels

FOLDER = "data/resampled"

DIGESTED_ROWS = 1024

log = logging.getLogger("ganrun.datasets")


def cached(name: str, source: Pixels, make: Callable[[], Pixels], *, whole: bool = False) -> Pixels:
    """The images that `make` returns, as a memory map of a file in ganrun's cache; computed only if it does not exist.

    Args:
        name: What the images are and how they are made, such as `fashion-mnist-train-32`.
        source: The images that they are made from; their contents are part of the key.
        make: Returns uint8 `(count, channels, height, width)`.
        whole: Whether to check every byte of a large file, too.
    """
    once = functools.cache(make)
    return cached_parts(f"{name}-{digest_of(source)}", lambda: [once()], whole=whole)


def cached_parts(key: str, make: Callable[[], Iterable[Pixels]], *, whole: bool = False) -> Pixels:
    """The same for images that are made in parts, so that they need not fit into memory.

    The file's checksums are verified, and a damaged file is recreated. If the cache cannot be written, the images are
    computed every time, with a warning.

    Args:
        key: Decides the images.
        make: Returns at least one part, uint8 `(count, channels, height, width)`.
        whole: Whether to check every byte of a large file, too.
    """
    try:
        path = ganrun.cache_path(FOLDER, f"{key}{SUFFIX}")
        found = load_pixels(path, Record, whole=whole)
        if found is None:
            _write(path, make)
            found = load_pixels(path, Record)
        return _joined(make) if found is None else found[0]
    except (ganrun.CacheError, OSError) as error:
        log.warning("images cannot be cached, so every run makes them again: %s", error)
        return _joined(make)


def _write(path: Path, make: Callable[[], Iterable[Pixels]]) -> None:
    with new_pixels(path) as writer:
        shape: tuple[int, ...] = ()
        for rows in make():
            writer.write(rows)
            shape = rows.shape[1:]
        writer.finish(Record(), shape)


def _joined(make: Callable[[], Iterable[Pixels]]) -> Pixels:
    parts = list(make())
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def digest_of(source: Pixels) -> str:
    """A digest of the bytes, copied a few rows at a time if they are not contiguous in memory."""
    hasher = hashlib.blake2b(digest_size=8)
    for begin in range(0, len(source), DIGESTED_ROWS):
        hasher.update(np.ascontiguousarray(source[begin : begin + DIGESTED_ROWS]).data)
    return hasher.hexdigest()
