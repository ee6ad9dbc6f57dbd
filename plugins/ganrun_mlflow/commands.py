"""The commands `ganrun sync` and `ganrun ui`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ganrun import RunDirectory

uri_option = click.option(
    "--uri",
    metavar="ADDRESS",
    help="The store. Default: $MLFLOW_TRACKING_URI, where one with a password belongs, else mlflow.db.",
)


@click.command(no_args_is_help=True)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@uri_option
def sync(runs: Sequence[str], uri: str | None) -> None:
    """Send to MLflow what it is missing of runs, for example after it was unavailable.

    A run that was sent to a server that is not the default store needs --uri: an address in a run directory, which may
    come from anybody, is not contacted. If the store does not have the run, it is created. Ctrl-C stops at any time.

    \b
    ganrun sync runs/wgan-…
    ganrun sync runs/* --uri http://127.0.0.1:5000
    """
    from ganrun import GanrunError, RunError

    errors = []
    for run in runs:
        try:
            click.echo(f"{run}: synchronised with MLflow run {_sync(run, uri)}")
        except GanrunError as error:
            errors.append(error)
            if len(runs) > 1:
                click.echo(f"{run}: {error}", err=True)
    if len(runs) == 1 and errors:
        raise errors[0]
    if errors:
        raise RunError(f"{len(errors)} of {len(runs)} could not be sent")


@click.command()
@click.argument("run", required=False)
@uri_option
@click.option("--experiment", metavar="NAME", help="The experiment to open. Default: the run's, else the newest.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--browser/--no-browser", default=True, help="Whether to open a browser.")
def ui(run: str | None, uri: str | None, experiment: str | None, port: int, browser: bool) -> None:
    """Open MLflow at the charts that compare runs: those of RUN's experiment if one is named.

    Runs that are stored in a file are served by this machine, to this machine only, until Ctrl-C.
    """
    from ganrun_mlflow import store
    from ganrun_mlflow.server import show

    place, own = _place_of(run, uri) if run else (store.tracking_uri(uri), None)
    show(place, experiment or own, port, browser)


def _sync(run: str, uri: str | None) -> str:
    """Synchronise a run; its MLflow id."""
    from ganrun import spinner

    with spinner(f"sending {run} to MLflow"):
        from ganrun_mlflow.mirror import sync

        return sync(_directory(run), uri).progress.run_id


def _place_of(run: str, uri: str | None) -> tuple[str, str]:
    """The store and the experiment of a run."""
    from ganrun_mlflow import home, store
    from ganrun_mlflow.sync_state import SyncState

    directory = _directory(run)
    state = SyncState.read(directory)
    place = home.store_of(state, directory, uri)
    if uri is None and not home.is_in(place, state):
        raise store.not_named(directory, state.uri, "ganrun ui")
    return place, state.experiment


def _directory(run: str) -> RunDirectory:
    """The directory of a run, by its path or by its MLflow id."""
    from ganrun import load_registry, locate, open_run

    return open_run(locate(run, load_registry()))
