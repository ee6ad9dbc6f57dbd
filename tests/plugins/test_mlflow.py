"""The MLflow observer: real runs, read back from real stores."""

import contextlib
import itertools
import json
import math
import os
import platform
import pwd
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow.pytorch
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from PIL import Image

import ganrun
from ganrun import Interrupted, Metric, NonFiniteError, Observer, Record, RunError, Score, hookimpl, observes
from ganrun.cli import main
from ganrun.discovery.plugins import Plugin
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.training.builder import build_run
from ganrun.training.runner import execute
from ganrun_mlflow.comparison import cell, write_comparison
from ganrun_mlflow.creation import a_home
from ganrun_mlflow.mirror import Mirror, sync
from ganrun_mlflow.store import connect, tracking_uri
from ganrun_mlflow.sync_state import SyncState
from ganrun_mlflow.sync_thread import SyncThread
from ganrun_mlflow.tracker import check_store

RECIPE = """\
#:schema ./ganrun.schema.json
# Digits in a hurry.
# Shows the plumbing only.

name = "tiny gan"
progress = false
checkpoints = {{ every_steps = 1000 }}
samples = {samples}

[train]
steps = {steps}
batch_size = 8
seed = 3
log_every_steps = 2
device = "cpu"

[data]
use = "digits"

[loss]
use = "gan"

[generator]
use = "mlp"
hidden = [16, 16]

[discriminator]
use = "mlp"
hidden = [16]

[optimizer]
betas = [0.0, 0.9]

[optimizer.discriminator]
lr = {lr}

[mlflow]
{mlflow}
"""


class Brightness(Metric):
    """A score, and one that is not a number."""

    def measure(self, evaluation):
        protocol = {"samples": 4, "split": "test"}
        bright = Score("brightness", 0.25, True, protocol, error=0.125, floor=0.5)
        return [bright, Score("darkness", math.nan, False, protocol)]


class Report(Observer):
    """Writes a file after the run has ended."""

    @observes
    def run_ended(self, run):
        path = run.directory / "report.html"
        path.write_text("<p>done</p>")
        run.announce(path, "report")


class Extras:
    """A plugin for these tests."""

    @hookimpl
    def ganrun_metrics(self):
        return {"brightness": Brightness}

    @hookimpl
    def ganrun_observers(self):
        return {"zz-report": Report}


@pytest.fixture(scope="module")
def registry():
    registry = load_registry()
    registry.plugins.manager.register(Extras(), "extras")
    registry.plugins = replace(registry.plugins, found=(*registry.plugins.found, Plugin("extras", "extras", "1.0")))
    return registry


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One SQLite store for all tests, because a new one takes seconds. Two processes create it at the same time."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    (folder / "mlflow.db").touch()  # which SQLite makes first
    left = folder / ".mlflow.db.0123456789abcdef.partial"  # by a process that was killed
    left.write_text("half a store")
    code = "import sys; from ganrun_mlflow import store; store.connect(sys.argv[1])"
    other = subprocess.Popen([sys.executable, "-c", code, uri])
    connect(uri)
    assert other.wait(timeout=120) == 0, "two runs that started together damaged the store"
    assert sorted(path.name for path in folder.iterdir()) == [".mlflow.db.lock", "mlflow.db"]
    return uri


