"""Checks data against its spec before a run's directory exists: one list of clauses, for the builder and the kit.

The contract is that of `DataSpec`, `Split` and `Data`. A clause is a function whose failure is a `DataError`: what was
found, and what to return instead. The builder locates it at `[data]`; `ganrun.testing` turns it into an AssertionError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganrun.base.errors import DataError, PluginError
from ganrun.base.frames import method
from ganrun.contracts.data import SPLITS, Data, Split
from ganrun.contracts.specs import DataSpec
from ganrun.inference.sources import IMAGE_OUTPUTS
from ganrun.rehearsal.arrays import BYTES, Column, check_column, check_is_array, check_memory

RESERVED = (*IMAGE_OUTPUTS, "encodings", "reconstructions", "samples", "latents", "class")
"""Names of metrics' requests and of factors, which no record field may have."""


def check_data(data: Data, *, paired: bool = True) -> dict[str, Any]:
    """Check prepared data against its spec; returns its manifest, as JSON, with the `fingerprints` of all splits.

    All labels are read. Of float32 arrays every value is read, or up to 1,024 rows spread over one of more than
    256 MiB; of uint8 arrays none. A second fingerprint is computed only below that size.

    Args:
        data: Prepared.
        paired: Whether row i of each field belongs to image i, as `Loss.paired` says.

    Raises:
        DataError: for the first clause that is broken.
    """
    with method("spec"):
        spec = data.spec()
    check_spec(spec)
    _check_class_names(data, spec)
    splits = {name: split for name in SPLITS if (split := _split(data, name)) is not None}
    for name, split in splits.items():
        tried = _Tried(name, split, spec, paired)
        for clause in CLAUSES:
            clause(tried)
    manifest = _checked_manifest(data, {name: len(split) for name, split in splits.items()})
    if _bytes_of(splits["train"]) <= BYTES:
        _check_fingerprint(data, manifest["fingerprint"])
    with method("fingerprint"):
        others = {name: data.fingerprint(name) for name in splits if name != "train"}
    return {**manifest, "fingerprints": {"train": manifest["fingerprint"], **others}}


def check_batch(
    train: Split,
    size: int,
    *,
    paired: bool = True,
    share: float = 1,
    setting: str = "[train] batch_size",
    where: str | None = None,
) -> None:
    """Check that the records to train on fill a batch without repetition.

    Args:
        train: Checked against its spec.
        size: Records of a batch.
        paired: As in `check_data`.
        share: Which share of the train split they are.
        setting: What decides the size, as a message names it.
        where: The setting's place.

    Raises:
        DataError: if it does not, located at the setting.
    """
    source = "its train split" if share == 1 else f"the share {share:g} of its train split"
    more = "return more" if share == 1 else "raise [train] share"
    parts = {"images": train.images} | ({} if paired else dict(train.beside))
    for name, array in parts.items():
        if len(array) < size:
            raise DataError(
                f"{source} has {len(array):,} {name}, and a batch takes {size:,} different ones; "
                + (f"lower {setting} to {len(array)}, or {more}" if len(array) else more),
                where=where,
            )


def check_spec(spec: DataSpec) -> None:
    """Check that a spec states shapes and a number of classes; needs no data.

    Raises:
        DataError: if it does not.
    """
    if not isinstance(spec, DataSpec):
        raise DataError(f"its spec() returns a {type(spec).__name__}; return ganrun.DataSpec(sample_shape, classes)")
    _check_shape("sample_shape", spec.sample_shape)
    if not spec.sample_shape:
        raise DataError("its spec has sample_shape (), without a side; say (features,) or (channels, height, width)")
    if not _is_count(spec.classes) or spec.classes < 0:
        raise DataError(f"its spec says classes={spec.classes!r}; say their number, or 0 for data without labels")
    if not isinstance(spec.fields, Mapping):
        raise DataError(f"its spec says fields={spec.fields!r}; say their shapes by name: {{'source': (3, 64, 64)}}")
    for name, shape in spec.fields.items():
        if not isinstance(name, str) or not name or name in RESERVED:
            raise DataError(f"its spec has a field {name!r}; give it a name other than {', '.join(RESERVED)}")
        _check_shape(f'fields["{name}"]', shape)


def _check_shape(name: str, shape: Any) -> None:
    if not isinstance(shape, tuple) or not all(_is_count(side) and side > 0 for side in shape):
        raise DataError(f"its spec says {name}={shape!r}; say a tuple of integers from 1, without the count")


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_class_names(data: Data, spec: DataSpec) -> None:
    with method("class_names"):
        names = data.class_names()
    if len(names) != spec.classes or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"its class_names() returns {len(names)} for {spec.classes} classes; return one string for each class"
        )


