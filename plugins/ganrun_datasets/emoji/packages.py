"""Finds the npm packages of emoji: unpacked, or as npm packs them, which are read in place."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from ganrun import DataError
from ganrun_datasets.packed import read_tar
from ganrun_datasets.pictures.sources import Folder, Listing, Reader, Source
from ganrun_datasets.places import candidate_folders, is_file, is_folder

Vendor = Literal["google", "twitter"]

NAME = "emoji"
LIST = "emoji.json"
ABOUT = "package.json"

PUBLISHED = {
    "emoji-datasource-google-16.0.0.tgz": "b79dc5807f479b22f5e4ad331943da34",
    "emoji-datasource-twitter-16.0.0.tgz": "4b633d2efe91f0ed3f7b7e53cc5b7854",
}
"""The MD5 of each package's unpacked content, of the version that ganrun was tested with."""

PICTURE_FOLDERS: dict[Vendor, str] = {vendor: f"img/{vendor}/64" for vendor in get_args(Vendor)}

LARGEST_PACKAGE_BYTES = 256 << 20
"""Limit for unpacking a package; the published ones unpack to 60 to 80 MB."""

_WANTED = re.compile(rf"[^/]+/(emoji\.json|package\.json|img/(?:{'|'.join(get_args(Vendor))})/64/[^/]+\.png)")
"""The files to read from a packed package, below its outer folder."""


def package_name(vendor: Vendor) -> str:
    """The name on npm's registry."""
    return f"emoji-datasource-{vendor}"


def other_vendor(vendor: Vendor) -> Vendor:
    """The other vendor."""
    return "twitter" if vendor == "google" else "google"


# ── Where they are ────────────────────────────────────────────────────────────────────────────────────────


def find_package(vendor: Vendor, root: str | None) -> Source:
    """A vendor's package in the recipe's `root` or the usual places.

    Raises:
        DataError: if there is none, with the steps to get it.
    """
    places = candidate_folders(NAME, root)
    if is_file(places[0]) and package_name(other_vendor(vendor)) in places[0].name:
        places = [places[0].parent]
    found = next((path for place in places for path in _packages_in(place, vendor)), None)
    if found is None:
        raise DataError("\n".join(_instructions(vendor, places)))
    return Package(found) if is_file(found) else Folder(found)


def _packages_in(place: Path, vendor: Vendor) -> Iterator[Path]:
    """The packages at a place: itself, unpacked ones, and packed ones, the newest first."""
    name = package_name(vendor)
    if is_file(place):
        yield place
    for folder in (place / "node_modules" / name, place / name, place / "package", place):
        if is_folder(folder / PICTURE_FOLDERS[vendor]):
            yield folder
    yield from sorted(place.glob(f"{name}*.tgz"), key=_version, reverse=True)


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _instructions(vendor: Vendor, places: Sequence[Path]) -> Iterator[str]:
    name, folder = package_name(vendor), places[0].absolute()
    yield f"its files of {vendor} were not found"
    yield "do one of these:"
    yield f"  npm pack {name}, which downloads about 70 MB, and put the .tgz into {folder}; it need not be unpacked"
    yield f"  npm install {name} in that folder"
    yield f"  without npm, download https://registry.npmjs.org/{name}/-/{name}-16.0.0.tgz, and put it there"
    yield "folders searched, for the .tgz, for a folder of its name, for node_modules and for package:"
    yield from (f"  {place.absolute()}" for place in places)


# ── Packed ────────────────────────────────────────────────────────────────────────────────────────────────


class Package:
    """A package as npm packs it. It is read from beginning to end, once, and nothing is unpacked to the disk.

    Its lists and pictures of 64 pixels are kept in memory, 12 to 15 MB of them. Every method raises DataError if it is
    damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def stamps(self) -> dict[str, str]:
        """Size and CRC-32 by name, without the outer folder."""
        return self.listing.stamps

    @cached_property
    def listing(self) -> Listing:
        """The files that ganrun reads."""
        contents = sorted(self._contents.items())
        return Listing({name: f"{len(content)} {zlib.crc32(content):08x}" for name, content in contents})

    def reader(self, handles: ExitStack) -> Reader:
        """Reads from memory."""
        return lambda name: self._contents[name]

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        return read_tar(self.path, _wanted, LARGEST_PACKAGE_BYTES)


def _wanted(name: str) -> str | None:
    found = _WANTED.fullmatch(name)
    return found[1] if found else None
