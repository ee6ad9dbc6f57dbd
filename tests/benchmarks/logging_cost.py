"""What MLflow costs a run of short steps: rounds in which the store is brought level, and rounds in which it is not.

    python tests/benchmarks/logging_cost.py [ROUNDS]

One run of small dense networks, mirrored into a new SQLite store. The rounds alternate, each long enough for the store
to be brought level at least once; what gathers in the idle ones is sent in the next.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
import torch

from ganrun import Data, Observer, Problem, Run, Split, hookimpl, observes
from ganrun.runner import execute
from ganrun.testing import build
from ganrun_mlflow.mirror import Mirror

SECONDS_PER_ROUND = 11.0
"""Twice as long as the store is left alone, and a little more."""


class Noise(Data):
    """Images of noise, 28×28."""

    def problem(self) -> Problem:
        return Problem((1, 28, 28))

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        return Split(np.random.default_rng(0).integers(0, 256, (8192, 1, 28, 28), dtype=np.uint8))


class Switch(Observer):
    """Turns the mirror on and off, and times the steps between."""

    rounds: list[tuple[bool, float]] = []
    wanted = 20

    @observes
    def run_started(self) -> None:
        self._level, self._is_on = Mirror.level, True
        self._begin(0)

    @observes(trylast=True)
    def step_ended(self, run: Run, step: int) -> None:
        elapsed = time.perf_counter() - self._began
        if elapsed > SECONDS_PER_ROUND:
            Switch.rounds.append((self._is_on, elapsed / (step - self._first)))
            self._is_on = not self._is_on
            Mirror.level = self._level if self._is_on else lambda *_: None  # type: ignore[method-assign]
            self._begin(step)
            if len(Switch.rounds) == Switch.wanted:
                Mirror.level = self._level  # type: ignore[method-assign]
                run.stop("enough")

    def _begin(self, step: int) -> None:
        self._first, self._began = step, time.perf_counter()


class Plugin:
    @hookimpl
    def ganrun_data(self):
        return {"noise": Noise}

    @hookimpl
    def ganrun_observers(self):
        return {"switch": Switch}


def recipe(folder: Path) -> dict:
    return {
        "train": {"steps": 10_000_000, "batch_size": 64, "device": "cpu"},
        "data": {"use": "noise"},
        "loss": {"use": "gan", "latent_size": 64},
        "generator": {"use": "mlp", "hidden": [128]},
        "discriminator": {"use": "mlp", "hidden": [128]},
        "ema": False,
        "mlflow": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "switch": {},
        **dict.fromkeys(("checkpoints", "samples", "progress"), False),
    }


def main() -> None:
    Switch.wanted = 2 * int(sys.argv[1]) + 2 if len(sys.argv) > 1 else 22
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}", end=", ")
    print(f"MLflow {mlflow.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        run = build(recipe(Path(folder)), Path(folder) / "run", Plugin())
        execute(run)
        lines = len(run.directory.records())
    pairs = list(zip(Switch.rounds[2::2], Switch.rounds[3::2], strict=True))  # the first ones make the store
    with_mlflow, without = (1000 * statistics.median(pair[arm][1] for pair in pairs) for arm in (0, 1))
    ratios = sorted(on / off for (_, on), (_, off) in pairs)
    spread = f"{ratios[len(ratios) // 4]:.4f} to {ratios[3 * len(ratios) // 4]:.4f}"
    print(
        f"with MLflow {with_mlflow:.3f} ms a step, without {without:.3f} ms, ratio {statistics.median(ratios):.4f} "
        f"(quartiles {spread}, n = {len(pairs)} pairs of rounds, {lines} lines of metrics.jsonl)"
    )


if __name__ == "__main__":
    main()
