"""What the files of a run hold. They may come from anybody, and from any moment of a crash: whatever is in one, its
reader returns content of the types that the file is to have, or raises an error that is expected, in a bounded time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from ganrun.base.reading import opened, read_bytes

Json = dict[str, Any]

LARGEST_TABLE_BYTES = 64 << 20
"""Of a JSON file; those of a run have some kilobytes."""

LARGEST_METRICS_BYTES = 8 << 30
"""Of metrics.jsonl: thirty million lines."""

LONGEST_RECORD_BYTES = 1 << 20
"""Of a line in metrics.jsonl."""

SHOWN_BYTES = 200
"""What is kept of a longer line."""

MAX_LEVELS = 64
"""Tables and lists within each other: code that goes through them can rely on it."""

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


def parsed(text: str) -> Any:
    """JSON, in which numbers that are not finite or do not fit into 64 bits are None, as what is not known.

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
    """Whether tables and lists have more than `MAX_LEVELS`; found without recursion, of which Python has a limit."""
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
    """The entries of a table, without those whose value is not of the kind that belongs to the name. What has no kind
    is kept: newer versions and observers add to the files of a run."""
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
    """Whether a value is a whole number from 0 that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_WHOLE


def is_amount(value: Any) -> bool:
    """Whether a value is a finite number from 0."""
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
"""Those of one start of a run in environment.json."""

IN_ENVIRONMENT: Mapping[str, Fits] = {**IN_SESSION, "sessions": is_list}
"""Those of environment.json."""

IN_CONFIG: Mapping[str, Fits] = {
    **dict.fromkeys(("name", "ganrun", "device"), is_text),
    **dict.fromkeys(("step", "images_seen"), is_count),
    **dict.fromkeys(("problem", "loss", "networks", "training", "scores", "data", "sampling"), is_table),
    "plugins": is_texts,
    "seconds": is_amount,
}
"""Those of the config.json of an export."""

# ── metrics.jsonl ─────────────────────────────────────────────────────────────────────────────────────────


def metrics_lines(path: Path) -> Iterator[str]:
    """The lines of metrics.jsonl that are not empty; of one that is too long for a record, its beginning.

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
