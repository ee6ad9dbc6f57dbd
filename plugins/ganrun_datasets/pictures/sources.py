"""Where picture files are: in a folder, or in a zip that is read in place."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ganrun import DataError
from ganrun_datasets.damage import zip_damage
from ganrun_datasets.pictures.picture import UnreadableError

LARGEST_FILE_BYTES = 1 << 29


class Reader(Protocol):
    """Reads the files of one source; threads may share it."""

    def __call__(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            UnreadableError: if it cannot be read.
        """


class Source(Protocol):
    """Files under relative names with forward slashes, without hidden ones."""

    path: Path

    @property
    def stamps(self) -> Mapping[str, str]:
        """For each name, in order, a text that changes when the file does. Part of every cache key."""

    def reader(self, handles: ExitStack) -> Reader:
        """A reader whose file handle, if it needs one, `handles` closes."""


def source_at(path: Path) -> Source:
    """The files of a folder or of a zip; lists none of them yet.

    Raises:
        DataError: if there is neither, with a diagnosis of what is there.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DataError(f"there is no {path.absolute()}; set root in [data] to a folder or a .zip")
    if not zipfile.is_zipfile(path):
        raise DataError(zip_damage(path))
    return Archive(path)


def printable(name: str) -> str:
    """A file's name as text that can be printed, even where it is not valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────


class Folder:
    """The files of a folder and its sub-folders; links are followed, except to a folder that contains them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def stamps(self) -> Mapping[str, str]:
        """Size, time of modification and time of change by name; no program can set back the last."""
        try:
            return dict(_walk(self.path, "", frozenset()))
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    def reader(self, handles: ExitStack) -> Reader:
        """Reads whole files."""
        return self._read

    def _read(self, name: str) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                _check_size(os.fstat(file.fileno()).st_size)
                return file.read()
        except OSError as error:
            raise UnreadableError(f"it cannot be read: {error.strerror}") from error


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Names and stamps below a folder; `above` are the device and inode numbers of the folders that contain it."""
    place = folder.stat()
    above |= {(place.st_dev, place.st_ino)}
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if _is_hidden(entry.name):
            continue
        status = _status(entry.path)
        if status is None:
            yield prefix + entry.name, "absent"
        elif stat.S_ISREG(status.st_mode):
            yield prefix + entry.name, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        elif stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) not in above:
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above)


def _status(path: str) -> os.stat_result | None:
    """The status of a path with links followed; None for a link to a file that does not exist."""
    try:
        return os.stat(path)  # noqa: PTH116 - for 200,000 files, making Paths takes several times as long
    except OSError:
        return None


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


# ── Zips ──────────────────────────────────────────────────────────────────────────────────────────────────


class Archive:
    """The members of a zip. Every method raises DataError if the zip's table of contents is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def stamps(self) -> Mapping[str, str]:
        """Size and checksum by name."""
        return {name: f"{member.file_size} {member.CRC:08x}" for name, member in self._members.items()}

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, struct.error) as error:
            raise DataError(zip_damage(self.path, str(error))) from error
        # Some programs write backslashes.
        named = {each.filename.replace("\\", "/"): each for each in members if not each.is_dir()}
        return {name: named[name] for name in sorted(named) if not any(map(_is_hidden, name.split("/")))}

    def reader(self, handles: ExitStack) -> Reader:
        """Reads members, unpacked and checked by their CRC-32."""
        try:
            archive = handles.enter_context(zipfile.ZipFile(self.path))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(zip_damage(self.path, str(error))) from error
        return lambda name: _content(archive, self._members[name])


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_size(member.file_size)
    if member.flag_bits & 1:
        raise UnreadableError("the zip is encrypted; unpack it and set root to the folder")
    try:
        return archive.read(member)
    except RuntimeError as error:  # a compression method that zipfile does not support
        raise UnreadableError(f"it cannot be unpacked: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise UnreadableError(f"the zip is damaged here: {error}") from error


def _check_size(size: int) -> None:
    if size > LARGEST_FILE_BYTES:
        raise UnreadableError(f"it has {size:,} bytes, too many for a picture")