@pytest.fixture
def build(registry, tmp_path, monkeypatch):
    """Builds a run of the tiny recipe; `mlflow` is its table's text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ganrun_mlflow.machine.SECONDS_BETWEEN_READINGS", 1e9)
    monkeypatch.setattr("ganrun_mlflow.points.SECONDS_BETWEEN_POINTS", 0.0)

    def build(mlflow, *overrides, steps=4, lr=1e-3, samples="false", resume=False):
        path = tmp_path / "tiny.toml"
        path.write_text(RECIPE.format(mlflow=mlflow, steps=steps, lr=lr, samples=samples))
        return build_run(load_recipe(path, registry, overrides), tmp_path / "run", resume=resume)

    return build


def mirrored(uri, run):
    client = MlflowClient(uri)
    return client, client.get_run(run.directory.read_json("mlflow.json")["run_id"])


def history(client, found, name):
    return [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]


def test_a_finished_run_is_mirrored_whole(build, uri, tmp_path):
    table = f'experiment = "whole"\nuri = "{uri}"\nrun_name = "first"\ntags = {{ purpose = "test" }}'
    run = build(table, 'metric=[{use="brightness"}]', "zz-report={}", samples="{}")
    execute(run)

    client, found = mirrored(uri, run)
    data = found.data
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "first"
    assert client.get_experiment(found.info.experiment_id).name == "whole"
    expected_params = {
        "train.steps": "4",
        "train.batch_size": "8",
        "train.seed": "3",
        "loss.use": "gan",
        "generator.use": "mlp",
        "generator.hidden": "[16, 16]",
        "optimizer.use": "adam",
        "optimizer.betas": "[0.0, 0.9]",
        "optimizer.generator.lr": "0.0002",
        "optimizer.discriminator.lr": "0.001",
        "metric": "brightness",
    }
    assert expected_params.items() <= data.params.items()
    assert len(data.params) <= 25
    assert not [name for name in data.params if name.startswith(("mlflow", "samples", "checkpoints"))]

    assert history(client, found, "images_seen") == [(2, 16), (4, 32)]
    recorded = {record.step: record.values for record in run.directory.records() if "loss/generator" in record.values}
    assert history(client, found, "loss/generator") == [(step, recorded[step]["loss/generator"]) for step in (2, 4)]
    assert history(client, found, "eval/brightness") == [(4, 0.25)]
    assert "eval/darkness" not in data.metrics
    assert (
        json.loads(data.tags["protocol/brightness"]).items()
        >= {"samples": 4, "split": "test", "seed": run.seed}.items()
    )
    assert history(client, found, "eval_error/brightness") == [(4, 0.125)] and data.tags["floor/brightness"] == "0.5"

    assert data.tags["purpose"] == "test" and data.tags["health"] == "good"
    assert data.tags["data_fingerprint"] == run.environment["data_fingerprint"]
    assert "extras 1.0" in data.tags["plugins"]
    assert data.tags["mlflow.note.content"] == "Digits in a hurry.\nShows the plumbing only."
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", run.environment["data_fingerprint"])

    for name in ("recipe.toml", "environment.json", "metrics.jsonl", "summary.json", "report.html"):
        copy = client.download_artifacts(found.info.run_id, name, str(tmp_path))
        assert Path(copy).read_bytes() == (run.directory / name).read_bytes()
    pictures = [each.path for each in client.list_artifacts(found.info.run_id, "images") if each.path.endswith(".png")]
    shown = {int(path.split("+step+")[1].split("+")[0]) for path in pictures if "/eval~samples+" in path}
    assert shown == {int(path.stem.removeprefix("step_")) for path in (run.directory / "samples").glob("*.png")}
    assert not client.list_artifacts(found.info.run_id, "checkpoints")

    state = run.directory.read_json("mlflow.json")
    assert (state["run_id"], state["uri"]) == (found.info.run_id, uri)
    assert f"mlflow ui --backend-store-uri {uri}" in "\n".join(run.messages)
    assert f"/#/experiments/{found.info.experiment_id}/runs?" in "\n".join(run.messages)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".db" or path.name == "mlruns") == []


def test_an_interrupted_run_is_killed_and_goes_on_as_the_same_one(build, uri):
    table = f'uri = "{uri}"'
    run = build(table, steps=1_000_000)
    threading.Thread(target=terminate_at_step_3, args=[run], daemon=True).start()
    with pytest.raises(Interrupted):
        execute(run)
    _, killed = mirrored(uri, run)
    assert killed.info.status == "KILLED"
    steps = run.step + 5
    again = build(table, steps=steps, resume=True)
    execute(again)
    _, found = mirrored(uri, again)
    assert found.info.run_id == killed.info.run_id
    assert found.info.status == "FINISHED"
    assert found.data.params["train.steps"] == "1000000"
    assert found.info.start_time == killed.info.start_time
    assert_synchronised(uri, again)
    assert max(record.step for record in again.directory.records()) == steps


def terminate_at_step_3(run):
    wait_until(lambda: run.step >= 3)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_failed_run_is_failed_and_says_why(build, uri):
    run = build(f'uri = "{uri}"', steps=50, lr=1e30)
    with pytest.raises(NonFiniteError):
        execute(run)
    _, found = mirrored(uri, run)
    assert found.info.status == "FAILED"
    assert "finite" in found.data.tags["error"]


# ── Synchronised in spite of faults ───────────────────────────────────────────────────────────────────────


def assert_synchronised(uri, run):
    """Everything in metrics.jsonl is in the store, each point once and with its own time."""
    client, found = mirrored(uri, run)
    expected = {}
    for record in run.directory.records():
        scores = {f"eval/{score.name}": score.value for score in record.evaluation}
        for name, value in {**record.values, **scores}.items():
            if math.isfinite(value):
                expected.setdefault(name, []).append((record.step, value, int(1000 * record.time)))
    assert expected
    for name, points in expected.items():
        kept = client.get_metric_history(found.info.run_id, name)
        assert sorted((point.step, point.value, point.timestamp) for point in kept) == sorted(points), name


def test_a_dead_server_stops_nothing_and_sync_sends_the_run_later(build, uri, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:hunter22@127.0.0.1:{free_port()}")
    run = build("", 'metric=[{use="brightness"}]', steps=4)
    started = time.time()
    execute(run)
    ended = time.time()
    assert ended - started < 10
    assert run.directory.summary()["status"] == "finished"
    warning, fault = [record.getMessage() for record in caplog.records if "MLflow" in record.getMessage()]
    assert "cannot be reached" in warning and "run directory holds everything" in warning
    printed = "\n".join(run.messages)
    assert f"to send the rest: ganrun sync {run.directory.path}" in printed
    assert "leaves the rest to ganrun sync" in fault and "hunter22" not in fault
    assert "hunter22" not in warning + printed + (run.directory / "mlflow.json").read_text()

    done = ganrun_command("sync", run.directory.path, "--uri", uri)
    assert done.exit_code == 0, done.output
    assert_synchronised(uri, run)
    _, found = mirrored(uri, run)
    assert found.info.status == "FINISHED"
    assert started < found.info.end_time / 1000 < ended + 0.001, "when the run ended, not when it was sent"
    assert json.loads(found.data.tags["protocol/brightness"])["samples"] == 4


def test_a_server_that_dies_during_a_run_and_comes_back_has_everything(build, server, monkeypatch):
    monkeypatch.setattr("ganrun_mlflow.sync_thread.SECONDS_BETWEEN_SYNCS", 0.1)
    monkeypatch.setattr("ganrun_mlflow.sync_thread.FIRST_PAUSE_SECONDS", 0.1)
    with Gate(server) as gate:
        run = build(f'uri = "{gate.address}"\nexperiment = "served"', "train.log_every_steps=20", steps=1_000_000)
        training = threading.Thread(target=execute, args=[run])
        training.start()
        wait_until(lambda: sent(run) > 0)
        gate.shut()
        before = sent(run)
        wait_until(lambda: len(run.directory.records()) > before + 10)
        assert not run.stopped and training.is_alive(), "training goes on"
        gate.open()
        wait_until(lambda: sent(run) > before + 10)
        run.stop("enough")
        training.join(60)
        assert_synchronised(gate.address, run)
        client, found = mirrored(gate.address, run)
        assert found.info.status == "FINISHED"
        same = client.search_runs([found.info.experiment_id], f"tags.run_directory = '{run.directory.path}'")
        assert len(same) == 1


class Gate:
    """A port that leads to a server while it is open; shut, it cuts all connections and refuses new ones."""

    def __init__(self, address):
        self._place = address.removeprefix("http://").split(":")
        self._port = 0
        self._sockets = []

    def __enter__(self):
        self.open()
        return self

    def __exit__(self, *_):
        self.shut()

    @property
    def address(self):
        return f"http://127.0.0.1:{self._port}"

    def open(self):
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listening], daemon=True).start()

    def shut(self):
        for each in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets = []

    def _accept(self, listening):
        with contextlib.suppress(OSError):
            while True:
                pair = [listening.accept()[0], socket.create_connection(self._place)]
                self._sockets += pair
                for one, other in (pair, pair[::-1]):
                    threading.Thread(target=self._copy, args=[one, other], daemon=True).start()

    def _copy(self, one, other):
        with contextlib.suppress(OSError):
            while received := one.recv(65_536):
                other.sendall(received)
            other.shutdown(socket.SHUT_WR)


def sent(run):
    """Lines of metrics.jsonl that MLflow has."""
    known = run.directory.read_json("mlflow.json").get("bytes_sent")
    return run.directory.metrics_path.read_bytes()[:known].count(b"\n") if known else 0


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def last_written(directory):
    """When the run last wrote metrics or its summary, in seconds since 1970."""
    return max(path.stat().st_mtime for path in (directory.metrics_path, directory.summary_path))


def age_by_an_hour(directory):
    """Make metrics and summary an hour older, so that their times differ from the present."""
    for path in (directory.metrics_path, directory.summary_path):
        hour_before = path.stat().st_mtime - 3600
        os.utime(path, (hour_before, hour_before))


@contextlib.contextmanager
def held_up_at_the_end(monkeypatch, when_held_up):
    """A block in which the last synchronisation of a run, once it has begun, waits until the block ends."""
    released = threading.Event()
    sync = Mirror.sync

    def held_up(mirror, ended):
        if ended:
            when_held_up()
            assert released.wait(120), "the block did not end"
        sync(mirror, ended)

    monkeypatch.setattr(Mirror, "sync", held_up)
    try:
        yield
    finally:
        released.set()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "ganrun-mlflow"])


def test_a_server_that_accepts_but_never_answers_costs_no_step(build, monkeypatch):
    monkeypatch.setattr("ganrun_mlflow.store.PATIENCE_SECONDS", 120)
    close = SyncThread.close

    def close_while_waiting(thread, *arguments):
        steps.append(run.step)
        listening.settimeout(60)
        unanswered, _ = listening.accept()
        monkeypatch.setattr("ganrun_mlflow.store.PATIENCE_SECONDS", 0.5)
        unanswered.close()
        return close(thread, *arguments)

    steps = []
    monkeypatch.setattr(SyncThread, "close", close_while_waiting)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        run = build(f'uri = "http://127.0.0.1:{listening.getsockname()[1]}"', steps=10)
        execute(run)
    assert steps == [10], "every step was done while the first request waited for its answer"
    assert "timed out" in "\n".join(run.messages) and "ganrun sync" in "\n".join(run.messages)


def test_ctrl_c_while_the_rest_is_sent_leaves_it_to_sync(build, uri, monkeypatch):
    run = build(f'uri = "{uri}"', steps=2)

    def press_ctrl_c():
        run.interruption.signal_number = signal.SIGINT

    started = time.monotonic()
    with held_up_at_the_end(monkeypatch, press_ctrl_c):
        execute(run)
    assert "ganrun sync" in "\n".join(run.messages) and time.monotonic() - started < 60 and not run.faults.new
    assert run.directory.summary()["status"] == "finished"


def test_an_interruption_between_sending_and_recording_does_no_harm(build, uri):
    run = build(f'uri = "{uri}"', 'metric=[{use="brightness"}]', steps=8)
    execute(run)
    state = SyncState.read(run.directory)
    _, before = mirrored(uri, run)
    state.progress.bytes_sent, state.progress.digest = 0, ""
    Mirror(run.directory, uri, state).sync("finished")
    assert_synchronised(uri, run)
    _, after = mirrored(uri, run)
    assert (after.info.status, after.info.end_time) == ("FINISHED", before.info.end_time)


def test_a_run_that_goes_back_in_mid_run_sends_what_it_measures_then(build, uri):
    run = build(f'uri = "{uri}"')
    execute(run)
    mirror = Mirror(run.directory, uri, SyncState.read(run.directory))
    mirror.sync("finished")
    run.directory.rewind(2)
    run.directory.append_record(Record(4, 32, 1.0, time.time(), {"loss/generator": 9.0}))
    mirror.sync("finished")
    client, found = mirrored(uri, run)
    assert history(client, found, "loss/generator")[-1] == (4, 9.0)


def test_what_the_store_refused_is_sent_again(build, uri):
    run = build(f'uri = "{uri}"', steps=2)
    execute(run)
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
        store.execute("CREATE TRIGGER refuse BEFORE INSERT ON metrics BEGIN SELECT RAISE(FAIL, 'no space'); END")
    run.directory.append_record(Record(3, 24, 1.0, time.time(), {"loss/generator": 0.5}))
    mirror = Mirror(run.directory, uri, SyncState.read(run.directory))
    try:
        with pytest.raises(RunError, match="no space"):
            mirror.sync("finished")
    finally:
        with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
            store.execute("DROP TRIGGER refuse")
    mirror.sync("finished")
    assert_synchronised(uri, run)


def test_what_a_store_has_lost_is_sent_again(build, uri):
    """A power cut may take the last transaction of SQLite with it, and with a copy that is put back more is lost."""
    run = build(f'uri = "{uri}"', 'metric=[{use="brightness"}]', steps=4)
    execute(run)
    _, found = mirrored(uri, run)
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as store:
        for table in ("metrics", "latest_metrics"):
            store.execute(f"DELETE FROM {table} WHERE run_uuid = ? AND step > 1", (found.info.run_id,))
        store.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (found.info.run_id,))
    Mirror(run.directory, uri, SyncState.read(run.directory)).sync("finished")
    assert_synchronised(uri, run)
    assert mirrored(uri, run)[1].info.status == "FINISHED"


def test_a_run_that_the_store_has_lost_is_created_again(build, uri, caplog):
    run = build(f'uri = "{uri}"', steps=2)
    execute(run)
    client, lost = mirrored(uri, run)
    client.delete_run(lost.info.run_id)
    again = build(f'uri = "{uri}"', steps=4, resume=True)
    execute(again)
    client, found = mirrored(uri, again)
    assert found.info.run_id != lost.info.run_id
    assert [step for step, _ in history(client, found, "images_seen")] == [2, 4]
    assert lost.info.run_id in caplog.text


def test_a_run_that_the_store_loses_while_it_trains_gets_its_files_again(build, uri):
    run = build(f'uri = "{uri}"', steps=2)
    execute(run)
    mirror = Mirror(run.directory, uri, SyncState.read(run.directory))
    mirror.sync(None)
    client, lost = mirrored(uri, run)
    client.delete_run(lost.info.run_id)
    with pytest.raises(RunError, match="deleted"):
        mirror.sync("finished")
    mirror.sync("finished")
    assert_synchronised(uri, run)
    client, found = mirrored(uri, run)
    assert found.info.run_id != lost.info.run_id and found.info.status == "FINISHED"
    assert {each.path for each in client.list_artifacts(found.info.run_id)} >= {"recipe.toml", "environment.json"}


def test_mlflow_json_of_earlier_versions_is_read_and_kept(tmp_path):
    labels = {"experiment": "digits", "name": "tiny", "started": 1.5, "params": {}, "tags": {}, "dataset": {}}
    settings = {"uri": "sqlite:////mlflow.db", "description": "", "log_checkpoints": False, "log_model": True}
    progress = {"run_id": "3f", "experiment_id": "1", "status": "RUNNING", "bytes_sent": 7, "digest": "ab"}
    content = labels | settings | progress | {"files": {"recipe.toml": "cd"}, "told": {"fid": 3}}
    directory = ganrun.RunDirectory(tmp_path)
    directory.write_json("mlflow.json", {**content, "of_a_later_version": 1})
    state = SyncState.read(directory)
    assert (state.name, state.log_model, state.progress.bytes_sent) == ("tiny", True, 7)
    assert state.progress.protocol_steps == {"fid": 3}
    state.write(directory)
    assert directory.read_json("mlflow.json") == {**content, "ended": 0.0}


def test_a_state_that_cannot_be_written_keeps_nothing_from_mlflow(build, uri, caplog):
    run = build(f'uri = "{uri}"', steps=2)
    (run.directory / "mlflow.json").mkdir()
    execute(run)
    assert caplog.text.count("so ganrun sync would send again what MLflow already has") == 1
    assert f"cannot write {run.directory.path}/mlflow.json" in "\n".join(run.messages)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (found,) = client.search_runs([experiment], f"tags.run_directory = '{run.directory.path}'")
    assert found.info.status == "FINISHED" and found.data.metrics["images_seen"] == 16


def test_a_damaged_mlflow_json_does_not_end_mlflow_for_a_resumed_run(build, uri, caplog):
    execute(build(f'uri = "{uri}"', steps=2))
    again = build(f'uri = "{uri}"', steps=4, resume=True)
    (again.directory / "mlflow.json").write_text("{")
    execute(again)
    assert "the run continues as a new one in MLflow" in caplog.text
    client, found = mirrored(uri, again)
    assert found.info.status == "FINISHED" and [step for step, _ in history(client, found, "images_seen")] == [2, 4]


def test_a_pipe_in_place_of_the_curves_is_not_waited_for(build, uri):
    run = build(f'uri = "{uri}"', steps=2)
    execute(run)
    run.directory.metrics_path.unlink()
    os.mkfifo(run.directory.metrics_path)
    with pytest.raises(RunError, match="it is a pipe"):
        sync(run.directory, uri)


def test_lines_that_no_run_writes_hold_up_no_others(build, uri):
    run = build(f'uri = "{uri}"', steps=2)
    execute(run)
    with run.directory.metrics_path.open("a") as file:
        file.write(json.dumps({"text": "x" * 3_000_000}) + "\n")
        odd = {"step": 3, "images_seen": 24, "seconds": 1.0, "time": 1e308, "loss/generator": 7.0}
        file.write(json.dumps(odd) + "\n")
    run.directory.append_record(Record(4, 32, 1.0, time.time(), {"loss/generator": 9.0}))
    sync(run.directory, uri)
    client, found = mirrored(uri, run)
    assert history(client, found, "loss/generator")[-1] == (4, 9.0)
    assert 3 not in {step for step, _ in history(client, found, "loss/generator")}
    os.truncate(run.directory.metrics_path, 10**11)
    with pytest.raises(RunError, match="at most 8,589,934,592 are read"):
        sync(run.directory, uri)


def test_samples_to_compare_are_not_waited_for(build, uri, caplog):
    run = build(f'uri = "{uri}"', steps=2)
    for deadline, gives_up in ((time.monotonic() - 1, False), (math.inf, True)):
        write_comparison(run, deadline, lambda gives_up=gives_up: gives_up)
    assert caplog.text.count("drawing them takes too long") == 2 and not (run.directory / "compare").exists()
    write_comparison(run, math.inf, lambda: False)
    assert len(list((run.directory / "compare").iterdir())) == 4


def test_mlflow_is_imported_for_an_account_without_a_home(monkeypatch):
    def unknown(_):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()
    with a_home():
        assert not Path.home().exists(), "nobody can have put a file there"
    assert "HOME" not in os.environ


def execute_after_recording(run, record):
    """Execute a run that records something at its start."""
    emit = run.emit

    def recording(event, **arguments):
        if event == "run_started":
            run.directory.append_record(record)
        emit(event, **arguments)

    run.emit = recording
    execute(run)


def test_what_mlflow_refuses_holds_up_nothing_else(build, uri, caplog):
    run = build(f'uri = "{uri}"\ntags = {{ "a//b" = "c" }}', "zz-report={}", steps=2)
    (run.directory / "pictures").mkdir()
    cut = run.directory / "pictures" / "step_1.png"
    cut.write_bytes(b"\x89PNG")
    (run.directory / "notes" / ".being-written").mkdir(parents=True)
    (run.directory / "notes" / ".being-written" / "half.txt").write_text("")
    execute_after_recording(run, Record(0, 0, 0.0, time.time(), {"loss//./odd": 0.5}))
    printed = "\n".join(run.messages)
    assert "pictures/step_1.png could not be sent: cannot identify image file" in printed and "ganrun sync" in printed
    client, found = mirrored(uri, run)
    assert found.info.status == "FINISHED" and found.data.tags["a/_--/b"] == "c"
    assert found.data.metrics["loss/_--/_-2e-/odd"] == 0.5 and found.data.metrics["images_seen"] == 16
    kept = {each.path for each in client.list_artifacts(found.info.run_id)}
    assert kept >= {"report.html", "summary.json", "metrics.jsonl", "compare"} and "notes" not in kept

    assert ganrun_command("sync", run.directory.path, "--uri", uri).exit_code == 1, (
        "it is tried again, and reported again"
    )
    Image.new("RGB", (8, 8)).save(cut)
    assert ganrun_command("sync", run.directory.path, "--uri", uri).exit_code == 0
    assert any(each.path.endswith(".png") for each in client.list_artifacts(found.info.run_id, "images"))


def test_what_an_augmentation_knows_is_a_curve(build, uri):
    run = build(
        f'uri = "{uri}"', 'augmentation={use="ada", target=-1.0, images=64}', "train.log_every_steps=1", steps=5
    )
    execute(run)
    client, found = mirrored(uri, run)
    assert history(client, found, "augmentation/discriminator.p") == [(1, 0), (2, 0), (3, 0), (4, 0.5), (5, 0.5)]
    signs = history(client, found, "augmentation/discriminator.r_t")
    assert [step for step, _ in signs] == [4, 5] and signs[0][1] == signs[1][1] > -1


def test_each_name_has_its_own_curve_tag_and_pictures(build, uri):
    names = {"loss/generator.α": 1.0, "loss/generator.β": 2.0, "loss/generator._": 3.0, f"loss/{'x' * 300}": 4.0}
    run = build(f'uri = "{uri}"\ntags = {{ "ä" = "1", "ö" = "2" }}', steps=2)
    for number, series in enumerate(("α", "β")):
        (run.directory / series).mkdir()
        for step in (1, 2):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(run.directory / series / f"step_{step}.png")
    execute_after_recording(run, Record(0, 0, 0.0, time.time(), names | {f"loss/{'x' * 301}": 5.0}))
    client, found = mirrored(uri, run)
    assert {1.0, 2.0, 3.0, 4.0, 5.0} <= set(found.data.metrics.values())
    assert (found.data.tags["_-e4-"], found.data.tags["_-f6-"]) == ("1", "2")
    pictures = {
        Path(each.path).name.partition("+step")[0] for each in client.list_artifacts(found.info.run_id, "images")
    }
    assert pictures >= {"eval~_-3b1-", "eval~_-3b2-"}


def test_a_run_ends_in_mlflow_even_if_its_final_artifacts_fail(build, uri, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator")

    run = build(f'uri = "{uri}"\nlog_model = true', steps=2)
    (run.directory / "compare").write_text("a file, where samples are to be written")
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.pytorch, "log_model", fail)
        execute(run)
    _, found = mirrored(uri, run)
    assert found.info.status == "FINISHED"
    assert "model could not be sent: no such operator" in "\n".join(run.messages)
    wait_until(lambda: 1000 * time.time() >= found.info.end_time + 1)
    assert ganrun_command("sync", run.directory.path, "--uri", uri).exit_code == 0
    _, again = mirrored(uri, run)
    assert again.outputs.model_outputs
    assert (again.info.status, again.info.end_time) == ("FINISHED", found.info.end_time), "not when the model was sent"


def test_a_second_interruption_while_the_rest_is_sent_leaves_it_to_sync(build, uri, monkeypatch):
    run = build(f'uri = "{uri}"', steps=1_000_000)
    threading.Thread(target=terminate_at_step_3, args=[run], daemon=True).start()
    with held_up_at_the_end(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(Interrupted):
        execute(run)
    assert "ganrun sync" in "\n".join(run.messages) and not run.faults.new


def test_scores_go_to_the_store_that_has_the_run(build, uri, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = build("", steps=2)
    execute(run)
    before = SyncState.read(run.directory).progress
    again = build("", steps=2, resume=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    elsewhere = build("", steps=2, resume=True)
    again.record({}, [Score("late", 0.75, True, {"samples": 4})], rescored=True)
    with run.directory.occupied():
        run.directory.write_json("summary.json", {"status": "running"})
        again.emit("rescored", scores=[])
        assert SyncState.read(run.directory).progress.bytes_sent == before.bytes_sent, (
            "the process that trains sends them"
        )
    run.directory.write_json("summary.json", {"status": "finished"})
    elsewhere.emit("rescored", scores=[])
    assert f"If you trust it: ganrun sync {run.directory.path} --uri {uri}" in caplog.text
    assert SyncState.read(run.directory).progress.bytes_sent == before.bytes_sent
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    again.emit("rescored", scores=[])
    _, found = mirrored(uri, again)
    assert found.info.run_id == before.run_id and found.data.metrics["eval/late"] == 0.75
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_run_that_cannot_be_sent_holds_up_no_other(build, uri, tmp_path):
    run = build(f'uri = "{uri}"', steps=2)
    execute(run)
    shutil.copytree(run.directory.path, tmp_path / "unknown")
    unknown = ganrun.RunDirectory(tmp_path / "unknown")
    state = SyncState.read(unknown)
    progress = replace(state.progress, run_id="", status="")
    replace(state, progress=progress, started=run.state.seconds).write(unknown)
    (unknown / "summary.json").unlink()
    shutil.copytree(run.directory.path, tmp_path / "held")
    (tmp_path / "folder").mkdir()
    with ganrun.RunDirectory(tmp_path / "held").occupied():
        done = ganrun_command(
            "sync", tmp_path / "folder", tmp_path / "held", tmp_path / "unknown", run.directory.path, "--uri", uri
        )
    assert done.exit_code == 1 and "2 of 4 could not be sent" in done.output
    assert "holds no recipe.toml" in done.output and "another process" in done.output
    assert done.output.count("synchronised with MLflow run") == 2
    client = MlflowClient(uri)
    assert client.get_run(SyncState.read(run.directory).progress.run_id).info.status == "FINISHED"
    assert client.get_run(SyncState.read(unknown).progress.run_id).info.status == "KILLED", "how it ended is unknown"


def test_more_points_than_one_call_takes(build, uri):
    run = build(f'uri = "{uri}"', "train.log_every_steps=1", steps=400)
    execute(run)
    assert_synchronised(uri, run)
    assert sum(len(record.values) for record in run.directory.records()) > 2000


def test_dense_curves_are_thinned_and_scores_are_not(build, uri, monkeypatch):
    monkeypatch.setattr("ganrun_mlflow.points.SECONDS_BETWEEN_POINTS", 0.2)
    ticks = itertools.count()  # a clock that is 0.03 s further at each record, however slow the machine is
    clock = SimpleNamespace(time=lambda: 1.7e9 + 0.03 * next(ticks), monotonic=time.monotonic)
    monkeypatch.setattr("ganrun.training.run.time", clock)
    every = ("train.log_every_steps=1", "train.evaluate_every_steps=100")
    run = build(f'uri = "{uri}"', 'metric=[{use="brightness"}]', *every, steps=400)
    execute(run)
    client, found = mirrored(uri, run)
    curve = sorted(each.timestamp / 1000 for each in client.get_metric_history(found.info.run_id, "loss/generator"))
    measured = [record.time for record in run.directory.records() if "loss/generator" in record.values]
    assert curve[-1] == pytest.approx(measured[-1], abs=0.001) and found.data.metrics["images_seen"] == run.images_seen
    assert len(curve) < len(measured) / 4
    assert all(any(-0.001 <= shown - time < 0.201 for shown in curve) for time in measured), "at least five a second"
    scores = client.get_metric_history(found.info.run_id, "eval/brightness")
    assert sorted(each.step for each in scores) == [100, 200, 300, 400]


# ── Killed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_was_killed_is_ended_in_mlflow_by_doctor_or_sync(build, uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    build("", steps=10)
    place = tmp_path / "killed"
    command = [sys.executable, "-m", "ganrun.cli", tmp_path / "tiny.toml", "--output", place]
    process = subprocess.Popen([*command, "--set", "train.steps=10000000"], stderr=subprocess.DEVNULL)
    directory = ganrun.RunDirectory(place)
    wait_until(lambda: directory.read_json("mlflow.json").get("bytes_sent"), 120)
    run_id = SyncState.read(directory).progress.run_id
    assert check_store().ok and "killed" not in check_store().text, "it is running"
    assert ganrun_command("sync", place).exit_code == 2
    process.kill()
    process.wait()
    last = max(record.time for record in directory.records())
    assert abs(last_written(directory) - last) < 1.4
    age_by_an_hour(directory)
    assert "marked as killed: tiny gan" in check_store().text
    assert "killed" not in check_store().text, "once is enough"
    client = MlflowClient(uri)
    for how in ("doctor", "sync"):
        if how == "sync":
            state = SyncState.read(directory)
            state.progress.status = "RUNNING"
            state.write(directory)
            client.update_run(run_id, status="RUNNING")
            assert ganrun_command("sync", place).exit_code == 0
        info = client.get_run(run_id).info
        assert info.status == "KILLED"
        assert info.end_time == int(1000 * last_written(directory)), "when it was killed, not when that was found"


def test_the_health_check_reports_a_damaged_run_directory(uri, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    directory = ganrun.RunDirectory(tmp_path)
    tags = {"host": platform.node(), "run_directory": str(tmp_path)}
    client = MlflowClient(uri)
    created = client.create_run("0", tags=tags)
    directory.write_text("recipe.toml", "")
    directory.write_json("mlflow.json", {"run_id": created.info.run_id})
    assert not check_store().ok and f"{tmp_path}/mlflow.json is absent or damaged" in check_store().text
    client.delete_run(created.info.run_id)


# ── By MLflow id ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_found_by_its_mlflow_id_here_and_elsewhere(build, uri, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    run = build("experiment = 'found'\nlog_checkpoints = true", steps=2)
    execute(run)
    run_id = SyncState.read(run.directory).progress.run_id
    expected = run.model.sample(3)
    assert torch.equal(ganrun.load(run_id, "cpu").sample(3), expected)
    (tracker,) = load_registry().trackers().values()
    assert tracker.runs_of("found") == [run.directory.path] and tracker.runs_of("no such one") is None
    assert tracker.find("a-folder") is None

    shutil.rmtree(run.directory.path)
    assert torch.equal(ganrun.load(run_id, "cpu").sample(3), expected), "from what was uploaded"
    with pytest.raises(ganrun.RequestError, match=f"there is no run {'0' * 32}"):
        ganrun.load("0" * 32)


def test_a_directory_that_was_used_again_is_not_mistaken_for_its_earlier_run(build, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ids = []
    for _ in range(2):
        run = build("experiment = 'again'", steps=2)
        execute(run)
        ids.append(SyncState.read(run.directory).progress.run_id)
        if len(ids) == 1:
            shutil.rmtree(run.directory.path)
    (tracker,) = load_registry().trackers().values()
    assert tracker.find(ids[1]) == run.directory.path
    with pytest.raises(ganrun.RequestError, match="not on this machine"):
        tracker.find(ids[0])
    assert tracker.runs_of("again") == [run.directory.path]


def test_a_run_without_uploaded_weights_is_an_error_that_names_the_setting(build, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = build("", steps=2)
    execute(run)
    run_id = SyncState.read(run.directory).progress.run_id
    shutil.rmtree(run.directory.path)
    with pytest.raises(ganrun.RequestError, match=r"train with \[mlflow\] log_checkpoints = true"):
        ganrun.load(run_id)


def test_samples_of_the_same_latents_are_shown_side_by_side(build, uri, tmp_path):
    tables = []
    for seed in (1, 2):
        run = build(f'uri = "{uri}"', f"train.seed={seed}", steps=2)
        execute(run)
        client, found = mirrored(uri, run)
        run_id = found.info.run_id
        mlflow.set_tracking_uri(uri)  # which its search asks
        table = client.load_table(found.info.experiment_id, "compare/samples.json", run_ids=[run_id])
        assert list(table.columns[:2]) == ["sample", "image"], "MLflow makes a grid of exactly these"
        tables.append(table)
        expected = ganrun.to_uint8(run.model.decode(run.model.fixed_latents(32)))
        assert len(table) == 4
        kept = Image.open(client.download_artifacts(run_id, table["image"][1]["filepath"], str(tmp_path)))
        for number, (left, top) in enumerate((left, top) for top in (0, 172) for left in (0, 172, 344, 516)):
            shown = (
                kept.crop((left, top, left + 164, top + 164)).convert("L").resize((32, 32), Image.Resampling.NEAREST)
            )
            assert shown.tobytes() == expected[8 + number].numpy().tobytes()
        shutil.rmtree(run.directory.path)
    assert list(tables[0]["sample"]) == list(tables[1]["sample"])


@pytest.mark.parametrize(("height", "width"), [(10, 20), (20, 10), (300, 150)])
def test_samples_that_are_not_square_keep_their_shape(height, width):
    samples = np.full((8, height, width, 1), 200, np.uint8)
    shown = np.asarray(cell(samples).crop((0, 0, 172, 172)))[..., 3] > 0
    rows, columns = shown.any(1).sum(), shown.any(0).sum()
    assert max(rows, columns) == 164 and rows / columns == pytest.approx(height / width)


def test_the_generator_is_logged_as_a_model_that_mlflow_loads(build, uri, monkeypatch):
    mlflow.set_tracking_uri(None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = build(f'uri = "{uri}"\nlog_model = true', steps=2)
    execute(run)
    client, found = mirrored(uri, run)
    assert found.info.status == "FINISHED" and not [line for line in run.messages if "does not have" in line]
    assert "MLFLOW_TRACKING_URI" not in os.environ, "which MLflow sets; the next run would be sent there"
    (output,) = client.get_run(found.info.run_id).outputs.model_outputs
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pytorch.load_model(f"models:/{output.model_id}")
    latents = run.model.fixed_latents(5)
    assert torch.allclose(loaded(latents), run.model.decode(latents), atol=1e-6)
    signature = mlflow.models.get_model_info(f"models:/{output.model_id}").signature
    assert signature.inputs.inputs[0].shape == (-1, run.model.spec.latent_size)


def test_the_machines_load_is_recorded(build, uri, monkeypatch):
    run = build(f'uri = "{uri}"', steps=4)
    monkeypatch.setattr("ganrun_mlflow.machine.SECONDS_BETWEEN_READINGS", 0.0)
    execute(run)
    recorded = [record.values for record in run.directory.records()]
    (first, *_) = [values for values in recorded if "system/cpu_utilization_percentage" in values]
    assert 0 < first["system/system_memory_usage_percentage"] < 100
    assert_synchronised(uri, run)


def test_a_store_of_another_mlflow_version_names_the_command_that_migrates_it(build, uri, tmp_path):
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path / "old.db")
    with sqlite3.connect(tmp_path / "old.db") as store:
        store.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    run = build(f'uri = "sqlite:///{tmp_path}/old.db"', steps=2)
    execute(run)
    assert "mlflow db upgrade" in "\n".join(run.messages)


def test_a_store_is_there_only_when_it_is_complete(tmp_path):
    """Here the disk is full before it is."""
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        with pytest.raises(RunError, match=f"MLflow at {uri} says: .*(disk|full)"):
            connect(uri)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".mlflow.db.lock"]


def test_a_store_that_was_left_half_made_is_told_with_what_to_do(uri, tmp_path):
    """As ganrun 0.1.0 left it, where a process was killed while it migrated a new store."""
    half = tmp_path / "half.db"
    shutil.copy(uri.removeprefix("sqlite:///"), half)
    with sqlite3.connect(half) as store:
        store.executescript(
            "DELETE FROM runs; DROP TABLE webhooks; UPDATE alembic_version SET version_num = '451aebb31d03'"
        )
    with pytest.raises(RunError, match=f"{half} is incomplete: .* mv {half} {half}.incomplete"):
        connect(f"sqlite:///{half}")


def test_ui_serves_the_store_and_prints_the_address(build, uri, tmp_path, monkeypatch):
    run = build(f'uri = "{uri}"\nexperiment = "shown"', steps=2)
    execute(run)
    port = free_port()
    command = [sys.executable, "-m", "ganrun.cli", "ui", run.directory.path, "--port", str(port)]
    no_display = {name: text for name, text in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "TERM")}
    named = {"BROWSER": "no-such-browser", "MLFLOW_TRACKING_URI": uri}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={**no_display, **named})
    try:
        line = process.stdout.readline()
        found = SyncState.read(run.directory).progress.experiment_id
        assert line.startswith(f"MLflow: http://127.0.0.1:{port}/#/experiments/{found}/runs?")
        assert process.stdout.readline() == "no browser can be opened here; open the address yourself\n"
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        shown = command_lines()
        assert not shown or any("mlflow" in text for text in shown)
        assert not [text for text in shown if uri in text], "it may hold a password, and everybody can read them"
        taken = ganrun_command("ui", run.directory.path, "--uri", uri, "--port", port, "--no-browser")
        assert taken.exit_code == 2 and "choose another with --port" in taken.output
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
    with socket.create_server(("127.0.0.1", port)):  # which speaks no HTTP
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        taken = ganrun_command("ui", SyncState.read(run.directory).progress.run_id, "--port", port, "--no-browser")
        assert taken.exit_code == 2 and f"port {port} cannot be used: Address already in use" in taken.output
    absent = ganrun_command("ui", run.directory.path, "--uri", uri, "--experiment", "none", "--no-browser")
    assert absent.exit_code == 2 and 'no experiment "none"' in absent.output and '"shown"' in absent.output


def command_lines():
    """Those of all processes, where the system shows them as files."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def ganrun_command(*arguments):
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


