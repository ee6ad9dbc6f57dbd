"""Values as text, for tables, pages and messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ganrun import one_line

ABSENT = "–"
"""Stands for a value that a run does not have."""


def path_text(path: Path) -> str:
    """A path relative to the working directory if it is inside, else in full."""
    return one_line(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def last_component(path: str) -> str:
    """`…/faces`: a path of another machine, by its last component."""
    parts = [part for part in re.split(r"[/\\]", path.strip()) if part]
    return f"…/{parts[-1] if parts else ''}"


def value_text(value: Any) -> str:
    """A value as TOML writes it, except that a string has no quotes; – for None."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def counted(number: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration_text(seconds: float) -> str:
    """`0:55`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
