"""Interprets folders: derives splits and classes of pictures from file names and lists of labels beside them."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np

from ganrun import DataError, is_picture, one_line
from ganrun_datasets.pictures.data import Layout
from ganrun_datasets.pictures.labels import Labels, labels_of, read_lists
from ganrun_datasets.pictures.sources import Source
from ganrun_datasets.pictures.splits import Part, Parts, find_parts
from ganrun_datasets.pictures.tree import Tree, check_no_derived, listed, mask_files

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".parquet", ".tfrecord", ".npz")

SHARD_DIGITS = 5
"""Numbers of this length, such as FFHQ's 00000 and 01000, are rarely classes."""


@dataclass(frozen=True)
class FolderLayout(Layout):
    """A layout whose classes are folders, or are listed in a file."""

    classes: tuple[str, ...] = ()
    """The names of the classes: sorted as text, or by value if all are numbers."""

    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The folders of each split, each with a slash at the end; the root is empty."""

    unused: Mapping[str, int] = field(default_factory=dict)
    """Folders that belong to no split, with the number of their pictures."""

    label_files: Mapping[str, str] = field(default_factory=dict)
    """The lists of labels that were read, each with a digest of its content."""

    notes: tuple[str, ...] = ()
    """Warnings about likely mistakes."""


def read_layout(source: Source, labelled: bool, splits: bool | None = None) -> FolderLayout:
    """Find splits, classes and labels.

    Args:
        source: The files.
        labelled: Whether pictures have classes.
        splits: Whether the first folders are the splits; None: decide by their names.

    Raises:
        DataError: if there is no picture, or folders or lists of labels contradict each other.
    """
    names = sorted(filter(is_picture, source.stamps))
    if not names:
        raise DataError(_no_pictures(source))
    tree = Tree(names)
    check_no_derived(tree)
    parts = find_parts(tree, splits)
    notes = list(_notes_on_files(source, names))
    lists = read_lists(source, tree, [part.class_of for part in parts.by_split.values()], notes) if labelled else []
    used = {split: labels_of(part.class_of, lists) for split, part in parts.by_split.items()}
    class_of = {split: _classes(part, used[split], labelled) for split, part in parts.by_split.items()}
    classes = _common_classes(class_of)
    if not any(used.values()):
        notes += _notes_on_classes(tree, parts.by_split["train"], classes)
    return _layout(class_of, classes, parts, {each.file: each.digest for each in used.values() if each}, notes)


def _layout(
    class_of: Mapping[str, Mapping[str, str]],
    classes: tuple[str, ...],
    parts: Parts,
    label_files: Mapping[str, str],
    notes: Sequence[str],
) -> FolderLayout:
    ends = [0, *accumulate(map(len, class_of.values()))]
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[each] for part in class_of.values() for each in part.values() if classes]
    return FolderLayout(
        [name for part in class_of.values() for name in part],
        dict(zip(class_of, pairwise(ends), strict=True)),
        np.array(labels, np.int64) if classes else None,
        classes,
        {split: part.folders for split, part in parts.by_split.items()},
        parts.unused,
        label_files,
        tuple(notes),
    )


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────


def _classes(part: Part, labels: Labels | None, labelled: bool) -> Mapping[str, str]:
    """The class of each picture of a split; empty if there are none."""
    if labels is not None and labels.of is not None:
        return {name: labels.of[name] for name in part.class_of}
    if not labelled or labels is not None:
        return dict.fromkeys(part.class_of, "")
    beside = next((name for name, folder in part.class_of.items() if not folder), None)
    inside = next((name for name, folder in part.class_of.items() if folder), None)
    if beside is not None and inside is not None:
        raise DataError(
            f"some pictures are in a class's folder ({one_line(inside)}) and some in none ({one_line(beside)}); "
            "move them, or set labelled = false in [data]"
        )
    return part.class_of


def _common_classes(class_of: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The classes, which must be the same in all splits; a single one carries no information, and counts as none."""
    found = {split: set(part.values()) for split, part in class_of.items()}
    train, test = found["train"], found.get("test", found["train"])
    if len((train | test) - {""}) <= 1:
        return ()
    if train != test:
        raise DataError(_contradiction(train, test))
    return tuple(sorted(train, key=_by_value if all(map(_is_whole_number, train)) else None))


def _is_whole_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _by_value(number: str) -> tuple[int, str, str]:
    digits = number.lstrip("0")
    return len(digits), digits, number


def _contradiction(train: set[str], test: set[str]) -> str:
    for split, found, other in (("train", train, "test"), ("test", test, "train")):
        if found == {""}:
            return (
                f"the {other} split has classes, and the {split} split has none; move the {split} split away, or set "
                "labelled = false in [data]"
            )
    odd = min(train ^ test)
    split = "train" if odd in train else "test"
    advice = "give both splits the same classes, or set labelled = false in [data]"
    return f'only the {split} split has a class "{one_line(odd)}"; {advice}'


# ── What looks like a mistake ─────────────────────────────────────────────────────────────────────────────


def _notes_on_files(source: Source, names: Sequence[str]) -> Iterator[str]:
    empty = [each for each in source.listing.empty if each]
    if empty:
        yield f"{len(empty):,} folders are empty, so that they are no classes; the first is {one_line(empty[0])}"
    masks = list(mask_files(names))
    if masks:
        count = f"{len(masks):,} of {len(names):,} pictures"
        yield f"{count} have the names of masks of others, and are used as pictures; the first is {one_line(masks[0])}"


def _notes_on_classes(tree: Tree, part: Part, classes: Sequence[str]) -> Iterator[str]:
    """Notes on the classes of the train split."""
    spelled = defaultdict(list)
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold().strip()
        spelled[plain.lstrip("0") if _is_whole_number(plain) else plain].append(name)
    for twins in (each for each in spelled.values() if len(each) > 1):
        yield f"{listed(twins)} are different classes, though their names differ in case or spelling alone"
    top = part.folders if len(part.folders) > 1 else [f"{part.folders[0]}{each}/" for each in classes]
    within = {tuple(tree.within(folder)) for folder in top}
    shared = within.pop() if len(within) == 1 else ()
    if len(shared) > 1:
        yield (
            f"the classes are {listed(classes)}, and each holds the folders {listed(shared)}; if these are the "
            "classes, make them the first folders, or list the labels in metadata.csv"
        )
    yield from _notes_on_names(classes)


def _notes_on_names(classes: Sequence[str]) -> Iterator[str]:
    """Notes on names of classes that other folders have, too."""
    if classes and all(_is_whole_number(name) and len(name) == len(classes[0]) >= SHARD_DIGITS for name in classes):
        text = f"the classes are {listed(classes)}; if these numbers only divide the pictures among folders"
        yield f"{text}, set labelled = false in [data]"
    masks = [name for name in classes if re.search(r"(^|[-_ .])(masks?|anno(tations?)?)$", name, re.IGNORECASE)]
    if 0 < len(masks) < len(classes):
        text = f"the classes are {listed(classes)}; if {one_line(masks[0])} holds masks of the other pictures"
        yield f"{text}, move it away, or set root to a folder without it"


def _no_pictures(source: Source) -> str:
    if not source.stamps:
        return f"{source.path} is empty"
    count, first = len(source.stamps), one_line(next(iter(source.stamps)))
    files = "1 file" if count == 1 else f"{count:,} files"
    packed = any(name.lower().endswith(ARCHIVES) for name in source.stamps)
    hint = "; unpack its archives, or set root to one that is a zip" if packed else ""
    return f"{source.path} holds no pictures: it has {files}, such as {first}, but no .jpg, .png or similar{hint}"
