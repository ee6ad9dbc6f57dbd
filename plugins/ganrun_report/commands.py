"""`ganrun compare` and `ganrun report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ganrun_report.reading import PastRun


def _which_runs(function: Callable[..., None]) -> Callable[..., None]:
    """The options that name the runs and the score that ranks them."""
    for decorate in (
        click.option("--by", metavar="SCORE", help="Rank by this score. Default: the one that most runs have."),
        click.option("--experiment", metavar="NAME", help="All runs of a tracker's experiment."),
        click.argument("runs", nargs=-1, metavar="[RUN|FOLDER]..."),
    ):
        function = decorate(function)
    return function


@click.command(no_args_is_help=True)
@_which_runs
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def compare(runs: Sequence[str], experiment: str | None, by: str | None, as_json: bool) -> None:
    """Compare runs: scores with their protocols, speed, time, and differences between the recipes.

    Runs that differ only in their seeds share a row, mean ± standard deviation. Scores with different protocols are
    ranked separately. A run is given by its directory or a tracker's id; a folder stands for all runs in it.

    \b
    ganrun compare runs/
    ganrun compare runs/gan runs/vae --by inception_score
    """
    from ganrun_report.as_json import comparison_json
    from ganrun_report.ranking import compare_runs
    from ganrun_report.terminal import print_comparison

    comparison = compare_runs(_read(runs, experiment), by)
    if as_json:
        click.echo(comparison_json(comparison))
    else:
        print_comparison(comparison)


@click.command(no_args_is_help=True)
@_which_runs
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Default: report.html, in the working directory or in a single run's directory.",
)
@click.option(
    "-n",
    "--pictures",
    default=12,
    show_default=True,
    type=click.IntRange(1),
    help="Maximum number of steps with pictures, per run.",
)
def report(runs: Sequence[str], experiment: str | None, by: str | None, output: Path | None, pictures: int) -> None:
    """Write a page that shows runs side by side: one HTML file, which needs no network.

    Rankings, pictures with one slider for the step, curves, differences between the recipes, and environments.

    \b
    ganrun report runs/gan runs/vae --output gan-or-vae.html
    """
    from ganrun import RequestError, one_line
    from ganrun_report.page import write_page
    from ganrun_report.ranking import compare_runs

    if output and output.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"{output}: a report is an HTML page; use --output NAME.html")
    found = _read(runs, experiment)
    path = output or ((found[0].path if len(found) == 1 else Path()) / "report.html")
    for note in write_page(path, compare_runs(found, by), pictures):
        click.echo(one_line(f"note: {note}"), err=True)
    click.echo(f"wrote {one_line(str(path))} ({max(1, path.stat().st_size // 1000):,} kB); open it in a browser")


def _read(names: Sequence[str], experiment: str | None) -> list[PastRun]:
    """The readable runs; what could not be read is noted on the error stream."""
    from ganrun import one_line
    from ganrun_report.finding import find_runs
    from ganrun_report.reading import read_runs

    runs, errors = read_runs(find_runs(names, experiment))
    for note in (*errors, *(f"{run.path}: {note}" for run in runs for note in run.notes)):
        click.echo(one_line(f"note: {note}"), err=True)
    return runs
