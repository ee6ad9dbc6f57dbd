"""The parts of a run that a page may show: nothing about the machine, its paths, services and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby, takewhile
from typing import Any

import tomli_w

from ganrun import is_local_path, without_secrets
from ganrun_report.ranking import PASSIVE_OBSERVERS, flat
from ganrun_report.reading import PastRun
from ganrun_report.text import ABSENT, last_component

PRIVATE = ("host", "command", "data.files", "problem.class_names", "sessions")
"""Entries of the environment that the page omits: private, or of no use there."""

OF_START = ("step", "time", "recipe")
"""Entries of a start of a run that record its time."""

PATH = re.compile(r"(?<![\w.:/~\\-])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\][^\s/\\:'\"`,;()<>]+){2,}")
"""A path within a text; a path with spaces matches in parts."""


def public_text(text: str) -> str:
    """A message, with the last component of each path, and without secrets."""
    return PATH.sub(lambda found: last_component(found[0]), without_secrets(text))


def public_recipe(run: PastRun) -> str:
    """The recipe with its comment, only the last component of each path, and no address of an observer's service."""
    comment = "".join(takewhile(lambda line: line.startswith("#"), run.recipe_text.splitlines(keepends=True)))
    tables = {key: _public(value, key in PASSIVE_OBSERVERS) for key, value in run.recipe.items()}
    return without_secrets(f"{comment}\n{tomli_w.dumps(tables)}".lstrip())


def _public(value: Any, is_observer: bool) -> Any:
    if isinstance(value, dict):
        return {key: _public(each, is_observer) for key, each in value.items() if not (is_observer and _is_uri(each))}
    if isinstance(value, list):
        return [_public(each, is_observer) for each in value]
    return last_component(value) if isinstance(value, str) and is_local_path(value) else value


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and "://" in value


def public_environment(run: PastRun) -> dict[str, str]:
    """A run's environment, flat, without private entries. For a run with several starts, a changed entry has all of its
    values: `2.14.1, then 2.15.0`."""
    listed = run.environment.get("sessions")
    starts = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    shown = dict(_entries(run.environment))
    if len(starts) < 2:
        return shown
    tables = [dict(_entries({key: each[key] for key in each if key not in OF_START})) for each in starts]
    for key in {key: None for table in tables for key in table}:
        values = [each for each, _ in groupby(table.get(key, shown.get(key, ABSENT)) for table in tables)]
        shown[key] = ", then ".join(values)
    return {"starts of the run": str(len(starts)), **shown}


def _entries(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in flat(environment):
        if not any(key == private or key.startswith(f"{private}.") for private in PRIVATE):
            yield key, last_component(value) if is_local_path(value) else without_secrets(value)
