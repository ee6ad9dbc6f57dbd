"""Data against its spec: each fault is reported at [data] before a run directory exists, and by the kit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ganrun
from ganrun import Data, DataError, DataSpec, RequestError, Split, hookimpl
from ganrun.rehearsal import arrays
from ganrun.rehearsal.data import check_batch, check_data
from ganrun.testing import assert_conforms, build

COUNT = 12
SHAPE = (3, 4, 6)
SPEC = DataSpec(SHAPE, classes=3, fields={"source": (1, 4, 6), "pose": (2,)})


def whole(name: str) -> Split:
    """A split that keeps every clause."""
    random = np.random.default_rng(len(name))
    images = random.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)
    source = random.uniform(-1, 1, (COUNT, 1, 4, 6)).astype(np.float32)
    pose = random.uniform(0, 1, (COUNT, 2)).astype(np.float32)
    return Split(images, np.arange(COUNT) % 3, {"source": source, "pose": pose})


class Faulty(Data):
    """Twelve records, with one fault or none."""

    class Settings(ganrun.Settings):
        fault: str = ""
        """What is wrong."""

        where: str = "train"
        """The split that is wrong."""

    def spec(self) -> Any:
        return SPECS.get(self.settings.fault, (SPEC, ""))[0]

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Any:
        change = SPLITS[self.settings.fault][0] if self.settings.fault in SPLITS else lambda split: split
        return change(whole(name)) if name == self.settings.where else whole(name)

    def class_names(self) -> tuple[str, ...]:
        return ("a", "b") if self.settings.fault == "class names" else ("a", "b", "c")

    def manifest(self) -> Any:
        found = dict(super().manifest())
        return {**found, **MANIFESTS[self.settings.fault][0]} if self.settings.fault in MANIFESTS else found

    def fingerprint(self, name: str = "train") -> str:
        return str(np.random.rand()) if self.settings.fault == "fingerprint" else super().fingerprint(name)


class Plugin:
    """Offers the data set."""

    @hookimpl
    def ganrun_data(self) -> dict[str, type[Data]]:
        return {"faulty": Faulty}


def images(change: Callable[[Any], Any]) -> Callable[[Split], Split]:
    return lambda split: replace(split, images=change(split.images))


def labels(change: Callable[[Any], Any]) -> Callable[[Split], Split]:
    return lambda split: replace(split, labels=change(split.labels))


def field(name: str, change: Callable[[Any], Any]) -> Callable[[Split], Split]:
    return lambda split: replace(split, beside={**split.beside, name: change(split.beside[name])})


def as_float(pixels: Any) -> Any:
    return (pixels / 127.5 - 1).astype(np.float32)


def with_nan(array: Any) -> Any:
    array = array.astype(np.float32) / 127.5 - 1
    array[7] = np.nan
    return array


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


SPLITS: dict[str, tuple[Callable[[Split], Any], str]] = {
    "tensor": (images(torch.from_numpy), "images are of type torch.Tensor; return tensor.cpu().numpy()"),
    "list": (images(list), "images are of type list; return a NumPy array"),
    "objects": (images(lambda x: x.astype(object)), "images are object, not uint8 or float32; an array of objects"),
    "float64": (images(lambda x: x / 127.5 - 1), "images are float64, not uint8 or float32; return array.astype(nu"),
    "int64": (images(lambda x: x.astype(np.int64)), "images are int64, not uint8 or float32; return array.astype(n"),
    "foreign": (images(lambda x: as_float(x).astype(">f4")), "images are >f4, not uint8 or float32"),
    "empty": (images(lambda x: x[:0]), "images are empty: their shape is (0, 3, 4, 6); return at least one row"),
    "channels last": (images(lambda x: x.transpose(0, 2, 3, 1).copy()), "images are (12, 4, 6, 3), not (count, 3, 4, 6)"
                      " as its spec says; their channels are last (NHWC): return array.transpose(0, 3, 1, 2).copy()"),
    "flat": (images(lambda x: x.reshape(COUNT, -1)), "are (12, 72), not (count, 3, 4, 6) as its spec says; return ar"),
    "other size": (images(lambda x: x[..., :5].copy()), "images are (12, 3, 4, 5), not (count, 3, 4, 6) as its spec"),
    "read-only": (images(read_only), 'images are read-only; open a memory map with mmap_mode="c", or ret'),
    "reversed": (images(lambda x: x[..., ::-1]), "images are a view that torch cannot take"),
    "nan": (images(with_nan), "images are NaN or infinite in row 7"),
    "0 to 1": (images(lambda x: (x / 255).astype(np.float32)), "the upper half of [-1, 1] alone; return 2 * x - 1, o"),
    "0 to 255": (images(lambda x: x.astype(np.float32)), "not in [-1, 1]; return uint8 from 0 to 255, or x / 127.5"),
    "wide": (images(lambda x: 2 * as_float(x)), "images are float32 from -2 to 2, not in [-1, 1]; scale them"),
    "labels from 1": (labels(lambda x: x + 1), "labels reach from 1 to 3, and its spec says 3 classes, 0 to 2; they"
                      " count from 1: return labels - 1"),
    "no label": (labels(lambda x: x - 1), "labels reach from -1 to 1, and its spec says 3 classes, 0 to 2; leave out"),
    "too many labels": (labels(lambda x: 2 * x), "labels reach from 0 to 4, and its spec says 3 classes, 0 to 2; corr"),
    "one-hot": (labels(lambda x: np.eye(3, dtype=np.int64)[x]), "labels are (12, 3), not (12,); they are one-hot"),
    "column": (labels(lambda x: x[:, None]), "labels are (12, 1), not (12,); return one number for each image"),
    "int32": (labels(lambda x: x.astype(np.int32)), "labels are int32, not int64; return labels.astype(numpy.int64)"),
    "fewer labels": (labels(lambda x: x[:5]), "labels are 5 for 12 images; return one for each image"),
    "read-only labels": (labels(read_only), "labels are read-only"),
    "label list": (labels(list), "labels are of type list"),
    "no labels": (labels(lambda _: None), "its spec says 3 classes, and its train split has no labels; return them"),
    "no field": (lambda split: replace(split, beside={}), 'lacks the field "source" of its spec'),
    "unknown field": (lambda split: replace(split, beside={**split.beside, "mask": split.images}), '"mask" that its s'),
    "field tuple": (lambda split: replace(split, beside=()), "has beside=tuple; return arrays by the fields' names"),
    "fewer records": (field("source", lambda x: x[:5]), '5 records "source" for 12 images; return one for each image'),
    "field shape": (field("source", lambda x: x[:, 0]), 'records "source" are (12, 4, 6), not (count, 1, 4, 6) as its'
                    " spec says; their channel is missing: return array[:, numpy.newaxis]"),
    "field type": (field("source", lambda x: x > 0), 'records "source" are bool, not uint8 or float32; return array'),
    "field 0 to 1": (field("source", abs), 'the upper half of [-1, 1] alone'),
    "wide field": (field("pose", lambda x: 9 * x), "not in [-1, 1]; scale them: a generator's samples end at -1 and 1"),
    "not a split": (lambda split: (split.images, split.labels), "returns tuple, not ganrun.Split(images, labels)"),
}  # fmt: skip

SPECS: dict[str, tuple[Any, str]] = {
    "spec tuple": ((3, 4, 6), "its spec() returns a tuple; return ganrun.DataSpec"),
    "list shape": (replace(SPEC, sample_shape=[3, 4, 6]), "sample_shape=[3, 4, 6]; say a tuple of integers from 1"),
    "no shape": (replace(SPEC, sample_shape=()), "sample_shape (), without a side"),
    "batch in shape": (
        replace(SPEC, sample_shape=(-1, 4, 6)),
        "sample_shape=(-1, 4, 6); say a tuple of integers from 1",
    ),
    "classes": (replace(SPEC, classes=None), "classes=None; say their number"),
    "undeclared classes": (replace(SPEC, classes=0), "returns 3 for 0 classes"),
    "reserved": (replace(SPEC, fields={"labels": (1,)}), "its spec has a field 'labels'; give it a name other than"),
    "field as number": (replace(SPEC, fields={"pose": 2}), 'fields["pose"]=2; say a tuple of integers from 1'),
    "field list": (replace(SPEC, fields=["pose"]), "fields=['pose']; say their shapes by name"),
    "uint8 points": (DataSpec((72,), 3, SPEC.fields), "images are uint8, not float32; only images are uint8, and they"),
}

MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "array in manifest": ({"files": np.zeros(2)}, "its manifest() is not JSON: Object of type ndarray"),
    "nan in manifest": ({"mean": float("nan")}, "its manifest() is not JSON"),
    "no fingerprint": ({"fingerprint": None}, "its manifest() has no fingerprint"),
    "counts": ({"counts": {"train": 11, "test": COUNT}}, "has counts {'train': 11, 'test': 12}, not {'train': 12"),
}

OTHERS = {
    "class names": "its class_names() returns 2 for 3 classes; return one string for each class",
    "fingerprint": "its fingerprint() is not that of its manifest(), or changes from call to call",
}

FAULTS = {name: message for table in (SPLITS, SPECS, MANIFESTS) for name, (_, message) in table.items()} | OTHERS


def recipe(**data: Any) -> dict[str, Any]:
    return {
        "name": "faulty",
        "train": {"steps": 1, "batch_size": 4, "device": "cpu"},
        "data": {"use": "faulty", **data},
        "loss": {"use": "gan", "latent_size": 4},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        **dict.fromkeys(("samples", "progress", "mlflow", "checkpoints"), False),
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_at_the_datas_table_before_anything_is_written(fault: str, tmp_path: Path) -> None:
    output = tmp_path / "runs/run"
    with pytest.raises(RequestError) as caught:
        build(recipe(fault=fault), output, Plugin())
    assert FAULTS[fault] in str(caught.value)
    line = Path(f"{output}.toml").read_text(encoding="utf-8").splitlines().index("[data]") + 1
    assert str(caught.value).startswith(f"{output}.toml:{line}: [data] faulty")
    assert not output.exists()


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "fewer records"])
def test_the_kit_has_the_same_clauses(fault: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_conforms("data", Faulty, {"fault": fault})
    assert FAULTS[fault] in str(caught.value)


def test_what_has_no_fault_passes(tmp_path: Path) -> None:
    assert_conforms("data", Faulty)
    build(recipe(), tmp_path / "run", Plugin())
    check_data(Faulty(Faulty.Settings(fault="fewer records")), paired=False)


@pytest.mark.parametrize("fault", ["0 to 1", "labels from 1", "no field", "not a split"])
def test_the_test_split_is_tried_too(fault: str) -> None:
    with pytest.raises(DataError, match=r"test"):
        check_data(Faulty(Faulty.Settings(fault=fault, where="test")))
    check_data(Faulty(Faulty.Settings(fault="no labels", where="test")))


def test_a_batch_takes_no_record_twice(tmp_path: Path) -> None:
    tables = recipe()
    tables["train"]["batch_size"] = COUNT
    build(tables, tmp_path / "run", Plugin())
    tables["train"]["batch_size"] = COUNT + 1
    with pytest.raises(DataError, match=r"\[data\] faulty .*12 images, and a batch takes 13 different ones; lower"):
        build(tables, tmp_path / "other", Plugin())
    assert not (tmp_path / "other").exists()
    unpaired = Faulty(Faulty.Settings(fault="fewer records")).split("train")
    check_batch(unpaired, 5, paired=False)
    with pytest.raises(DataError, match="5 source"):
        check_batch(unpaired, 6, paired=False)


class OnlyTrain(Faulty):
    """Looks its splits up in a dict."""

    def split(self, name: str) -> Any:
        return {"train": whole("train")}[name]


def test_a_missing_test_split_must_be_a_data_error() -> None:
    with pytest.raises(DataError, match=r"its split\(\"test\"\) raises KeyError: 'test'; raise ganrun.unknown_split"):
        check_data(OnlyTrain(OnlyTrain.Settings()))


class Points(Data):
    """Points of one size."""

    def __init__(self, points: Any) -> None:
        super().__init__(None)
        self.points = points

    def spec(self) -> DataSpec:
        return DataSpec((2,))

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        return Split(self.points)


def test_points_have_the_unit_of_their_author_but_are_finite() -> None:
    check_data(Points(np.full((9, 2), 300, np.float32)))
    with pytest.raises(DataError, match="infinite in row 3"):
        check_data(Points(np.where(np.arange(9)[:, None] == 3, np.inf, np.ones((9, 2))).astype(np.float32)))


def test_of_a_large_array_a_fixed_share_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BYTES", 5_000)
    monkeypatch.setattr(arrays, "ROWS", 11)
    rows = np.concatenate([part for part, _ in arrays._floats(np.zeros((1001, 2), np.float32))])
    assert rows.tolist() == list(range(0, 1001, 100)), "the first and the last among them"
    wide = np.zeros((10, 1000), np.float32)
    assert len(next(arrays._floats(wide))[0]) == 1, "and never more bytes than that"
