"""Servers that hang, drip, refuse and drop: their effect on a run, and on each command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401 - takes seconds, which are none of a server's
import pytest
from click.testing import CliRunner, Result

from ganrun import GanrunError, RunDirectory, load_registry
from ganrun.cli import main
from ganrun.testing import train
from ganrun_mlflow import store, waiting
from ganrun_mlflow.mirror import Mirror
from ganrun_mlflow.sync_state import Progress, SyncState
from ganrun_mlflow.sync_thread import SyncThread
from ganrun_mlflow.tracker import check_store

PASSWORD = "hunter22"
RUN_ID = "5" * 32
LONG = 86_400
RECIPE: dict[str, Any] = {
    "name": "ring",
    "train": {"steps": 2, "batch_size": 8, "device": "cpu", "log_every_steps": 1},
    "data": {"use": "gaussians"},
    "loss": {"use": "gan", "latent_size": 2},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "metric": [],
    "samples": False,
    "progress": False,
}


class Server(ThreadingHTTPServer):
    """As much of MLflow's server as a run needs. `answer` decides what is sent in place of each answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[_Handler], None] = _Handler.as_mlflow
        self.requests: list[str] = []
        self.released = threading.Event()
        self.run: dict[str, Any] = {}
        self.hangs: Path | None = None
        """Made when an upload hangs."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.as_mlflow() if self.path == "/health" else self.server.answer(self)

    do_POST = do_PUT = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: Any) -> None:
        pass

    def as_mlflow(self) -> None:
        info = {"run_id": RUN_ID, "experiment_id": "1", "status": "RUNNING", "start_time": self.server.run.get("start")}
        info |= {"lifecycle_stage": "active", "artifact_uri": "mlflow-artifacts:/1"}
        experiment = {"experiment_id": "1", "name": "gaussians", "lifecycle_stage": "active"}
        part = {"url": f"{self.server.address}/part", "part_number": 1, "headers": {}}
        uploads = {"upload_id": "1", "credentials": [part]}
        self.send(200, {"run": {"info": info, "data": {}}, "experiment": experiment, **uploads})

    def send(self, status: int, content: Any, **headers: str) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text)

    def busy(self) -> None:
        self.send(429, {"message": "later"}, Retry_After=str(LONG))

    def unavailable(self) -> None:
        self.send(503, {"message": "later"}, Retry_After=str(LONG))

    def silent(self) -> None:
        self.server.released.wait(60)

    def dropping(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def dripping(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with suppress(OSError):
            while not self.server.released.wait(0.1):
                self.wfile.write(b" ")
                self.wfile.flush()

    def silent_parts(self) -> None:
        if self.path == "/part":
            assert self.server.hangs
            self.server.hangs.touch()
            self.silent()
        else:
            self.as_mlflow()


BEHAVIOURS = ("busy", "unavailable", "silent", "dropping", "dripping")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address.replace("//", f"//ann:{PASSWORD}@"))
        yield server
        server.released.set()
        server.shutdown()
        thread.join()
    for each in threading.enumerate():
        if each.name == waiting.THREAD:
            each.join(30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that was not sent anywhere, because its server was absent."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as probe:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{probe.getsockname()[1]}")
        patch.setattr(store, "PATIENCE_SECONDS", 0.1)
        return train(RECIPE, tmp_path_factory.mktemp("hostile") / "run").directory


def state_for(server: Server, directory: RunDirectory, run_id: str = "") -> SyncState:
    state = SyncState.read(directory)
    state.uri, state.progress = server.address, Progress(run_id)
    server.run["start"] = state.start_milliseconds
    return state


def ganrun_command(*arguments: Any) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


# ── The end of a run ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_end_of_a_run_waits_for_no_server(
    behaviour: str,
    server: Server,
    trained: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.answer = getattr(_Handler, behaviour)
    thread = SyncThread(Mirror(trained, store.tracking_uri(), state_for(server, trained)))
    if behaviour == "dripping":
        monkeypatch.setattr("ganrun_mlflow.sync_thread.STUCK_SECONDS", 0.1)
        while not server.requests[1:]:
            time.sleep(0.02)
        time.sleep(0.2)
        thread.report_if_stuck()
        thread.report_if_stuck()
        assert caplog.text.count("has not finished answering") == 1
    started = time.monotonic()
    error = thread.close("finished", started + 0.5, lambda: False)
    assert isinstance(error, GanrunError) and PASSWORD not in str(error)
    assert time.monotonic() - started < 10
    asked = len(server.requests)
    assert asked > 1, "more than whether it is up"
    before = (trained / "mlflow.json").read_bytes()
    server.answer = _Handler.as_mlflow
    server.released.set()
    thread._thread.join(30)
    assert not thread._thread.is_alive() and len(server.requests) <= asked + 1, "nothing more is asked for"
    assert (trained / "mlflow.json").read_bytes() == before


def test_a_name_that_is_never_looked_up_holds_up_neither_the_end_nor_a_check(
    server: Server, trained: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: server.released.wait(60))
    monkeypatch.setattr("ganrun_mlflow.tracker.QUESTION_SECONDS", 0.3)
    thread = SyncThread(Mirror(trained, store.tracking_uri(), state_for(server, trained)))
    assert "in time" in str(thread.close("finished", time.monotonic() + 0.3, lambda: False))
    assert not check_store().ok and "takes too long" in check_store().text


def test_a_run_ends_in_time_and_says_how_to_send_the_rest(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = _Handler.dripping
    monkeypatch.setattr(waiting, "END_SECONDS", 0.5)
    run = train(RECIPE, tmp_path / "run")
    printed = "\n".join(run.messages)
    assert "does not have the whole run" in printed and "did not take it all in time" in printed
    assert f"ganrun sync {tmp_path}/run" in printed and PASSWORD not in printed
    assert run.directory.status == "finished" and [fault.of for fault in run.faults.new] == ['observer "mlflow"']


WITH_AN_UPLOAD_THAT_HANGS = """\
import sys, time
from pathlib import Path
from ganrun import RunDirectory
from ganrun_mlflow.mirror import Mirror
from ganrun_mlflow.sync_state import SyncState
from ganrun_mlflow.sync_thread import SyncThread

