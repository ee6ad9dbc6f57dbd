"""What a disk may hold after a power cut: made from the shim's journal of every operation below a folder.

Data that was not flushed may be there in part, in another order, as zeros, or not at all. A journalling file system
keeps names in the order in which they were made, and a flush of anything keeps all names before it (`ordered`: ext4,
xfs, btrfs). By POSIX alone, each folder keeps its names for itself, and only a flush of that folder keeps them
(`strict`).
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.stress.starts import Kind

ENTRY = struct.Struct("<iiiiqqq")

BLOCK = 4096
EXCHANGE = 2
"""The flag by which `renameat2` exchanges two names."""


class Operation(NamedTuple):
    """One entry of the journal; paths are relative to the folder."""

    kind: Kind
    path: str
    other: str
    offset: int
    data: bytes


@dataclass(eq=False)
class File:
    """A file's content on the disk, and what was written since it was last flushed."""

    kept: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes as (offset, data); (length, None) cuts."""

    def write(self, offset: int, data: bytes | None) -> None:
        """Write, or cut."""
        _write(self.now, offset, data)
        self.pending.append((offset, data))

    def flush(self) -> None:
        """All that is written is on the disk."""
        self.kept, self.pending = bytes(self.now), []

    def after_cut(self, random: Random) -> bytes:
        """One of the contents that the disk may have."""
        if not self.pending:
            return self.kept
        how = random.choice(("none", "all", "first", "some", "zeros"))
        content = bytearray(self.kept)
        if how == "zeros":  # the length was kept, and the data not
            return bytes(content[: len(self.now)]) + bytes(max(0, len(self.now) - len(content)))
        chosen = {"none": [], "all": self.pending, "first": self._first(random)}.get(how)
        for offset, data in self._some(random) if chosen is None else chosen:
            _write(content, offset, data)
        return bytes(content)

    def _first(self, random: Random) -> list[tuple[int, bytes | None]]:
        """The first writes, the last of them torn at a block."""
        *whole, (offset, data) = self.pending[: random.randint(1, len(self.pending))]
        torn = data and data[: random.randrange(0, len(data) + 1, BLOCK)]
        return [*whole, (offset, torn)]

    def _some(self, random: Random) -> list[tuple[int, bytes | None]]:
        return [each for each in self.pending if random.random() < 0.5]


@dataclass(eq=False)
class Folder:
    """A folder: its names now, and the changes of names that are in it, with whether each is on the disk."""

    now: dict[str, Folder | File] = field(default_factory=dict)
    first: dict[str, Folder | File] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


class Change(NamedTuple):
    """A change of names in a folder, complete or not at all."""

    number: int
    """Its place among all changes."""
    names: dict[str, Folder | File | None]
    """What each name means afterwards; None: nothing."""


class Disk:
    """A folder as the journal changes it.

    Args:
        root: The folder before the journal begins; all in it is on the disk.
    """

    def __init__(self, root: Path) -> None:
        self.root = _folder(root)
        self._number = 0
        self._kept_of: dict[int, int] = {}
        self._kept_of_all = 0

    def replay(self, journal: Path) -> None:
        """Carry out what a journal records."""
        for operation in _operations(journal):
            self._carry_out(operation)

    def files(self) -> dict[str, bytes]:
        """The content of every file now, by relative path."""
        return {path: bytes(file.now) for path, file in _files(self.root, "")}

    def cut(self, to: Path, random: Random, *, strict: bool) -> None:
        """Replace the content of a folder by what the disk may hold if the power fails now."""
        shutil.rmtree(to)
        survivors = random.randint(self._kept_of_all, self._number)
        self._write(self.root, to, random, None if strict else survivors)

    def _write(self, folder: Folder, to: Path, random: Random, survivors: int | None) -> None:
        to.mkdir()
        kept = self._kept_of.get(id(folder), 0)
        number = (
            survivors if survivors is not None else random.choice([kept, *(each.number for each in folder.changes)])
        )
        for name, thing in _names_after(folder, max(kept, number)).items():
            if isinstance(thing, Folder):
                self._write(thing, to / name, random, survivors)
            else:
                (to / name).write_bytes(thing.after_cut(random))

    def _carry_out(self, operation: Operation) -> None:
        if operation.kind in (Kind.WRITE, Kind.TRUNCATE, Kind.SYNC):
            self._change_content(operation)
        else:
            self._change_names(operation)

    def _change_content(self, operation: Operation) -> None:
        thing = self._find(operation.path)
        if operation.kind == Kind.SYNC:
            self._kept_of_all = self._number
            if isinstance(thing, Folder):
                self._kept_of[id(thing)] = self._number
            elif thing is not None:
                thing.flush()
        elif isinstance(thing, File):  # else it has no name any more
            thing.write(operation.offset, operation.data if operation.kind == Kind.WRITE else None)

    def _change_names(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        if operation.kind == Kind.CREATE:
            self._rename(folder, {name: File()})
        elif operation.kind == Kind.MKDIR:
            self._rename(folder, {name: Folder()})
        elif operation.kind in (Kind.UNLINK, Kind.RMDIR):
            self._rename(folder, {name: None})
        else:
            self._move(folder, name, operation)

    def _move(self, folder: Folder, name: str, operation: Operation) -> None:
        to, new = self._place(operation.other)
        thing, old = folder.now[name], to.now.get(new)
        left = thing if operation.kind == Kind.LINK else old if operation.offset == EXCHANGE else None
        if folder is to:
            self._rename(folder, {name: left, new: thing})
        else:
            self._rename(folder, {name: left})
            self._rename(to, {new: thing})

    def _rename(self, folder: Folder, names: dict[str, Folder | File | None]) -> None:
        self._number += 1
        folder.changes.append(Change(self._number, names))
        _apply(folder.now, names)

    def _find(self, path: str) -> Folder | File | None:
        if path in ("", "/"):
            return self.root
        try:
            folder, name = self._place(path)
        except KeyError:
            return None
        return folder.now.get(name)

    def _place(self, path: str) -> tuple[Folder, str]:
        *folders, name = path.strip("/").split("/")
        place: Folder | File = self.root
        for each in folders:
            assert isinstance(place, Folder)
            place = place.now[each]
        assert isinstance(place, Folder)
        return place, name


def _names_after(folder: Folder, number: int) -> dict[str, Folder | File]:
    names = dict(folder.first)
    for change in folder.changes:
        if change.number <= number:
            _apply(names, change.names)
    return names


def _apply(names: dict[str, Folder | File], change: dict[str, Folder | File | None]) -> None:
    for name, thing in change.items():
        if thing is None:
            names.pop(name, None)
        else:
            names[name] = thing


def _write(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _folder(path: Path) -> Folder:
    names: dict[str, Folder | File] = {}
    for each in path.iterdir():
        content = b"" if each.is_dir() else each.read_bytes()
        names[each.name] = _folder(each) if each.is_dir() else File(content, bytearray(content))
    return Folder(names, dict(names))


def _files(folder: Folder, within: str) -> Iterator[tuple[str, File]]:
    for name, thing in folder.now.items():
        if isinstance(thing, Folder):
            yield from _files(thing, f"{within}{name}/")
        else:
            yield f"{within}{name}", thing


def _operations(journal: Path) -> Iterator[Operation]:
    content, at = journal.read_bytes(), 0
    while at < len(content):
        kind, length, other_length, has_data, _, offset, data_length = ENTRY.unpack_from(content, at)
        at += ENTRY.size
        ends = [at + length, at + length + other_length]
        path, other = content[at : ends[0]].decode(), content[ends[0] : ends[1]].decode()
        at = ends[1] + (data_length if has_data else 0)
        yield Operation(Kind(kind), path, other, offset, content[ends[1] : at])
