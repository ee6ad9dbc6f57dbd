"""Files of ganrun 0.1.0 work as they did in 0.1.0: runs, one of them exported, two of them interrupted.

`make_runs.py` tells how they were made. Here they are copied, and reached by the command line and `ganrun.load` alone,
whose names hold from version to version.

Numbers are compared within what machines differ by. Scores by the small classifier are those of its newer version, as
their protocol says: that of 0.1.0 was another one on each machine.
"""

from __future__ import annotations

import json
import math
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

import ganrun
from ganrun.cli import main

HERE = Path(__file__).parent
EXPECTED: dict[str, dict[str, Any]] = json.loads((HERE / "expected_0_1_0/expected.json").read_text(encoding="utf-8"))
BROKEN_OFF = {"lsgan": "interrupted", "wgan-gp": "killed"}
FINISHED = [name for name in EXPECTED if name not in BROKEN_OFF]
SCORED = [name for name in FINISHED if EXPECTED[name]["scores"]]
NEWER = ("extractor", "weights", "classifier_accuracy", "torch")
"""What of a score's protocol may be newer: the classifier and the version of torch."""

CHANGED = ("kernel",)
"""What of a protocol 0.1.0 did not say: KID's kernel was float32, so its scores are not ranked with those of today."""

HOME = "/home/user/ganrun"
"""Where the runs were trained, as their files say."""


def call(*arguments: object) -> Result:
    result = CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result


def content(run: Path, file: str = "summary.json") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / file).read_text(encoding="utf-8"))
    return facts


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses_of(run: Path) -> list[dict[str, Any]]:
    return [record for record in records_of(run) if any(name.startswith("loss/") for name in record)]


def assert_close(actual: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=1e-4, atol=2e-5)


def assert_scores(run: Path) -> None:
    """Whether summary.json holds the scores of 0.1.0, made in the same way: else they are not ranked together."""
    summary, expected = content(run), EXPECTED[run.name]
    assert summary["scores"].keys() == expected["scores"].keys()
    for name, value in expected["scores"].items():
        now, then = summary["protocols"][name], expected["protocols"][name]
        assert {**now, **dict.fromkeys(NEWER + CHANGED)} == {**then, **dict.fromkeys(NEWER + CHANGED)}
        if now.get("extractor") != then.get("extractor"):
            assert (now["extractor"], then["extractor"]) == ("ganrun-classifier-2", "ganrun-classifier-1"), name
            assert math.isfinite(summary["scores"][name])
            continue
        tolerance = {"rel": 1e-3} if name in ("mse", "psnr", "ssim") else {"rel": 1e-3, "abs": 0.02}
        assert summary["scores"][name] == pytest.approx(value, **tolerance), name


def assert_same_end(run: Path) -> None:
    """Whether a run that was broken off has come to the end to which 0.1.0 took it."""
    summary, expected = content(run), EXPECTED[run.name]
    assert (summary["status"], summary["steps"]) == ("finished", expected["steps"])
    (last,) = (run / "checkpoints").iterdir()
    weights = {file.name: load_file(file) for file in (HERE / "expected_0_1_0" / run.name).glob("*.safetensors")}
    assert {file.name for file in last.glob("*.safetensors")} == weights.keys() != set()
    for file, tensors in weights.items():
        now = load_file(last / file)
        assert now.keys() == tensors.keys()
        for name, expected_tensor in tensors.items():
            assert_close(now[name], expected_tensor)
    assert_scores(run)


# ── Copies ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True, scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cache and an MLflow store of these tests' own; the store's address. And one thread, as 0.1.0 had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        uri = f"sqlite:///{folder}/mlflow.db"
        patch.setenv("GANRUN_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri
    torch.set_num_threads(threads)


def copied(runs: Path, place: Path, uri: str) -> Path:
    """A copy of what 0.1.0 left, as if it had been left on this machine: with this store's address."""
    shutil.copytree(runs, place)
    for note in place.rglob("mlflow.json"):
        text = note.read_text(encoding="utf-8")
        assert f"sqlite:///{HOME}/mlflow.db" in text
        note.write_text(text.replace(f"sqlite:///{HOME}/mlflow.db", uri), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, own_store: str) -> Path:
    """All of them, for tests that only look."""
    return copied(HERE / "runs_0_1_0", tmp_path_factory.mktemp("compatibility") / "runs", own_store)


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, own_store: str) -> Path:
    """One of them, for a test that changes it; the one of the parameter `name`, where there is one."""
    name = request.node.callspec.params["name"] if hasattr(request.node, "callspec") else "gan"
    return copied(HERE / "runs_0_1_0" / name, tmp_path / name, own_store)


# ── Used as they are ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_is_loaded(name: str, runs: Path) -> None:
    model, expected = ganrun.load(runs / name, "cpu"), EXPECTED[name]
    samples = model.sample(4)
    assert_close(samples, expected["samples"])
    if "best" in expected:
        assert_close(ganrun.load(runs / name / "checkpoints" / "best", "cpu").sample(4), expected["best"])
    if "of_class_3" in expected:
        assert_close(model.sample(4, label=3), expected["of_class_3"])
    if "encodings" in expected:
        assert_close(model.encode(samples), expected["encodings"])


@pytest.mark.parametrize("name", EXPECTED)
def test_samples_are_drawn(name: str, runs: Path, tmp_path: Path) -> None:
    call("sample", runs / name, "-n", 4, "--device", "cpu", "--output", tmp_path / "drawn")
    pictures = [np.asarray(Image.open(file), float) for file in sorted((tmp_path / "drawn").iterdir())]
    expected = (np.asarray(EXPECTED[name]["samples"])[:, 0] + 1) / 2 * 255
    np.testing.assert_allclose(pictures, expected, atol=0.51)


