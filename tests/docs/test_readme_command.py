"""The README's first command, verbatim, in a fresh clone: train, score, log.

Two things save time: the clone's virtual environment sees the dependencies of this interpreter, so that none is
downloaded, and the clone's recipe takes 150 steps instead of 800.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from mlflow import MlflowClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 900
"""Longest time for the command; one core needs 45."""

STEPS = 150
LARGEST_FID = 7.0
SMALLEST_INCEPTION_SCORE = 5.0
"""Bars for both scores after these steps. Measured on a CPU with torch 2.14, seeds 0 to 2:

    after                                     fid_classifier   inception_score_classifier
    150 steps                                 3.3 to 4.3       7.0 to 7.8
    half as many                              9.3 to 12.7      3.5 to 3.6
    150 steps, one network without training   60 and 236       1.1 and 1.0  (seed 0)
"""

Answer = tuple[Path, str]
"""The clone's folder, and what the command printed."""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answer]:
    clone = tmp_path_factory.mktemp("readme") / "ganrun"
    _clone(clone)
    _shorten(clone / "recipes" / "quickstart.toml")
    _make_environment(clone / ".venv")
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    environment |= {"GANRUN_CACHE": str(clone.parent / "cache"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        ["bash", "-c", readme_command("run")],
        cwd=clone, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    yield clone, done.stdout
    shutil.rmtree(clone, ignore_errors=True)


def readme_command(name: str) -> str:
    """The command in the README's block of that mark."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^<!-- command: {name} -->\n```bash\n(.+?)\n```$", text, re.M | re.S)
    assert found, f"the README has no block marked as: command: {name}"
    return found[1]


def _clone(target: Path) -> None:
    """What a clone of the working tree would hold: tracked files as they are, and new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def _shorten(recipe: Path) -> None:
    """Fewer steps, and everything that happens every few steps as often as before."""
    tables = tomllib.loads(recipe.read_text(encoding="utf-8"))
    tables["train"] |= {"steps": STEPS, "evaluate_every_steps": STEPS // 2, "log_every_steps": STEPS // 10}
    tables["samples"] |= {"every_steps": STEPS // 5}
    recipe.write_text(tomli_w.dumps(tables), encoding="utf-8")


def _make_environment(folder: Path) -> None:
    """A virtual environment that sees this interpreter's packages, except for ganrun itself."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([str(folder / "bin" / "python"), "-c", script], capture_output=True, text=True, check=True)
    Path(own.stdout.strip(), "installed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


# ── What it must leave behind ─────────────────────────────────────────────────────────────────────────────


def _mlflow(clone: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((clone / "out" / "mlflow.json").read_text(encoding="utf-8"))
    return note


def _summary(clone: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((clone / "out" / "summary.json").read_text(encoding="utf-8"))
    return summary


def test_the_run_ends_well_with_good_scores(answer: Answer) -> None:
    summary = _summary(answer[0])
    assert summary["status"] == "finished" and summary["steps"] == STEPS
    assert summary["scores"]["fid_classifier"] < LARGEST_FID
    assert summary["scores"]["inception_score_classifier"] > SMALLEST_INCEPTION_SCORE
    assert summary["protocols"].keys() == summary["scores"].keys()


def test_it_is_the_clones_own_code_that_ran(answer: Answer) -> None:
    where = [str(answer[0] / ".venv" / "bin" / "python"), "-c", "import ganrun; print(ganrun.__file__)"]
    found = subprocess.run(where, cwd="/", capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(answer[0])


def test_samples_are_drawn_at_several_steps(answer: Answer) -> None:
    grids = sorted((answer[0] / "out" / "samples").glob("step_*.png"))
    assert len(grids) >= 5
    with Image.open(grids[0]) as first, Image.open(grids[-1]) as last:
        assert first.size == last.size
        assert first.tobytes() != last.tobytes()


def test_mlflow_holds_the_run(answer: Answer) -> None:
    summary, where = _summary(answer[0]), _mlflow(answer[0])
    assert where["uri"] == f"sqlite:///{answer[0] / 'mlflow.db'}"
    client = MlflowClient(where["uri"])
    run = client.get_run(where["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.use"] == "cgan"
    assert run.data.params["train.steps"] == str(summary["steps"])
    assert {"device", "torch", "plugins", "protocol/fid_classifier"} <= run.data.tags.keys()
    for name, value in summary["scores"].items():
        history = client.get_metric_history(run.info.run_id, f"eval/{name}")
        assert len(history) >= 2
        assert max(history, key=lambda each: each.step).value == pytest.approx(value)
    assert len({each.step for each in client.get_metric_history(run.info.run_id, "loss/generator")}) >= 5


def test_mlflow_holds_the_files_and_pictures(answer: Answer) -> None:
    where = _mlflow(answer[0])
    client = MlflowClient(where["uri"])
    papers = {each.path for each in client.list_artifacts(where["run_id"])}
    assert {"recipe.toml", "environment.json", "metrics.jsonl", "summary.json"} <= papers
    pictures = [each.path for each in client.list_artifacts(where["run_id"], "images")]
    assert sum(path.endswith(".png") for path in pictures) >= 5


def test_it_says_how_to_open_the_comparison(answer: Answer) -> None:
    clone, printed = answer
    assert f"mlflow ui --backend-store-uri sqlite:///{clone / 'mlflow.db'}" in printed
    assert f"/#/experiments/{_mlflow(clone)['experiment_id']}/runs?workflowType=machine_learning" in printed
