"""A recipe's text: its tables, the overrides of the command line, and the line that each key stands on."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ganrun.errors import RecipeError, RequestError

Key = tuple[str | int, ...]
"""A place in the tables, such as `("metric", 0, "samples")`."""


@dataclass(frozen=True)
class Source:
    """A recipe as written."""

    path: Path
    text: str
    tables: dict[str, Any]
    overrides: dict[Key, str]
    """Places that `--set` changed, with what was typed."""

    def where(self, key: Key) -> str:
        """`recipes/wgan.toml:14`, or the `--set` that put the key there; the file alone where the key is absent."""
        for depth in range(len(key), 0, -1):
            if key[:depth] in self.overrides:
                return f"--set {self.overrides[key[:depth]]}"
        line = _line_of(self.text, key)
        return str(self.path) if line is None else f"{self.path}:{line}"


def read_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Read and parse a recipe, and lay the overrides, each `key.path=value`, over it.

    Raises:
        RequestError: if the file cannot be read or an override is malformed.
        RecipeError: if the text is no TOML, or holds a date or time.
    """
    text = _read(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([_syntax_problem(path, error)]) from error
    source = Source(path, text, tables, {})
    for override in overrides:
        key, value = parse_override(override)
        _lay(source.tables, key, value, override)
        source.overrides[key] = override
    dates = [f"{source.where(key)}: {_dotted(key)} is a date or time; no setting takes one" for key in _dates(tables)]
    if dates:
        raise RecipeError(dates)
    return source


def parse_override(override: str) -> tuple[Key, Any]:
    """`train.steps=500` → `(("train", "steps"), 500)`. The value is a TOML value, else a bare string.

    Raises:
        RequestError: if there is no `=` or no key before it.
    """
    dotted, sign, value = override.partition("=")
    parts = dotted.strip().split(".")
    if not sign or not all(parts):
        raise RequestError(f'--set takes key.path=value, such as train.steps=500, not "{override}"')
    key = tuple(int(part) if part.isdigit() else part for part in parts)
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise RequestError(f"{path}: is a folder, not a recipe; to continue a run say: ganrun resume {path}") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path}: is not UTF-8 text, so it is no TOML") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error


def _syntax_problem(path: Path, error: tomllib.TOMLDecodeError) -> str:
    message = str(error)
    place = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if place is None:
        return f"{path}: is no valid TOML: {message}"
    return f"{path}:{place[1]}: is no valid TOML: {message[: place.start()]} (column {place[2]})"


def _lay(tables: dict[str, Any], key: Key, value: Any, override: str) -> None:
    table: Any = tables
    for part, following in pairwise(key):
        if isinstance(table, list):
            table = table[_index(table, part, override)]
        else:
            table = table.setdefault(str(part), [] if isinstance(following, int) else {})
        if not isinstance(table, dict | list):
            raise RequestError(f'--set {override}: "{part}" is not a table')
    if isinstance(table, list):
        table[_index(table, key[-1], override)] = value
    else:
        table[str(key[-1])] = value


def _index(table: list[Any], part: str | int, override: str) -> int:
    if not isinstance(part, int) or part >= len(table):
        raise RequestError(f"--set {override}: there is no entry {part}; the list has {len(table)}, counted from 0")
    return part


def _line_of(text: str, key: Key) -> int | None:
    """The line on which `key` first stands: where the shortest prefix of the file that parses and holds it ends."""
    lines = text.splitlines()
    for count in range(1, len(lines) + 1):
        try:
            tables = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        if _holds(tables, key):
            return count
    return None


def _holds(tables: Any, key: Key) -> bool:
    for part in key:
        try:
            tables = tables[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _dates(value: Any, key: Key = ()) -> Iterator[Key]:
    if isinstance(value, datetime.date | datetime.time):
        yield key
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _dates(each, (*key, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _dates(each, (*key, index))


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))
