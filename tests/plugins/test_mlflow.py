"""The MLflow observer: real runs, read back from real stores."""

import json
import math
import os
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

import pytest
from mlflow import MlflowClient

from ganrun import Interrupted, Metric, NonFiniteError, Observer, Score, hookimpl, observes
from ganrun.builder import build_run
from ganrun.plugins import Plugin
from ganrun.reader import load_recipe
from ganrun.registry import load_registry
from ganrun.runner import execute
from ganrun_mlflow.outbox import Outbox
from ganrun_mlflow.store import check_store, connect, tracking_uri

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
    """A score that is there, and one that is not a number."""

    def measure(self, evaluation):
        protocol = {"samples": 4, "split": "test"}
        bright = Score("brightness", 0.25, True, protocol, error=0.125, floor=0.5)
        return [bright, Score("darkness", math.nan, False, protocol)]


class Report(Observer):
    """Writes a file when the run has ended, as late as can be."""

    @observes
    def run_ended(self, run):
        path = run.directory / "report.html"
        path.write_text("<p>done</p>")
        run.announce(path, "report")


class Extras:
    """A plugin of the tests' own."""

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
    """One SQLite store for all tests: a fresh one costs seconds. Two processes make it at the same time."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    code = "import sys; from ganrun_mlflow import store; store.connect(sys.argv[1])"
    other = subprocess.Popen([sys.executable, "-c", code, uri])
    connect(uri)
    assert other.wait(timeout=120) == 0, "two runs that start together spoilt the store"
    return uri


@pytest.fixture
def build(registry, tmp_path, monkeypatch):
    """Builds a run of the tiny recipe; `mlflow` is its table's text."""
    monkeypatch.chdir(tmp_path)

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
    recorded = {record["step"]: record for record in run.directory.records() if "loss/generator" in record}
    assert history(client, found, "loss/generator") == [(step, recorded[step]["loss/generator"]) for step in (2, 4)]
    assert history(client, found, "eval/brightness") == [(4, 0.25)]
    assert "eval/darkness" not in data.metrics
    assert (
        json.loads(data.tags["protocol/brightness"]).items()
        >= {"samples": 4, "split": "test", "seed": run.seed}.items()
    )
    assert history(client, found, "eval_error/brightness") == [(4, 0.125)] and data.tags["floor/brightness"] == "0.5"

    assert data.tags["purpose"] == "test"
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

    note = run.directory.read_json("summary.json")["mlflow"]
    assert (note["run_id"], note["uri"]) == (found.info.run_id, uri)
    assert f"mlflow ui --backend-store-uri {uri}" in "\n".join(run.messages)
    assert f"/#/experiments/{found.info.experiment_id}/runs?" in "\n".join(run.messages)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".db" or path.name == "mlruns") == []


def test_an_interrupted_run_is_killed_and_goes_on_as_the_same_one(build, uri):
    table = f'uri = "{uri}"'
    run = build(table, steps=1_000_000)
    threading.Thread(target=terminate_at_step_3, args=[run], daemon=True).start()
    with pytest.raises(Interrupted):
        execute(run)
    client, killed = mirrored(uri, run)
    assert killed.info.status == "KILLED"
    assert killed.data.tags["error"] == "interrupted"

    steps = run.step + 5
    again = build(table, steps=steps, resume=True)
    execute(again)
    client, found = mirrored(uri, again)
    assert found.info.run_id == killed.info.run_id
    assert found.info.status == "FINISHED"
    assert "error" not in found.data.tags
    assert found.data.params["train.steps"] == "1000000"
    seen = history(client, found, "images_seen")
    assert seen == [(record["step"], record["images_seen"]) for record in again.directory.records()]
    assert seen[-1][0] == steps


def terminate_at_step_3(run):
    while run.step < 3:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_failed_run_is_failed_and_says_why(build, uri):
    run = build(f'uri = "{uri}"', steps=50, lr=1e30)
    with pytest.raises(NonFiniteError):
        execute(run)
    _, found = mirrored(uri, run)
    assert found.info.status == "FAILED"
    assert "finite" in found.data.tags["error"]


