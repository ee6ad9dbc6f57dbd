"""A recipe's text: its tables, the overrides of the command line, and the line that each key stands on."""

from __future__ import annotations

import datetime
import errno
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from ganrun.base.errors import RecipeError, RequestError
from ganrun.base.jsons import LONE_SURROGATES
from ganrun.base.reading import read_bytes
from ganrun.base.secrets import secret_in, without_secrets
from ganrun.recipe.lines import Key, key_lines, too_deep

MAX_DEPTH = 32
"""Maximum parts of a key: more than any setting needs, and recursive code can rely on it."""

LONGEST_BYTES = 300_000
"""Longer than any recipe."""

LONGEST_INDEX = 9
"""Maximum digits of a list index; Python refuses to parse thousands."""

LISTED_FAULTS = 20
"""More would not be read."""

LONGEST_PLACE = 200
"""Characters of an override that are shown as the place of a fault."""

LONGEST_LINE = 1_000
"""Maximum characters of a line in a message: a recipe may hold text of any length."""


BACKSLASH = "; within double quotes, \\ starts an escape, so write a path with \\ in single quotes"

NO_TEXT = "is not UTF-8 text, as a recipe must be; if it is a path, rename the file or folder, or use a link to it" + (
    "" if sys.getfilesystemencoding() == "utf-8" else "; or it is UTF-8, and this locale is not: set PYTHONUTF8=1"
)


@dataclass(frozen=True)
class Source:
    """A recipe as written."""

    path: Path
    text: str
    tables: dict[str, Any]
    overrides: dict[Key, str]
    """Places that `--set` changed, each with the text of its override."""
    moved: dict[Key, Key] = field(default_factory=dict)
    """Places that took over their value from another place in the text."""

    def where(self, key: Key) -> str:
        """`recipes/wgan.toml:14`, or the `--set` that put the key there.

        Where the key is absent, the place of the table that lacks it; the file alone where that is absent too.
        """
        key = next((old + key[len(new) :] for new, old in self.moved.items() if key[: len(new)] == new), key)
        places = [key[:depth] for depth in range(len(key), 0, -1)]
        for place in places:
            if place in self.overrides:
                return self._shown[place]
        lines = _lines_in(self.text)
        for place in places:
            if place in lines:
                return f"{self.path}:{lines[place]}"
            for at, shown in self._shown.items():
                if at[: len(place)] == place:
                    return shown
        return str(self.path)

    @cached_property
    def _shown(self) -> dict[Key, str]:
        """The overrides as locations of faults: one value may be the location of many keys."""
        return {place: _set(override) for place, override in self.overrides.items()}

    def secrets_in_comments(self) -> Iterator[tuple[int, str]]:
        """The comment lines that hold a password or token, each with the kind of secret."""
        for number, line in enumerate(self.text.split("\n"), 1):
            if line.lstrip().startswith("#") and (what := secret_in(line)) is not None:
                yield number, what

    @property
    def preamble(self) -> str:
        """The comment at the start of the text, which describes the recipe."""
        comment = takewhile(lambda line: line.startswith("#"), self.text.splitlines(keepends=True))
        return "".join(line for line in comment if not line.startswith("#:"))  # directive: the schema for completion


