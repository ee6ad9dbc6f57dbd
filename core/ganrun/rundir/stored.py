"""A run's own recipe, and the plugins that the run was made with."""

from __future__ import annotations

from pathlib import Path

from ganrun.discovery.made_with import MadeWith
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.records import RECIPE


def made_with(recipe: Path) -> MadeWith:
    """The plugins that environment.json (latest start) or an exported folder's config.json records beside a recipe;
    empty if the recipe is not a run's own, or the file is damaged."""
    directory = RunDirectory(recipe.parent)
    if recipe.name != RECIPE:
        return MadeWith()
    plugins = directory.latest_session().get("plugins") or directory.config().get("plugins")
    if not isinstance(plugins, dict):
        return MadeWith()
    return MadeWith({str(name): str(text) for name, text in plugins.items()})
