"""Processor time that commands take before they do anything: median of several runs on one thread, beside the goals.

    python tests/benchmarks/start_up.py [RUNS]

`import torch` is listed for comparison, since every command that needs a network pays for it.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "quickstart.toml"

FIRST_STEP = f"""
import os, sys
from pathlib import Path
from ganrun.base.collector import relax_garbage_collection

relax_garbage_collection()
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.training.builder import build_run
from ganrun.training.runner import execute

run = build_run(load_recipe(Path({str(RECIPE)!r}), load_registry()), Path(sys.argv[1]))
emit = run.emit

def until_the_first_step(event, **arguments):
    if event == "step_ended":
        os._exit(0)
    emit(event, **arguments)

run.emit = until_the_first_step
execute(run)
"""
"""What `ganrun quickstart.toml` does until its first step has been taken; MLflow's thread and the pictures included."""

GANRUN = [sys.executable, "-m", "ganrun.cli"]
CASES: dict[str, tuple[list[str], float | None]] = {
    "import torch": ([sys.executable, "-c", "import torch"], None),
    "ganrun --help": ([*GANRUN, "--help"], 0.15),
    "ganrun list recipes": ([*GANRUN, "list", "recipes"], 0.3),
    "ganrun check quickstart.toml": ([*GANRUN, "check", str(RECIPE)], 2.0),
    "first step of quickstart.toml": ([sys.executable, "-c", FIRST_STEP], 2.5),
}


def processor_seconds(command: list[str]) -> float:
    """User and system time of one run, with all its threads."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        process = subprocess.Popen(
            [*command, *([f"{folder}/run"] if command[-1] is FIRST_STEP else [])],
            env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:3]} failed with status {status}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"torch {version('torch')}, Python {platform.python_version()}, n = {runs}, {time.strftime('%B %Y')}")
    for name, (command, goal) in CASES.items():
        processor_seconds(command)  # compiles bytecode, fills the disk cache
        seconds = sorted(processor_seconds(command) for _ in range(runs))
        wanted = "" if goal is None else f"   goal {goal:.2f}"
        print(
            f"{name:32} {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}){wanted}", flush=True
        )


if __name__ == "__main__":
    main()
