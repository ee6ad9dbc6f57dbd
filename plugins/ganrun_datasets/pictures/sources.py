"""Sources of picture files: a folder, or a zip that is read in place."""

from __future__ import annotations

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from ganrun import DataError, UnreadableError, is_hidden, is_picture, one_line
from ganrun_datasets.damage import ZIP_ERRORS, zip_damage

SET_ROOT = "set root in [data], or --set data.root=…, to a folder or a .zip"

LARGEST_FILE_BYTES = 1 << 29
LONGEST_NAME = 255
DEEPEST = 100


@dataclass(frozen=True)
class Listing:
    """The contents of a source, without hidden and system files."""

    stamps: dict[str, str] = field(default_factory=dict)
    """As `Source.stamps`."""

    skipped: Counter[str] = field(default_factory=Counter)
    """How many folders of each name there are that devices and operating systems keep."""

    empty: list[str] = field(default_factory=list)
    """Folders that hold nothing else, with a slash at the end."""


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
    def listing(self) -> Listing:
        """The listing; read once.

        Raises:
            DataError: if a folder may not be read, or a zip's table of contents is damaged.
        """

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
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, ValueError):  # a name with a zero byte is a ValueError
        raise DataError(f"there is no {_shown(path)}; {SET_ROOT}") from None
    except OSError as error:  # a folder that may not be entered, a file in place of one, a name that is too long
        raise DataError(f"{_shown(path)} cannot be read: {error.strerror}; {SET_ROOT}") from error
    if stat.S_ISDIR(mode):
        return Folder(path)
    if not stat.S_ISREG(mode):
        raise DataError(f"{_shown(path)} is neither a folder nor a file; {SET_ROOT}")
    if not zipfile.is_zipfile(path):
        raise DataError(zip_damage(path))
    return Archive(path)


def _shown(path: Path) -> str:
    return one_line(str(path.absolute()))


def _check_name(name: str) -> None:
    """Check that a file system could hold this name; a hostile zip may contain others."""
    if name.count("/") > DEEPEST:
        raise DataError(f"{one_line(name[:LONGEST_NAME])}… is more than {DEEPEST} folders deep")
    if len(name) > LONGEST_NAME and max(map(len, name.split("/"))) > LONGEST_NAME:
        raise DataError(f"{one_line(name[:LONGEST_NAME])}… has a name of more than {LONGEST_NAME} characters")


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────


class Folder:
    """The files of a folder and its sub-folders; links are followed, except to a folder that contains them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def stamps(self) -> Mapping[str, str]:
        """Size, time of modification and time of change by name; no program can set back the last."""
        return self.listing.stamps

    @cached_property
    def listing(self) -> Listing:
        """The files of all sub-folders."""
        listing = Listing()
        try:
            listing.stamps.update(_walk(self.path, "", frozenset(), listing))
        except OSError as error:
            raise DataError(f"{one_line(str(error.filename))} cannot be read: {error.strerror}") from error
        return listing

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


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]], listing: Listing) -> Iterator[tuple[str, str]]:
    """Names and stamps below a folder; `above` are the device and inode numbers of the folders that contain it."""
    place = folder.stat()
    above |= {(place.st_dev, place.st_ino)}
    _check_name(prefix)
    for name in _visible_in(folder, prefix, listing):
        status = _status(f"{folder}/{name}")
        if status is None:
            yield prefix + name, "absent"
        elif stat.S_ISREG(status.st_mode):
            yield prefix + name, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        elif stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) not in above:
            yield from _walk(folder / name, f"{prefix}{name}/", above, listing)


def _visible_in(folder: Path, prefix: str, listing: Listing) -> list[str]:
    """The sorted names in a folder; records in the listing those that are left out."""
    names = sorted(os.listdir(folder))  # noqa: PTH208 - making 200,000 Paths takes long
    visible = [name for name in names if not is_hidden(name)]
    listing.skipped.update(filter(_is_of_system, names))
    listing.empty.extend([] if visible else [prefix])
    return visible


def _status(path: str) -> os.stat_result | None:
    """The status of a path with links followed; None for a link to a file that does not exist, and for a picture that
    may not be read, which the decoder reports."""
    try:
        return os.stat(path)  # noqa: PTH116 - as above
    except OSError as error:
        if isinstance(error, PermissionError) and not is_picture(path):
            raise
        return None


def _is_of_system(part: str) -> bool:
    return is_hidden(part) and not part.startswith(".")


# ── Zips ──────────────────────────────────────────────────────────────────────────────────────────────────


class Archive:
    """The members of a zip. Every method raises DataError if the zip's table of contents is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def stamps(self) -> Mapping[str, str]:
        """Size and checksum by name."""
        return self.listing.stamps

    @cached_property
    def listing(self) -> Listing:
        """The members."""
        stamps = {name: f"{member.file_size} {member.CRC:08x}" for name, member in self._members.items()}
        visible = {name: stamp for name, stamp in sorted(stamps.items()) if _is_visible(name)}
        files = {name: stamp for name, stamp in visible.items() if not name.endswith("/")}
        for name in visible:
            _check_name(name)
        return Listing(files, _system_folders(stamps.keys() - visible.keys()), _empty_folders(list(visible)))

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """All by name, those of folders with a slash at the end."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
        except ZIP_ERRORS as error:
            raise DataError(zip_damage(self.path, str(error))) from error
        # Some programs write backslashes.
        return {each.filename.replace("\\", "/"): each for each in members}

    def reader(self, handles: ExitStack) -> Reader:
        """Reads members, unpacked and checked by their CRC-32."""
        try:
            archive = handles.enter_context(zipfile.ZipFile(self.path))
        except ZIP_ERRORS as error:
            raise DataError(zip_damage(self.path, str(error))) from error
        return lambda name: _content(archive, self._members[name])


def _is_visible(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return not is_hidden(file) and _is_visible_folder(folder)


@lru_cache(maxsize=100_000)
def _is_visible_folder(folder: str) -> bool:
    return not any(map(is_hidden, folder.split("/")))


def _system_folders(hidden: Iterable[str]) -> Counter[str]:
    """As `Listing.skipped`: of nested folders, only the outermost counts."""
    parts = [name.split("/") for name in hidden]
    places = [next(number for number, part in enumerate(each) if is_hidden(part)) for each in parts]
    folders = {tuple(each[: place + 1]) for each, place in zip(parts, places, strict=True)}
    return Counter(each[-1] for each in folders if _is_of_system(each[-1]))


def _empty_folders(visible: Sequence[str]) -> list[str]:
    """Folders that a zip lists without anything in them; of sorted names."""
    return [each for each, after in pairwise([*visible, ""]) if each.endswith("/") and not after.startswith(each)]


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_size(member.file_size)
    if member.flag_bits & 1:
        raise UnreadableError("the zip is encrypted; unpack it and set root to the folder")
    try:
        return archive.read(member)
    except RuntimeError as error:  # a compression method that zipfile does not support
        raise UnreadableError(f"it cannot be unpacked: {error}") from error
    except ZIP_ERRORS as error:
        raise UnreadableError(f"the zip is damaged here: {error}") from error


def _check_size(size: int) -> None:
    if size > LARGEST_FILE_BYTES:
        raise UnreadableError(f"it has {size:,} bytes, too many for a picture")
