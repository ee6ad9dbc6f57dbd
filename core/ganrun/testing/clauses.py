"""The clauses that are tried before a run, in a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ganrun.base.errors import IncompatibleError, PluginError


@contextmanager
def asserted() -> Iterator[None]:
    """A block in which a broken clause of the room `rehearsal` fails a test, with the sentence that a user reads.

    Raises:
        AssertionError: in the place of an `IncompatibleError` or a `PluginError`.
    """
    try:
        yield
    except (IncompatibleError, PluginError) as error:
        raise AssertionError(error.message) from error
