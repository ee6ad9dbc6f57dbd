"""Files of runs, checkpoints, exports and stores, and what reads them."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tomli_w
from fuzzing import written

import ganrun
from ganrun.base.locks import Holder
from ganrun.recipe.reader import load_recipe
from ganrun.rundir.checkpoints import find_checkpoint, latest_checkpoint, score_of, step_of
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.opening import warn_if_newer
from ganrun.rundir.records import latest_scores, merged_summary
from ganrun.rundir.stored import made_with
from ganrun.testing import registry_with
from ganrun.trained.loading import find_saved_model
from ganrun.training.builder import build_run
from ganrun.training.measurements import Measurements
from ganrun.training.runner import execute
from ganrun.training.step import build_step

TABLES: dict[str, Any] = {
    "train": {"steps": 4, "batch_size": 8, "device": "cpu", "evaluate_every_steps": 2, "log_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [4]},
    "discriminator": {"use": "mlp", "hidden": [4]},
    "checkpoints": {"every_steps": 2, "keep": 2, "best": "brightness"},
    "metric": [{"use": "brightness"}],
    **dict.fromkeys(("samples", "progress", "mlflow"), False),
}


class Brightness(ganrun.Metric):
    """The mean of the pixels, which needs no network."""

    def measure(self, evaluation: Any) -> list[ganrun.Score]:
        """One score."""
        value = evaluation.generated(8).float().mean().item()
        return [ganrun.Score("brightness", value, higher_is_better=True, protocol={"samples": 8}, error=0.5)]


class Gauge:
    """Offers it."""

    @ganrun.hookimpl
    def ganrun_metrics(self) -> dict[str, type[ganrun.Metric]]:
        """By name."""
        return {"brightness": Brightness}


@cache
def registry() -> Any:
    """The installed components, and the metric; found once."""
    return registry_with(Gauge())


@cache
def recipe(steps: int) -> Any:
    """That of the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "tables.toml", tomli_w.dumps(TABLES).encode())
        return load_recipe(path, registry(), [f"train.steps={steps}"])


def built(steps: int, output: Path, *, resume: bool = False) -> Any:
    """The run, ready to be executed."""
    return build_run(recipe(steps), output, resume=resume)


def make_runs(folder: Path) -> None:
    """Two runs."""
    from ganrun_mlflow.sync_state import SyncState

    execute(built(4, folder / "runs/good"))
    state = SyncState(
        uri="sqlite:///x.db", experiment="e", name="n", started=1.7e9, params={"a": "1"}, tags={}, dataset={}
    )
    state.write(RunDirectory(folder / "runs/good"))
    (folder / "runs/good/.lock").write_text(json.dumps({"host": "h", "pid": 9, "since": 1.7e9}))
    shutil.copytree(folder / "runs/good", folder / "runs/bad")


def make_export(folder: Path) -> None:
    """A run, and its export."""
    from ganrun_export.exporting import Request, export_run

    execute(built(4, folder / "run"))
    export_run(Request(str(folder / "run"), folder / "export"), registry=registry())


def compare(folder: Path) -> object:
    """`ganrun compare` and `ganrun report` of both runs."""
    from ganrun_report.as_json import comparison_json
    from ganrun_report.finding import find_runs
    from ganrun_report.page import write_page
    from ganrun_report.ranking import compare_runs
    from ganrun_report.reading import read_runs
    from ganrun_report.terminal import print_comparison

    runs, _ = read_runs(find_runs([str(folder / "runs")]))
    assert [run for run in runs if run.path.name == "good"], "compare goes on with the other runs"
    comparison = compare_runs(runs)
    print_comparison(comparison)
    json.loads(comparison_json(comparison))
    return write_page(folder / "page.html", comparison, 3)


def look(folder: Path) -> object:
    """What commands ask of the files of one run."""
    run = RunDirectory(folder / "runs/bad")
    warn_if_newer(run)
    found = latest_scores(run.evaluations(), 4, {})
    made_with(run.recipe_path)
    run.read_records()
    return run.status, run.sessions(), merged_summary(run.summary(), found)


def load(folder: Path) -> object:
    """`ganrun sample` and `ganrun export`, up to the samples."""
    from ganrun_export.facts import facts_of

    saved = find_saved_model(folder / "runs/bad", registry())
    model = saved.model("cpu")
    return facts_of(saved, model), model.sample(2)


def load_export(folder: Path) -> object:
    """`ganrun sample` of an export."""
    saved = find_saved_model(folder / "export", registry())
    return saved.recipe_text(), saved.model("cpu").sample(2)


