"""Finds passwords and tokens in texts, and removes them from texts that are shown, stored or sent."""

from __future__ import annotations

import os
import re

HIDDEN = "***"
"""Stands for what was removed."""

_NAME = r"[\w.-]*?(?:password|passwd|pwd|token|secret|signature|api[_-]?key|access[_-]?key)"
_WITH_PASSWORD = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/?#@:\"']*):(?P<secret>[^\s/?#\"']+)@", re.I)
_WITH_USER = re.compile(r"(?P<before>\bhttps?://)(?P<secret>[^\s/?#@:\"']+)@", re.I)
_QUERY = re.compile(rf"(?P<before>[?&;](?:{_NAME}|sig|key|auth|credential)=)(?P<secret>[^\s&;#\"']+)", re.I)
_ENTRY = re.compile(
    rf"(?P<before>(?<![\w?&;])(?:{_NAME})=)(?P<secret>\"[^\"]*\"|'[^']*'|[^\s,;&\"'$*][^\s,;&\"']*)", re.I
)
_IN_ADDRESSES = ((_WITH_PASSWORD, "password"), (_WITH_USER, "token"), (_QUERY, "token"))
_VARIABLE = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|API_?KEY|ACCESS_?KEY|CREDENTIALS?)$", re.I)

LEAST_LENGTH = 6
"""Shorter values of secret environment variables are common words, and left as they are."""


def secret_in(text: str) -> str | None:
    """What a text gives away: `password` or `token`; None if it holds no address with either."""
    return next((what for pattern, what in _IN_ADDRESSES if pattern.search(text)), None)


def without_secrets(text: str) -> str:
    """A text without the passwords and tokens of the addresses in it, those written as `password=…`, and the values
    of this process's environment variables whose names end in PASSWORD, TOKEN, SECRET or KEY.

    `postgresql://ann:pw@host/runs?token=1` → `postgresql://ann:***@host/runs?token=***`
    """
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and len(value) >= LEAST_LENGTH:
            text = text.replace(value, HIDDEN)
    text = _WITH_PASSWORD.sub(rf"\g<before>:{HIDDEN}@", text)
    for pattern in (_WITH_USER, _QUERY, _ENTRY):
        text = pattern.sub(
            lambda found: found["before"] + HIDDEN + found[0][found.end("secret") - found.start() :], text
        )
    return text
