"""What it costs to check cached pixels when they are opened: processor time with and without, and the ratio.

    python tests/benchmarks/caches.py [rounds]        9 unless given; a minute, 1 GB of disk and 2 of memory

Fashion-MNIST at 32×32 is prepared as a run does it, from Debian's files. A file of 1 GB, as of 81,000 pictures of
64×64, is opened alone: from the page cache, as in most runs, and once from the disk (Linux only), together with the
first pass over the pixels that a run makes anyway. The digits have no file in the cache.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ganrun_datasets import pixel_files
from ganrun_datasets.digits import Digits
from ganrun_datasets.mnist import DEBIAN, FashionMnist

BYTES = 1_000_000_000
SHAPE = (3, 64, 64)


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    action()
    return clock() - start


@contextmanager
def unchecked() -> Iterator[None]:
    check, pixel_files._check = pixel_files._check, lambda *arguments: None
    try:
        yield
    finally:
        pixel_files._check = check


def compare(name: str, action: Callable[[], object], rounds: int) -> None:
    """Times with and without, in the order A B A B …, after one round that warms up."""
    times = []
    for _ in range(rounds + 1):
        one = seconds(action)
        with unchecked():
            times.append((one, seconds(action)))
    with_checks, without = (statistics.median(column) for column in zip(*times[1:], strict=True))
    ratio = statistics.median(one / other for one, other in times[1:])
    print(f"{name:42} {with_checks:8.4f} s {without:8.4f} s  ratio {ratio:8,.3f}  {with_checks - without:+.4f} s")


def opened(path: Path) -> np.ndarray:
    return pixel_files.open_pixels(path, pixel_files.Record)[0]


def use_once(path: Path) -> None:
    """Open a file, and read all rows in batches of 64, in random order."""
    images = opened(path)
    for rows in np.array_split(np.random.default_rng(0).permutation(len(images)), len(images) // 64):
        images[rows].sum()


def from_disk(path: Path) -> float:
    """Seconds to use a file once that is not in the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return seconds(lambda: use_once(path), time.perf_counter)


def write(path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (BYTES // int(np.prod(SHAPE)), *SHAPE), np.uint8)
    with pixel_files.new_pixels(path) as writer:
        writer.write(images)
        writer.finish(pixel_files.Record(), SHAPE)


def main(rounds: int) -> None:
    print(
        f"{pixel_files.available_processors()} processors, NumPy {np.__version__}, Python {platform.python_version()}"
    )
    print(f"medians of n = {rounds} rounds: with checks, without, ratio, difference")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GANRUN_CACHE"] = folder
        compare("digits at 32, not cached", lambda: Digits(Digits.Settings()).prepare(), rounds)
        if DEBIAN.is_dir():
            settings = FashionMnist.Settings(size=32)
            compare("fashion-mnist at 32, all of prepare", lambda: FashionMnist(settings).prepare(), rounds)
            files = sorted(Path(folder, "data", "resampled").glob("*.pixels"))
            compare("fashion-mnist at 32, opening alone", lambda: [opened(file) for file in files], rounds)
        path = Path(folder, "large.pixels")
        write(path)
        compare("1 GB in the page cache, opening alone", lambda: opened(path), rounds)
        checked = from_disk(path)
        with unchecked():
            print(
                f"1 GB on disk, opened and read once: {checked:.2f} s, without checks {from_disk(path):.2f} s (n = 1)"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
