"""`ganrun train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ganrun.base.errors import Interrupted, RequestError
from ganrun.base.launched import is_first
from ganrun.base.signals import Terminated
from ganrun.base.spinner import spinner
from ganrun.base.texts import one_line, shell_quoted
from ganrun.commands.launching import gpus_option, has_launched, one_of_several
from ganrun.commands.loading import load_recipes
from ganrun.commands.options import RecipeOptions, output_option, recipe_options
from ganrun.commands.output import print_line, relative
from ganrun.commands.reporting import check_all, check_done, in_turn, say, undone

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
        raise RequestError("--output is the directory of one run, so give one recipe")
    if resume and not output:
        raise RequestError("--resume needs --output DIR; to continue a run say: ganrun resume RUN")
    if seeds is not None and options.seed is not None:
        raise RequestError("say --seed N for one run, or --seeds 0,1,2 for replicates, but not both")
    if has_launched(gpus):
        return
    with one_of_several():
        if seeds is None:
            _train_each(load_recipes(recipes, options), output, resume)
        else:
            _train_replicates(recipes, seeds, options, output, resume)


def train(
    recipe: Recipe,
    output: Path | None,
    *,
    resume: bool,
    group: str | None = None,
    continue_command: str | None = None,
    started: float | None = None,
) -> Run:
    """Build and execute one run, and print its observers' messages. Its `faults` list what it left undone.

    Args:
        recipe: What to train.
        output: The run's directory; by default a new one in `runs/`.
        resume: Whether to continue the run that `output` may contain.
        group: The name that the run shares with its replicates.
        continue_command: The command to suggest after an interruption; by default `ganrun resume` with the run's
            directory.
        started: Start of `[train] limit_seconds`, by `time.monotonic`; by default, now.

    Raises:
        RequestError: if something is missing or incompatible; nothing has been written.
        RunError: if the run cannot continue.
        Interrupted: on a signal, or when its time limit is reached.
    """
    from ganrun.rundir.addresses import check_addresses, confirming_options, is_of_run
    from ganrun.training.builder import build_run
    from ganrun.training.runner import execute

    started = time.monotonic() if started is None else started
    if is_of_run(recipe.source.path):
        check_addresses(recipe)
    with spinner("preparing") as show_stage:
        run = build_run(recipe, output, resume=resume, on_stage=lambda stage: show_stage(f"preparing {stage}"))
    run.group, run.started = group, started
    try:
        execute(run)
    except BaseException as stop:
        if run.faults.new:
            say(undone(run.faults))
        if isinstance(stop, Interrupted | KeyboardInterrupt | Terminated) and is_first():
            place = shell_quoted(relative(run.directory.path))
            go_on = continue_command or f"ganrun resume {place}{confirming_options(recipe)}"
            said = str(stop) if isinstance(stop, Interrupted) else "interrupted"
            say(f"{said} at step {run.step}; to continue: {go_on}")
        raise
    finally:
        for message in run.messages:
            print_line(message)
    return run


def _train_each(recipes: Sequence[Recipe], output: Path | None, resume: bool) -> None:
    """Train one recipe; or several, independently."""
    if len(recipes) == 1:
        check_done(train(recipes[0], output, resume=resume).faults)
        return
    started = time.monotonic()
    job = partial(train, output=None, resume=False, started=started)
    _, faults = in_turn([(str(recipe.source.path), partial(job, recipe)) for recipe in recipes])
    check_all(faults, len(recipes))


def _train_replicates(
    paths: Sequence[Path], seeds: str, options: RecipeOptions, output: Path | None, resume: bool
) -> None:
    """Train each recipe with several seeds, in one folder, and print the mean of each score."""
    started, faults = time.monotonic(), []
    replicates = [_replicates(path, seeds, options, output, resume) for path in paths]
    for folder, jobs in replicates:
        scores, found = in_turn([(name, partial(job, started=started)) for name, job in jobs])
        _print_summary(scores, seeds, folder)
        faults += found
    check_all(faults, sum(len(jobs) for _, jobs in replicates))


def _replicates(
    path: Path, seeds: str, options: RecipeOptions, output: Path | None, resume: bool
) -> tuple[Path, list[tuple[str, Callable[..., Run]]]]:
    """The folder of a recipe's replicates, and the functions that train them, by name.

    Raises:
        RequestError: if one cannot be trained there.
    """
    from ganrun.rundir.directory import RunDirectory
    from ganrun.rundir.opening import new_run_path
    from ganrun.trained.replicates import parse_seeds
    from ganrun.training.continuing import check_place

    recipes = {seed: load_recipes([path], replace(options, seed=seed))[0] for seed in parse_seeds(seeds)}
    folder = (output or new_run_path(next(iter(recipes.values())).name)).absolute()
    for seed, recipe in recipes.items():
        check_place(RunDirectory(folder / f"seed_{seed}"), recipe, resume=resume)
    same_options = ", with the same --set" if options.set or options.device else ""
    say_next = (
        f"ganrun {shell_quoted(path)} --seeds {seeds} --output {shell_quoted(relative(folder))} --resume{same_options}"
    )
    in_folder = partial(train, resume=resume, group=folder.name, continue_command=say_next)
    jobs: list[tuple[str, Callable[..., Run]]] = [
        (f"seed {seed}", partial(in_folder, recipe, folder / f"seed_{seed}")) for seed, recipe in recipes.items()
    ]
    return folder, jobs


def _print_summary(scores: Sequence[Sequence[Score]], seeds: str, folder: Path) -> None:
    from ganrun.trained.replicates import summary_of

    click.echo(f"{len(scores)} replicates, seeds {seeds}, in {one_line(str(relative(folder)))}")
    for line in summary_of(scores):
        click.echo(f"  {line}")
