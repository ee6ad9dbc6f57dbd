"""Packed files, which are unpacked in memory up to a limit: a few megabytes may hold terabytes of zeros."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ganrun import DataError
from ganrun_datasets.damage import archive_damage

GZIP_MAGIC = b"\x1f\x8b"

TOO_MUCH = "it unpacks to more than {:,} bytes, the limit for such a file"


class Bounded(gzip.GzipFile):
    """A gzip stream that fails beyond a limit.

    Args:
        source: The file, open or by its path.
        most: Bytes that it may unpack to.
    """

    def __init__(self, source: Path | IO[bytes], most: int) -> None:
        super().__init__(source if isinstance(source, Path) else None, "rb", fileobj=_opened(source))
        self._most = most

    def read(self, size: int | None = -1) -> bytes:
        """As of every stream.

        Raises:
            ValueError: beyond the limit.
        """
        # A read without a size unpacks only as much as is needed to detect the excess.
        content = super().read(self._most + 1 - self.tell() if size is None or size < 0 else size)
        if self.tell() > self._most:
            raise ValueError(TOO_MUCH.format(self._most))
        return content

    def readinto(self, buffer: Any) -> int:
        """As `read`, into existing memory."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _opened(source: Path | IO[bytes]) -> IO[bytes] | None:
    return None if isinstance(source, Path) else source


def read_tar(path: Path, wanted: Callable[[str], str | None], most: int) -> dict[str, bytes]:
    """Files in a .tar, packed with gzip or not; nothing is unpacked to the disk.

    Args:
        path: The archive; it is read to its end, where the checksum is.
        wanted: Maps a member's name to the key of its content, or to None to leave it out.
        most: Bytes that the archive may unpack to.

    Raises:
        DataError: if it cannot be read, is damaged, or unpacks to more.
    """
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            stream: IO[bytes] = Bounded(file, most) if is_packed else file  # type: ignore[assignment]
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                contents = dict(_members(archive, wanted, most))
            while stream.read(1 << 20):
                pass
            return contents
    except Exception as error:  # tarfile raises a different error for each kind of damage
        if isinstance(error, PermissionError | FileNotFoundError):
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        raise DataError(archive_damage(path, error)) from error


def _members(archive: tarfile.TarFile, wanted: Callable[[str], str | None], most: int) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = wanted(member.name)
        # A sparse member is larger than what the archive holds of it.
        file = archive.extractfile(member) if name and member.isreg() and not member.issparse() else None
        if name and file is not None:
            if member.size > most:
                raise ValueError(TOO_MUCH.format(most))
            yield name, file.read()


def unpacked(content: bytes, most: int) -> bytes:
    """The unpacked content of gzip data.

    Raises:
        ValueError, OSError, EOFError, zlib.error: if it is damaged, or unpacks to more than `most` bytes.
    """
    with Bounded(io.BytesIO(content), most) as stream:
        return stream.read()
