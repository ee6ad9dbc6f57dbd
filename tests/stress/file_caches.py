"""Files of the cache, weights, statistics and pictures of a run, and what reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

import ganrun
from ganrun.base.caches import cache_entries, keep_limit


def make_pixels(folder: Path) -> None:
    """A file of pixels as in the cache."""
    from ganrun_datasets.pixel_files import PixelWriter, Record

    with (folder / "a.pixels").open("wb") as file:
        writer = PixelWriter(file, "a.pixels")
        writer.write(np.zeros((4, 3, 8, 8), np.uint8))
        writer.finish(Record(), (3, 8, 8))


def read_pixels(folder: Path) -> object:
    """Pixels, or None with a warning."""
    from ganrun_datasets.pixel_files import Record, load_pixels

    return load_pixels(folder / "a.pixels", Record)


def make_stored(folder: Path) -> None:
    """A file of tensors as in the cache."""
    from ganrun_fidelity.stored import store

    os.environ["GANRUN_CACHE"] = str(folder)
    store("features", "key", {"a": torch.zeros(4, 4)}, {"n": 1, "of": "x"})


def read_stored(folder: Path) -> object:
    """Tensors, or None with a warning."""
    from ganrun_fidelity.stored import load_stored

    os.environ["GANRUN_CACHE"] = str(folder)
    return load_stored("features", "key")


def make_checksum(folder: Path) -> None:
    """A checksum of a data file, as in the cache."""
    (folder / "checksum.json").write_text(json.dumps({"stamp": [1, 2, 3, 4, 5], "md5": "0" * 32}))


def read_checksum(folder: Path) -> object:
    """The checksum, or None."""
    from ganrun_datasets.published import _remembered

    return _remembered(folder / "checksum.json", [1, 2, 3, 4, 5])


def make_cache(folder: Path) -> None:
    """Two folders of the cache, with a file each."""
    os.environ["GANRUN_CACHE"] = str(folder / "cache")
    for kind in ("features", "data/pictures"):
        path = ganrun.cache_path(kind, "a")
        with ganrun.cache_file(path) as partial:
            partial.write_bytes(b"a")


def read_cache(folder: Path) -> object:
    """`ganrun cache list`, and what every writer of the cache does."""
    keep_limit(folder)
    return cache_entries()


def make_published(folder: Path) -> None:
    """The weights of a small network."""
    torch.save(_small_network().state_dict(), folder / "weights.pth")


def _small_network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def read_published(folder: Path) -> object:
    """The network with the weights in the file, and what it makes of two rows."""
    from ganrun_fidelity.weights import Published

    path = folder / "weights.pth"
    if not path.is_file():  # as `find` asks, which would then hash ten gigabytes
        raise ganrun.PreflightError("there is no file")
    published = Published("the small network", "small", "https://example.org/weights.pth", "2 kB")
    with torch.no_grad():
        return published.load(_small_network, path).eval()(torch.ones(2, 2))


def make_step_pictures(folder: Path) -> None:
    """Three pictures of a run."""
    for step in (1, 2, 3):
        path = folder / f"samples/step_{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.effect_noise((12, 9), 50).convert("RGB").save(path)


def embed(folder: Path) -> object:
    """The pictures for the page of `ganrun report`."""
    from ganrun_report.pictures import strip_of

    paths = {step: folder / f"samples/step_{step:08d}.png" for step in (1, 2, 3)}
    return strip_of(SimpleNamespace(pictures={"samples": paths}), "samples", 3).note  # type: ignore[arg-type]


def animate(folder: Path) -> object:
    """The time-lapse of a run that ends."""
    from ganrun_samples.timelapse import time_lapse

    return time_lapse(folder / "samples", 3)


def make_statistics(folder: Path) -> None:
    """Mean and covariance."""
    np.savez_compressed(folder / "statistics.npz", mu=np.zeros(4), sigma=np.eye(4), n=100)


def read_statistics(folder: Path) -> object:
    """Statistics, and the arrays as `ganrun eval` reads samples."""
    from ganrun_fidelity.statistics import read_statistics

    path = folder / "statistics.npz"
    arrays = [ganrun.read_npz(path, name) for name in ganrun.npz_headers(path)]
    return read_statistics(path), arrays
