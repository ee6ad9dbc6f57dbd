"""`ganrun compare` and `ganrun report`, as they are typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ganrun_report.reading import PastRun


def _which_runs(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say which runs, and by which score they are ranked."""
    for decorate in (
        click.option("--by", metavar="SCORE", help="Rank by this score. Default: the first that most runs have."),
        click.option("--experiment", metavar="NAME", help="All runs of an experiment that a tracker knows."),
        click.argument("runs", nargs=-1, metavar="[RUN|FOLDER]..."),
    ):
        function = decorate(function)
    return function


@click.command(no_args_is_help=True)
@_which_runs
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def compare(runs: Sequence[str], experiment: str | None, by: str | None, as_json: bool) -> None:
    """Compare runs: scores with their protocols, speed, time, and what of the recipes differs.

    Runs that differ in their seeds alone share a row, mean ± standard deviation. Scores of unlike protocols are never
    ranked together. A run is its directory or a tracker's id; a folder stands for all runs in it.

    \b
    ganrun compare runs/
    ganrun compare runs/gan runs/vae --by inception_score
    """
    from ganrun_report.ranking import compared
    from ganrun_report.table import comparison_json, print_comparison

    comparison = compared(_read(runs, experiment), by)
    if as_json:
        click.echo(comparison_json(comparison))
    else:
        print_comparison(comparison)


@click.command(no_args_is_help=True)
@_which_runs
@click.option("--output", type=click.Path(path_type=Path), help="Default: report.html, here or in the one run given.")
@click.option("--pictures", default=12, show_default=True, type=click.IntRange(1), help="At most so many steps a run.")
def report(runs: Sequence[str], experiment: str | None, by: str | None, output: Path | None, pictures: int) -> None:
    """Write a page that holds runs side by side: one file, which needs no network.

    Leaderboard, pictures with one slider for the step, curves, what of the recipes differs, environments.

    \b
    ganrun report runs/gan runs/vae --output gan-or-vae.html
    """
    from ganrun import RequestError
    from ganrun_report.page import write_page
    from ganrun_report.ranking import compared
    from ganrun_report.reading import one_line

    if output and output.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"{output}: a report is a page; say --output NAME.html")
    found = _read(runs, experiment)
    path = output or ((found[0].path if len(found) == 1 else Path()) / "report.html")
    for note in write_page(path, compared(found, by), pictures):
        click.echo(f"note: {note}", err=True)
    click.echo(f"wrote {one_line(str(path))} ({max(1, path.stat().st_size // 1000):,} kB); open it in a browser")


def _read(names: Sequence[str], experiment: str | None) -> list[PastRun]:
    """The runs; what cannot be read of them is told on the error stream."""
    from ganrun_report.reading import find_runs, read_runs

    runs, faults = read_runs(find_runs(names, experiment))
    for told in (*faults, *(f"{run.path}: {note}" for run in runs for note in run.notes)):
        click.echo(f"note: {told}", err=True)
    return runs
