"""The result of one of `ganrun doctor`'s checks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HealthCheck:
    """The result of a check of this machine."""

    ok: bool
    """Whether the check passed."""

    text: str
    """The finding and, if the check failed, the remedy."""