def test_they_are_compared(runs: Path) -> None:
    table = call("compare", runs).stdout
    assert f"{len(EXPECTED)} runs of {len(EXPECTED)} recipes" in table
    facts = json.loads(call("compare", "--json", runs).stdout)
    rows = [row for ranking in facts["rankings"] for row in ranking["rows"]] + facts["unscored"]
    found = {row["name"]: row for row in rows}
    assert found.keys() == EXPECTED.keys()
    for name, row in found.items():
        (told,) = row["runs"]
        assert told["status"] == BROKEN_OFF.get(name, "finished")
        assert f" {name} " in table
        if name in FINISHED:
            assert {score: cell["mean"] for score, cell in row["scores"].items()} == EXPECTED[name]["scores"]


def test_they_are_reported(runs: Path, tmp_path: Path) -> None:
    call("report", runs, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in page for name in EXPECTED)
    assert page.count("data:image/png;base64,") >= 4


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_is_exported(name: str, runs: Path, tmp_path: Path) -> None:
    call("export", runs / name, "--output", tmp_path / "out")
    assert_close(ganrun.load(tmp_path / "out", "cpu").sample(4), EXPECTED[name]["samples"])
    scores = {score: each["value"] for score, each in content(tmp_path / "out", "config.json")["scores"].items()}
    assert scores == (EXPECTED[name]["scores"] if name in FINISHED else {})


def test_what_was_exported_is_loaded() -> None:
    model = ganrun.load(HERE / "exports_0_1_0" / "vae", "cpu")
    samples = model.sample(4)
    assert_close(samples, EXPECTED["vae"]["samples"])
    assert_close(model.encode(samples), EXPECTED["vae"]["encodings"])


# ── Gone on with ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_has_nothing_left_to_do(name: str, run: Path) -> None:
    losses, expected = losses_of(run), EXPECTED[name]
    before = {file: file.read_bytes() for file in (run / "checkpoints").rglob("*.*")}
    told = call("resume", run).output
    assert f"finished at step {expected['steps']}" in told or name == "minimax", "which shows no progress"
    assert (content(run)["status"], content(run)["steps"]) == ("finished", expected["steps"])
    assert_scores(run)
    assert losses_of(run) == losses
    after = {file: file.read_bytes() for file in (run / "checkpoints").rglob("*.*")}
    assert after == before, "what is scored is not scored again, so no other state becomes the best"
    assert content(run)["protocols"] == expected["protocols"]


@pytest.mark.parametrize("name", BROKEN_OFF)
def test_a_run_that_was_broken_off_comes_to_the_same_end(name: str, run: Path) -> None:
    call("resume", run)
    assert_same_end(run)
    assert [record["step"] for record in losses_of(run)] == [2, 4, 6, 8]


@pytest.mark.parametrize("name", SCORED)
def test_a_run_is_scored_again(name: str, run: Path) -> None:
    told = call("eval", run, "--device", "cpu").stdout
    assert [line.split()[0] for line in told.splitlines()] == list(EXPECTED[name]["scores"])
    assert_scores(run)
    last = records_of(run)[-1]
    assert last["rescored"] and {f"eval/{score}" for score in EXPECTED[name]["scores"]} <= last.keys()


def test_a_run_in_mlflow_is_sent_to_another_store_and_goes_on_there(run: Path, own_store: str) -> None:
    from mlflow import MlflowClient

    call("sync", run)
    run_id = content(run, "mlflow.json")["run_id"]
    call("resume", run)
    assert content(run, "mlflow.json")["run_id"] == run_id
    client = MlflowClient(own_store)
    mirrored = client.get_run(run_id)
    assert (mirrored.info.run_name, mirrored.info.status) == ("gan", "FINISHED")
    assert mirrored.data.params["loss.use"] == "gan" and mirrored.data.tags["purpose"] == "compatibility"
    assert {point.step for point in client.get_metric_history(run_id, "eval/fid_classifier")} == {2, 4, 6}
    assert {"recipe.toml", "environment.json", "summary.json"} <= {each.path for each in client.list_artifacts(run_id)}


# ── After an upgrade that brings new settings ─────────────────────────────────────────────────────────────

NEW = {"accumulate", "horizontal_flip", "eps", "n_discriminator", "continuous_weight", "labels", "dropout"}
"""Settings that stand at their defaults in the runs from which they are taken away."""


def as_if_older(run: Path) -> None:
    """Make the run one of a version that did not have these settings yet."""
    recipe = run / "recipe.toml"
    tables = tomllib.loads(recipe.read_text(encoding="utf-8"))
    older = without(tables, NEW)
    assert older != tables
    recipe.write_text(tomli_w.dumps(older), encoding="utf-8")


def without(table: dict[str, Any], names: set[str]) -> dict[str, Any]:
    kept = {name: value for name, value in table.items() if name not in names}
    return {name: without(value, names) if isinstance(value, dict) else value for name, value in kept.items()}


@pytest.mark.parametrize("name", ["lsgan"])
def test_a_run_without_newer_settings_is_continued(name: str, run: Path) -> None:
    as_if_older(run)
    call("resume", run)
    assert_same_end(run)


@pytest.mark.parametrize("name", ["infogan"])
def test_a_run_without_newer_settings_is_scored_again(name: str, run: Path) -> None:
    as_if_older(run)
    call("eval", run, "--device", "cpu")
    assert_scores(run)