def _split(data: Data, name: str) -> Split | None:
    """A split; None for a test split that the data set does not have."""
    advice = "raise ganrun.unknown_split(name, known) for a split that it does not have"
    try:
        with method("split"):
            split = data.split(name)
    except DataError:
        if name == "train":
            raise
        return None
    except PluginError as error:
        cause = error.__cause__
        if not isinstance(cause, LookupError | ValueError):
            raise
        raise DataError(f'its split("{name}") raises {type(cause).__name__}: {cause}; {advice}') from cause
    if not isinstance(split, Split):
        raise DataError(
            f'its split("{name}") returns {type(split).__name__}, not ganrun.Split(images, labels); {advice}'
        )
    return split


# ── Clauses on a split, in order: each may rely on those before it ─────────────────────────────────────────


@dataclass(frozen=True)
class _Tried:
    """A split under trial."""

    name: str
    split: Split
    spec: DataSpec
    paired: bool


def _images_fit(tried: _Tried) -> None:
    check_column(Column(f"its {tried.name} images", tried.split.images, tried.spec.sample_shape))


def _fields_are_declared(tried: _Tried) -> None:
    found, declared = tried.split.beside, tried.spec.fields
    if not isinstance(found, Mapping):
        raise DataError(f"its {tried.name} split has beside={type(found).__name__}; return arrays by the fields' names")
    for name in declared:
        if name not in found:
            raise DataError(
                f'its {tried.name} split lacks the field "{name}" of its spec; return it in Split(…, beside={{…}})'
            )
    for name in found:
        if name not in declared:
            raise DataError(
                f'its {tried.name} split has a field "{name}" that its spec lacks; say DataSpec(…, fields={{…}})'
            )


def _fields_fit(tried: _Tried) -> None:
    for name, shape in tried.spec.fields.items():
        array = tried.split.beside[name]
        check_column(Column(f'its {tried.name} records "{name}"', array, shape, is_field=True))
        if tried.paired and len(array) != len(tried.split):
            found = f'its {tried.name} split has {len(array):,} records "{name}" for {len(tried.split):,} images'
            raise DataError(f"{found}; return one for each image, or use a loss for unpaired data")


def _labels_are_declared(tried: _Tried) -> None:
    """A test split may be unlabelled, as those of competitions are."""
    labels, classes = tried.split.labels, tried.spec.classes
    if classes and labels is None and tried.name == "train":
        raise DataError(
            f"its spec says {classes} classes, and its train split has no labels; return them, or say classes=0"
        )
    if labels is not None and not classes:
        raise DataError(
            f"its {tried.name} split has labels, and its spec says no classes; say their number, or return labels=None"
        )


def _labels_fit(tried: _Tried) -> None:
    if tried.split.labels is None:
        return
    name, labels, classes = f"its {tried.name} labels", tried.split.labels, tried.spec.classes
    check_is_array(name, labels)
    if labels.ndim != 1:
        one_hot = labels.ndim == 2 and labels.shape[1] == classes > 1
        advice = "they are one-hot: return labels.argmax(1)" if one_hot else "return one number for each image"
        raise DataError(f"{name} are {labels.shape}, not ({len(tried.split)},); {advice}")
    if labels.dtype != np.int64 or not labels.dtype.isnative:
        raise DataError(f"{name} are {labels.dtype}, not int64; return labels.astype(numpy.int64)")
    if len(labels) != len(tried.split):
        raise DataError(f"{name} are {len(labels):,} for {len(tried.split):,} images; return one for each image")
    check_memory(name, labels)
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{name} reach from {labels.min()} to {labels.max()}, and its spec says {classes} classes, 0 to"
            f" {classes - 1}; {_label_advice(labels.min(), labels.max(), classes)}"
        )


def _label_advice(low: int, high: int, classes: int) -> str:
    if (low, high) == (1, classes):
        return "they count from 1: return labels - 1"
    if low == -1:
        return "leave out images without a label, or give them a class"
    return "correct the labels, or the number of classes"


CLAUSES: tuple[Callable[[_Tried], None], ...] = (
    _images_fit,
    _fields_are_declared,
    _fields_fit,
    _labels_are_declared,
    _labels_fit,
)


# ── Clauses on the whole ──────────────────────────────────────────────────────────────────────────────────


def _checked_manifest(data: Data, counts: Mapping[str, int]) -> dict[str, Any]:
    with method("manifest"):
        found = data.manifest()
    try:
        manifest = json.loads(json.dumps(dict(found), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"its manifest() is not JSON: {error}; return plain numbers, strings, lists and dicts"
        ) from error
    if not isinstance(manifest.get("fingerprint"), str):
        raise DataError("its manifest() has no fingerprint; return {**super().manifest(), …}")
    stated = manifest.get("counts")
    if not isinstance(stated, dict) or any(stated.get(name) != count for name, count in counts.items()):
        raise DataError(f"its manifest() has counts {stated}, not {dict(counts)}; correct them")
    return dict(manifest)


def _bytes_of(split: Split) -> int:
    return sum(array.nbytes for array in (split.images, *split.beside.values()))


def _check_fingerprint(data: Data, expected: str) -> None:
    with method("fingerprint"):
        found = data.fingerprint()
    if found != expected:
        raise DataError(
            "its fingerprint() is not that of its manifest(), or changes from call to call; compute it from the images"
        )
