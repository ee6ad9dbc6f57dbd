"""The classifier on several machines: one process each, with other threads, vector instructions and libraries.

python tests/benchmarks/classifier.py [--data digits] [--size 28] [--samples 1000] [--machines 4]

Each process trains the classifier in an empty cache, and scores the same pictures: training images with noise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganrun.contracts.settings import parse_settings
from ganrun.discovery.registry import load_registry
from ganrun.inference.evaluation import measured
from ganrun.testing import evaluation_on

MACHINES = [
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
]


def main() -> None:
    options = _options()
    if options.one:
        return print(*described(options))
    for machine in MACHINES[: options.machines]:
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | machine | {"GANRUN_CACHE": cache, "OMP_WAIT_POLICY": "passive"}
            print(*(f"{name}={value}" for name, value in machine.items()), flush=True)
            subprocess.run([sys.executable, __file__, "--one", *sys.argv[1:]], env=environment, check=True)
    return None


def described(options: argparse.Namespace) -> list[str]:
    """Weights, accuracy, processor time and scores."""
    registry = load_registry()
    kind = registry.find("data", options.data).cls
    data = kind(parse_settings(kind.Settings, {"size": options.size}))
    data.prepare()
    extractor = registry.find("extractor", "classifier").cls(None, data.spec())
    start = time.process_time()
    extractor.prepare(data, torch.device("cpu"))
    seconds = time.process_time() - start
    protocol = extractor.protocol
    kinds = [registry.find("metric", name).cls for name in ("fid", "inception-score")]
    settings = {"samples": options.samples}
    metrics = [kind(parse_settings(kind.Settings, settings), data.spec(), extractor) for kind in kinds]
    for metric in metrics:
        metric.prepare(data, torch.device("cpu"))
    scores = measured(metrics, evaluation_on(data, Noisy(data.split("train").images)))
    values = [f"{score.name} {score.value:.9g}" for score in scores]
    return [f"  {protocol['weights']}, accuracy {protocol['classifier_accuracy']}, {seconds:.1f} CPU s,", *values]


class Noisy:
    """Draws training images with noise, the same ones in each process."""

    def __init__(self, images: Any) -> None:
        self._images = images
        self._random = np.random.Generator(np.random.Philox(key=0))

    def __call__(self, count: int) -> tuple[Tensor, Tensor]:
        images = self._images[self._random.integers(0, len(self._images), count)]
        noisy = (images + self._random.integers(-50, 51, images.shape)).clip(0, 255)
        return torch.zeros(count, 1), torch.from_numpy(noisy).float() / 127.5 - 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--machines", type=int, default=len(MACHINES))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
