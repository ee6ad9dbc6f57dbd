"""Reads the files of a run. They are untrusted, and a crash may have truncated them: for any content, a reader returns
values of the expected types or raises a documented error, in bounded time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

from ganrun.base.reading import opened, read_bytes

Json = dict[str, Any]

LARGEST_TABLE_BYTES = 64 << 20
"""For a JSON file; a run's have a few kilobytes."""

LARGEST_METRICS_BYTES = 8 << 30
"""For metrics.jsonl: thirty million lines."""

LONGEST_RECORD_BYTES = 1 << 20
"""For a line of metrics.jsonl."""

SHOWN_BYTES = 200
"""Bytes that are kept of a longer line."""

MAX_LEVELS = 64
"""Nesting depth of tables and lists: recursive code can rely on it."""

LARGEST_WHOLE = 2**63 - 1

# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────


def read_table(path: Path) -> Json:
    """The table in a JSON file.

    Raises:
        OSError: if it cannot be read, is too large, or is no regular file.
        ValueError: if it is no JSON, is nested too deep, or holds no table.
    """
    content = parsed(read_bytes(path, LARGEST_TABLE_BYTES).decode("utf-8-sig"))
    if not isinstance(content, dict):
        raise ValueError("it holds no table")
    return content


def table_in(text: object) -> Json:
    """The table in a JSON text; empty where that is none."""
    with suppress(ValueError):
        content = parsed(text) if isinstance(text, str) else None
        return content if isinstance(content, dict) else {}
    return {}


def parsed(text: str) -> Any:
    """Parsed JSON; numbers that are not finite or do not fit into 64 bits become None, like all unknown values.

    Raises:
        ValueError: if it is no JSON, or is nested too deep.
    """
    try:
        content = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if is_deep(content):
        raise ValueError("it is nested too deep")
    return content


def is_deep(content: Any) -> bool:
    """Whether tables and lists are nested deeper than `MAX_LEVELS`; without recursion, which Python limits."""
    level = [content]
    for _ in range(MAX_LEVELS + 1):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return False
    return True


def _inner(value: Any) -> Iterator[Any]:
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (each for each in within if isinstance(each, dict | list))


def _float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | None:
    value = int(text) if len(text) <= len(str(-LARGEST_WHOLE)) else LARGEST_WHOLE + 1
    return value if abs(value) <= LARGEST_WHOLE else None


_DECODER = json.JSONDecoder(parse_float=_float, parse_int=_whole, parse_constant=lambda _: None)

# ── Types ─────────────────────────────────────────────────────────────────────────────────────────────────

Fits = Callable[[Any], bool]


def fitting(content: Mapping[str, Any], kinds: Mapping[str, Fits]) -> Json:
    """The entries of a table whose value has the type expected for its name. Unknown entries are kept: newer versions
    and observers add to the files of a run."""
    return {name: value for name, value in content.items() if name not in kinds or kinds[name](value)}


def is_text(value: Any) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)


def is_table(value: Any) -> bool:
    """Whether a value is a table."""
    return isinstance(value, dict)


def is_texts(value: Any) -> TypeGuard[dict[str, str]]:
    """Whether a value is a table of texts."""
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer ≥ 0 that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_WHOLE


def is_amount(value: Any) -> bool:
    """Whether a value is a finite number ≥ 0."""
    return is_count(value) or (isinstance(value, float) and 0 <= value < math.inf)


def is_list(value: Any) -> bool:
    """Whether a value is a list."""
    return isinstance(value, list)


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


IN_SUMMARY: Mapping[str, Fits] = {
    **dict.fromkeys(("name", "status", "error", "device", "stopped"), is_text),
    **dict.fromkeys(("steps", "images_seen"), is_count),
    **dict.fromkeys(("seconds", "images_per_second"), is_amount),
    **dict.fromkeys(("scores", "score_steps", "directions", "protocols", "errors", "floors", "last"), is_table),
}
"""The kinds of the entries of summary.json; observers add others."""

IN_SESSION: Mapping[str, Fits] = {
    **dict.fromkeys(("python", "platform", "host", "device", "device_name", "precision", "data_fingerprint"), is_text),
    **dict.fromkeys(("threads", "ranks"), is_count),
    **dict.fromkeys(("packages", "plugins"), is_texts),
    **dict.fromkeys(("data", "problem", "starts", "files", "recipe"), is_table),
    **dict.fromkeys(("step", "time"), _or_none(is_amount)),
    "git": _or_none(is_table),
    "command": is_list,
}
"""For one session in environment.json."""

IN_ENVIRONMENT: Mapping[str, Fits] = {**IN_SESSION, "sessions": is_list}
"""For environment.json."""

IN_CONFIG: Mapping[str, Fits] = {
    **dict.fromkeys(("name", "ganrun", "device"), is_text),
    **dict.fromkeys(("step", "images_seen"), is_count),
    **dict.fromkeys(("problem", "loss", "networks", "training", "scores", "data", "sampling"), is_table),
    "plugins": is_texts,
    "seconds": is_amount,
}
"""For the config.json of an export."""

# ── metrics.jsonl ─────────────────────────────────────────────────────────────────────────────────────────


def metrics_lines(path: Path) -> Iterator[str]:
    """The non-empty lines of metrics.jsonl; one that is too long for a record is truncated.

    Raises:
        OSError: if it cannot be read, is too large, or is no regular file.
    """
    with opened(path, LARGEST_METRICS_BYTES) as file:
        while line := file.readline(LONGEST_RECORD_BYTES):
            is_whole = line.endswith(b"\n") or len(line) < LONGEST_RECORD_BYTES
            while not is_whole and (rest := file.readline(LONGEST_RECORD_BYTES)):
                is_whole = rest.endswith(b"\n")
                line = line[:SHOWN_BYTES]
            # Not splitlines, which splits at characters that JSON allows within a text.
            if text := line.removesuffix(b"\n").decode("utf-8", errors="replace"):
                yield text
