"""Files of data sets, and what reads them."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from file_runs import registry
from fuzzing import written
from PIL import Image

import ganrun


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
