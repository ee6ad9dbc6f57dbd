"""Opens MLflow's own pages at the charts that compare runs."""

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

from ganrun import RequestError, RunError, bare_address, spinner
from ganrun_mlflow import store
from ganrun_mlflow.waiting import QUESTION_SECONDS, within

START_TIMEOUT_SECONDS = 120

STORE_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
"""Passes the store to MLflow's server: unlike a command-line option, other users of the machine cannot read it."""


def show(uri: str, experiment: str | None, port: int, browser: bool) -> None:
    """Print the address of an experiment's charts and open it; serve a store in a file until Ctrl-C.

    Args:
        uri: The store, with a password if it needs one; it never appears on a command line.
        experiment: Its name; None for the newest.
        port: Of the server, if one is started.
        browser: Whether to open a browser.

    Raises:
        RequestError: if the store has no such experiment, or the port is in use.
        RunError: if the store cannot be used.
    """
    end = time.monotonic() + QUESTION_SECONDS
    with spinner("looking for the experiment"):
        page = within(end, lambda: _page(uri, experiment, port), f"MLflow at {bare_address(uri)}")
    with _served(uri, port) as server:
        click.echo(f"MLflow: {page}")
        if browser and not webbrowser.open(page):
            click.echo("no browser can be opened here; open the address yourself")
        if server:
            click.echo("press Ctrl-C to stop")
            server.wait()


def _page(uri: str, experiment: str | None, port: int) -> str:
    store.check_reachable(uri)
    if not store.exists(uri):
        raise RequestError(f"there are no runs yet: the first one creates {store.sqlite_path(uri)}")
    client = store.connect(uri)
    with store.errors_as_run_errors(uri):
        known = client.search_experiments(order_by=["last_update_time DESC"])
    named = [each for each in known if experiment in (None, each.name)]
    if not named:
        there = ", ".join(f'"{each.name}"' for each in known)
        raise RequestError(f'there is no experiment "{experiment}" at {bare_address(uri)}; there are {there}')
    address = uri if store.is_server(uri) else f"http://127.0.0.1:{port}"
    return store.page_of(address, str(named[0].experiment_id))


@contextmanager
def _served(uri: str, port: int) -> Iterator[subprocess.Popen[bytes] | None]:
    """Run a server during the block; None if the store is itself a server."""
    if store.is_server(uri):
        yield None
        return
    _check_free(port)
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    saving = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes
    environment = {**os.environ, **saving, STORE_VARIABLE: uri}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        with spinner("starting MLflow"):
            _wait_until_ready(process, f"{STORE_VARIABLE}={bare_address(uri)} {shlex.join(command)}", port)
        yield process
    finally:
        process.terminate()
        process.wait()


def _check_free(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RequestError(f"port {port} cannot be used: {reason}; choose another with --port") from error


def _wait_until_ready(process: subprocess.Popen[bytes], command: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RunError(f"MLflow does not start; to see why, run: {command}")
        time.sleep(0.2)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
    except OSError:
        return False
    return True
