"""The two sides of folders of pictures: which pictures are of which side, in each split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ganrun import DataError, is_picture, one_line
from ganrun_datasets.pictures.sources import Source
from ganrun_datasets.pictures.splits import WORDS, chosen_words
from ganrun_datasets.pictures.tree import Tree, listed

Side = Mapping[str, str]
"""The pictures of one side in one split: each file, by its path below the side's folder without its ending."""

LISTED = 5
"""Pictures without a partner that a message names."""


@dataclass(frozen=True)
class Sides:
    """The pictures of both sides."""

    by_split: Mapping[str, tuple[Side, Side]]
    """Those of the first and of the second side, sorted, for `train` and, if there is one, `test`."""

    unused: int = 0
    """Pictures that are in the folder of no side, or of a split that is not used."""


def find_sides(source: Source, names: tuple[str, str]) -> Sides:
    """Find the folders of both sides: `trainA` and `trainB`, `train/A` and `train/B`, `A/train` and `B/train`, or `A`
    and `B` without splits.

    Args:
        source: The files.
        names: The folders' names, such as A and B; their case does not matter.

    Raises:
        DataError: if there are none, one side is missing, or two pictures of a side differ in their ending alone.
    """
    pictures = sorted(filter(is_picture, source.stamps))
    tree = Tree(pictures)
    outer = tree.look_through("", (*WORDS, *(name.lower() for name in names)))
    found: dict[str, tuple[dict[str, str], dict[str, str]]] = defaultdict(lambda: ({}, {}))
    for picture in pictures:
        place = _place(picture[len(outer) :].split("/"), names) if picture.startswith(outer) else None
        if place is not None:
            word, side, rest = place
            _add(found[word][side], rest.rpartition(".")[0] or rest, picture)
    if not found:
        raise DataError(f"{one_line(str(source.path))} {_lack(tree, outer)}; {_expected(names)}")
    splits = _splits(found, names)
    used = sum(len(side) for both in splits.values() for side in both)
    return Sides(splits, len(pictures) - used)


def matched(sides: Sides, names: tuple[str, str]) -> dict[str, list[tuple[str, str]]]:
    """The pairs of each split, sorted: a picture of the first side, and that of the second one of the same name.

    Raises:
        DataError: if a picture has no partner; lists the first such.
    """
    lines = [line for split, both in sides.by_split.items() for line in _unmatched(split, both, names)]
    if lines:
        advice = "both of a pair have the same name, but for the ending; rename them, or remove what has no partner"
        raise DataError("\n".join(["pictures do not match:", *lines, advice]))
    return {split: [(first[key], second[key]) for key in first] for split, (first, second) in sides.by_split.items()}


def _unmatched(split: str, both: tuple[Side, Side], names: tuple[str, str]) -> Iterator[str]:
    for place, (side, other) in enumerate((both, both[::-1])):
        odd = [file for key, file in side.items() if key not in other]
        if odd:
            more = f" and {len(odd) - LISTED:,} more" if len(odd) > LISTED else ""
            found = f"{len(odd):,} of {len(side):,} of {names[place]} have no partner in {names[1 - place]}"
            yield f"  {split}: {found}: {', '.join(map(one_line, odd[:LISTED]))}{more}"


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────


def _place(parts: Sequence[str], names: tuple[str, str]) -> tuple[str, int, str] | None:
    """The split's word, or nothing if there are no splits; the side; and the rest of the path."""
    folders, file = [part.lower() for part in parts[:-1]], parts[-1]
    sides = {name.lower(): side for side, name in enumerate(names)}
    for depth, (word, side) in enumerate(_readings(folders)):
        if word in {*WORDS, ""} and side in sides:
            rest = parts[2 if depth < 2 else 1 : -1]
            return WORDS.get(word, ""), sides[side], "/".join([*rest, file])
    return None


def _readings(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Possible meanings of the first folders, as a word and a side: of both of two folders, then of the first alone."""
    first, second = [*folders, "", ""][:2]
    yield first or "-", second
    yield second or "-", first
    joined = _JOINED.fullmatch(first)
    yield (joined[1], joined[2]) if joined else ("-", "")
    yield "", first


_JOINED = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})[-_. ]?(.+)")


def _add(side: dict[str, str], key: str, picture: str) -> None:
    if key in side:
        raise DataError(f"{one_line(side[key])} and {one_line(picture)} differ in their endings alone; remove one")
    side[key] = picture


def _splits(
    found: Mapping[str, tuple[dict[str, str], dict[str, str]]], names: tuple[str, str]
) -> dict[str, tuple[Side, Side]]:
    """The train and the test split; each has both sides."""
    if "" in found and len(found) > 1:
        raise DataError(f"some pictures are in folders of splits ({listed(sorted(set(found) - {''}))}), some in none")
    words = [""] if "" in found else chosen_words(set(found))
    for word in words:
        lacking = [name for name, side in zip(names, found[word], strict=True) if not side]
        if lacking:
            where = f" for {word}" if word else ""
            raise DataError(f"there are no pictures of {lacking[0]}{where}, only of the other side; {_expected(names)}")
    return dict(zip(("train", "test"), (found[word] for word in words), strict=False))


def _lack(tree: Tree, outer: str) -> str:
    if not tree.names:
        return "holds no pictures"
    return f"has no folders of two sides, only {listed(tree.within(outer)) or 'pictures'}"


def _expected(names: tuple[str, str]) -> str:
    first, second = names
    return (
        f"the folders are train{first} and train{second}, train/{first} and train/{second}, {first}/train and "
        f"{second}/train, or {first} and {second} without splits"
    )