# ── A server ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_gets_numbers_and_files(build, server):
    run = build(f'uri = "{server}"\nexperiment = "served"\nlog_checkpoints = true', steps=2)
    execute(run)
    client, found = mirrored(server, run)
    assert found.info.status == "FINISHED"
    assert history(client, found, "images_seen") == [(2, 16)]
    folder = f"checkpoints/{next((run.directory / 'checkpoints').iterdir()).name}"
    assert f"{folder}/manifest.json" in [each.path for each in client.list_artifacts(found.info.run_id, folder)]
    page = f"{server}/#/experiments/{found.info.experiment_id}/runs?"
    assert page in "\n".join(run.messages)


@pytest.fixture(scope="module")
def server(tmp_path_factory, uri):
    """The address of a tracking server for the shared store, on the loopback interface."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "served")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet["MLFLOW_BACKEND_STORE_URI"] = uri
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        await_server(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def await_server(address, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the tracking server did not start")


def test_the_health_check_is_quick_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert check_store().ok
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert not list(tmp_path.iterdir())

    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be taken for one" * 20)
    damaged = check_store()
    assert not damaged.ok
    assert str(tmp_path / "mlflow.db") in damaged.text

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///what?/mlflow.db")
    assert not check_store().ok and "question mark" in check_store().text

    dead = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    assert not check_store().ok
    assert dead in check_store().text


def test_the_health_check_does_not_wait_for_a_server_that_never_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr("ganrun_mlflow.store.PATIENCE_SECONDS", 0.5)
        started = time.monotonic()
        assert not check_store().ok
        assert time.monotonic() - started < 2


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
