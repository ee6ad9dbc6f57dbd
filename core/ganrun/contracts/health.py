"""What `ganrun doctor` is told by a plugin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HealthCheck:
    """The answer to one question about the machine."""

    ok: bool
    """Whether everything is as it should be."""

    text: str
    """What was found and, where it is not ok, what to do."""
