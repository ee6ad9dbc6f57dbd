"""MLflow's own pages, opened where runs are compared."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ganrun import RequestError, RunError, spinner
from ganrun_mlflow import store

STARTING_SECONDS = 120


def show(uri: str, experiment: str | None, port: int, browser: bool) -> None:
    """Print the address of an experiment's charts, open it, and serve it until Ctrl-C if it is kept in a file.

    Raises:
        RequestError: if the store holds no such experiment, or the port is taken.
        RunError: if the store cannot be used.
    """
    with spinner("looking for the experiment"):
        page = _page(uri, experiment, port)
    with _served(uri, port) as server:
        click.echo(f"MLflow: {page}")
        if browser and not webbrowser.open(page):
            click.echo("no browser can be opened here; open the address yourself")
        if server:
            click.echo("Ctrl-C ends it")
            server.wait()


def _page(uri: str, experiment: str | None, port: int) -> str:
    store.reach(uri)
    if not store.is_made(uri):
        raise RequestError(f"there are no runs yet: {store.sqlite_path(uri)} is made by the first one")
    client = store.connect(uri)
    with store.refusals_told(uri):
        known = client.search_experiments(order_by=["last_update_time DESC"])
    named = [each for each in known if experiment in (None, each.name)]
    if not named:
        there = ", ".join(f'"{each.name}"' for each in known)
        raise RequestError(f'there is no experiment "{experiment}" at {store.without_password(uri)}; there are {there}')
    address = uri if store.is_server(uri) else f"http://127.0.0.1:{port}"
    return store.page_of(address, str(named[0].experiment_id))


@contextmanager
def _served(uri: str, port: int) -> Iterator[subprocess.Popen[bytes] | None]:
    """A block in which a server answers; None where the store is one."""
    if store.is_server(uri):
        yield None
        return
    _check_free(port)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"]
    calm = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes for what nobody asks of it
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=calm)
    try:
        with spinner("starting MLflow"):
            _await(process, command, port)
        yield process
    finally:
        process.terminate()
        process.wait()


def _check_free(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RequestError(f"port {port} cannot be used: {reason}; say --port with another number") from error


def _await(process: subprocess.Popen[bytes], command: list[str], port: int) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RunError(f"MLflow does not start; to see why, say: {shlex.join(command)}")
        time.sleep(0.2)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
    except OSError:
        return False
    return True
