"""The scripts for clusters in the documentation, as far as they can be checked without one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.docs.test_docs import ROOT, blocks_of

PAGE = ROOT / "docs/how-to/many-gpus.md"


def block(name: str) -> str:
    return next(each.text for each in blocks_of(PAGE) if each.mark == f"file: {name}")


@pytest.mark.parametrize("status", ["interrupted", "finished"])
def test_the_slurm_job_starts_torchrun_and_queues_an_interrupted_run_again(tmp_path: Path, status: str) -> None:
    """Slurm's commands and torchrun are stand-ins that note their arguments."""
    stand_ins = {
        "scontrol": 'if [ "$1" = show ]; then printf "node-a\\nnode-b\\n"; else echo "scontrol $*" >> calls; fi',
        "srun": 'echo "$*" >> calls; exec "$@"',
        "torchrun": f'mkdir -p runs/mine; echo \'{{"status": "{status}"}}\' > runs/mine/summary.json; exit 3',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "mine.sbatch").write_text(block("mine.sbatch"), encoding="utf-8")
    slurm = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
    env = {**os.environ, **slurm, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "mine.sbatch"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3, done.stderr
    started, *after = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert started.startswith("torchrun --nnodes 2 --nproc-per-node 8 --rdzv-id 77 --rdzv-backend c10d")
    assert f"--rdzv-endpoint node-a:29500 -m ganrun mine.toml --output {tmp_path}/runs/mine --resume" in started
    assert after == (["scontrol requeue 77"] if status == "interrupted" else [])


def test_the_pods_of_the_kubernetes_job_find_the_first_one_by_its_name() -> None:
    service, job = yaml.safe_load_all(block("mine.yaml"))
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert service["metadata"]["name"] == pod["subdomain"] and service["spec"]["selector"] == {"job-name": name}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    assert (
        "--nnodes=2" in container["args"] and f"--rdzv-endpoint={name}-0.{pod['subdomain']}:29500" in container["args"]
    )
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
