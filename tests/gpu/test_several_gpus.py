"""One run on two real GPUs, by NCCL, against one process on one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from ganrun import checkpoints_in, load_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")

RECIPE: dict[str, Any] = {
    "train": {"steps": 12, "batch_size": 16, "device": "cuda", "log_every_steps": 4, "evaluate_every_steps": 6},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [16]},
    "discriminator": {"use": "mlp", "hidden": [16]},
    "checkpoints": {"every_steps": 6},
    **dict.fromkeys(("mlflow", "samples"), False),
}


def trained(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ganrun", "r.toml", *options]
    return subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, timeout=300)


def test_two_gpus_train_as_one_that_accumulates_two_parts(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    done = trained(tmp_path, "--gpus", "2", "--output", "two")
    assert done.returncode == 0, done.stderr
    alone = trained(tmp_path, "--set", "train.accumulate=2", "--set", "train.device=cuda:0", "--output", "one")
    assert alone.returncode == 0, alone.stderr
    environment = json.loads((tmp_path / "two/environment.json").read_text(encoding="utf-8"))
    assert environment["ranks"] == 2 and environment["device_name"].startswith("2 × ")
    two, one = (load_checkpoint(checkpoints_in(tmp_path / name)[-1]) for name in ("two", "one"))
    for file, tensors in one.weights.items():
        for name, value in tensors.items():
            torch.testing.assert_close(two.weights[file][name], value, rtol=1e-4, atol=1e-5)


def test_a_run_of_two_gpus_goes_on_with_one(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    assert trained(tmp_path, "--gpus", "2", "--output", "run", "--set", "train.steps=6").returncode == 0
    done = trained(tmp_path, "--output", "run", "--resume", "--set", "train.device=cuda:0")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))["steps"] == 12


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    count = torch.cuda.device_count()
    done = trained(tmp_path, "--gpus", str(count + 1), "--set", f"train.batch_size={16 * (count + 1)}")
    assert done.returncode == 2 and f"each sees {count} GPU" in done.stderr
