"""A decoding job: which pictures, in which order, with which transform."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from PIL import Image

from ganrun import open_picture
from ganrun_datasets.pictures.picture import Picture, Transform
from ganrun_datasets.pictures.sources import Source

Unreadable = Literal["refuse", "skip"]

VERSION = 2
"""Part of every key: increase it when the resulting pixels, or the record, change."""

DIGEST_BYTES = 8

SIDES = struct.Struct("<II")
"""How a picture's width and height are kept."""


@dataclass(frozen=True)
class Job:
    """Pictures in order, and how to decode them."""

    data: str
    """The data set's name in a recipe."""

    source: Source
    names: Sequence[str]
    transform: Transform
    check: Callable[[str, bytes, Image.Image], None] = lambda name, content, image: None
    """Called with the name, file and decoded pixels of every picture. Raises UnreadableError to reject the picture, or
    DataError to reject the whole source."""

    unreadable: Unreadable | None = None
    """Handling of pictures that cannot be read: refuse all, or skip them with a warning; None if the data set has
    no such setting, and refuses. Not part of the key."""

    @cached_property
    def key(self) -> str:
        """A digest of the files' names and stamps and of the transform."""
        stamps = self.source.stamps
        hasher = hashlib.blake2b(json.dumps([VERSION, asdict(self.transform)]).encode(), digest_size=DIGEST_BYTES)
        for name in self.names:
            hasher.update(f"{name}\0{stamps[name]}\0".encode("utf-8", "surrogatepass"))
        return hasher.hexdigest()

    def picture(self, name: str, content: bytes) -> Picture:
        """One picture from the content of its file.

        Raises:
            UnreadableError: if it cannot be used.
        """
        image = open_picture(content)
        self.check(name, content, image)
        return self.transform(image)


def digest(content: bytes | memoryview) -> bytes:
    """BLAKE2b in `DIGEST_BYTES` bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