def resume(folder: Path) -> object:
    """`ganrun resume`, up to the first step and beyond."""
    return execute(built(5, folder / "runs/bad", resume=True))


def sync(folder: Path) -> object:
    """What `ganrun sync` reads."""
    from ganrun_mlflow.sync_state import SyncState

    return SyncState.read(RunDirectory(folder / "runs/bad"))


def send_metrics(folder: Path) -> object:
    """The points that `ganrun sync` sends, by a client that takes what a database can hold."""
    from ganrun_mlflow.metrics_upload import MetricsUpload
    from ganrun_mlflow.sync_state import SyncState

    directory, sent = RunDirectory(folder / "runs/bad"), []

    def log_batch(run_id: str, metrics: list[Any], tags: list[Any]) -> None:
        assert all(0 <= number < 2**63 for each in metrics for number in (each.timestamp, each.step))
        sent.extend([*metrics, *tags])

    client = SimpleNamespace(log_batch=log_batch, get_run=lambda _: SimpleNamespace(data=SimpleNamespace(metrics={})))
    state = SyncState.read(directory)
    run = SimpleNamespace(directory=directory, state=state, id="r", client=client, record=lambda: None)
    upload = MetricsUpload(run)  # type: ignore[arg-type]
    try:
        upload.resume()
        upload.send()
    except OSError as error:  # as the mirror reports it
        raise ganrun.RunError(str(error)) from error
    return sent


def make_store(folder: Path) -> None:
    """A run, and an MLflow store that has it, as far as ganrun asks."""
    make_runs(folder)
    with closing(sqlite3.connect(folder / "store.db")) as connection, connection:
        connection.executescript(
            """CREATE TABLE runs (run_uuid, start_time, lifecycle_stage, artifact_uri, experiment_id);
            CREATE TABLE tags (run_uuid, key, value); CREATE TABLE experiments (experiment_id, artifact_location);
            INSERT INTO runs VALUES ('r', 1700000000000, 'active', 'file:///x/mlruns/1', 1);
            INSERT INTO experiments VALUES (1, 'file:///x/mlruns/1');
            INSERT INTO tags VALUES ('r', 'run_directory', '/x')"""
        )
    (folder / "store.db-journal").write_bytes(b"")


def ask_store(folder: Path) -> object:
    """Whether the store that a run directory names has its run."""
    from ganrun_mlflow.home import store_of
    from ganrun_mlflow.sync_state import SyncState

    directory = RunDirectory(folder / "runs/bad")
    state = SyncState(
        uri=f"sqlite:///{folder}/store.db", experiment="e", name="n", started=1.7e9, params={}, tags={}, dataset={}
    )
    state.progress.run_id = "r"
    return store_of(state, directory)


def lock_of(folder: Path) -> object:
    """What a lock says of its holder."""
    with suppress(OSError):  # of those who ask; they go on without
        str(Holder.read(folder / "runs/bad/.lock"))
    return RunDirectory(folder / "runs/bad").status


def best_of(folder: Path) -> object:
    """The score for which a checkpoint is kept."""
    return score_of(folder / "runs/bad/checkpoints/best")


READY: list[Any] = []
"""A run that has restored a checkpoint without a fault, and so can restore the next."""


def restore(folder: Path) -> object:
    """A checkpoint, restored and trained on. One that is damaged gives way to the one before."""
    found = latest_checkpoint(folder / "runs/bad")
    assert found is not None
    run = READY.pop() if READY else built(4, folder / "new")
    try:
        run.state.load(found)
        assert 0 <= run.step < 2**63 and 0 <= run.images_seen < 2**63 and 0 <= run.state.seconds < float("inf")
        build_step(run, Measurements())()
    except ganrun.GanrunError:
        run.state.load(good(folder))  # which takes less time than another run
        READY.append(run)
        raise
    READY.append(run)
    return run.step


@cache
def good(folder: Path) -> Any:
    """A checkpoint that nobody has changed."""
    return latest_checkpoint(folder / "runs/good")


def weights_of(folder: Path) -> object:
    """The step and the weights of a checkpoint."""
    path = folder / "runs/bad/checkpoints/step_00000004"
    return step_of(path), find_checkpoint(path), latest_checkpoint(folder / "runs/bad")


def sign(folder: Path, path: Path, chance: random.Random) -> None:
    """Make the manifest fit what the files hold now, mostly."""
    manifest = path.parent / "manifest.json"
    if path == manifest or chance.random() < 0.2:
        return
    content = json.loads(manifest.read_bytes())
    sums = content["sha256"]
    content["sha256"] = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in sums}
    content["bytes"] = {name: (path.parent / name).stat().st_size for name in sums}
    manifest.write_text(json.dumps(content))
