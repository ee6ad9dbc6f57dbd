"""Mutated files, each through what ganrun reads it with.

    python tests/stress/fuzz_files.py --trials 10000 --seed 7
    python tests/stress/fuzz_files.py --trials 1000 --only manifest 2>> progress.txt

Files of a run and of an export, of checkpoints, of the cache, of statistics and of data sets: their bytes are changed,
cut and repeated; the tables in JSON, TOML and pickles get odd types, sizes, names and depths; a file becomes a folder,
a pipe, a device, or ten gigabytes of nothing. Changed checkpoints are mostly signed again, as a forger does. Right is a
content, or an error of ganrun within seconds; anything else is a failure, and the exit status 1.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from file_caches import (
    animate,
    embed,
    make_cache,
    make_checksum,
    make_pixels,
    make_published,
    make_statistics,
    make_step_pictures,
    make_stored,
    read_cache,
    read_checksum,
    read_pixels,
    read_published,
    read_statistics,
    read_stored,
)
from file_changes import (
    changed_json,
    changed_lines,
    changed_npz,
    changed_progress,
    changed_state,
    changed_toml,
    changed_weights,
    regzipped,
    repacked,
    repickled,
    special,
)
from file_data import (
    data_reader,
    make_binarized,
    make_celeba,
    make_cifar,
    make_degraded,
    make_emnist,
    make_emoji,
    make_halves,
    make_labelled,
    make_mnist,
    make_pictures,
    make_sides,
    make_stl,
    make_svhn,
    make_zip,
    make_zipped_sides,
    read_degraded,
    read_picture,
)
from file_runs import (
    ask_store,
    best_of,
    compare,
    load,
    load_export,
    lock_of,
    look,
    make_export,
    make_runs,
    make_store,
    restore,
    resume,
    send_metrics,
    sign,
    sync,
    weights_of,
)
from fuzzing import Failure, arguments, fuzz, judged, mutated_bytes, odd_bytes, print_failures, print_table
from pristine import Pristine, quick

TELL_SECONDS = 20.0
"""Between two lines of progress."""


class Reader(NamedTuple):
    """One kind of file."""

    make: Callable[[Path], Any]
    """What it needs in a folder, made once."""

    file: str
    """Which file there is changed; those of one folder if it ends with a star."""

    read: Callable[[Path], object]
    """Reads it; gets the folder."""

    change: Callable[[bytes, random.Random], bytes] = mutated_bytes
    """What knows the structure of the file."""

    after: Callable[[Path, Path, random.Random], object] = lambda folder, path, chance: None
    """What is done with the folder after the change."""


# ── All of them ───────────────────────────────────────────────────────────────────────────────────────────

BAD, LAST = "runs/bad/", "runs/bad/checkpoints/step_00000004/"
folder_data = partial(data_reader, "image-folder", size=8)

READERS: Mapping[str, Reader] = {
    "recipe: compare": Reader(make_runs, f"{BAD}recipe.toml", compare, changed_toml),
    "recipe: load": Reader(make_runs, f"{BAD}recipe.toml", load, changed_toml),
    "recipe: resume": Reader(make_runs, f"{BAD}recipe.toml", resume, changed_toml),
    "environment: look": Reader(make_runs, f"{BAD}environment.json", look, changed_json),
    "environment: compare": Reader(make_runs, f"{BAD}environment.json", compare, changed_json),
    "environment: load": Reader(make_runs, f"{BAD}environment.json", load, changed_json),
    "environment: resume": Reader(make_runs, f"{BAD}environment.json", resume, changed_json),
    "summary: look": Reader(make_runs, f"{BAD}summary.json", look, changed_json),
    "summary: compare": Reader(make_runs, f"{BAD}summary.json", compare, changed_json),
    "summary: resume": Reader(make_runs, f"{BAD}summary.json", resume, changed_json),
    "metrics: look": Reader(make_runs, f"{BAD}metrics.jsonl", look, changed_lines),
    "metrics: compare": Reader(make_runs, f"{BAD}metrics.jsonl", compare, changed_lines),
    "metrics: load": Reader(make_runs, f"{BAD}metrics.jsonl", load, changed_lines),
    "metrics: resume": Reader(make_runs, f"{BAD}metrics.jsonl", resume, changed_lines),
    "metrics: send": Reader(make_runs, f"{BAD}metrics.jsonl", send_metrics, changed_lines),
    "mlflow.json: send": Reader(make_runs, f"{BAD}mlflow.json", send_metrics, changed_json),
    "lock": Reader(make_runs, f"{BAD}.lock", lock_of, changed_json),
    "score of the best": Reader(make_runs, f"{BAD}checkpoints/best/score.json", best_of, changed_json),
    "mlflow.json": Reader(make_runs, f"{BAD}mlflow.json", sync, changed_json),
    "SQLite store": Reader(make_store, "store.db*", ask_store),
    "config of an export": Reader(make_export, "export/config.json", load_export, changed_json),
    "recipe of an export": Reader(make_export, "export/recipe.toml", load_export, changed_toml),
    "weights of an export": Reader(make_export, "export/generator.safetensors", load_export, changed_weights),
    "manifest": Reader(make_runs, f"{LAST}manifest.json", weights_of, changed_json),
    "manifest: restore": Reader(make_runs, f"{LAST}manifest.json", restore, changed_json),
    "progress": Reader(make_runs, f"{LAST}progress.pt", restore, changed_progress, sign),
    "weights": Reader(make_runs, f"{LAST}generator.safetensors", restore, changed_weights, sign),
    "weights: load": Reader(make_runs, f"{LAST}generator.safetensors", load, changed_weights, sign),
    "idx": Reader(partial(make_mnist, packed=False), "data/*", data_reader("mnist")),
    "idx, packed": Reader(partial(make_mnist, packed=True), "data/*", data_reader("mnist"), regzipped),
    "cifar, binary": Reader(partial(make_cifar, form="bin"), "data/cifar-10-batches-bin/*", data_reader("cifar10")),
    "cifar, pickled": Reader(
        partial(make_cifar, form="py"), "data/cifar-10-batches-py/*", data_reader("cifar10"), repickled
    ),
    "cifar, packed": Reader(partial(make_cifar, form="tar"), "data/*", data_reader("cifar10"), regzipped),
    "svhn": Reader(make_svhn, "data/*", data_reader("svhn")),
    "stl10": Reader(make_stl, "data/*", data_reader("stl10", size=8)),
    "emnist": Reader(make_emnist, "data/*", data_reader("emnist", subset="digits"), repacked),
    "celeba": Reader(make_celeba, "data/*.txt", data_reader("celeba", size=16, attribute="Smiling")),
    "celeba, csv": Reader(
        partial(make_celeba, form="csv"), "data/*.csv", data_reader("celeba", size=16, attribute="Smiling")
    ),
    "celeba, zip": Reader(
        partial(make_celeba, form="zip"),
        "data/*.zip",
        data_reader("celeba", size=16, attribute="Smiling"),
        repacked,
    ),
    "binarized": Reader(make_binarized, "data/*", data_reader("binarized-mnist")),
    "emoji": Reader(make_emoji, "data/*", data_reader("emoji", size=16), regzipped),
    "png": Reader(make_pictures, "data/a/0.png", read_picture),
    "jpeg": Reader(partial(make_pictures, ending="jpg"), "data/a/0.jpg", read_picture),
    "gif": Reader(partial(make_pictures, ending="gif"), "data/a/0.gif", read_picture),
    "webp": Reader(partial(make_pictures, ending="webp"), "data/a/0.webp", read_picture),
    "tiff": Reader(partial(make_pictures, ending="tif"), "data/a/0.tif", read_picture),
    "bmp": Reader(partial(make_pictures, ending="bmp"), "data/a/0.bmp", read_picture),
    "folder": Reader(make_pictures, "data/*/*", folder_data()),
    "zip": Reader(make_zip, "data", folder_data(), repacked),
    "halves": Reader(make_halves, "data/*/*", data_reader("paired-folders", size=8)),
    "halves, skipped": Reader(make_halves, "data/*/*", data_reader("paired-folders", size=8, unreadable="skip")),
    "pairs": Reader(make_sides, "data/*/*", data_reader("paired-folders", layout="folders", size=8)),
    "pairs, skipped": Reader(
        make_sides, "data/*/*", data_reader("paired-folders", layout="folders", size=8, unreadable="skip")
    ),
    "pairs, zip": Reader(make_zipped_sides, "data", data_reader("paired-folders", layout="folders", size=8), repacked),
    "unpaired": Reader(make_sides, "data/*/*", data_reader("unpaired-folders", size=8)),
    "unpaired, skipped": Reader(make_sides, "data/*/*", data_reader("unpaired-folders", size=8, unreadable="skip")),
    "unpaired, zip": Reader(make_zipped_sides, "data", data_reader("unpaired-folders", size=8), repacked),
    "degraded": Reader(make_pictures, "data/*/*", read_degraded),
    "degraded, cached": Reader(make_degraded, "cache/data/resampled/*", read_degraded),
    "dataset.json": Reader(
        partial(make_labelled, name="dataset.json"), "data/dataset.json", folder_data(), changed_json
    ),
    "metadata.csv": Reader(partial(make_labelled, name="metadata.csv"), "data/metadata.csv", folder_data()),
    "metadata.jsonl": Reader(
        partial(make_labelled, name="metadata.jsonl"), "data/metadata.jsonl", folder_data(), changed_lines
    ),
    "cached pixels": Reader(make_pixels, "a.pixels", read_pixels),
    "cached features": Reader(make_stored, "features/key.safetensors", read_stored, changed_weights),
    "cached checksum": Reader(make_checksum, "checksum.json", read_checksum, changed_json),
    "tag of the cache": Reader(make_cache, "cache/**/CACHEDIR.TAG", read_cache),
    "published weights": Reader(make_published, "weights.pth", read_published, changed_state),
    "picture: report": Reader(make_step_pictures, "samples/*", embed),
    "picture: time-lapse": Reader(make_step_pictures, "samples/*", animate),
    "statistics": Reader(make_statistics, "statistics.npz", read_statistics, changed_npz),
}


def trial(reader: Reader, pristine: Pristine, chance: random.Random) -> tuple[str, str]:
    """One changed file."""
    pristine.restore()
    folder = pristine.folder
    path = chance.choice(sorted(path for path in folder.glob(reader.file) if path.is_file()))
    kind, content = chance.random(), path.read_bytes()
    if kind < 0.03:
        special(path, chance)
    elif kind < 0.06:
        path.write_bytes(odd_bytes(chance))
    else:
        path.write_bytes((mutated_bytes if kind < 0.35 else reader.change)(content, chance))
        reader.after(folder, path, chance)
    with ExitStack() as quiet:
        quiet.enter_context(redirect_stdout(io.StringIO()))
        quiet.enter_context(redirect_stderr(io.StringIO()))
        return judged(lambda: reader.read(folder))


Rows = dict[str, Counter[str]]


def run(
    names: list[str], trials: int, seed: int, tell: Callable[[str, Counter[str]], bool] = lambda name, outcomes: True
) -> tuple[Rows, list[Failure]]:
    """The outcomes by reader, and the failures.

    Args:
        names: The readers.
        trials: How many of each.
        seed: Of the changes.
        tell: Gets the outcomes of a reader now and then; whether to go on.
    """
    rows: Rows = {}
    failures: list[Failure] = []
    made: dict[Any, Pristine] = {}
    with tempfile.TemporaryDirectory() as name, quick():
        for number, each in enumerate(names):
            reader = READERS[each]
            os.environ["GANRUN_CACHE"] = f"{name}/cache"
            pristine = made.setdefault(reader.make, made.get(reader.make) or _made(reader, Path(name) / str(number)))
            os.environ["GANRUN_CACHE"] = str(pristine.folder / "cache")  # is emptied with the folder
            rows[each], found = fuzz(partial(trial, reader, pristine), trials, seed, partial(tell, each))
            failures += [failure._replace(outcome=f"{failure.outcome} of {each}") for failure in found]
            if rows[each].total() < trials:
                break
    return rows, failures


def _made(reader: Reader, folder: Path) -> Pristine:
    """What a reader needs, in a folder that was moved."""
    example = folder.with_suffix(".example")
    example.mkdir()
    with redirect_stderr(io.StringIO()):
        reader.make(example)
    return Pristine(folder, example)


class Telling:
    """Prints how far a reader is, so that a campaign that is cut short keeps its figures; a signal ends it."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._next = time.monotonic() + TELL_SECONDS
        self._ended = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)

    def __call__(self, name: str, outcomes: Counter[str]) -> bool:
        """Print a line now and then, and one at the end of a reader."""
        n = outcomes.total()
        if n == self._trials or self._ended or time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_SECONDS
            print(f"{datetime.now():%H:%M:%S} {name:24} n {n:>9,}  {dict(outcomes)}", file=sys.stderr, flush=True)
        return not self._ended

    def _end(self, *_: object) -> None:
        self._ended = True


def main() -> int:
    """The command line."""
    parser = arguments(__doc__)
    parser.add_argument("--only", help="readers whose name holds this text")
    options = parser.parse_args()
    names = [name for name in READERS if options.only is None or options.only in name]
    started = time.perf_counter()
    rows, failures = run(names, options.trials, options.seed, Telling(options.trials))
    print_table(rows, time.perf_counter() - started)
    print_failures(failures, 40)
    return int(bool(failures))


if __name__ == "__main__":
    import logging

    logging.getLogger("ganrun").addHandler(logging.NullHandler())
    logging.getLogger("ganrun").propagate = False
    torch.set_num_threads(1)
    sys.exit(main())
