"""Recognises folders that are splits, by their names: train/cat, cat/train and cat_train, and synonyms."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ganrun import DataError, one_line
from ganrun_datasets.pictures.tree import Tree, listed

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("eval", "evaluation"), "eval"),
    **dict.fromkeys(("holdout", "hold-out", "hold_out", "heldout"), "holdout"),
    "dev": "dev",
}
"""Folder names in lower case, with their meaning. Except for train, the first that exists is the test split."""

_WORD = f"({'|'.join(sorted(WORDS, key=len, reverse=True))})"
_UPPER, _LOWER = "(?=(?-i:[A-Z]))", r"(?<=(?-i:[a-z\d]))"
_FIRST = re.compile(rf"{_WORD}(?:[\W_]+|(?=\d)|{_UPPER})(.+)", re.IGNORECASE)
_LAST = re.compile(rf"(.+?)(?:[\W_]+|{_LOWER}{_UPPER}){_WORD}", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """The pictures of one split."""

    class_of: dict[str, str]
    """The folder that stands for the class of each picture, sorted by picture; empty for one in no such folder."""

    folders: tuple[str, ...]
    """The folders that make up this split, each with a slash at the end."""


@dataclass(frozen=True)
class Parts:
    """The splits of a tree."""

    by_split: Mapping[str, Part]
    unused: Mapping[str, int] = field(default_factory=dict)
    """Folders that belong to no split, with the number of their pictures; for the enclosing folder, only the pictures
    directly in it."""


class _Folder(NamedTuple):
    """A folder's name as that of a split: cats_train is the stem cats and the word train."""

    name: str
    word: str
    stem: str = ""


def find_parts(tree: Tree, splits: bool | None) -> Parts:
    """Find the splits, and the folders that may be classes in each.

    Args:
        tree: All pictures.
        splits: Whether the first folders are splits; None: decide by their names.

    Raises:
        DataError: if the names do not decide it, or there is no train split.
    """
    outer = tree.look_through("", tuple(WORDS))
    if splits is False:
        return Parts({"train": _part(tree, outer)})
    found = tree.within(outer)
    nested = _nested(tree, outer)
    folders = _exact(found) or _paired(found)
    if nested and not folders and _are_all_within(tree, outer, nested):
        return _parts(tree, outer, _within(tree, outer))
    if nested:
        raise DataError(
            f"{listed(tree.within(nested[0]))} are side by side in {one_line(nested[0])}, so test data may be trained "
            "on; set root to that folder, or set splits = false in [data] if these are no splits"
        )
    if not folders:
        _check_no_splits_wanted(splits, found)
        return Parts({"train": _part(tree, outer)})
    return _top_parts(tree, outer, folders, splits)


def _check_no_splits_wanted(splits: bool | None, found: Sequence[str]) -> None:
    if splits:
        raise DataError(f"splits = true in [data], but the folders are {listed(found) or 'none'}; none is called train")


def _part(tree: Tree, folder: str) -> Part:
    """One folder as a split; the folders below are its classes."""
    inner = tree.look_through(folder)
    return Part({name: name[len(inner) :].rpartition("/")[0].partition("/")[0] for name in tree.below(inner)}, (inner,))


# ── Splits that are the first folders ─────────────────────────────────────────────────────────────────────


def _exact(found: Iterable[str]) -> list[_Folder]:
    """The folders named after splits."""
    return [_Folder(name, WORDS[name.lower()]) for name in found if name.lower() in WORDS]


def _paired(found: Iterable[str]) -> list[_Folder]:
    """The folders whose names contain those of splits, if there are such of train and another with the same stem."""
    by_stem = defaultdict(list)
    for name in found:
        first, last = _FIRST.fullmatch(name), _LAST.fullmatch(name)
        if bool(first) != bool(last):
            stem, word = (first[2], first[1]) if first else (last[1], last[2])  # type: ignore[index]
            by_stem[stem].append(_Folder(name, WORDS[word.lower()], stem))
    pairs = [each for each in by_stem.values() if _is_pair(folder.word for folder in each)]
    return [folder for each in pairs for folder in each]


