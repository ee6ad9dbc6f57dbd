"""Builds a run from a validated recipe; everything that may be missing is found before the run starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ganrun.base.errors import RequestError
from ganrun.base.ranks import first_says, largest_over_ranks, ranks
from ganrun.contracts.observers import Observer
from ganrun.recipe.recipe import Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.elsewhere import directory_of
from ganrun.rundir.opening import new_run_path
from ganrun.training.assembly import assemble, ignore_stage
from ganrun.training.components import frame_of, owner_of
from ganrun.training.continuing import check_place
from ganrun.training.equality import check_same_run
from ganrun.training.events import Events
from ganrun.training.run import Run
from ganrun.training.sizes import check_shares


def build_run(
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: bool = False,
    on_stage: Callable[[str], None] = ignore_stage,
) -> Run:
    """Build a run, and last of all create its directory; nothing is written into it until the run starts.

    Every rank builds it; only the first one has its directory and its observers.

    Args:
        recipe: What to build.
        output: The run directory; a new one in `runs/` if None.
        resume: Whether to continue the run that `output` may hold.
        on_stage: Called with a description of the current stage.

    Raises:
        RequestError: for anything that is missing or incompatible, located at the recipe's line; nothing has been
            written.
    """
    is_first = ranks().number == 0
    directory = directory_of(output or new_run_path(recipe.name), is_first=is_first)
    check_shares(recipe)
    _check_seen_by_first(directory)
    found, resumed = directory.state(), check_place(directory, recipe, resume=resume)
    events = build_events(recipe) if is_first else Events({})
    run = Run(assemble(recipe, on_stage, directory), directory, events, resumed=resumed, found=found)
    check_same_run(run)
    directory.create()
    return run


def _check_seen_by_first(directory: RunDirectory) -> None:
    """Check that no other rank has a run if the first one has none, since torchrun may make any machine rank 0.

    Raises:
        RequestError: if so.
    """
    is_there = RunDirectory(directory.path).holds_run
    if first_says(not is_there) and largest_over_ranks(int(is_there))[0]:
        text = f"another machine has a run in {directory.path}, and the machine of rank 0 has none"
        raise RequestError(f"{text}; put --output on a file system that all machines share")


def build_events(recipe: Recipe) -> Events:
    """The recipe's observers, ready to receive events.

    Raises:
        PluginError: if an observer cannot be built, or does not match the events.
    """
    observers: dict[str, Observer] = {}
    for name, config in recipe.observers.items():
        with frame_of(recipe, config, "__init__"):
            observers[name] = config.build()
    return Events(observers, {name: owner_of(config) for name, config in recipe.observers.items()})
