"""Diagnoses files left by failed downloads, for messages that say how to repair them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from ganrun import is_web_page

ZIP_ERRORS = (OSError, EOFError, RuntimeError, ValueError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile)
"""What zipfile raises for damaged archives: among others UnicodeDecodeError, for names that are marked as UTF-8 and are
not, and NotImplementedError, for unknown compression."""


def archive_damage(path: Path, error: Exception) -> str:
    """Why a .tar.gz cannot be read, and how to repair it.

    Args:
        path: The file.
        error: The reader's exception.
    """
    with path.open("rb") as file:
        start = file.read(256)
    if is_web_page(start):
        return f"{path} is a web page saved in place of the archive; replace it with a fresh copy"
    size = path.stat().st_size
    reason = " ".join(str(error).split())
    return f"{path} is truncated or damaged: it has {size:,} bytes ({reason}); replace it with a fresh copy"


def zip_damage(path: Path, reason: str = "") -> str:
    """Why a file cannot be opened as a zip, and how to repair it.

    Args:
        path: The file.
        reason: What the zip reader said, if it was asked.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return f"{path} {_diagnosis(start, size, reason)}; replace it with a fresh copy"


def _diagnosis(start: bytes, size: int, reason: str) -> str:
    if not size:
        return "is empty"
    if is_web_page(start):
        return "is a web page saved in place of the file, as happens when a download is refused"
    if start.startswith(b"PK"):
        details = f" ({reason})" if reason else ""
        return f"is truncated or damaged: it has {size:,} bytes and no table of contents at the end{details}"
    return f"is not a zip: it starts with {start[:4].hex(' ')}"