directory = RunDirectory(Path(sys.argv[1]))
state = SyncState.read(directory)
thread = SyncThread(Mirror(directory, state.uri, state))
while not Path(sys.argv[2]).exists():
    time.sleep(0.05)
print(thread.close("finished", time.monotonic() + 0.5, lambda: False))
"""


def test_a_process_ends_although_an_upload_hangs(server: Server, trained: RunDirectory, tmp_path: Path) -> None:
    """MLflow uploads files in a pool of threads, without a time limit, and Python waits for pools at its exit."""
    server.answer = _Handler.silent_parts
    state_for(server, trained).write(trained)
    uploads = {"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true", "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "1"}
    command = [sys.executable, "-c", WITH_AN_UPLOAD_THAT_HANGS, trained.path, tmp_path / "hangs"]
    server.hangs = tmp_path / "hangs"
    process = subprocess.Popen(command, env={**os.environ, **uploads}, stdout=subprocess.PIPE, text=True)
    assert "in time" in process.communicate(timeout=40)[0]
    assert process.returncode == 0 and "/part" in server.requests


# ── Commands ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("behaviour", ["busy", "silent", "dripping"])
def test_a_question_to_a_store_is_given_up(
    behaviour: str, server: Server, trained: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = getattr(_Handler, behaviour)
    for module in ("tracker", "server"):
        monkeypatch.setattr(f"ganrun_mlflow.{module}.QUESTION_SECONDS", 0.3)
    started = time.monotonic()
    (tracker,) = load_registry().trackers().values()
    for question in (lambda: tracker.find(RUN_ID), lambda: tracker.runs_of("rings"), tracker.experiments):
        with pytest.raises(GanrunError, match=server.address):
            question()
    assert not check_store().ok
    shown = ganrun_command("ui", "--no-browser")
    assert shown.exit_code == 1 and PASSWORD not in shown.output + check_store().text
    assert time.monotonic() - started < 15


def test_scores_of_an_eval_wait_no_longer_than_the_end_of_a_run(
    server: Server, trained: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ganrun.testing.runs import build

    server.answer = _Handler.dripping
    monkeypatch.setattr("ganrun_mlflow.waiting.END_SECONDS", 0.3)
    state_for(server, trained, RUN_ID).write(trained)
    build(RECIPE, trained.path, resume=True).emit("rescored", scores=[])
    assert "takes too long" in caplog.text and "not in MLflow" in caplog.text
    with trained.occupied():
        pass


def test_ctrl_c_ends_a_sync_at_once(server: Server, trained: RunDirectory) -> None:
    server.answer = _Handler.dripping
    state_for(server, trained, RUN_ID).write(trained)

    def press_when_asked() -> None:
        while not any("runs/get" in path for path in server.requests):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_when_asked, daemon=True).start()
    started = time.monotonic()
    assert ganrun_command("sync", trained.path).exit_code == 130
    assert time.monotonic() - started < 10
    with trained.occupied():
        pass
