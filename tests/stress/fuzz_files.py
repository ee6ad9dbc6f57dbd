"""Mutated files, each through what ganrun reads it with.

    python tests/stress/fuzz_files.py --trials 10000 --seed 7
    python tests/stress/fuzz_files.py --trials 1000 --only manifest 2>> progress.txt

Files of a run and of an export, of checkpoints, of the cache, of statistics and of data sets: their bytes are changed,
cut and repeated; the tables in JSON, TOML and pickles get odd types, sizes, names and depths; a file becomes a folder,
a pipe, a device, or ten gigabytes of nothing. Changed checkpoints are mostly signed again, as a forger does. Right is a
content, or an error of ganrun within seconds; anything else is a failure, and the exit status 1.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import socket
import sqlite3
import sys
import tarfile
import tempfile
import time
import tomllib
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import tomli_w
import torch
from fuzzing import (
    Failure,
    arguments,
    fuzz,
    judged,
    mutate,
    mutated_bytes,
    odd_bytes,
    odd_value,
    print_failures,
    print_table,
    written,
)
from PIL import Image
from pristine import Pristine, quick
from safetensors.torch import save

import ganrun
from ganrun.base.caches import cache_entries, keep_limit
from ganrun.base.locks import Holder
from ganrun.recipe.reader import load_recipe
from ganrun.rundir.checkpoints import find_checkpoint, latest_checkpoint, score_of, step_of
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.opening import warn_if_newer
from ganrun.rundir.records import latest_scores, merged_summary
from ganrun.rundir.stored import made_with
from ganrun.testing import registry_with
from ganrun.trained.loading import find_saved_model
from ganrun.training.builder import build_run
from ganrun.training.measurements import Measurements
from ganrun.training.runner import execute
from ganrun.training.step import build_step

TELL_SECONDS = 20.0
"""Between two lines of progress."""

TABLES: dict[str, Any] = {
    "train": {"steps": 4, "batch_size": 8, "device": "cpu", "evaluate_every_steps": 2, "log_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [4]},
    "discriminator": {"use": "mlp", "hidden": [4]},
    "checkpoints": {"every_steps": 2, "keep": 2, "best": "brightness"},
    "metric": [{"use": "brightness"}],
    **dict.fromkeys(("samples", "progress", "mlflow"), False),
}


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


# ── Changes ───────────────────────────────────────────────────────────────────────────────────────────────


def changed_json(content: bytes, chance: random.Random) -> bytes:
    """Other tables, of JSON that Python reads also where it is none: NaN, and texts that are no Unicode."""
    tables = {"": json.loads(content)}
    mutate(tables, chance)
    with suppress(ValueError, RecursionError, TypeError):
        text = json.dumps(tables.get("", odd_value(chance)), ensure_ascii=chance.random() < 0.5)
        return text.encode("utf-8", "surrogatepass")
    return content


def changed_lines(content: bytes, chance: random.Random) -> bytes:
    """Some lines, each of JSON, with other tables."""
    lines = content.splitlines()
    for _ in range(chance.choice((1, 1, 3))):
        at = chance.randrange(len(lines))
        lines[at] = changed_json(lines[at], chance)
    return b"\n".join(lines) + b"\n"


def changed_toml(content: bytes, chance: random.Random) -> bytes:
    """Other tables."""
    tables = tomllib.loads(content.decode())
    mutate(tables, chance, dates=True)
    with suppress(ValueError, RecursionError, TypeError):
        return tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    return content


def changed_progress(content: bytes, chance: random.Random) -> bytes:
    """Another progress of a checkpoint, with tensors among its values."""
    progress = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(chance.choice((1, 1, 2))):
        if chance.random() < 0.6:
            mutate(progress, chance, count=1)
            continue
        with suppress(KeyError, TypeError, AttributeError, IndexError):  # of what the first change has left
            _change_state(progress, chance)
    file = io.BytesIO()
    with suppress(Exception):
        torch.save(progress, file)
        return file.getvalue()
    return content


def _change_state(progress: dict[str, Any], chance: random.Random) -> None:
    optimizer = chance.choice(list(progress["optimizers"].values()))
    table = chance.choice([*optimizer["state"].values(), *optimizer["param_groups"]])
    table[chance.choice(list(table))] = chance.choice([odd_tensor(chance), odd_value(chance)])


def odd_tensor(chance: random.Random, large: float = 0.05) -> torch.Tensor:
    """Of any type, shape and values; also one that would be large if it were copied."""
    dtype = chance.choice((torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.complex64))
    shape = chance.choice(((), (0,), (1,), (4,), (4, 4), (1, 1, 1), (3, 0, 2)))
    if chance.random() < large:
        return torch.zeros(1).expand(2**40)
    return torch.full(shape, chance.choice((0, 1, -1, 7, float("nan"))), dtype=torch.float64).to(dtype)


def changed_weights(content: bytes, chance: random.Random) -> bytes:
    """Other tensors in a file of safetensors, or another header."""
    length = int.from_bytes(content[:8], "little")
    if chance.random() < 0.5:
        header = changed_json(content[8 : 8 + length], chance)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    tensors = {name: odd_tensor(chance, large=0) for name in names if chance.random() < 0.9}
    with suppress(Exception):
        return bytes(save(tensors))
    return content


def changed_npz(content: bytes, chance: random.Random) -> bytes:
    """Other arrays."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    for name in list(arrays):
        if chance.random() < 0.5:
            arrays[name] = _odd_array(chance)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _odd_array(chance: random.Random) -> Any:
    dtype = chance.choice(("f4", "f8", "u1", "i8", "c8", "b1", "U3", "S2", ">f8", "f2", "M8[s]", "O", "V4"))
    shape = chance.choice(((), (0,), (4,), (4, 4), (3, 4), (2, 2, 2), (1, 10_000)))
    return np.zeros(shape, dtype)


