"""The frame around every call into a plugin: an error that leaves it names the plugin and the location."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from ganrun.base.errors import ContractError, GanrunError, Interrupted, PluginError
from ganrun.base.signals import Terminated
from ganrun.base.texts import one_line

Frame = Callable[[str], AbstractContextManager[Any]]
"""`frame(doing)`: a block around a call into one component; `nullcontext` where there is no name to give."""

LONGEST_TEXT = 400
"""Characters of a foreign exception's text that a message keeps."""

LIBRARIES = frozenset(
    {*sys.stdlib_module_names, "ganrun", "pluggy", "pydantic", "torch", "torchvision", "numpy", "PIL"}
)
"""Packages that a plugin calls, or that call it: their lines do not help its author."""

OUT_OF_MEMORY = (
    "there is no memory left; use a smaller [train] batch_size, a larger accumulate, which splits a batch into parts, "
    'or precision = "bf16"; where samples are made or scored, fewer of them, or another --device'
)

TRACEBACK_VARIABLE = "GANRUN_TRACEBACK"
"""If this environment variable is set, a reported error also shows its traceback, and those of its causes."""

NO_MEMORY = re.compile(
    r"out of memory|not enough memory|can(not|'t) allocate memory|_ALLOC_FAILED|bad_alloc", re.IGNORECASE
)
"""Matches the out-of-memory messages of torch's RuntimeErrors."""


class called:  # noqa: N801 - reads as a word: with called(owner, "forward")
    """A block that calls into a plugin; an error that leaves it carries the plugin's name.

        with called("[generator] mlp (ganrun 0.1.0)", "forward", where="wgan.toml:12"):
            module(latents)

    An error of ganrun's family gets the owner before its message, once, and the location. Any other exception, also
    `SystemExit` or `GeneratorExit`, becomes `error`, with its type, its text and the author's line; its cause is
    chained. Interruptions by the user or the system pass unchanged: `KeyboardInterrupt`, `Interrupted`, a signal; so do
    errors that always end the run. Cheap enough for every call of an objective.

    Args:
        owner: The component or plugin, as messages name it.
        doing: The method, phase or event.
        where: The place that chose the component, such as `wgan.toml:12`.
        error: The error that a foreign exception becomes.
    """

    __slots__ = ("_doing", "_error", "_owner", "_where")

    def __init__(
        self, owner: str, doing: str, where: str | None = None, error: type[GanrunError] = ContractError
    ) -> None:
        self._owner = owner
        self._doing = doing
        self._where = where
        self._error = error

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or passes(error) or (isinstance(error, GanrunError) and error.ends_run):
            return
        if isinstance(error, GanrunError):
            named = error.owned(self._owner)
        else:
            named = failure(self._owner, self._doing, error, self._error)
        if self._where is not None:
            named.located(self._where)
        if named is not error:
            raise named from error


def method(doing: str) -> called:
    """The frame of one method, within its component's: its errors say which method failed."""
    return called("", doing, error=PluginError)


def passes(error: BaseException) -> bool:
    """Whether an exception is not an error of any component, and passes through every frame."""
    return isinstance(error, Interrupted | Terminated | KeyboardInterrupt)


def failure(owner: str, doing: str, error: BaseException, family: type[GanrunError] = ContractError) -> GanrunError:
    """A foreign exception as an error of ganrun's family: `OWNER: DOING fails: ValueError: … (package/file.py:81)`."""
    place = authors_line(error)
    text = f"{doing} fails: {OUT_OF_MEMORY if is_out_of_memory(error) else in_one_line(error)}"
    return family(f"{text} ({place})" if place else text).owned(owner)


def in_one_line(error: BaseException) -> str:
    """An exception in one line: `ImportError: No module named 'x'`."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception whose own text fails
        text = ""
    text = one_line(text)
    text = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is an out-of-memory error, on the device or the host, of Python, NumPy or torch."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, _errors_of_memory()) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None
    )


def _errors_of_memory() -> tuple[type[BaseException], ...]:
    """Imports nothing: if torch is not loaded, the error is not torch's."""
    of_torch = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    return (MemoryError, of_torch) if isinstance(of_torch, type) else (MemoryError,)


def authors_line(error: BaseException) -> str | None:
    """The innermost line of the traceback outside libraries, as `package/file.py:81`."""
    places = [place for place in _lines(error) if place is not None]
    return places[-1] if places else None


def _lines(error: BaseException) -> Iterator[str | None]:
    """The location of each frame from the outside in; None for libraries."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in LIBRARIES:
            yield None
            continue
        path = frame.f_code.co_filename.replace("\\", "/").split("/")
        depth = module.count(".") + 1 + (path[-1] == "__init__.py")
        yield f"{'/'.join(path[-depth:])}:{line}"
