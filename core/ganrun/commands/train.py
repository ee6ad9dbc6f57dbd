"""`ganrun train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganrun.base.errors import Interrupted, RankError, RequestError, RunError
from ganrun.base.launched import is_first, launched
from ganrun.base.spinner import spinner
from ganrun.base.texts import one_line, printable, shell_quoted
from ganrun.commands.launching import gpus_option, has_launched, one_of_several
from ganrun.commands.loading import load_recipes
from ganrun.commands.options import RecipeOptions, output_option, recipe_options
from ganrun.commands.output import print_line, relative

if TYPE_CHECKING:
    from ganrun.contracts.scores import Score
    from ganrun.recipe.recipe import Recipe
    from ganrun.training.run import Run


@click.command("train", no_args_is_help=True)
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE.toml...")
@recipe_options
@click.option("--seeds", metavar="0,1,2", help="Train one replicate for each seed, in subdirectories of --output.")
@output_option(help="The run's own directory. Default: a new one in runs/.")
@click.option("--resume", is_flag=True, help="Start, or continue the run in --output: safe to requeue.")
@gpus_option
def command(
    recipes: Sequence[Path],
    options: RecipeOptions,
    seeds: str | None,
    output: Path | None,
    resume: bool,
    gpus: int | None,
) -> None:
    """Train the model of each recipe in turn; `ganrun RECIPE.toml` is short for this."""
    if output and len(recipes) > 1:
        raise RequestError("--output names one run's directory, so it takes one recipe")
    if resume and not output:
        raise RequestError("--resume needs --output DIR; to continue a run say: ganrun resume RUN")
    if seeds is not None and options.seed is not None:
        raise RequestError("say --seed N for one run, or --seeds 0,1,2 for replicates, but not both")
    if has_launched(gpus):
        return
    with one_of_several():
        if seeds is None:
            for recipe in load_recipes(recipes, options):
                train(recipe, output, resume=resume)
        else:
            for path in recipes:
                _train_replicates(path, seeds, options, output, resume)


def train(
    recipe: Recipe,
    output: Path | None,
    *,
    resume: bool,
    group: str | None = None,
    continue_command: str | None = None,
) -> Run:
    """Build and execute one run, and print the messages that its observers have left.

    Args:
        recipe: What to train.
        output: The run's directory; by default a new one in `runs/`.
        resume: Whether to continue the run that `output` may contain.
        group: The name that the run shares with its replicates.
        continue_command: What to say after an interruption; by default `ganrun resume` with the run's directory.

    Raises:
        RequestError: if something is missing or does not fit; nothing was written then.
        RunError: if the run cannot go on.
        Interrupted: on Ctrl-C or SIGTERM.
    """
    from ganrun.rundir.addresses import check_addresses, confirming_options, is_of_run
    from ganrun.training.builder import build_run
    from ganrun.training.runner import execute

    if is_of_run(recipe.source.path):
        check_addresses(recipe)
    with spinner("preparing") as show_stage:
        run = build_run(recipe, output, resume=resume, on_stage=lambda stage: show_stage(f"preparing {stage}"))
    run.group = group
    try:
        execute(run)
    except (Interrupted, KeyboardInterrupt):
        continue_command = continue_command or (
            f"ganrun resume {shell_quoted(relative(run.directory.path))}{confirming_options(recipe)}"
        )
        if is_first():
            click.echo(f"interrupted at step {run.step}; to continue: {continue_command}", err=True)
        raise
    finally:
        for message in run.messages:
            print_line(message)
    return run


def _train_replicates(path: Path, seeds: str, options: RecipeOptions, output: Path | None, resume: bool) -> None:
    """Train one recipe with several seeds, in one folder, and print the mean of each score."""
    from ganrun.rundir.directory import RunDirectory, new_run_path
    from ganrun.trained.replicates import parse_seeds
    from ganrun.training.continuing import check_place

    recipes = {seed: load_recipes([path], replace(options, seed=seed))[0] for seed in parse_seeds(seeds)}
    folder = (output or new_run_path(next(iter(recipes.values())).name)).absolute()
    for seed, recipe in recipes.items():
        check_place(RunDirectory(folder / f"seed_{seed}"), recipe, resume=resume)
    same_options = ", with the same --set" if options.set or options.device else ""
    continue_command = (
        f"ganrun {shell_quoted(path)} --seeds {seeds} --output {shell_quoted(relative(folder))} --resume{same_options}"
    )
    scores = _scores_of_replicates(recipes, folder, resume, continue_command)
    _print_summary(scores, seeds, folder)
    failed = [str(seed) for seed in recipes if seed not in scores]
    if failed:
        raise RunError(f"{len(failed)} of {len(recipes)} replicates failed: seeds {', '.join(failed)}")


def _scores_of_replicates(
    recipes: Mapping[int, Recipe], folder: Path, resume: bool, continue_command: str
) -> dict[int, list[Score]]:
    """The scores of each seed; a replicate that fails is reported and left out."""
    scores = {}
    for seed, recipe in recipes.items():
        try:
            run = train(
                recipe,
                folder / f"seed_{seed}",
                resume=resume,
                group=folder.name,
                continue_command=continue_command,
            )
            scores[seed] = list(run.scores.values())
        except RankError:
            raise
        except (RequestError, RunError) as error:
            if launched() is not None:  # the others may be elsewhere in the run
                raise
            click.echo(printable(f"error: {error}"), err=True)
    return scores


def _print_summary(scores: Mapping[int, Sequence[Score]], seeds: str, folder: Path) -> None:
    from ganrun.trained.replicates import summary_of

    click.echo(f"{len(scores)} replicates, seeds {seeds}, in {one_line(str(relative(folder)))}")
    for line in summary_of(list(scores.values())):
        click.echo(f"  {line}")
