"""Lists of labels beside pictures: StyleGAN's dataset.json, and the metadata of Hugging Face's ImageFolder."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ganrun import DataError, UnreadableError, one_line
from ganrun_datasets.pictures.sources import Source
from ganrun_datasets.pictures.tree import Tree

Entries = Iterable[tuple[str, Any, Any]]
"""Where each entry is (such as `line 3`), the picture that it names, and its label."""


Names = dict[str, str]
"""The pictures of a split, sorted, each with its folder's class."""


class NotLabelsError(Exception):
    """Raised for a file of this name that is not a list of labels; says what it is."""


@dataclass(frozen=True)
class Labels:
    """A list of labels."""

    file: str
    """The name of the file in its source."""

    digest: str
    """Of the file's content."""

    of: Mapping[str, str] | None
    """The class of each listed picture; None if the file says that there are no classes."""


def read_lists(source: Source, tree: Tree, splits: Sequence[Names], notes: list[str]) -> list[Labels]:
    """The lists of labels in folders above all pictures of a split.

    Args:
        source: The files.
        tree: All pictures.
        splits: The pictures of each split.
        notes: Gets a line for each file that has the name of such a list, but is not one, or is in another place.

    Raises:
        DataError: if a list is damaged, or names something that is not a picture.
    """
    files = [file for file in source.stamps if file.rpartition("/")[2].lower() in _FORMATS]
    above = [file for file in files if any(_is_above(file, names) for names in splits)]
    known = set(tree.names) if above else set()
    below = {file: tree.below(_folder_of(file))[:1] for file in files if file not in above}
    odd = [file for file, first in below.items() if any(name in names for name in first for names in splits)]
    notes += [f"{one_line(file)} is not read, since it is below a class" for file in odd[:1]]
    return [labels for file in above for labels in _read(source, file, known, notes)]


def _folder_of(file: str) -> str:
    return file[: file.rfind("/") + 1]


def _is_above(file: str, names: Names) -> bool:
    """Whether a file is in a folder that contains all of the given pictures."""
    return all(name.startswith(_folder_of(file)) for name in (next(iter(names)), next(reversed(names))))


def labels_of(names: Names, lists: Sequence[Labels]) -> Labels | None:
    """The list in a folder above all of the given pictures; None if there is none.

    Raises:
        DataError: if there are several, or the list lacks pictures.
    """
    found = [each for each in lists if _is_above(each.file, names)]
    if len(found) > 1:
        listed = " and ".join(one_line(each.file) for each in found)
        raise DataError(f"{listed} list labels of the same pictures; keep one of them")
    missing = [name for each in found if each.of is not None for name in names if name not in each.of]
    if missing:
        count = f"{len(missing):,} of {len(names):,} pictures"
        raise DataError(f"{one_line(found[0].file)} lacks {count}, such as {one_line(missing[0])}; {_REMEDY}")
    return found[0] if found else None


def _read(source: Source, file: str, pictures: Set[str], notes: list[str]) -> list[Labels]:
    """The list of labels in a file, if it is one."""
    read = _FORMATS[file.rpartition("/")[2].lower()]
    try:
        with ExitStack() as handles:
            content = source.reader(handles)(file)
        entries = read(content.decode("utf-8-sig"))
        classes = None if entries is None else _classes(entries, _folder_of(file), pictures)
    except NotLabelsError as error:
        notes.append(f"{one_line(file)} {error}, so that it is not read as a list of labels")
        return []
    except (UnreadableError, ValueError, RecursionError, csv.Error) as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise DataError(f"{one_line(file)} cannot be read as a list of labels: {reason}; {_REMEDY}") from error
    return [Labels(file, hashlib.blake2b(content, digest_size=8).hexdigest(), classes)]


LONGEST_REASON = 500
"""Characters: a list may hold a text of any length."""

_REMEDY = "correct it, move it away, or set labelled = false in [data]"


# ── Formats ───────────────────────────────────────────────────────────────────────────────────────────────


def _stylegan(text: str) -> Entries | None:
    """`{"labels": [["00000/img00000000.png", 3], …]}`, or null for pictures without labels."""
    content = json.loads(text)
    if not isinstance(content, dict) or "labels" not in content:
        raise NotLabelsError('has no "labels"')
    rows = content["labels"]
    if rows is None:
        return None
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ValueError('its "labels" are not pairs of a file and a label')
    return [(f"label {number}", *row) for number, row in enumerate(rows, 1)]


def _csv(text: str) -> Entries:
    """A header with file_name and label, and a line for each picture; separated by commas, semicolons or tabs."""
    header = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    fields = [each.strip() for each in next(reader, [])]
    _check_fields(fields)
    rows = [(f"line {reader.line_num}", row) for row in reader if row]
    odd = next((where for where, row in rows if len(row) != len(fields)), None)
    if odd:
        raise ValueError(f"{odd} does not have the {len(fields)} fields of the header")
    file, label = fields.index("file_name"), fields.index("label")
    return [(where, row[file], row[label]) for where, row in rows]


def _jsonl(text: str) -> Entries:
    """An object with file_name and label on each line."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = [(f"line {number}", _object(line, number)) for number, line in lines]
    _check_fields(rows[0][1] if rows else ())
    return [(where, row.get("file_name"), row.get("label")) for where, row in rows]


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is not an object")
    return row


def _check_fields(fields: Iterable[str]) -> None:
    """Check that there is a label for each file; other tables have other columns."""
    missing = [f'"{name}"' for name in ("file_name", "label") if name not in fields]
    if missing:
        raise NotLabelsError(f"has no {' and no '.join(missing)}")


_FORMATS: Mapping[str, Callable[[str], Entries | None]] = {
    "dataset.json": _stylegan,
    "metadata.csv": _csv,
    "metadata.jsonl": _jsonl,
}


# ── Entries ───────────────────────────────────────────────────────────────────────────────────────────────


def _classes(entries: Entries, folder: str, pictures: Set[str]) -> dict[str, str]:
    """The class of each picture that is listed."""
    found: dict[str, str] = {}
    types = set()
    for where, file, label in entries:
        name = _picture(where, file, folder, pictures)
        if name in found:
            raise ValueError(f"{where}: {one_line(file)} is listed before")
        found[name] = _class(where, label)
        types.add(type(label))
    if len(types) > 1:
        raise ValueError("some labels are numbers and some are names")
    return found


def _picture(where: str, file: Any, folder: str, pictures: Set[str]) -> str:
    """The picture that an entry names, by a path from the list's own folder."""
    if not isinstance(file, str):
        raise ValueError(f"{where}: {file!r} is not a file name")
    for name in (folder + file, folder + file.replace("\\", "/").removeprefix("./")):
        if name in pictures:
            return name
    raise ValueError(f"{where}: there is no picture {one_line(file)}")


def _class(where: str, label: Any) -> str:
    """A label as a class's name."""
    text = str(label).strip() if isinstance(label, int | str) and not isinstance(label, bool) else ""
    if not text or not text.isprintable() or (_is_number(text) and not text.isdecimal()):
        raise ValueError(f"{where}: the label {one_line(repr(label))} is neither a name nor a whole number from 0")
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
