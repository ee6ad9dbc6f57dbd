"""Resolves the user's arguments to run directories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ganrun import RequestError, RunDirectory, load_registry, locate

MAX_DEPTH = 3
"""Levels of subfolders that are searched for runs."""


def find_runs(names: Sequence[str], experiment: str | None = None) -> list[Path]:
    """The run directories that are named, each once.

    Args:
        names: Run directories, folders that contain some, or a tracker's run ids.
        experiment: The name of a tracker's experiment, for all of its runs.

    Raises:
        RequestError: if a name matches no run.
    """
    if not names and experiment is None:
        raise RequestError("name the runs: their directories, a folder that contains them, or --experiment NAME")
    found = [run for name in names for run in _runs_at(name)]
    if experiment is not None:
        found += _runs_of(experiment)
    unique: dict[Path, Path] = {}
    for path in found:  # several paths may lead to one run: links, and ".."
        unique.setdefault(path.resolve(), path.absolute())
    return list(unique.values())


def _runs_at(name: str) -> list[Path]:
    folder = locate(name, load_registry())
    if folder.is_file():
        raise RequestError(f"{name} is a file; name the run directory, or a folder that contains runs")
    runs = list(_runs_in(folder, MAX_DEPTH))
    if not runs:
        missing = RunDirectory(folder).recipe_path.name
        outer = next((f"; {each} is one" for each in folder.absolute().parents[:2] if _is_run(each)), "")
        raise RequestError(f"{name} is not a run directory and contains none: there is no {missing} in it{outer}")
    return runs


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    """The runs in a folder, by name. An unreadable folder is one of them: reading it then reports why."""
    try:
        is_run = _is_run(folder)
        children = [] if is_run or not depth else sorted(filter(Path.is_dir, folder.iterdir()), key=_natural_order)
    except OSError:
        is_run, children = True, []
    if is_run:
        yield folder
    for child in children:
        yield from _runs_in(child, depth - 1)


def _is_run(folder: Path) -> bool:
    return RunDirectory(folder).recipe_path.is_file()


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """`seed_10` comes after `seed_2`."""
    return [(int(number or 0), text) for text, number in re.findall(r"(\D*)(\d*)", path.name)]


def _runs_of(experiment: str) -> list[Path]:
    registry = load_registry()
    trackers = registry.trackers().values()
    answers = [runs for tracker in trackers if (runs := tracker.runs_of(experiment)) is not None]
    if not answers:
        known = ", ".join(f'"{name}"' for tracker in trackers for name in tracker.experiments()) or "none"
        raise RequestError(
            f'no tracker has an experiment "{experiment}"; there are {known}; or name the run directories'
            f"{registry.lacking('know it')}"
        )
    found = [path for runs in answers for path in runs]
    if not found:
        raise RequestError(f'the experiment "{experiment}" has no runs yet')
    return found
