"""Makes standard output and standard error safe: no failed write to them ends a run. They may be closed, on a full
disk, without a reader, or in an encoding that lacks most characters.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import Any

NAMES = ("stdout", "stderr")

ESCAPE = "backslashreplace"
"""Characters that an encoding lacks are shown as `\\u2265`, undecodable bytes of a file's name as `\\udcff`."""

READER_GONE = (errno.EPIPE, errno.ECONNRESET)

ASCII = "ascii-escaped"
"""ASCII under another name. Where a stream says "ascii", click writes UTF-8 to it."""


def protect_streams() -> None:
    """Make all further printing safe from failure, for any characters and any destination. The encoding stays the one
    that Python has chosen for this terminal, pipe or file. Output to a closed stream is discarded; otherwise it would
    go to the first file that the process opens, which would get its descriptor.
    """
    codecs.register(_own_codec)
    for number, name in enumerate(NAMES, start=1):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere(number))
        elif not isinstance(stream, io.TextIOWrapper):
            continue  # a notebook's, or a test's
        elif _leads_to(stream, number) and not isinstance(_raw(stream), _Tolerant):
            setattr(sys, name, _tolerant(stream))
        else:
            stream.reconfigure(encoding=_encoding(stream), errors=ESCAPE)


def lost_output() -> OSError | None:
    """Why some of what was printed to standard output could not be written; None if nothing was lost, or if its reader
    has gone away, as after `| head`."""
    raw = _raw(sys.stdout)
    return raw.error if isinstance(raw, _Tolerant) and not raw.is_read_by_nobody else None


def silence_stdout() -> None:
    """Discard everything that this process writes to standard output from now on, including from native code."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def has_unicode(stream: Any) -> bool:
    """Whether a stream can show every character."""
    try:
        return codecs.lookup(stream.encoding).name.startswith("utf")
    except (AttributeError, LookupError, TypeError):
        return False


class _Tolerant(io.RawIOBase):
    """A file whose writes always succeed; if data is lost, it keeps the reason."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream, self._file = stream, _raw(stream)  # a stream without references closes its file
        self._is_terminal = stream.isatty()
        self.error: OSError | None = None

    @property
    def is_read_by_nobody(self) -> bool:
        """Whether the program or terminal at the other end has gone away."""
        return self.error is not None and (self._is_terminal or self.error.errno in READER_GONE)

    def write(self, content: Any, /) -> int:
        """The bytes written, or lost."""
        if self.is_read_by_nobody:
            return len(content)
        try:
            while (written := self._file.write(content)) is None:  # a full non-blocking pipe
                select.select([], [self._file], [])
        except OSError as error:
            self.error = self.error or error
            return len(content)
        return int(written)

    def fileno(self) -> int:
        """Its descriptor, because other libraries and processes write to it."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._is_terminal

    def writable(self) -> bool:
        """True."""
        return True


def _tolerant(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    is_by_line, is_at_once = stream.line_buffering, stream.write_through
    file = io.BufferedWriter(_Tolerant(stream))
    return io.TextIOWrapper(file, _encoding(stream), ESCAPE, line_buffering=is_by_line, write_through=is_at_once)


def _encoding(stream: io.TextIOWrapper) -> str:
    return ASCII if codecs.lookup(stream.encoding).name == "ascii" else stream.encoding


def _own_codec(name: str) -> codecs.CodecInfo | None:
    if name != ASCII.replace("-", "_"):
        return None
    found = codecs.lookup("ascii")
    parts = found.streamreader, found.streamwriter, found.incrementalencoder, found.incrementaldecoder
    return codecs.CodecInfo(found.encode, found.decode, *parts, name=ASCII)


def _nowhere(number: int) -> io.TextIOWrapper:
    """A replacement for a closed stream; it gets the stream's descriptor unless a file already has it."""
    opened = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(opened, number)
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(opened, "w", closefd=False)), "utf-8", ESCAPE)


def _leads_to(stream: io.TextIOWrapper, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False


def _raw(stream: Any) -> Any:
    """The file below a stream and its buffer; without a buffer, as under `python -u`, there is one layer less."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
