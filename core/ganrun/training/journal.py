"""Writes recipe.toml, environment.json and summary.json into a run's directory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import tomli_w

from ganrun.base.errors import RequestError
from ganrun.base.secrets import without_secrets
from ganrun.rundir.records import ENVIRONMENT, RECIPE, SUMMARY, LatestScore, Summary, last_files_in
from ganrun.rundir.sessions import changes_between, with_session
from ganrun.training.continuing import differences
from ganrun.training.run import Run

log = logging.getLogger("ganrun")

DAMAGED = "environment.damaged.json"
"""Where an environment.json that cannot be read is kept."""


def write_facts(run: Run, stored: Mapping[str, Any]) -> None:
    """Write recipe.toml, with every default, and add this start of the run to environment.json.

    Warns if a start may give different results than the previous one, for example with another version of torch.

    Args:
        run: The run.
        stored: The recipe before this start, as `resolved` would give it: its own at the first.

    Raises:
        RunError: if they cannot be written.
    """
    earlier = _earlier(run) if run.resumed else {}
    text = f"{run.recipe.source.preamble}\n{tomli_w.dumps(run.recipe.resolved())}".lstrip()
    run.directory.write_text(RECIPE, text)
    session = {"step": run.step, "time": round(time.time(), 3), **_changes(run.recipe.resolved(), stored)}
    environment = run.directory.write_json(ENVIRONMENT, with_session(earlier, run.environment, session))
    run.announce(run.directory.recipe_path, "recipe")
    run.announce(environment, "environment")


def write_summary(run: Run, status: str, error: BaseException | None = None) -> None:
    """Write summary.json with the run's current state, and the scores that are recorded until its step; nothing if
    recipe.toml could not be written, so that there is no run.

    Args:
        run: The run.
        status: `running`, `finished`, `failed` or `interrupted`.
        error: What stopped the run, if it failed.

    Raises:
        RunError: if it cannot be written.
    """
    if not run.directory.holds_run:
        return
    if run.directory.metrics_path.is_file():
        run.announce(run.directory.metrics_path, "metrics")
    run.announce(run.directory.write_json(SUMMARY, _summary(run, status, error).to_json()), "summary")


def _summary(run: Run, status: str, error: BaseException | None) -> Summary:
    return Summary(
        name=run.name,
        status=status,
        steps=run.step,
        images_seen=run.images_seen,
        seconds=run.state.seconds,
        images_per_second=run.state.images_per_second,
        device=run.environment["device_name"],
        error=None if error is None else without_secrets(str(error)) or type(error).__name__,
        stopped=run.stopped,
        scores=_scores(run),
        last={role: path for role, path in run.last_files.items() if (run.directory / path).exists()},
        faults=[{**fault, "text": without_secrets(fault["text"])} for fault in run.faults.to_json()],
        notes=run.notes,
    )


def amend_summary(run: Run, status: str, error: BaseException | None) -> None:
    """Write the run's end and its faults into summary.json again, after the last event. No event is emitted, and the
    file's modification time stays that of the run's end, which trackers send.

    Raises:
        RunError: if it cannot be written.
    """
    if not run.directory.holds_run:
        return
    path = run.directory.summary_path
    before = path.stat() if path.exists() else None
    last = last_files_in(run.directory.summary()) or run.last_files
    run.directory.write_json(SUMMARY, replace(_summary(run, status, error), last=last).to_json())
    if before is not None:
        with suppress(OSError):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _earlier(run: Run) -> dict[str, Any]:
    """The content of environment.json before this start. An unreadable file is kept under another name."""
    directory, found = run.directory, run.directory.environment()
    if found:
        before = {"problem": found.get("problem"), **directory.latest_session()}
        if changes := changes_between(before, run.environment):
            log.warning("continues with %s", "; ".join(changes))
    elif directory.environment_path.exists():
        directory.rename(ENVIRONMENT, DAMAGED)
        text = "%s is damaged, so the earlier starts of the run are unknown; it is kept as %s"
        log.warning(text, directory.environment_path, DAMAGED)
    return found


def _changes(recipe: Mapping[str, Any], stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that a start has changed: `{"recipe": {"train.steps": {"before": 5, "now": 9}}}`."""
    table = {each.key: {"before": each.then, "now": each.now} for each in differences(recipe, stored)}
    return {"recipe": table} if table else {}


def _scores(run: Run) -> dict[str, LatestScore]:
    try:
        return run.latest_scores()
    except RequestError:  # what cannot be read now was measured before
        return {name: LatestScore(run.step, score) for name, score in run.scores.items()}
