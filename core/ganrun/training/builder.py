"""From a validated recipe to a run that is ready to start: everything that can be missing is found here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ganrun.recipe.recipe import Recipe
from ganrun.rundir.directory import RunDirectory, new_run_path
from ganrun.training.assembly import assemble, ignore_stage
from ganrun.training.building import error_context
from ganrun.training.continuing import check_place
from ganrun.training.events import Events
from ganrun.training.run import Run


def build_run(
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: bool = False,
    on_progress: Callable[[str], None] = ignore_stage,
) -> Run:
    """Build a run, and as the very last thing make its directory, in which nothing is written until it starts.

    Args:
        recipe: What to build.
        output: The run directory; a new one under `runs/` where None.
        resume: Whether `output` may hold this run already, which then continues.
        on_progress: Called with a description of the current stage.

    Raises:
        RequestError: for anything that is missing or does not fit, located at the recipe's line. Nothing has been
            written then.
    """
    directory = RunDirectory(output or new_run_path(recipe.name))
    resumed = check_place(directory, recipe, resume=resume)
    run = Run(assemble(recipe, on_progress), directory, build_events(recipe), resumed=resumed)
    directory.create()
    return run


def build_events(recipe: Recipe) -> Events:
    """The recipe's observers, listening."""
    observers = {}
    for name, config in recipe.observers.items():
        with error_context(recipe, config):
            observers[name] = config.build()
    return Events(observers)
