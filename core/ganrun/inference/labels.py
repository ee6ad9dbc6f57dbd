"""Finds classes by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ganrun.base.errors import RequestError
from ganrun.base.suggestions import did_you_mean

log = logging.getLogger("ganrun")

LISTED = 10
"""Names that a message lists."""


def label_named(text: str, class_names: Sequence[str]) -> int:
    """The number of the class that a user calls `text`: by its name, or by its number if no class has that name.

    A class whose name is another one's number, as of folders "1", "10", "2", is found by its name, with a warning.

    Args:
        text: Such as `smiling` or `3`.
        class_names: In the order of the labels; empty for a model without classes.

    Raises:
        RequestError: if there is no such class, or several have that name.
    """
    found = [label for label, name in enumerate(class_names) if name == text]
    number = int(text) if text.isascii() and text.isdigit() else None
    if len(found) > 1:
        raise RequestError(f'{len(found)} classes are called "{text}"; say the number of one: {_listed(found)}')
    if found and number is not None and number != found[0]:
        log.warning('"%s" is read as the name of class %d, not as the number of a class', text, found[0])
    if found or number is not None:
        return found[0] if found else number or 0
    if not class_names:
        raise RequestError(f'the model knows no classes, so none is called "{text}"')
    hint = did_you_mean(text, class_names) or f"; there are {_listed(class_names)}"
    raise RequestError(f'no class is called "{text}"{hint}')


def _listed(names: Sequence[str | int]) -> str:
    rest = len(names) - LISTED
    return ", ".join(map(str, names[:LISTED])) + (f" and {rest} more" if rest > 0 else "")
