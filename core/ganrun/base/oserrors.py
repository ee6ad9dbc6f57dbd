"""Errors of the operating system in words: what is wrong with a disk, a folder or a name, and what to do about it.

Libraries that write files themselves describe a full disk in their own ways, or end the process. So ganrun lets them
write to memory and writes the file itself, which preserves the operating system's error.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

ADVICE = {
    errno.ENOSPC: "free some space on this disk, or write to another one",
    errno.EDQUOT: "your quota on this disk is used up; free some of it, or write to another disk",
    errno.EFBIG: "the file system, or ulimit -f, does not allow a file this large; write to another disk",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.EACCES: "ask its owner for permission, or choose another place",
    errno.EPERM: "ask its owner for permission, or choose another place",
    errno.EIO: "check the disk or the connection to it",
    errno.ESTALE: "the server has lost this file or folder; try again",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}


NO_PLACE = "the working directory is gone; change to another one"


def os_reason(error: BaseException) -> str | None:
    """The operating system's message and what to do: `No space left on device; free some …`.

    Args:
        error: Of any library; the errors that led to it are examined as well.

    Returns:
        None if the operating system is not the reason.
    """
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno is not None:
            if each.errno == errno.ENOENT and _is_homeless():
                return NO_PLACE
            advice = ADVICE.get(each.errno)
            return f"{os.strerror(each.errno)}; {advice}" if advice else os.strerror(each.errno)
    return None


def os_fault(error: OSError | UnicodeEncodeError) -> str | None:
    """The same as a full sentence, with the file's name; None for an encoding error that is not about a file name."""
    if isinstance(error, UnicodeEncodeError):
        character = error.object[error.start]
        is_of_names = error.encoding == sys.getfilesystemencoding()
        return f"names of files have no {character!r} in this locale; set PYTHONUTF8=1" if is_of_names else None
    reason = os_reason(error) or str(error)
    name = error.filename if isinstance(error.filename, str | os.PathLike) else None
    return reason if name is None or reason == NO_PLACE else f"{os.fspath(name)}: {reason}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _is_homeless() -> bool:
    try:
        return not os.getcwd()  # noqa: PTH109 - raises where the folder was removed
    except OSError:
        return True
