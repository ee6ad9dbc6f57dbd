"""Resampled images on disk, so that they are computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import ganrun

Images = npt.NDArray[np.uint8]

log = logging.getLogger("ganrun.datasets")


def cached(name: str, source: Images, make: Callable[[], Images]) -> Images:
    """The images that `make` returns, as a memory map of a file in ganrun's cache; made only if there is none.

    If the cache cannot be written, the images are made every time, with a warning.

    Args:
        name: What the images are and how they are made, such as `fashion-mnist-train-32`.
        source: The images that they are made from; their contents are part of the key.
        make: Returns uint8 `(count, channels, height, width)`.
    """
    try:
        path = ganrun.cache_directory("data") / f"{name}-{_digest(source)}.npy"
        stored = _load(path)
    except OSError as error:
        return _uncached(make(), error)
    return _store(path, make()) if stored is None else stored


def _digest(source: Images) -> str:
    return hashlib.blake2b(np.ascontiguousarray(source).data, digest_size=8).hexdigest()


def _load(path: Path) -> Images | None:
    """The images in a cache file; None if it is absent or damaged."""
    if not path.is_file():
        return None
    try:
        # Copy-on-write, since PyTorch warns about arrays that it may not write to. The file stays as it is.
        images = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        log.warning("%s is damaged and is rebuilt: %s", path, error)
        return None
    return images if images.dtype == np.uint8 and images.ndim == 4 else None


def _store(path: Path, images: Images) -> Images:
    try:
        with ganrun.atomic_path(path) as partial, partial.open("wb") as file:
            np.save(file, images, allow_pickle=False)
    except OSError as error:
        return _uncached(images, error)
    stored = _load(path)
    return images if stored is None else stored


def _uncached(images: Images, error: OSError) -> Images:
    log.warning("resampled images cannot be cached, so every run resamples them: %s", error)
    return images
