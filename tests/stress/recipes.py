"""The runs of the stress tests: five families, as small as they can be, that write every kind of file a run has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.families import FAMILIES as ALL

Tables = dict[str, Any]

STEPS = 4

WRITING: Tables = {
    "checkpoints": {"every_steps": 1, "best": "brightness"},
    "samples": {"every_steps": 2, "count": 4, "at_end": ["real-and-generated", "time-lapse"]},
    "metric": [{"use": "brightness"}],
    "progress": False,
    "mlflow": False,
}
"""Checkpoints, the best of them, pictures and scores, every few steps."""

NAMES = {
    "gan": "gan, averaged dcgan",
    "vae": "vae, convolutions",
    "biggan": "biggan",
    "stylegan2": "stylegan2, ada",
    "progressive": "progressive",
}
"""The families, by the name that they have here; the values are keys of `tests.families.FAMILIES`."""

FAMILIES = tuple(NAMES)


def recipe(family: str, more: Mapping[str, Any] | None = None) -> Tables:
    """The recipe of a family, with these tables beside or instead of its own. The first family has all pictures."""
    train = {"steps": STEPS, "log_every_steps": 1, "evaluate_every_steps": 2}
    tables = {**ALL[NAMES[family]].recipe(**train), **WRITING}
    if family == FAMILIES[0]:
        tables["samples"] = {"every_steps": 2, "count": 4}
    return {**tables, **(more or {})}
