"""Finds the lines of keys in a TOML text: in one pass over its tokens, in linear time."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

Key = tuple[str | int, ...]
"""A place in the tables, such as `("metric", 0, "samples")`."""

_TOKEN = re.compile(
    r"""
      (?P<skipped> [ \t]+ | \#[^\n]* )
    | (?P<string> \"{3}(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5} | '{3}(?:[^']|'{1,2}(?!'))*+'{3,5}
                | "(?:[^"\\\n]|\\.)*+" | '[^'\n]*+' )
    | (?P<sign> [\n\[\]{},=.] )
    | (?P<bare> [^\s\[\]{},=.\#"']+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    text: str
    line: int
    """Where it begins, counted from 1."""

    @property
    def is_sign(self) -> bool:
        """Whether it is punctuation; a string is longer than that."""
        return self.text in {"[", "]", "{", "}", ",", "=", "."}

    @property
    def name(self) -> str:
        """The part of a key that it spells."""
        return str(tomllib.loads(f"v = {self.text}")["v"]) if self.text[0] in "\"'" else self.text


def key_lines(text: str) -> dict[Key, int]:
    """The line on which each key first occurs: for a statement of several lines the first, for an array entry the
    entry's own.

    Args:
        text: Valid TOML, with `\\n` between its lines.
    """
    lines: dict[Key, int] = {}
    entries: Counter[Key] = Counter()
    table: Key = ()
    for statement in _statements(text):
        if statement[0].text == "[":
            table = _header(statement, entries, lines)
        else:
            _value(statement, table, lines)
    return lines


def too_deep(text: str, most: int) -> int | None:
    """The line of the first key with more parts than `most`, or of a value nested deeper; None if there is none.

    Args:
        text: Any text, not necessarily TOML. Parsers take time quadratic in the number of a key's parts.
        most: Parts, and levels.
    """
    levels = parts = 0
    for token in _tokens(text):
        levels += (token.text in ("[", "{")) - (token.text in ("]", "}"))
        parts = parts + 1 if token.text == "." else parts if not token.is_sign and token.text != "\n" else 0
        if levels > most or parts >= most:
            return token.line
    return None


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skipped":
            yield _Token(match[0], line)
        line += match[0].count("\n")


def _statements(text: str) -> Iterator[list[_Token]]:
    """Headers, and keys with their values."""
    statement: list[_Token] = []
    levels = 0
    for token in _tokens(text):
        if token.text == "\n":
            if statement and not levels:
                yield statement
                statement = []
            continue
        levels += (token.text in ("[", "{")) - (token.text in ("]", "}"))
        statement.append(token)
    if statement:
        yield statement


def _header(statement: list[_Token], entries: Counter[Key], lines: dict[Key, int]) -> Key:
    """The table that a header begins; `entries` counts those of each array of tables."""
    names = [token.name for token in statement if not token.is_sign]
    is_entry, key = statement[1].text == "[", Key()
    for number, name in enumerate(names, 1):
        key = (*key, name)
        lines.setdefault(key, statement[0].line)
        entries[key] += is_entry and number == len(names)
        if entries[key]:
            key = (*key, entries[key] - 1)
            lines.setdefault(key, statement[0].line)
    return key


def _value(statement: list[_Token], table: Key, lines: dict[Key, int]) -> None:
    """Note a key, and what is within its value."""
    around: list[tuple[Key, int | None]] = [(table, None)]  # tables, and arrays with the number of an entry
    parts: list[_Token] | None = []  # of a key; None in a value
    key = table
    for token in statement:
        if parts is not None and token.text == "=":
            key, parts = _noted(around[-1][0], parts, lines), None
        elif token.text == ",":
            place, entry = around.pop()
            around.append((place, None if entry is None else entry + 1))
            parts = [] if entry is None else None
            key = place if entry is None else (*place, entry + 1)
        elif token.text in ("]", "}"):
            around.pop()
            parts = None
        elif parts is not None:
            parts += [] if token.is_sign else [token]
        elif token.text != ".":
            lines.setdefault(key, token.line)
            if token.text in ("[", "{"):
                is_array = token.text == "["
                around.append((key, 0 if is_array else None))
                key, parts = ((*key, 0), None) if is_array else (key, [])


def _noted(table: Key, parts: Iterable[_Token], lines: dict[Key, int]) -> Key:
    for part in parts:
        table = (*table, part.name)
        lines.setdefault(table, part.line)
    return table
