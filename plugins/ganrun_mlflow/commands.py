"""The commands of this plugin: bring MLflow level with runs, and open it where runs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ganrun import RunDirectory


@click.command(no_args_is_help=True)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--uri", help="Another store than the one that the run was mirrored in, where it is then written anew.")
def sync(runs: Sequence[str], uri: str | None) -> None:
    """Send MLflow what it lacks of runs that were trained while it was away.

    \b
    ganrun sync runs/wgan-…
    ganrun sync runs/* --uri http://127.0.0.1:5000
    """
    from ganrun import GanrunError, RunError, spinner

    faults = []
    for run in runs:
        try:
            with spinner(f"sending {run} to MLflow"):
                from ganrun_mlflow.mirror import sync

                note = sync(_directory(run), uri)
            click.echo(f"{run}: level with MLflow run {note.run_id}")
        except GanrunError as error:
            faults.append(error)
            if len(runs) > 1:
                click.echo(f"{run}: {error}", err=True)
    if len(runs) == 1 and faults:
        raise faults[0]
    if faults:
        raise RunError(f"{len(faults)} of {len(runs)} could not be sent")


@click.command()
@click.argument("run", required=False)
@click.option("--experiment", metavar="NAME", help="The experiment to open. Default: the run's, else the newest.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--browser/--no-browser", default=True, help="Whether a browser is opened.")
def ui(run: str | None, experiment: str | None, port: int, browser: bool) -> None:
    """Open MLflow where runs are compared; of a RUN if one is named.

    Runs kept in a file are served from this machine, to this machine only, until Ctrl-C.
    """
    from ganrun_mlflow import store
    from ganrun_mlflow.note import Note
    from ganrun_mlflow.server import show

    note = Note.of(_directory(run)) if run else None
    if note:
        show(store.with_password(note.uri), experiment or note.experiment, port, browser)
    else:
        show(store.tracking_uri(), experiment, port, browser)


def _directory(run: str) -> RunDirectory:
    """A run's, by its path or by its MLflow id."""
    from ganrun import load_registry, locate, open_run

    return open_run(locate(run, load_registry()))
