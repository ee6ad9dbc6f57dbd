"""A run's health, from its summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganrun import one_line

GOOD = "good"
"""The value of `health` if nothing went wrong."""


def health_of(summary: Mapping[str, Any]) -> str | None:
    """`good`, or a line for each trouble; None if the run was not monitored."""
    found = summary.get("health")
    return found if isinstance(found, str) else None


def health_notes(health: str | None) -> list[str]:
    """A note for each trouble."""
    return [f"trouble: {one_line(line)}" for line in (health or GOOD).splitlines() if line != GOOD]
