"""Loads the recipes named by the arguments of `ganrun train`, `resume` and `check`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganrun.base.spinner import spinner
from ganrun.base.texts import printable
from ganrun.commands.options import RecipeOptions
from ganrun.discovery.registry import load_registry
from ganrun.recipe.shipped import find_recipe
from ganrun.recipe.source import read_source

if TYPE_CHECKING:
    from ganrun.recipe.recipe import Recipe


def load_recipes(paths: Iterable[Path], options: RecipeOptions) -> list[Recipe]:
    """Load and validate recipes, and warn about broken plugins. Other files are refused before PyTorch is loaded.

    Raises:
        RequestError: if a recipe cannot be read or is wrong.
    """
    found = [find_recipe(path) for path in paths]
    for path in found:
        read_source(path, options.overrides)
    with spinner("loading PyTorch"):
        from ganrun.recipe.reader import load_recipe
        from ganrun.rundir.stored import made_with

        registry = load_registry(options.blocked)
        recipes = [load_recipe(path, registry, options.overrides, made_with(path)) for path in found]
    for name, reason in registry.broken().items():
        click.echo(printable(f'warning: the plugin "{name}" is broken and left out: {reason}'), err=True)
    for fault in registry.plugins.faults:
        click.echo(printable(f"warning: {fault}"), err=True)
    return recipes
