"""`ganrun resume`."""

from __future__ import annotations

from pathlib import Path

import click

from ganrun.commands.launching import gpus_option, has_launched, one_of_several
from ganrun.commands.loading import load_recipes
from ganrun.commands.options import RecipeOptions, recipe_options
from ganrun.commands.reporting import check_done
from ganrun.commands.train import train


@click.command("resume", no_args_is_help=True)
@click.argument("run", type=click.Path(path_type=Path))
@recipe_options
@gpus_option
def command(run: Path, options: RecipeOptions, gpus: int | None) -> None:
    """Continue the run in a run directory from its last checkpoint.

    A service address in the run's own recipe must be confirmed, by --set or in the environment.
    """
    from ganrun.rundir.addresses import check_addresses
    from ganrun.rundir.opening import open_run

    if has_launched(gpus):
        return
    with one_of_several():
        (recipe,) = load_recipes([open_run(run).recipe_path], options)
        check_addresses(recipe)
        check_done(train(recipe, run, resume=True).faults)