def read_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Read and parse a recipe, and apply the overrides, each `key.path=value`.

    Raises:
        RequestError: if the file cannot be read or an override is malformed.
        RecipeError: if the text is not TOML, or holds a date, a time or an integer beyond 64 bits.
    """
    text = _read(path)
    if line := too_deep(text, MAX_DEPTH):
        raise RecipeError([f"{path}:{line}: is nested too deep; a recipe has at most {MAX_DEPTH} nested tables"])
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError([_syntax_fault(path, text, error)]) from error
    return laid_over(tables, overrides, path, text)


def laid_over(tables: dict[str, Any], overrides: Sequence[str], path: Path, text: str = "") -> Source:
    """These tables with the overrides applied.

    Raises:
        RequestError: if an override is malformed.
        RecipeError: if a value is a date, a time or an integer beyond 64 bits.
    """
    laid: dict[Key, str] = {}
    for override in overrides:
        key, value = parse_override(override)
        key = _lay(tables, key, value, override)
        laid = {at: typed for at, typed in laid.items() if at[: len(key)] != key} | {key: override}
    source = Source(path, text, tables, laid)
    deepest = _deepest(tables)
    if len(deepest) > MAX_DEPTH:
        name = f"{_dotted(deepest[:3])}…"
        raise RecipeError(
            [f"{source.where(deepest)}: {name} is nested {len(deepest)} deep; a recipe has at most {MAX_DEPTH}"]
        )
    unfit = [f"{source.where(key)}: {_dotted(key)} {reason}" for key, reason in _unfit(tables)]
    if unfit:
        raise RecipeError(listed(unfit))
    return source


def listed(faults: Sequence[str]) -> list[str]:
    """Faults for a report: the first ones, in lines of readable length, and the number of the rest."""
    shown = ["\n".join(map(_shortened, fault.split("\n"))) for fault in faults[:LISTED_FAULTS]]
    return [*shown, *([f"and {len(faults) - LISTED_FAULTS:,} more faults"] if len(faults) > LISTED_FAULTS else [])]


def _shortened(line: str, longest: int = LONGEST_LINE) -> str:
    return line if len(line) <= longest else f"{line[:longest]}…"


def _set(override: str) -> str:
    """An override as the location of a fault, shortened."""
    return f"--set {_shortened(without_secrets(override[:LONGEST_BYTES]), LONGEST_PLACE)}"


def parse_override(override: str) -> tuple[Key, Any]:
    """`train.steps=500` → `(("train", "steps"), 500)`. The value is a TOML value, else a bare string.

    Raises:
        RequestError: if there is no `=` or no key before it.
    """
    dotted, sign, value = override.partition("=")
    parts = dotted.strip().split(".")
    if not sign or not all(parts):
        raise RequestError(f'--set takes key.path=value, such as train.steps=500, not "{_shortened(override)}"')
    if len(override) > LONGEST_BYTES:
        raise RequestError(f"{_set(override)}: is longer than {LONGEST_BYTES // 1000} kB")
    key = tuple(int(part) if part.isdecimal() and len(part) <= LONGEST_INDEX else part for part in parts)
    if too_deep(dotted, MAX_DEPTH) or too_deep(value, MAX_DEPTH):
        raise RequestError(f"{_set(override)}: is nested too deep; a recipe has at most {MAX_DEPTH} levels")
    try:
        tables = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return key, value
    return key, tables["value"] if tables.keys() == {"value"} else value


def header(key: Key) -> str:
    """`[optimizer.discriminator]`, `[[metric]]`, `[metric.features]`."""
    names = ".".join(part for part in key if isinstance(part, str))
    return f"[[{names}]]" if isinstance(key[-1], int) else f"[{names}]"


def _read(path: Path) -> str:
    try:
        return read_bytes(path, LONGEST_BYTES).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise RequestError(f"{path}: is a folder, not a recipe; to continue a run say: ganrun resume {path}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RequestError(f"{path}:{line}: is not UTF-8 text, so it is not TOML") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise RequestError(f"{path}: is longer than {LONGEST_BYTES // 1000} kB, so it is not a recipe") from None
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error


def _syntax_fault(path: Path, text: str, error: Exception) -> str:
    message = str(error)
    place = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if place is not None:
        hint = BACKSLASH if "\\" in text.split("\n")[int(place[1]) - 1] else ""
        return f"{path}:{place[1]}: is not valid TOML: {message[: place.start()]} (column {place[2]}){hint}"
    at_end = f":{len(text.splitlines())}" if "(at end of document)" in message else ""
    return f"{path}{at_end}: is not valid TOML: {message}"


def _lay(tables: dict[str, Any], key: Key, value: Any, override: str) -> Key:
    """Set `value`; returns the key as the tables have it, in which a number is an index only in lists."""
    table: Any = tables
    laid: Key = ()
    for part, following in zip(key, (*key[1:], None), strict=True):
        if not isinstance(table, dict | list):
            raise RequestError(f'{_set(override)}: "{_dotted(laid)}" is not a table')
        place: Any = _index(table, part, override) if isinstance(table, list) else str(part)
        laid = (*laid, place)
        if following is None:
            table[place] = value
        elif isinstance(table, dict):
            table = table.setdefault(place, [] if isinstance(following, int) else {})
        else:
            table = table[place]
    return laid


def _index(table: list[Any], part: str | int, override: str) -> int:
    if not isinstance(part, int) or part >= len(table):
        what = f"there is no entry {part}; the list has {len(table)}, counted from 0"
        hint = "" if table else f"; to add one, say --set '{override.partition('.')[0]}=[{{ use = \"NAME\" }}]'"
        raise RequestError(f"{_set(override)}: {what}{hint}")
    return part


@lru_cache(8)
def _lines_in(text: str) -> dict[Key, int]:
    return key_lines(text)


def _unfit(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """TOML values that no setting accepts, with the reason."""
    if isinstance(value, datetime.date | datetime.time):
        yield key, "is a date or time; no setting takes one"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield key, "is beyond 64 bits"
    elif isinstance(value, str) and LONE_SURROGATES.search(value):
        yield key, NO_TEXT
    elif isinstance(value, dict | list):
        for part, each in _items(value):
            if isinstance(part, str) and LONE_SURROGATES.search(part):
                yield (*key, part), NO_TEXT
            yield from _unfit(each, (*key, part))


def _deepest(tables: dict[str, Any]) -> Key:
    """The longest key; found without recursion, which Python limits."""
    deepest: Key = ()
    level: list[tuple[Key, Any]] = [((), tables)]
    while level:
        deepest = level[0][0]
        nested = ((key, each) for key, value in level if isinstance(value, dict | list) for each in _items(value))
        level = [((*key, part), each) for key, (part, each) in nested]
    return deepest


def _items(value: dict[str, Any] | list[Any]) -> Iterable[tuple[str | int, Any]]:
    return value.items() if isinstance(value, dict) else enumerate(value)


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))
