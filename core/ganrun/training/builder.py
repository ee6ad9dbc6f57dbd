"""Builds a run from a validated recipe; everything that may be missing is found before the run starts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ganrun.base.texts import one_line
from ganrun.contracts.observers import Observer
from ganrun.recipe.recipe import Recipe
from ganrun.recipe.source import header
from ganrun.rehearsal.data import check_batch
from ganrun.rundir.directory import RunDirectory, new_run_path
from ganrun.training.assembly import assemble, ignore_stage
from ganrun.training.components import frame_of, owner_of
from ganrun.training.continuing import check_place
from ganrun.training.events import Events
from ganrun.training.run import Run
from ganrun.training.share import lost_classes
from ganrun.training.sizes import largest_batch

log = logging.getLogger("ganrun")


def build_run(
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: bool = False,
    on_stage: Callable[[str], None] = ignore_stage,
) -> Run:
    """Build a run, and last of all create its directory; nothing is written into it until the run starts.

    Args:
        recipe: What to build.
        output: The run directory; a new one in `runs/` if None.
        resume: Whether to continue the run that `output` may hold.
        on_stage: Called with a description of the current stage.

    Raises:
        RequestError: for anything that is missing or does not fit, located at the recipe's line; nothing has
            been written then.
    """
    directory = RunDirectory(output or new_run_path(recipe.name))
    resumed = check_place(directory, recipe, resume=resume)
    run = Run(assemble(recipe, on_stage, directory), directory, build_events(recipe), resumed=resumed)
    if not resumed:
        with frame_of(recipe, recipe.data, "split"):
            _check_training_split(run)
    directory.create()
    return run


def _check_training_split(run: Run) -> None:
    recipe, share = run.recipe, run.recipe.train.share
    size, key = largest_batch(recipe)
    where = recipe.where(key if share == 1 else ("train", "share"))
    setting = f"{header(key[:-1])} {key[-1]}"
    check_batch(run.training_split, size, paired=run.model.loss.paired, share=share, setting=setting, where=where)
    if lost := lost_classes(run.data.split("train"), run.training_split):
        text = "%s: the share %g of the train split has no record of %d classes; the first is %s"
        log.warning(text, where, share, len(lost), one_line(run.data.class_names()[lost[0]]))


def build_events(recipe: Recipe) -> Events:
    """The recipe's observers, ready to receive events.

    Raises:
        PluginError: if an observer cannot be built, or does not fit the events.
    """
    observers: dict[str, Observer] = {}
    for name, config in recipe.observers.items():
        with frame_of(recipe, config, "__init__"):
            observers[name] = config.build()
    return Events(observers, {name: owner_of(config) for name, config in recipe.observers.items()})
