"""The commands of this plugin: bring MLflow level with runs, and open it where runs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


@click.command(no_args_is_help=True)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--uri", help="Another store than the one that the run was mirrored in, where it is then written anew.")
def sync(runs: Sequence[Path], uri: str | None) -> None:
    """Send MLflow what it lacks of runs that were trained while it was away.

    \b
    ganrun sync runs/wgan-…
    ganrun sync runs/* --uri http://127.0.0.1:5000
    """
    from ganrun import RequestError, message_console, open_run
    from ganrun_mlflow import store
    from ganrun_mlflow.mirror import Mirror
    from ganrun_mlflow.note import Note

    for directory in [open_run(run) for run in runs]:
        if directory.status == "running":
            raise RequestError(f"{directory.path} is being trained, and that process sends MLflow what it lacks")
        note = Note.of(directory)
        place = store.tracking_uri(uri) if uri else store.with_password(note.uri)
        if store.without_password(place) != note.uri:
            note = note.anew(store.without_password(place))
        mirror = Mirror(directory, place, note)
        with message_console().status(f"sending {directory.path.name} to MLflow"):
            mirror.level(directory.status)
        click.echo(f"{directory.path}: level with MLflow run {mirror.note.run_id}")


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--experiment", metavar="NAME", help="The experiment to open. Default: the run's, else the newest.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--browser/--no-browser", default=True, help="Whether a browser is opened.")
def ui(run: Path | None, experiment: str | None, port: int, browser: bool) -> None:
    """Open MLflow where runs are compared; of a RUN if one is named.

    Runs kept in a file are served from this machine, to this machine only, until Ctrl-C.
    """
    from ganrun import open_run
    from ganrun_mlflow import store
    from ganrun_mlflow.note import Note
    from ganrun_mlflow.server import show

    note = Note.of(open_run(run)) if run else None
    if note:
        show(store.with_password(note.uri), experiment or note.experiment, port, browser)
    else:
        show(store.tracking_uri(), experiment, port, browser)
