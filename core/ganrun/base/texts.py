"""Texts that come from files and from other people, made safe for a terminal, for Markdown and for YAML.

Names, classes, errors and recipes may hold anything: a terminal's control characters, line breaks, HTML, back-ticks.
Wherever one is shown it stays a text: it draws nothing, and ends no heading, table cell or block of code.
"""

from __future__ import annotations

import os
import re
import shlex
from itertools import chain

_MARKS = re.compile(r"(?<=\bwww)\.|:(?=//|[\w+-]+:)|[\\`*_{}\[\]<>&#~!$^@]", re.I)
"""Characters with a meaning anywhere in a line of Markdown."""

_FIRST_MARKS = re.compile(r"^(\d*)([-+=.)])(?=[-+=\s]|$)")
"""What starts a list, a rule or a heading at the beginning of a line."""

MARKDOWN_PIPE = "&#124;"
"""Programs disagree on every other way to write | within a table."""


class Markdown(str):
    """A text that is Markdown already, as the functions below return it."""

    __slots__ = ()


def one_line(text: str) -> str:
    """A text without line breaks and control characters: these are escaped, as in `\\n` and `\\x1b`.

    So are characters that do not show, such as those that reverse the direction of writing.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable(text: str) -> str:
    """The same for a text of several lines, which keeps its line breaks and tabs."""
    return "".join(part if part in "\n\t" else one_line(part) for part in re.split(r"([\n\t])", text))


def encodable(text: str) -> str:
    """A text that UTF-8 can encode: undecodable bytes of a file's name are escaped, as in `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shell_quoted(argument: str | os.PathLike[str]) -> str:
    """An argument of a command, for copying into a shell: any name of a file stays that name, on one line.

    Invisible characters are written as bytes, as in `$'runs/a\012b'`, which bash, zsh and POSIX of 2024 read.
    """
    text = os.fspath(argument)
    if text.isprintable():
        return shlex.quote(text)
    plain = bytes(range(0x20, 0x7F)).translate(None, b"\\'")
    content = text.encode("utf-8", "surrogateescape")
    return f"$'{''.join(chr(byte) if byte in plain else f'{chr(92)}{byte:03o}' for byte in content)}'"


def _escaped(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────────────


def markdown_text(text: str) -> Markdown:
    """A text as plain prose, for a paragraph, a heading, a table cell or a line of a quotation."""
    marked = _MARKS.sub(r"\\\g<0>", one_line(text).strip())
    return Markdown(_FIRST_MARKS.sub(r"\1\\\2", marked).replace("|", MARKDOWN_PIPE))


def markdown_code(text: str) -> Markdown:
    """A text as a code span, also in a table cell; as plain prose if it is blank or holds a |, which would end the
    cell."""
    line = one_line(text)
    if "|" in line or not line.strip():
        return markdown_text(text)
    fence = _fence(line, shortest=1)
    pad = " " if line.strip("`") != line or line.strip() != line else ""
    return Markdown(f"{fence}{pad}{line}{pad}{fence}")


def markdown_block(text: str, language: str = "") -> Markdown:
    """A text of several lines as a code block that its content cannot end."""
    lines = printable(text).strip("\n")
    fence = _fence(lines, shortest=3)
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def _fence(text: str, shortest: int) -> str:
    """A fence of more back-ticks than any run of them in the text."""
    return "`" * max(chain([shortest], (len(run) + 1 for run in re.findall("`+", text))))


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────


def yaml_scalar(value: str | float) -> Markdown:
    """A text or a finite number as YAML 1.1 and 1.2 read it alike, on one line."""
    if isinstance(value, str):
        return Markdown(f'"{"".join(map(_in_yaml, value))}"')
    return Markdown(re.sub(r"^(-?\d+)e", r"\1.0e", repr(value)))  # 1e-05 is a text in YAML 1.1


def _in_yaml(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
