"""What MLflow costs a run of short steps: runs that are mirrored into a SQLite store, and runs that are not, in turn.

    python tests/benchmarks/logging_cost.py [PAIRS]       a bit more than a minute a pair

Small dense networks, in one process. Each run is timed once it has warmed up, for long enough that the store is
synchronised a few times. Where torch has one thread, the share of a core that all threads but the training one took is
printed too: that of MLflow's, and the most that it can have kept from training.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlflow
import torch

from ganrun import Observer, Run, hookimpl, observes
from ganrun.testing import build
from ganrun.training.runner import execute

WARM_UP_SECONDS, TIMED_SECONDS = 3.0, 31.0


class Clock(Observer):
    """Times the steps of a run, and stops it."""

    milliseconds = 0.0
    """A step of the last run."""

    beside = 0.0
    """Share of a core that the other threads took."""

    @observes
    def run_started(self) -> None:
        self._first = 0
        self._began, self._others = time.perf_counter(), 0.0

    @observes(trylast=True)
    def step_ended(self, run: Run, step: int) -> None:
        elapsed = time.perf_counter() - self._began
        if not self._first and elapsed > WARM_UP_SECONDS:
            self._first, self._began, self._others = step, time.perf_counter(), _others()
        elif self._first and elapsed > TIMED_SECONDS:
            Clock.milliseconds = 1000 * elapsed / (step - self._first)
            Clock.beside = (_others() - self._others) / elapsed
            run.stop("enough")


def _others() -> float:
    """Processor seconds of all threads but this one."""
    return time.process_time() - time.thread_time()


class Plugin:
    @hookimpl
    def ganrun_observers(self):
        return {"clock": Clock}


def recipe(tracking: dict[str, str] | bool) -> dict[str, Any]:
    return {
        "train": {"steps": 10_000_000, "batch_size": 16, "device": "cpu"},
        "data": {"use": "synthetic", "size": 8, "channels": 1},
        "loss": {"use": "gan", "latent_size": 16},
        "generator": {"use": "mlp", "hidden": [32]},
        "discriminator": {"use": "mlp", "hidden": [32]},
        "ema": False,
        "clock": {},
        "mlflow": tracking,
        **dict.fromkeys(("checkpoints", "samples", "progress"), False),
    }


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}", end=", ")
    print(f"MLflow {mlflow.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        arms = {"with": {"uri": f"sqlite:///{folder}/mlflow.db"}, "without": False}
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        shares: dict[str, list[float]] = {arm: [] for arm in arms}
        for number in range(pairs + 1):
            for arm in sorted(arms, reverse=number % 2 == 0):  # now the one first, now the other
                execute(build(recipe(arms[arm]), Path(folder) / f"{arm}-{number}", Plugin()))
                times[arm].append(Clock.milliseconds)
                shares[arm].append(Clock.beside)
            print(*(f"{arm} {times[arm][-1]:.3f} ms" for arm in arms), sep=", ", flush=True)
    with_it, without = times["with"][1:], times["without"][1:]  # the first run makes the store
    ratios = sorted(a / b for a, b in zip(with_it, without, strict=True))
    spread = f"{ratios[len(ratios) // 4]:.4f} to {ratios[3 * len(ratios) // 4]:.4f}"
    print(
        f"with MLflow {statistics.median(with_it):.3f} ms a step, without {statistics.median(without):.3f} ms, "
        f"ratio {statistics.median(ratios):.4f} (quartiles {spread}, n = {pairs} pairs of runs)"
    )
    if torch.get_num_threads() == 1:
        printed = (f"{arm} MLflow {100 * statistics.median(shares[arm][1:]):.2f} % of a core" for arm in arms)
        print("beside the thread that trains:", *printed)


if __name__ == "__main__":
    main()
