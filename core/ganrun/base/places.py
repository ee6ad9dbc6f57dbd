"""Finds this machine's paths in content that leaves it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(r"\s*(~|/|\\\\|[a-z]:[\\/]|file:|sqlite:)", re.I)

LEAST_LENGTH = 3
"""Shorter home directories, such as /, occur in many texts."""


def is_local_path(text: str) -> bool:
    """Whether a text is an absolute path or one from a user's home, or holds this user's home or working directory."""
    here = {str(place) for place in (Path.home(), Path.cwd())}
    return bool(_ABSOLUTE.match(text)) or any(place in text for place in here if len(place) > LEAST_LENGTH)


def without_local_paths(table: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON or TOML table without the entries that are paths of this machine, or lists that contain one."""
    return {key: _inside(value) for key, value in table.items() if not _is_path(value)}


def _inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_local_paths(value)
    return [_inside(each) for each in value] if isinstance(value, list) else value


def _is_path(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_path, value))
    return isinstance(value, str) and is_local_path(value)
