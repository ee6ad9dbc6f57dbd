"""Which MLflow stores are contacted: those that the user names, and none that only a file in a run directory names."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st
from mlflow import MlflowClient

import ganrun
from ganrun import RequestError, RunDirectory
from ganrun.cli import main
from ganrun_mlflow import home, store as stores
from ganrun_mlflow.claims import why_not_ours
from ganrun_mlflow.commands import _place_of
from ganrun_mlflow.sync_state import SyncState
from ganrun_mlflow.tracker import check_store

PASSWORD = "hunter22"
RECIPE = """\
name = "ring"
progress = false
samples = false
metric = [{ use = "modes-covered", samples = 64 }]

[train]
steps = 2
batch_size = 8
device = "cpu"
log_every_steps = 1

[data]
use = "gaussians"

[loss]
use = "gan"
latent_size = 2

[generator]
use = "mlp"
hidden = [8]

[discriminator]
use = "mlp"
hidden = [8]

[mlflow]
"""


class Recorder(ThreadingHTTPServer):
    """A server that records every request, and sends each on to another one if there is one.

    Args:
        onwards: The address to redirect to.
    """

    def __init__(self, onwards: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.onwards = onwards
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and headers of each."""

    def address(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Recorder

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        self.send_response(302 if self.server.onwards else 404)
        if self.server.onwards:
            self.send_header("Location", self.server.onwards + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def recording(onwards: str = "") -> Iterator[Recorder]:
    with Recorder(onwards) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def elsewhere() -> Iterator[Recorder]:
    with recording() as server:
        yield server


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `run`, and the store that has it, `mlflow.db`."""
    folder = tmp_path_factory.mktemp("sent")
    (folder / "ring.toml").write_text(RECIPE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        done = ganrun_command(folder / "ring.toml", "--output", folder / "run")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def uri(sent: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of that store, which the environment names, with the user's name and password."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{sent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return uri


@pytest.fixture
def handed_over(sent: Path, uri: str, tmp_path: Path) -> Iterator[Callable[..., RunDirectory]]:
    """Copies the run, with other content of its mlflow.json, and in its recipe's `[mlflow]`.

    If it is `moved`, the original is not there any more until the test ends.
    """

    def handed_over(*, recipe_uri: str = "", moved: bool = False, **content: Any) -> RunDirectory:
        directory = RunDirectory(shutil.copytree(sent / "run", tmp_path / "handed-over"))
        if moved:
            (sent / "run").rename(sent / "away")
        if content:
            directory.write_json("mlflow.json", directory.read_json("mlflow.json") | content)
        if recipe_uri:
            text = directory.recipe_path.read_text(encoding="utf-8")
            table = f'[mlflow]\nuri = "{recipe_uri}"\n'
            assert "[mlflow]\n" in text
            directory.recipe_path.write_text(text.replace("[mlflow]\n", table), encoding="utf-8")
        return directory

    yield handed_over
    if (sent / "away").exists():
        (sent / "away").rename(sent / "run")
        run_id = SyncState.read(RunDirectory(sent / "run")).progress.run_id
        MlflowClient(uri).set_tag(run_id, "run_directory", str(sent / "run"))


def ganrun_command(*arguments: Any) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


def runs_in(uri: str) -> set[str]:
    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    return {each.info.run_id for each in client.search_runs(experiments)}


def history(uri: str, directory: RunDirectory, name: str) -> int:
    """How many points of a curve the store has."""
    return len(MlflowClient(uri).get_metric_history(SyncState.read(directory).progress.run_id, name))


# ── A run that is handed over ─────────────────────────────────────────────────────────────────────────────

COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "sync": (2, ("--uri {address}", "set MLFLOW_TRACKING_URI")),
    "ui": (2, ("--uri {address}", "set MLFLOW_TRACKING_URI")),
    "eval": (0, ("modes_covered", "but not in MLflow", "ganrun sync {run} --uri {address}")),
    "resume": (2, ("recipe.toml:", "add: --set mlflow.uri={address}, or set MLFLOW_TRACKING_URI")),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_only_a_folder_names_gets_no_request(
    command: str, handed_over: Callable[..., RunDirectory], elsewhere: Recorder, uri: str
) -> None:
    address = elsewhere.address()
    directory = handed_over(uri=address, recipe_uri=address)
    before = runs_in(uri)
    lines = len(directory.records())
    done = ganrun_command(command, directory.path)
    status, texts = COMMANDS[command]
    assert done.exit_code == status, done.output
    for text in texts:
        assert text.format(address=address, run=directory.path) in done.output
    assert len(directory.records()) == lines + (command == "eval"), "eval adds its scores to the run"
    trained = ganrun_command(directory.recipe_path, "--output", directory.path / "again")
    assert trained.exit_code == 2 and "recipe.toml:" in trained.output
    assert check_store().ok and ganrun_command("doctor").exit_code == 0
    assert elsewhere.requests == []
    assert runs_in(uri) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_only_a_folder_names_is_not_created(
    command: str, handed_over: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    address = f"sqlite:///{tmp_path}/folder/not-there.db"
    directory = handed_over(uri=address, recipe_uri=address, run_id="0" * 32)
    assert ganrun_command(command, directory.path).exit_code == COMMANDS[command][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["handed-over"]


def test_a_run_that_was_in_another_store_is_resumed_in_the_one_that_the_user_names(
    handed_over: Callable[..., RunDirectory], elsewhere: Recorder, uri: str
) -> None:
    directory = handed_over(uri=elsewhere.address())
    before = runs_in(uri)
    done = ganrun_command("resume", directory.path, "--set", "train.steps=3")
    assert done.exit_code == 0
    assert f"the run was in MLflow at {elsewhere.address()}; it continues as a new one at {uri}" in done.output
    assert elsewhere.requests == []
    assert runs_in(uri) - before == {SyncState.read(directory).progress.run_id}


@pytest.mark.parametrize("has_store", [True, False])
def test_an_eval_creates_nothing_in_mlflow(
    has_store: bool,
    handed_over: Callable[..., RunDirectory],
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_store:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    named = uri if has_store else f"sqlite:///{tmp_path}/mlflow.db"
    before = runs_in(uri)
    for run_id in ("", "0" * 32):
        directory = handed_over(uri=named, run_id=run_id)
        done = ganrun_command("eval", directory.path)
        assert (
            done.exit_code == 0 and f"does not have this run; to send it: ganrun sync {directory.path}" in done.output
        )
        assert len([record for record in directory.records() if record.rescored]) == 1
        shutil.rmtree(directory.path)
    assert runs_in(uri) == before and not list(tmp_path.iterdir())


def test_a_folder_that_claims_the_id_of_another_run_does_not_overwrite_it(
    handed_over: Callable[..., RunDirectory], uri: str, sent: Path
) -> None:
    directory = handed_over(started=1.0, tags={"run_directory": "/none", "owned": "yes"})
    assert ganrun_command("eval", directory.path).exit_code == 0
    assert ganrun_command("sync", directory.path).exit_code == 0
    victim = SyncState.read(RunDirectory(sent / "run")).progress.run_id
    assert SyncState.read(directory).progress.run_id != victim
    assert "owned" not in MlflowClient(uri).get_run(victim).data.tags


# ── What the user names ───────────────────────────────────────────────────────────────────────────────────


def test_a_store_that_the_user_names_continues_the_same_mlflow_run(
    handed_over: Callable[..., RunDirectory], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = handed_over(recipe_uri=uri, moved=True)
    run_id = SyncState.read(directory).progress.run_id
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert ganrun_command("sync", directory.path).exit_code == 2
    points = history(uri, directory, "eval/modes_covered")
    assert ganrun_command("eval", directory.path, "--set", f"mlflow.uri={uri}").exit_code == 0
    assert history(uri, directory, "eval/modes_covered") == points + 1
    assert ganrun_command("sync", directory.path, "--uri", uri).exit_code == 0
    assert ganrun_command("resume", directory.path, "--set", "train.steps=3").exit_code == 2
    named = ganrun_command("resume", directory.path, "--set", "train.steps=3", "--set", f"mlflow.uri={uri}")
    assert named.exit_code == 0, named.output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert ganrun_command("resume", directory.path, "--set", "train.steps=4").exit_code == 0
    assert SyncState.read(directory).progress.run_id == run_id
    assert MlflowClient(uri).get_run(run_id).data.metrics["images_seen"] == 32


def test_a_password_in_the_environment_is_that_of_the_store_that_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{PASSWORD}@host:5000/")
    assert stores.tracking_uri("http://host:5000") == f"http://ann:{PASSWORD}@host:5000/"
    assert stores.tracking_uri("http://host:5001") == "http://host:5001"
    assert PASSWORD not in str(stores.not_named(RunDirectory(Path()), "http://host", "ganrun sync"))


def test_hints_to_continue_and_to_send_the_rest_name_what_they_need(uri: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "ring.toml").write_text(f'{RECIPE}uri = "{address}"\n', encoding="utf-8")
    command = [sys.executable, "-m", "ganrun.cli", "ring.toml", "--output", "my run", "--set", "train.steps=10000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "my run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[0]
    assert f"to continue: ganrun resume 'my run' --set mlflow.uri={address}\n" in printed
    assert f"ganrun sync '{tmp_path}/my run' --uri {address}" in printed


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


# ── Copies, and what was moved ────────────────────────────────────────────────────────────────────────────

HERE = platform.node()


class Whose(NamedTuple):
    """What MLflow and a run directory say, and whether the MLflow run is that directory's."""

    is_ours: bool
    original: str
    """What is where MLflow says that the run is: `there`, `gone`, `other run`, or a `link` to this directory."""
    host: str = HERE
    status: str = "FINISHED"
    recorded: str = "original"
    """The directory that mlflow.json has: that of MLflow, or another."""


CLAIMS = {
    "copied": Whose(False, "there"),
    "moved": Whose(True, "gone"),
    "moved, and killed": Whose(True, "gone", status="RUNNING"),
    "moved, and a link left": Whose(True, "link"),
    "moved, and its place used again": Whose(True, "other run"),
    "copied, and the other copy continued it": Whose(False, "there", recorded="another"),
    "copied, and the other copy continued it and is gone": Whose(False, "gone", recorded="another"),
    "from another machine": Whose(True, "gone", "elsewhere"),
    "from another machine, with a folder of that name here": Whose(True, "there", "elsewhere"),
    "from another machine, where it was continued": Whose(False, "gone", "elsewhere", recorded="another"),
    "from another machine, where it may be running": Whose(False, "gone", "elsewhere", status="RUNNING"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_a_move_is_told_from_a_copy(case: str, sent: Path, tmp_path: Path) -> None:
    whose = CLAIMS[case]
    original, directory = tmp_path / "original", RunDirectory(shutil.copytree(sent / "run", tmp_path / "here"))
    state = SyncState.read(directory)
    if whose.original == "link":
        original.symlink_to(directory.path)
    elif whose.original != "gone":
        shutil.copytree(sent / "run", original)
    if whose.original == "other run":
        replace(state, started=1.0).write(RunDirectory(original))
    state.tags["run_directory"] = str(tmp_path / whose.recorded)
    tags = {"run_directory": str(original), "host": whose.host}
    reason = why_not_ours(tags, whose.status, directory, state)
    assert (reason is None) == whose.is_ours, reason
    assert reason is None or (str(original) in reason and state.progress.run_id in reason)


def test_a_copy_gets_an_mlflow_run_of_its_own_and_a_moved_run_keeps_its(
    handed_over: Callable[..., RunDirectory], uri: str, sent: Path
) -> None:
    original = SyncState.read(RunDirectory(sent / "run")).progress.run_id
    client, copy = MlflowClient(uri), handed_over()
    before = client.get_run(original).data
    done = ganrun_command("resume", copy.path, "--set", "train.steps=3")
    assert done.exit_code == 0 and done.output.count("are copies of one run") == 1
    run_id = SyncState.read(copy).progress.run_id
    after = client.get_run(original).data
    assert (after.metrics, after.tags) == (before.metrics, before.tags)
    assert client.get_run(run_id).data.metrics["images_seen"] == 24
    scores = client.get_metric_history(run_id, "eval/modes_covered")
    assert {point.step for point in scores} == {2, 3}, "its whole history, also from before it was copied"

    moved = RunDirectory(copy.path.rename(copy.path.with_name("moved")))
    done = ganrun_command("sync", moved.path)
    assert done.exit_code == 0 and "copies" not in done.output
    assert SyncState.read(moved).progress.run_id == run_id
    found = client.get_run(run_id)
    assert (found.data.tags["run_directory"], found.data.tags["host"]) == (str(moved.path), HERE)


def test_scores_of_a_copy_do_not_go_to_the_original(handed_over: Callable[..., RunDirectory], uri: str) -> None:
    copy, before = handed_over(), runs_in(uri)
    points = history(uri, copy, "eval/modes_covered")
    done = ganrun_command("eval", copy.path)
    assert done.exit_code == 0 and f"to send it: ganrun sync {copy.path}" in done.output
    assert history(uri, copy, "eval/modes_covered") == points and runs_in(uri) == before


def test_a_run_and_its_store_are_moved_together(
    handed_over: Callable[..., RunDirectory], uri: str, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    directory = handed_over(moved=True)
    run_id = SyncState.read(directory).progress.run_id
    shutil.copy(sent / "mlflow.db", tmp_path / "mlflow.db")
    assert ganrun_command("sync", directory.path).exit_code == 0
    assert ganrun_command("resume", directory.path, "--set", "train.steps=3").exit_code == 0
    state = SyncState.read(directory)
    assert (state.uri, state.progress.run_id) == (f"sqlite:///{tmp_path}/mlflow.db", run_id)
    assert 3 in {point.step for point in MlflowClient(state.uri).get_metric_history(run_id, "images_seen")}


STORES: dict[str, tuple[bool, dict[str, Any]]] = {
    "the run's own": (True, {}),
    "of another run": (False, {"run_id": "1" * 32}),
    "of a run that started at another time": (False, {"start": 7}),
    "of a deleted run": (False, {"stage": "deleted"}),
    "of another directory": (False, {"named": "/none"}),
    "with artifacts elsewhere": (False, {"artifacts": "file:///home/ann/.ssh"}),
    "with artifacts on a server": (False, {"artifacts": "http://127.0.0.1:1/"}),
    "with artifacts above it": (False, {"artifacts": "{root}/../../out"}),
    "with models elsewhere": (False, {"models": "file:///home/ann/.ssh"}),
    "no database": (False, {"content": b"text" * 999}),
    "that answers for ever": (False, {"endless": True}),
    "with a pipe for its journal": (False, {"pipes": ["-journal"]}),
    "that is a link to one with a pipe for its journal": (False, {"linked": True}),
    "with pipes for its log": (False, {"pipes": ["-wal", "-shm"]}),
}


@pytest.mark.parametrize("kind", STORES)
def test_a_store_that_only_a_folder_names_counts_if_it_names_the_folder(
    kind: str, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(home, "QUERY_SECONDS", 0.2)
    monkeypatch.chdir(sent.parent)
    is_home, changed = STORES[kind]
    directory, database = RunDirectory(sent / "run"), tmp_path / "a store" / "mlflow.db"
    state = replace(SyncState.read(directory), uri=f"sqlite:///{database}")
    write_store(database, state, directory, **changed)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    default = f"sqlite:///{sent.parent}/mlflow.db"
    assert home.store_of(state, directory) == (state.uri if is_home else default)
    assert home.store_of(state, directory, "http://host") == "http://host"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def write_store(database: Path, state: SyncState, directory: RunDirectory, **changed: Any) -> None:
    """As much of a SQLite store as is asked for a run."""
    database.parent.mkdir()
    if "content" in changed:
        database.write_bytes(changed["content"])
        return
    root = (database.parent / "mlruns").as_uri()
    run_id = changed.get("run_id", state.progress.run_id)
    columns = "run_uuid, start_time, lifecycle_stage, artifact_uri, experiment_id"
    with sqlite3.connect(database) as connection:
        if "endless" in changed:
            connection.execute(
                f"CREATE VIEW runs ({columns}) AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                "SELECT i, i, i, i, i FROM n"
            )
            return
        connection.execute(f"CREATE TABLE runs ({columns})")
        connection.execute("CREATE TABLE tags (run_uuid, key, value)")
        artifacts = changed.get("artifacts", "{root}/gaussians/artifacts").format(root=root)
        start, stage = changed.get("start", state.start_milliseconds), changed.get("stage", "active")
        connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, 1)", (run_id, start, stage, artifacts))
        place = changed.get("models", "{root}/gaussians").format(root=root)
        connection.execute("CREATE TABLE experiments (experiment_id, artifact_location)")
        connection.execute("INSERT INTO experiments VALUES (1, ?)", (place,))
        named = changed.get("named", str(directory.path))
        connection.execute("INSERT INTO tags VALUES (?, 'run_directory', ?)", (run_id, named))
    for suffix in changed.get("pipes", ()):
        os.mkfifo(f"{database}{suffix}")
    if "linked" in changed:
        place = database.with_name("real.db")
        database.rename(place)
        database.symlink_to(place)
        os.mkfifo(f"{place}-journal")


# ── Hostile files ─────────────────────────────────────────────────────────────────────────────────────────

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(data=st.data())
def test_any_content_of_mlflow_json_is_read_or_refused(data: st.DataObject, sent: Path) -> None:
    content = RunDirectory(sent / "run").read_json("mlflow.json")
    changed = {data.draw(st.sampled_from(sorted(content))): data.draw(ANYTHING)}
    folder = sent / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.json").write_text(json.dumps(content | changed), encoding="utf-8")
    try:
        state = SyncState.read(RunDirectory(folder))
    except RequestError as error:
        assert f"{folder}/mlflow.json is absent or damaged" in str(error)
    else:
        assert state.start_milliseconds >= 0 and state.uri.isprintable()
        state.write(RunDirectory(folder))
        assert SyncState.read(RunDirectory(folder)) == state


@pytest.mark.parametrize("change", [{"uri": ["x"]}, {"uri": "http://[bad"}, {"started": 1e400}, {"tags": None}])
def test_a_damaged_mlflow_json_costs_no_score(change: dict[str, Any], handed_over: Callable[..., RunDirectory]) -> None:
    directory = handed_over(**change)
    assert ganrun_command("sync", directory.path).exit_code == 2
    assert ganrun_command("ui", directory.path, "--no-browser").exit_code == 2
    done = ganrun_command("eval", directory.path)
    assert done.exit_code == 0 and "Traceback" not in done.output and "but not in MLflow" in done.output


def test_tags_of_a_store_may_say_anything(uri: str, tmp_path: Path, handed_over: Callable[..., RunDirectory]) -> None:
    directory = handed_over(uri="http://127.0.0.1:9")
    client = MlflowClient(uri)
    host = {"host": platform.node()}
    named = ("", "\0", "x" * 5000, "relative", "/proc/self", str(tmp_path), str(directory.path))
    created = [client.create_run("0", tags={**host, "run_directory": name}).info.run_id for name in named]
    directory.write_json("mlflow.json", directory.read_json("mlflow.json") | {"run_id": created[-1]})
    before = {path: path.stat().st_mtime_ns for path in directory.path.rglob("*")}
    assert check_store().ok and "killed" not in check_store().text
    (tracker,) = ganrun.load_registry().trackers().values()
    for run_id in created:
        with pytest.raises(RequestError, match="not on this machine"):
            tracker.find(run_id)
        client.delete_run(run_id)
    assert {path: path.stat().st_mtime_ns for path in directory.path.rglob("*")} == before


def test_links_that_lead_out_of_a_run_directory_are_not_uploaded(
    uri: str, tmp_path: Path, handed_over: Callable[..., RunDirectory]
) -> None:
    directory = handed_over(log_checkpoints=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.txt").write_text("private", encoding="utf-8")
    (directory / "notes.txt").symlink_to(tmp_path / "private" / "key.txt")
    (directory / "folder").symlink_to(tmp_path / "private")
    (checkpoint,) = (directory / "checkpoints").iterdir()
    (checkpoint / "notes.txt").symlink_to(tmp_path / "private" / "key.txt")
    done = ganrun_command("sync", directory.path)
    assert done.exit_code == 1
    for name in ("notes.txt", "folder/key.txt", f"checkpoints/{checkpoint.name}"):
        assert f"{name} could not be sent: " in done.output
    uploaded = {path.name for path in (Path(uri.removeprefix("sqlite:///")).parent / "mlruns").rglob("*")}
    assert "recipe.toml" in uploaded and not {"notes.txt", "key.txt"} & uploaded


# ── Who sees a secret ─────────────────────────────────────────────────────────────────────────────────────


def test_a_redirect_to_another_host_carries_no_password(
    elsewhere: Recorder, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    with recording(onwards=elsewhere.address("localhost")) as trusted:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", trusted.address())
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        stores.check_reachable(trusted.address())
        assert not any("Authorization" in headers for _, headers in trusted.requests), (
            "of the question whether it is up"
        )
        with pytest.raises(ganrun.GanrunError):
            (tracker,) = ganrun.load_registry().trackers().values()
            tracker.find("0" * 32)
    assert any("Authorization" in headers for _, headers in trusted.requests)
    assert elsewhere.requests and not any("Authorization" in headers for _, headers in elsewhere.requests)


def test_a_run_of_an_earlier_version_is_sent_without_the_password_in_its_recipe(
    uri: str, handed_over: Callable[..., RunDirectory]
) -> None:
    address = f"http://ann:{PASSWORD}@127.0.0.1:1/"
    tags = {"run_directory": "/none", "origin": f"https://host?token={PASSWORD}"}
    directory = handed_over(recipe_uri=address, tags=tags, run_id="", started=2.0)
    summary = directory.summary() | {"error": f"cannot connect to {address}"}
    directory.write_json("summary.json", summary)
    directory.write_json("environment.json", directory.environment() | {"command": ["--set", f"mlflow.uri={address}"]})
    assert ganrun_command("sync", directory.path).exit_code == 0
    found = MlflowClient(uri).get_run(SyncState.read(directory).progress.run_id)
    assert found.data.tags["error"] == "cannot connect to http://ann:***@127.0.0.1:1/"
    assert PASSWORD not in str(found)
    folder = Path(found.info.artifact_uri.removeprefix("file://"))
    assert 'uri = "http://ann:***@127.0.0.1:1/"' in (folder / "recipe.toml").read_text(encoding="utf-8")
    assert not [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    for command in ("eval", "resume", "sample", "export"):
        done = ganrun_command(command, directory.path)
        assert done.exit_code == 2 and PASSWORD not in done.output
        assert "recipe.toml:" in done.output and "holds a password" in done.output


def test_no_file_of_a_run_and_no_message_holds_a_secret(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{PASSWORD}@127.0.0.1:1")
    monkeypatch.setattr(sys, "argv", ["ganrun", "--set", f"mlflow.uri=http://a:{PASSWORD}@b", "--token", PASSWORD])
    (tmp_path / "ring.toml").write_text(RECIPE, encoding="utf-8")
    done = ganrun_command("ring.toml", "--output", "run", "--set", "train.log_every_steps=1")
    assert done.exit_code == 1 and "cannot be reached" in done.output, "MLflow was asked for, and lacks the run"
    assert PASSWORD not in done.output
    assert not [path for path in Path("run").rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    shown = ["ganrun", "--set", "mlflow.uri=http://a:***@b", "--token", "***"]
    assert RunDirectory(Path("run")).environment()["command"] == shown


# ── Elsewhere ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_continued_in_its_store_from_any_working_directory(
    uri: str, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test, because the run itself changes."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    directory = RunDirectory(sent / "run")
    run_id, points = SyncState.read(directory).progress.run_id, history(uri, directory, "eval/modes_covered")
    assert _place_of(str(directory.path), None) == (uri, "gaussians"), "of ganrun ui"
    for command in (["eval"], ["sync"], ["resume", "--set", "train.steps=5"]):
        done = ganrun_command(command[0], directory.path, *command[1:])
        assert done.exit_code == 0, done.output
    assert SyncState.read(directory).progress.run_id == run_id and not list(tmp_path.iterdir())
    assert MlflowClient(uri).get_run(run_id).data.metrics["images_seen"] == 40
    assert history(uri, directory, "eval/modes_covered") > points