def repacked(content: bytes, chance: random.Random) -> bytes:
    """A zip with other members, of which some may have one name."""
    file, rate = io.BytesIO(), chance.choice((0.03, 0.3))
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for member in old.infolist():
            data = old.read(member)
            if chance.random() < rate:
                data = chance.choice((mutated_bytes(data, chance), odd_bytes(chance), b"\0" * 100_000))
            name = member.filename if chance.random() >= rate else chance.choice(("../x", "/etc/x", "a\\b", "é" * 90))
            new.writestr(name, data, chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)))
    return file.getvalue()


def regzipped(content: bytes, chance: random.Random) -> bytes:
    """What is packed is changed, and packed again, perhaps twice."""
    packed = gzip.compress(mutated_bytes(gzip.decompress(content), chance), 1)
    return gzip.compress(packed) if chance.random() < 0.1 else packed


def repickled(content: bytes, chance: random.Random) -> bytes:
    """Another pickle of tables."""
    tables = {str(name): each for name, each in pickle.loads(content, encoding="bytes").items()}
    mutate(tables, chance)
    try:
        return pickle.dumps(
            {name.encode("utf-8", "replace"): each for name, each in tables.items()}, chance.randrange(5)
        )
    except RecursionError:  # a table is deeper than Python's pickler goes
        return mutated_bytes(content, chance)