def _is_pair(words: Iterable[str]) -> bool:
    found = set(words)
    return "train" in found and len(found) > 1


def _top_parts(tree: Tree, outer: str, folders: Sequence[_Folder], splits: bool | None) -> Parts:
    names = {folder.name for folder in folders}
    others = [each for each in tree.within(outer) if each not in names]
    if splits is None and (others or outer in tree.holders):
        raise DataError(
            f"{listed(sorted(names))} and {listed(others) or 'pictures'} are side by side, so it is unclear which are "
            "splits and which are classes; in [data], set splits = true to use the splits and ignore the rest, or "
            "splits = false if there are no splits"
        )
    return _parts(tree, outer, folders, others)


def _parts(tree: Tree, outer: str, folders: Sequence[_Folder], others: Sequence[str] = ()) -> Parts:
    """The splits that are made up of `folders`, whose names start at `outer`."""
    chosen = chosen_words({folder.word for folder in folders})
    have_classes = len({folder.stem for folder in folders}) > 1
    grouped = {word: [folder for folder in folders if folder.word == word] for word in chosen}
    parts = {
        "train" if word == "train" else "test": _joined(tree, outer, grouped[word], have_classes) for word in chosen
    }
    unused = [*others, *(folder.name for folder in folders if folder.word not in chosen)]
    counts = {f"{outer}{each}/": len(tree.below(f"{outer}{each}/")) for each in sorted(unused)}
    beside = sum("/" not in name[len(outer) :] for name in tree.below(outer))
    return Parts(parts, counts | ({outer or "./": beside} if beside else {}))


def chosen_words(words: set[str]) -> list[str]:
    """The words of the train and the test split.

    Raises:
        DataError: if there is none of the train split.
    """
    if "train" not in words:
        raise DataError(
            f"there is a folder {min(words)}, but no folder train; set root to the folder {min(words)} to read it alone"
        )
    return ["train", *[word for word in dict.fromkeys(WORDS.values()) if word in words - {"train"}][:1]]


def _joined(tree: Tree, outer: str, folders: Sequence[_Folder], have_classes: bool) -> Part:
    """One split from its folders: one for each class, or a single one with the classes within."""
    stems = [folder.stem for folder in folders]
    repeated = sorted(folder.name for folder in folders if stems.count(folder.stem) > 1)
    if repeated:
        raise DataError(f"{listed(repeated)} are side by side, so it is unclear which is the split; move one away")
    if not have_classes:
        return _part(tree, f"{outer}{folders[0].name}/")
    class_of = {name: folder.stem for folder in folders for name in tree.below(f"{outer}{folder.name}/")}
    return Part(dict(sorted(class_of.items())), tuple(f"{outer}{folder.name}/" for folder in folders))


# ── Splits within classes ─────────────────────────────────────────────────────────────────────────────────


def _nested(tree: Tree, outer: str) -> list[str]:
    """The folders below `outer` that hold a folder train and a folder of another split."""
    pairs = [each for each, found in tree.folders.items() if _is_pair(folder.word for folder in _exact(found))]
    return sorted(each for each in pairs if each != outer)


def _are_all_within(tree: Tree, outer: str, nested: Sequence[str]) -> bool:
    """Whether every first folder holds a split train, others, and nothing else."""
    is_whole = all(len(_exact(tree.within(each))) == len(tree.within(each)) for each in nested)
    is_apart = tree.holders.isdisjoint({outer, *nested})
    return is_whole and is_apart and set(nested) == {f"{outer}{each}/" for each in tree.within(outer)}


def _within(tree: Tree, outer: str) -> list[_Folder]:
    return [
        folder._replace(name=f"{each}/{folder.name}", stem=each)
        for each in tree.within(outer)
        for folder in _exact(tree.within(f"{outer}{each}/"))
    ]
