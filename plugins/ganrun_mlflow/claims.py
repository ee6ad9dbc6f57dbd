"""Decides whether an MLflow run belongs to a run directory, or to another one that it was copied from."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from ganrun import RequestError, RunDirectory, one_line
from ganrun_mlflow.sync_state import NAME, SyncState

DIRECTORY, HOST = "run_directory", "host"
"""Tags of an MLflow run: its directory, and the machine that last held it."""


def why_not_ours(tags: Mapping[str, str], status: str, directory: RunDirectory, state: SyncState) -> str | None:
    """Why the MLflow run named in a state belongs to another directory; None if it belongs to `directory`.

    A directory that was moved keeps its MLflow run; a copy does not share that of the original. The two are told apart
    by looking where the original was. On another machine that is not possible, so there it is a move unless the MLflow
    run has been continued since, or is running.

    Args:
        tags: Of the MLflow run.
        status: Of the MLflow run.
        directory: The run's.
        state: The directory's own state; its tags are the last ones sent to MLflow.
    """
    named, host = tags.get(DIRECTORY, ""), tags.get(HOST, platform.node())
    if not named or is_same_path(named, directory.path):
        return None
    run, shown = f"the MLflow run {state.progress.run_id}", f"{one_line(named)} on {one_line(host)}"
    if host == platform.node() and _has(named, state):
        return f"{directory.path} and {one_line(named)} are copies of one run, and {run} belongs to the latter"
    if named != state.tags.get(DIRECTORY):
        return f"{run} was continued in {shown}"
    if host != platform.node() and status == "RUNNING":
        return f"{run} is running in {shown}, as far as MLflow knows"
    return None


def is_same_path(one: str, other: Path) -> bool:
    """Whether two paths are equal, or refer to the same file or folder."""
    try:
        return one == str(other) or Path(one).samefile(other)
    except (OSError, ValueError):
        return False


def _has(named: str, state: SyncState) -> bool:
    """Whether another directory on this machine has the MLflow run of a state; true if that cannot be determined."""
    try:
        Path(named, NAME).stat()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    try:
        other = SyncState.read(RunDirectory(Path(named)))
    except RequestError:
        return False
    return (other.progress.run_id, other.started) == (state.progress.run_id, state.started)
