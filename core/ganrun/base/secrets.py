"""Finds passwords and tokens in texts, and removes them from texts that are shown, stored or sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

HIDDEN = "***"
"""Replaces what was removed."""

LEAST_LENGTH = 6
"""Shorter values of secret environment variables are common words, and left unchanged."""

# ── What secrets look like. Repetitions are bounded, so that the time is linear in the length of any text. ──

_NAME = r"[\w.-]{0,60}?(?:password|passwd|passphrase|pwd|token|secret|signature|(?:api|access|private|secret)[_-]?key)"
_SCHEME = r"[a-z][a-z0-9+.-]{0,40}://"
_START = r"(?<![a-z0-9+.-])"
_SHOWN = re.escape(HIDDEN)
_PORT = r"\d{0,5}(?:[/?#\"',;)\s]|$)"

_WITH_PASSWORD = re.compile(
    rf"(?P<before>{_START}{_SCHEME}[^\s/?#@:\"']{{0,200}}:)"
    # For SQLAlchemy, a password may also hold slashes and question marks.
    rf"(?!{_SHOWN}@)(?P<secret>[^\s/?#\"']{{1,1500}}|(?!{_PORT})[^\s@]{{1,1500}}+)(?=@)",
    re.I,
)
_WITH_USER = re.compile(rf"(?P<before>{_START}https?://)(?!{_SHOWN}@)(?P<secret>[^\s/?#@:\"']{{1,1500}}+)(?=@)", re.I)
_QUERY = re.compile(
    rf"(?P<before>(?:[?&;]|%3B|%26|%3F|odbc_connect=)(?:{_NAME}|sig|key|auth|credential)(?:=|%3D))"
    rf"(?!{_SHOWN})(?P<secret>\{{[^}}\s]{{1,1500}}+\}}|(?:(?!%3B|%26)[^\s&;#\"'])+)",
    re.I,
)
_ENTRY = re.compile(
    rf"(?P<before>(?<![\w.?&;-]){_NAME}(?:=|[\"']\s?:\s?(?=[\"'])))"
    rf"(?P<secret>\"[^\"]*\"|'[^']*'|(?!{_SHOWN}|\$[a-z_]\w*(?:[\s,;&\"']|$))[^\s,;&\"']+)",
    re.I,
)
_HEADER = re.compile(r"(?P<before>\bAuthorization[\"']?\s?:\s?[\"']?(?:\w{1,20} )?)(?P<secret>[^\s\"']+)", re.I)

_IN_ADDRESSES = ((_WITH_PASSWORD, "password"), (_WITH_USER, "token"), (_QUERY, "token"))
_PATTERNS = (_WITH_PASSWORD, _WITH_USER, _QUERY, _ENTRY, _HEADER)
_LOGIN = re.compile(rf"(?P<scheme>^{_SCHEME})(?:[^/?#]*@|[^@/]*:(?!{_PORT})[^@]*@)", re.I)
_SECRET_OPTION = re.compile(rf"-{{0,2}}{_NAME}", re.I)
_OF_A_NETWORK = re.compile(
    r"(class|cls|mask|masked|pad|register|distillation|null|start|end|bos|eos|query|image|text|style)[_-]?token$", re.I
)
_VARIABLE = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|(API|ACCESS|SECRET|PRIVATE)_?KEY|(?<!APPLICATION_)CREDENTIALS?)$", re.I
)


def secret_in(text: str) -> str | None:
    """The kind of secret in a text: `password` or `token`; None if it holds no address with either."""
    return next((what for pattern, what in _IN_ADDRESSES if pattern.search(text)), None)


def secret_under(name: str, value: str) -> str | None:
    """The kind of secret in a setting whose name suggests one, such as `api_key`: `password` or `token`; None for a
    reference to an environment variable, `$NAME`, for values that are too short or contain a space, and for the
    `class_token` of a transformer."""
    is_secret = _SECRET_OPTION.fullmatch(name) and not _OF_A_NETWORK.search(name)
    if not is_secret or len(value) < LEAST_LENGTH or re.search(r"^\$\w+$|\s", value):
        return None
    return "password" if "pass" in name.lower() else "token"


def without_secrets(text: str) -> str:
    """A text without the passwords and tokens of the addresses in it, those written as `password=…`, and those in this
    process's environment: the values of variables whose names end in PASSWORD, TOKEN, SECRET, API_KEY and the like, and
    the passwords of addresses.

    `postgresql://ann:pw@host/runs?token=1` → `postgresql://ann:***@host/runs?token=***`
    """
    for value in sorted(set(_secrets_of_environment()), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def command_without_secrets(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, as `without_secrets`; of `x.password=…`, `--token=…` and `--token …`, the whole value
    is removed, also where it holds spaces or quotes."""
    shown = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        name, sign, _ = argument.partition("=")
        if before.startswith("-") and _SECRET_OPTION.fullmatch(before):
            shown.append(HIDDEN)
        elif sign and _SECRET_OPTION.fullmatch(name):
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(without_secrets(argument))
    return shown


def bare_address(address: str) -> str:
    """An address without its user, password and tokens, and without a slash at its end: two spellings of one service
    are equal. `http://ann:pw@host:5000/` → `http://host:5000`"""
    return _QUERY.sub(rf"\g<before>{HIDDEN}", _LOGIN.sub(r"\g<scheme>", address)).rstrip("/")


def _secrets_of_environment() -> Iterator[str]:
    """Passwords and tokens in environment variables, as they are written and unquoted."""
    for name, value in os.environ.items():
        found = [value] if _VARIABLE.search(name) else [each["secret"] for each in _WITH_PASSWORD.finditer(value)]
        for secret in found:
            yield from (each for each in (secret, unquote(secret)) if len(each) >= LEAST_LENGTH)