def special(path: Path, chance: random.Random) -> None:
    """Something else under the name of a file."""
    kind = chance.choice(("folder", "pipe", "device", "endless", "nothing", "loop", "socket", "sparse", "absent"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as found, suppress(OSError):
            found.bind(str(path))
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(10**10)
    elif kind != "absent":
        targets = {"device": "/dev/zero", "endless": "/dev/urandom", "nothing": "/dev/null", "loop": path.name}
        path.symlink_to(targets[kind])


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────


class Brightness(ganrun.Metric):
    """The mean of the pixels, which needs no network."""

    def measure(self, evaluation: Any) -> list[ganrun.Score]:
        """One score."""
        value = evaluation.generated(8).float().mean().item()
        return [ganrun.Score("brightness", value, higher_is_better=True, protocol={"samples": 8}, error=0.5)]


class Gauge:
    """Offers it."""

    @ganrun.hookimpl
    def ganrun_metrics(self) -> dict[str, type[ganrun.Metric]]:
        """By name."""
        return {"brightness": Brightness}


@cache
def registry() -> Any:
    """The installed components, and the metric; found once."""
    return registry_with(Gauge())


@cache
def recipe(steps: int) -> Any:
    """That of the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "tables.toml", tomli_w.dumps(TABLES).encode())
        return load_recipe(path, registry(), [f"train.steps={steps}"])


def built(steps: int, output: Path, *, resume: bool = False) -> Any:
    """The run, ready to be executed."""
    return build_run(recipe(steps), output, resume=resume)


def make_runs(folder: Path) -> None:
    """Two runs."""
    from ganrun_mlflow.sync_state import SyncState

    execute(built(4, folder / "runs/good"))
    state = SyncState(
        uri="sqlite:///x.db", experiment="e", name="n", started=1.7e9, params={"a": "1"}, tags={}, dataset={}
    )
    state.write(RunDirectory(folder / "runs/good"))
    (folder / "runs/good/.lock").write_text(json.dumps({"host": "h", "pid": 9, "since": 1.7e9}))
    shutil.copytree(folder / "runs/good", folder / "runs/bad")


def make_export(folder: Path) -> None:
    """A run, and its export."""
    from ganrun_export.exporting import Request, export_run

    execute(built(4, folder / "run"))
    export_run(Request(str(folder / "run"), folder / "export"), registry=registry())


def compare(folder: Path) -> object:
    """`ganrun compare` and `ganrun report` of both runs."""
    from ganrun_report.as_json import comparison_json
    from ganrun_report.finding import find_runs
    from ganrun_report.page import write_page
    from ganrun_report.ranking import compare_runs
    from ganrun_report.reading import read_runs
    from ganrun_report.terminal import print_comparison

    runs, _ = read_runs(find_runs([str(folder / "runs")]))
    assert [run for run in runs if run.path.name == "good"], "compare goes on with the other runs"
    comparison = compare_runs(runs)
    print_comparison(comparison)
    json.loads(comparison_json(comparison))
    return write_page(folder / "page.html", comparison, 3)


def look(folder: Path) -> object:
    """What commands ask of the files of one run."""
    run = RunDirectory(folder / "runs/bad")
    warn_if_newer(run)
    found = latest_scores(run.evaluations(), 4, {})
    made_with(run.recipe_path)
    run.read_records()
    return run.status, run.sessions(), merged_summary(run.summary(), found)


def load(folder: Path) -> object:
    """`ganrun sample` and `ganrun export`, up to the samples."""
    from ganrun_export.facts import facts_of

    saved = find_saved_model(folder / "runs/bad", registry())
    model = saved.model("cpu")
    return facts_of(saved, model), model.sample(2)


def load_export(folder: Path) -> object:
    """`ganrun sample` of an export."""
    saved = find_saved_model(folder / "export", registry())
    return saved.recipe_text(), saved.model("cpu").sample(2)


def resume(folder: Path) -> object:
    """`ganrun resume`, up to the first step and beyond."""
    return execute(built(5, folder / "runs/bad", resume=True))


def sync(folder: Path) -> object:
    """What `ganrun sync` reads."""
    from ganrun_mlflow.sync_state import SyncState

    return SyncState.read(RunDirectory(folder / "runs/bad"))


def make_store(folder: Path) -> None:
    """A run, and an MLflow store that has it, as far as ganrun asks."""
    make_runs(folder)
    with closing(sqlite3.connect(folder / "store.db")) as connection, connection:
        connection.executescript(
            """CREATE TABLE runs (run_uuid, start_time, lifecycle_stage, artifact_uri, experiment_id);
            CREATE TABLE tags (run_uuid, key, value); CREATE TABLE experiments (experiment_id, artifact_location);
            INSERT INTO runs VALUES ('r', 1700000000000, 'active', 'file:///x/mlruns/1', 1);
            INSERT INTO experiments VALUES (1, 'file:///x/mlruns/1');
            INSERT INTO tags VALUES ('r', 'run_directory', '/x')"""
        )
    (folder / "store.db-journal").write_bytes(b"")


def ask_store(folder: Path) -> object:
    """Whether the store that a run directory names has its run."""
    from ganrun_mlflow.home import store_of
    from ganrun_mlflow.sync_state import SyncState

    directory = RunDirectory(folder / "runs/bad")
    state = SyncState(
        uri=f"sqlite:///{folder}/store.db", experiment="e", name="n", started=1.7e9, params={}, tags={}, dataset={}
    )
    state.progress.run_id = "r"
    return store_of(state, directory)


def lock_of(folder: Path) -> object:
    """What a lock says of its holder."""
    with suppress(OSError):  # of those who ask; they go on without
        str(Holder.read(folder / "runs/bad/.lock"))
    return RunDirectory(folder / "runs/bad").status


def best_of(folder: Path) -> object:
    """The score for which a checkpoint is kept."""
    return score_of(folder / "runs/bad/checkpoints/best")


READY: list[Any] = []
"""A run that has restored a checkpoint without a fault, and so can restore the next."""


def restore(folder: Path) -> object:
    """A checkpoint, restored and trained on. One that is damaged gives way to the one before."""
    run = READY.pop() if READY else built(4, folder / "new")
    found = latest_checkpoint(folder / "runs/bad")
    assert found is not None
    run.state.load(found)
    assert 0 <= run.step < 2**63 and 0 <= run.images_seen < 2**63 and 0 <= run.state.seconds < float("inf")
    build_step(run, Measurements())()
    READY.append(run)
    return run.step


def weights_of(folder: Path) -> object:
    """The step and the weights of a checkpoint."""
    path = folder / "runs/bad/checkpoints/step_00000004"
    return step_of(path), find_checkpoint(path), latest_checkpoint(folder / "runs/bad")


def sign(folder: Path, path: Path, chance: random.Random) -> None:
    """Make the manifest fit what the files hold now, mostly."""
    manifest = path.parent / "manifest.json"
    if path == manifest or chance.random() < 0.2:
        return
    content = json.loads(manifest.read_bytes())
    sums = content["sha256"]
    content["sha256"] = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in sums}
    manifest.write_text(json.dumps(content))


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────


def data_reader(component: str, **settings: Any) -> Callable[[Path], object]:
    """Prepares the data set in the folder."""

    def read(folder: Path) -> object:
        cls = registry().find("data", component).cls
        data = cls(cls.Settings(root=str(folder / "data"), **settings))
        data.prepare()
        return data.manifest(), data.split("train")

    return read


def make_mnist(folder: Path, packed: bool) -> None:
    """Four small files in IDX."""
    for name, shape in (("train-images-idx3", (9, 28, 28)), ("train-labels-idx1", (9,))):
        for half in ("train", "t10k"):
            head = bytes((0, 0, 8, len(shape))) + b"".join(side.to_bytes(4, "big") for side in shape)
            content = head + bytes(index % 10 for index in range(int(np.prod(shape))))
            path = folder / "data" / f"{name.replace('train', half)}-ubyte{'.gz' if packed else ''}"
            written(path, gzip.compress(content) if packed else content)


def make_cifar(folder: Path, form: str) -> None:
    """Small batches of CIFAR-10: `bin`, `py` or `tar`."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    labels, pixels = list(range(10)), np.arange(10 * 3072, dtype=np.uint32).astype(np.uint8)
    record = b"".join(bytes([label]) + pixels[:3072].tobytes() for label in labels)
    pickled = pickle.dumps({b"labels": labels, b"data": pixels.tobytes(), b"filenames": [b"a.png"] * 10}, 2)
    content = pickled if form == "py" else record
    if form != "tar":
        suffix = ".bin" if form == "bin" else ""
        for name in names:
            written(folder / "data" / f"cifar-10-batches-{form}" / f"{name}{suffix}", content)
        return
    (folder / "data").mkdir()
    with tarfile.open(folder / "data/cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def make_svhn(folder: Path) -> None:
    """Two small files of MATLAB."""
    from scipy.io import savemat

    (folder / "data").mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):
        content = {"X": np.zeros((32, 32, 3, 10), np.uint8), "y": np.arange(1, 11, dtype=np.uint8)[:, None]}
        savemat(folder / "data" / name, content, do_compression=True)


def make_stl(folder: Path) -> None:
    """Four small files of STL-10."""
    for split in ("train", "test"):
        written(folder / f"data/{split}_X.bin", bytes(3 * 96 * 96 * 10))
        written(folder / f"data/{split}_y.bin", bytes(range(1, 11)))


def make_emnist(folder: Path) -> None:
    """The archive, with the files of one subset."""
    (folder / "data").mkdir()
    with zipfile.ZipFile(folder / "data/gzip.zip", "w") as archive:
        for split in ("train", "test"):
            for kind, shape in (("images-idx3", (10, 28, 28)), ("labels-idx1", (10,))):
                head = bytes((0, 0, 8, len(shape))) + b"".join(side.to_bytes(4, "big") for side in shape)
                content = head + bytes(index % 10 for index in range(int(np.prod(shape))))
                archive.writestr(f"gzip/emnist-digits-{split}-{kind}-ubyte.gz", gzip.compress(content))


def make_pictures(folder: Path, ending: str = "png") -> None:
    """Two classes of three pictures, with three lists of labels."""
    for number in range(6):
        path = folder / "data" / "ab"[number % 2] / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((12, 9), 50).convert("RGB").save(path)


def make_halves(folder: Path, ending: str = "png") -> None:
    """Pictures of two halves, in two splits."""
    for number in range(6):
        path = folder / "data" / ("train", "val")[number % 2] / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((18, 9), 50).convert("RGB").save(path)


def make_sides(folder: Path) -> None:
    """Pictures of two kinds of the same names, in two splits, with the endings of two formats."""
    for name in ("trainA", "trainB", "testA", "testB"):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(3):
            ending = "png" if name.endswith("A") else "jpg"
            Image.effect_noise((12, 9), 50).convert("RGB").save(folder / "data" / name / f"{number}.{ending}")


def make_zipped_sides(folder: Path) -> None:
    """The same in a zip, which takes their place."""
    make_sides(folder)
    _zipped(folder)


def read_degraded(folder: Path) -> object:
    """Prepares what degradations leave of pictures in the folder, or takes it from the cache, as a new run does."""
    find = registry().find
    of, cls = (find("data", name).cls for name in ("image-folder", "degraded"))
    own = of.Settings(root=str(folder / "data"), size=8)
    data = cls(cls.Settings(of={"use": "image-folder"}, blur=1.0, noise=9.0, mask="random"), of=of(own))
    data.prepare()
    return data.manifest(), data.split("train"), data.check_files()


def make_degraded(folder: Path) -> None:
    """Pictures, and their cache."""
    make_pictures(folder)
    os.environ["GANRUN_CACHE"] = str(folder / "cache")
    read_degraded(folder)


def make_labelled(folder: Path, name: str) -> None:
    """Pictures without classes, and a list of labels."""
    for number in range(6):
        (folder / "data").mkdir(exist_ok=True)
        Image.effect_noise((12, 9), 50).convert("RGB").save(folder / "data" / f"{number}.png")
    rows = [(f"{number}.png", number % 2) for number in range(6)]
    texts = {
        "dataset.json": json.dumps({"labels": rows}),
        "metadata.csv": "file_name,label\n" + "".join(f"{file},{label}\n" for file, label in rows),
        "metadata.jsonl": "".join(json.dumps({"file_name": file, "label": label}) + "\n" for file, label in rows),
    }
    (folder / "data" / name).write_text(texts[name])


def make_zip(folder: Path) -> None:
    """The pictures in a zip, which takes their place."""
    make_pictures(folder)
    _zipped(folder)


def _zipped(folder: Path) -> None:
    shutil.make_archive(str(folder / "zipped"), "zip", folder / "data")
    shutil.rmtree(folder / "data")
    (folder / "zipped.zip").rename(folder / "data")


def read_picture(folder: Path) -> object:
    """Decoded, and transformed."""
    from ganrun import UnreadableError, open_picture
    from ganrun_datasets.pictures.picture import Transform
    from ganrun_datasets.pictures.sources import Folder

    source = Folder(folder / "data/a")
    try:
        with ExitStack() as handles:
            contents = [source.reader(handles)(name) for name in source.stamps if name.startswith("0.")]
        return [Transform(8)(open_picture(each)) for each in contents]
    except UnreadableError as error:
        raise ganrun.DataError(str(error)) from error


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


def changed_state(content: bytes, chance: random.Random) -> bytes:
    """Other tensors in a file of torch."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    mutate(state, chance)
    for name in [name for name in state if chance.random() < 0.3]:
        state[name] = chance.choice((odd_tensor(chance), _odd_layout(chance)))
    file = io.BytesIO()
    with suppress(Exception):
        torch.save(state, file)
        return file.getvalue()
    return content


def _odd_layout(chance: random.Random) -> torch.Tensor:
    """Of the shape of a weight, but not as weights are stored."""
    plain = torch.ones(chance.choice(((3, 2), (3,))))
    kinds = (torch.float16, torch.float64, torch.complex64, torch.int32, torch.bool)
    odd = (plain.to_sparse(), plain.to("meta"), *map(plain.to, kinds))
    return chance.choice(odd)


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


def make_emoji(folder: Path) -> None:
    """A package as npm packs it."""
    names = [f"1f6{number:02d}.png" for number in range(30)]
    rows = [
        {"name": "FACE", "unified": name[:5].upper(), "image": name, "category": "Smileys & Emotion", "sort_order": 1}
        | {"has_img_google": True, "subcategory": "face", "short_name": name[:5]}
        for name in names
    ]
    picture = io.BytesIO()
    Image.new("RGBA", (64, 64), (200, 100, 0, 255)).save(picture, "png")
    files = {"package/emoji.json": json.dumps(rows).encode(), "package/package.json": b'{"version": "16.0.0"}'}
    files |= {f"package/img/google/64/{name}": picture.getvalue() for name in names}
    (folder / "data").mkdir()
    with tarfile.open(folder / "data/emoji-datasource-google-16.0.0.tgz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def make_celeba(folder: Path, form: str = "txt") -> None:
    """Six pictures with their lists, as text or as comma-separated values; or with a zip of the pictures."""
    lines = [f"{number:06d}.jpg {1 - 2 * (number % 2)} -1" for number in range(1, 7)]
    splits = [f"{number:06d}.jpg {0 if number < 5 else 2}" for number in range(1, 7)]
    headings = ["image_id Smiling Male"], ["image_id partition"]
    if form != "csv":
        headings = ["6", "Smiling Male"], []
    for name, heading, rows in zip(("attr_celeba", "eval_partition"), headings, (lines, splits), strict=True):
        text = "\n".join([*heading, *rows, ""])
        if form == "csv":
            written(folder / f"data/list_{name}.csv", text.replace(" ", ",").encode())
        else:
            written(folder / f"data/list_{name}.txt", text.encode())
    (folder / "data/img_align_celeba").mkdir()
    for number in range(1, 7):
        Image.effect_noise((178, 218), 50).convert("RGB").save(folder / f"data/img_align_celeba/{number:06d}.jpg")
    if form == "zip":
        shutil.make_archive(str(folder / "data/img_align_celeba"), "zip", folder / "data", "img_align_celeba")
        shutil.rmtree(folder / "data/img_align_celeba")


def make_binarized(folder: Path) -> None:
    """Three small files of digits."""
    for part in ("train", "valid", "test"):
        rows = "\n".join(" ".join("01"[(number + place) % 2] for place in range(784)) for number in range(9))
        written(folder / f"data/binarized_mnist_{part}.amat", rows.encode())


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
