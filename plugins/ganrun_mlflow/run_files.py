"""Paths in a run directory, until `RunDirectory` has them as properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganrun import RunDirectory

RECIPE, ENVIRONMENT, METRICS, SUMMARY = "recipe.toml", "environment.json", "metrics.jsonl", "summary.json"


def metrics_path(directory: RunDirectory) -> Path:
    """metrics.jsonl."""
    return directory / METRICS


def summary_path(directory: RunDirectory) -> Path:
    """summary.json."""
    return directory / SUMMARY


def summary(directory: RunDirectory) -> dict[str, Any]:
    """The content of summary.json; empty where it is absent or damaged."""
    return directory.read_json(SUMMARY)
