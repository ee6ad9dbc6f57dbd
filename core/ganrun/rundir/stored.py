"""A run's own recipe, and the plugins that it was made with."""

from __future__ import annotations

from pathlib import Path

from ganrun.discovery.made_with import MadeWith
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.records import RECIPE


def made_with(recipe: Path) -> MadeWith:
    """The plugins that the latest start in environment.json, or an exported folder's config.json, names beside a
    recipe; none where the recipe is not a run's own, or they are damaged."""
    directory = RunDirectory(recipe.parent)
    if recipe.name != RECIPE:
        return MadeWith()
    plugins = directory.latest_session().get("plugins") or directory.config().get("plugins")
    if not isinstance(plugins, dict):
        return MadeWith()
    return MadeWith({str(name): str(text) for name, text in plugins.items()})
