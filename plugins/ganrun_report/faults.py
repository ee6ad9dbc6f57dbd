"""The faults that a run survived, from its summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganrun import one_line

LONGEST_TEXT = 300
"""Characters of a fault's text that a note keeps."""


def fault_notes(summary: Mapping[str, Any]) -> list[str]:
    """A note for each fault: `metric.0 fid failed at measure at steps 500 to 1000, 2 times: …`."""
    faults = summary.get("faults")
    return [_note(fault) for fault in faults if isinstance(fault, dict)] if isinstance(faults, list) else []


def _note(fault: Mapping[str, Any]) -> str:
    of, at, text, first, last, times = (
        one_line(str(fault.get(name, "?"))) for name in ("of", "at", "text", "step", "last_step", "times")
    )
    when = f"at step {first}" if first == last else f"at steps {first} to {last}"
    often = "" if times == "1" else f", {times} times"
    return f"{of} failed at {at} {when}{often}: {text[:LONGEST_TEXT]}"