def test_a_dead_server_stops_nothing_and_is_made_up_for_on_resume(build, uri, caplog):
    run = build(f'uri = "http://ann:secret@127.0.0.1:{free_port()}"', steps=4)
    started = time.monotonic()
    execute(run)
    assert time.monotonic() - started < 10
    assert run.directory.read_json("summary.json")["status"] == "finished"
    (warning,) = [record.getMessage() for record in caplog.records if "mlflow" in record.getMessage()]
    assert "cannot be reached" in warning
    assert "metrics.jsonl" in warning
    assert "secret" not in warning

    again = build(f'uri = "{uri}"', steps=6, resume=True)
    execute(again)
    client, found = mirrored(uri, again)
    assert [step for step, _ in history(client, found, "loss/generator")] == [2, 4, 6]


def test_a_run_that_the_store_has_lost_is_written_anew(build, uri, caplog):
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


def test_what_the_store_did_not_take_is_sent_again(uri, tmp_path, caplog):
    client = MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("outage", (tmp_path / "artifacts").as_uri())).info.run_id
    outbox = Outbox(client, run_id, lambda: None)
    store = sqlite3.connect(uri.removeprefix("sqlite:///"))
    store.execute("CREATE TRIGGER refuse BEFORE INSERT ON metrics BEGIN SELECT RAISE(FAIL, 'no space'); END")
    outbox.add_metrics(1, {"loss/a": 1.0, "loss/b": math.inf})
    outbox.flush()
    assert "sent again later" in caplog.text
    outbox.add_metrics(2, {"loss/a": 2.0})
    started = time.monotonic()
    outbox.flush()
    assert time.monotonic() - started < 0.1, "a store that did not answer is left alone for a while"
    store.execute("DROP TRIGGER refuse")
    store.close()
    outbox.close("FINISHED")
    found = client.get_run(run_id)
    assert history(client, found, "loss/a") == [(1, 1.0), (2, 2.0)]
    assert found.info.status == "FINISHED"
    assert "loss/b" not in found.data.metrics


def test_more_points_than_one_call_takes(uri):
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    outbox = Outbox(client, run_id, lambda: None)
    for step in range(1100):
        outbox.add_metrics(step, {"loss/a": float(step)})
    outbox.add_tags({"why": "many"})
    outbox.close("FINISHED")
    found = client.get_run(run_id)
    assert history(client, found, "loss/a") == [(step, step) for step in range(1100)]
    assert found.data.tags["why"] == "many"


def test_a_server_gets_numbers_and_files(build, server):
    run = build(f'uri = "{server}"\nlog_checkpoints = true', steps=2)
    execute(run)
    client, found = mirrored(server, run)
    assert found.info.status == "FINISHED"
    assert history(client, found, "images_seen") == [(2, 16)]
    folder = f"checkpoints/{next((run.directory / 'checkpoints').iterdir()).name}"
    assert f"{folder}/manifest.json" in [each.path for each in client.list_artifacts(found.info.run_id, folder)]
    page = f"{server}/#/experiments/{found.info.experiment_id}/runs?"
    assert page in "\n".join(run.messages)


@pytest.fixture
def server(tmp_path, uri):
    """A real tracking server over the shared store, on the loopback."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(tmp_path / "served")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **quiet}, cwd=tmp_path, stdout=log, stderr=log)
    try:
        await_server(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def await_server(address, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the tracking server did not start")


def test_the_checkup_is_quick_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert check_store().ok
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert not list(tmp_path.iterdir())

    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be taken for one" * 20)
    damaged = check_store()
    assert not damaged.ok
    assert str(tmp_path / "mlflow.db") in damaged.text

    dead = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    assert not check_store().ok
    assert dead in check_store().text


def test_a_server_that_accepts_but_never_answers_is_given_up_soon(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr("ganrun_mlflow.store.PATIENCE_SECONDS", 0.5)
        started = time.monotonic()
        assert not check_store().ok
        assert time.monotonic() - started < 2


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
