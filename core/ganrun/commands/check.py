"""`ganrun check`."""

from __future__ import annotations

from pathlib import Path

import click

from ganrun.base.errors import GanrunError, RecipeError
from ganrun.base.spinner import spinner
from ganrun.commands.loading import load_recipes
from ganrun.commands.options import RecipeOptions, recipe_options
from ganrun.commands.output import print_line


@click.command("check")
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE.toml...")
@recipe_options
def command(recipes: tuple[Path, ...], options: RecipeOptions) -> None:
    """Check recipes without training: settings, components, and that the networks fit."""
    faults: list[str] = []
    for path in recipes:
        try:
            _check(path, options)
            print_line(f"{path}: ok")
        except GanrunError as error:
            faults.append(str(error))
    if faults:
        raise RecipeError(faults)


def _check(path: Path, options: RecipeOptions) -> None:
    (recipe,) = load_recipes([path], options)
    with spinner("loading PyTorch"):
        from ganrun.training.assembly import check_recipe
        from ganrun.training.builder import build_events

    check_recipe(recipe)
    build_events(recipe)
