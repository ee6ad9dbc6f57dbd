"""An append-only file of lines that loses none to a full disk."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

from ganrun.base.files import atomic_path, flush_file

log = logging.getLogger("ganrun")


class Lines:
    """Appends lines to a file. Lines that cannot be written are buffered, and written with the next that can be.

    Args:
        path: The file, created with the first line. Its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.waiting: list[str] = []
        """Lines that are not in the file yet."""
        self._path = path
        self._told: str | None = None
        """The last error that was logged."""
        self._is_doubtful = False
        """Whether flushing has failed; after that, the kernel may drop unwritten data."""

    def add(self, line: str) -> None:
        """Append a line, given without its newline; warn if it is buffered."""
        self.waiting.append(line)
        try:
            self._write()
        except OSError as error:
            self._tell(error)

    def flush(self) -> int:
        """Write the buffered lines, and flush the file to disk; returns the number of lines in it.

        Raises:
            OSError: if that fails.
        """
        if self.waiting:
            self._write()
        if not self._path.exists():
            return 0
        if self._is_doubtful:
            self._renew()
        self._is_doubtful = True
        flush_file(self._path)
        self._is_doubtful = False
        with self._path.open("rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))

    def close(self) -> None:
        """Write the buffered lines a last time; warn about lost ones."""
        with suppress(OSError):
            if self.waiting:
                self._write()
        if self.waiting:
            log.error("%s lacks its last %d lines, which could not be written", self._path, len(self.waiting))
            self.waiting.clear()

    def _write(self) -> None:
        with FileIO(self._path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            text = "".join(f"{line}\n" for line in self.waiting)
            try:
                _write_all(file, (text if _ends_with_line(file, size) else f"\n{text}").encode())
            except BaseException:
                with suppress(OSError):
                    file.truncate(size)
                raise
        if self._told is not None:
            log.info("%s can be written again; %d buffered lines were added", self._path, len(self.waiting))
        self._told = None
        self.waiting.clear()

    def _renew(self) -> None:
        content = self._path.read_bytes()
        with atomic_path(self._path) as partial:
            partial.write_bytes(content)

    def _tell(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason != self._told:
            log.warning("cannot write %s: %s; its lines are kept in memory until it can be written", self._path, reason)
        self._told = reason


def _ends_with_line(file: FileIO, size: int) -> bool:
    """Whether the file is empty or ends with a complete line; a crash may have truncated the last one."""
    if size == 0:
        return True
    file.seek(size - 1)
    return file.read(1) == b"\n"


def _write_all(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
