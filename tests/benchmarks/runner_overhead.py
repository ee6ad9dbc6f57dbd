"""The runner against the best hand-written loop on the same networks, interleaved in one process.

    python tests/benchmarks/runner_overhead.py            both cases, about three minutes on two cores
    python tests/benchmarks/runner_overhead.py mlp

The runner is `ganrun.training.runner.execute` itself. An observer stops it every few steps and lets the other loop
make as many: A B A B … Both take uint8 images in memory, freeze the discriminator in the generator's update, use
fused Adam and channels last. Printed: median milliseconds per step of each, and the median of the ratios by pair.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import softplus

from ganrun import Data, DataSpec, Observer, Split, hookimpl, observes
from ganrun.testing import build
from ganrun.training.runner import execute

SHAPES = {"mlp": (1, 28, 28), "dcgan64": (3, 64, 64)}
NETWORKS = {
    "mlp": ({"use": "mlp", "hidden": [128]}, {"use": "mlp", "hidden": [128]}),
    "dcgan64": ({"use": "conv", "stages": 4, "feature_maps": 64}, {"use": "conv", "stages": 4, "feature_maps": 64}),
}
LATENTS = {"mlp": 64, "dcgan64": 100}
STEPS_PER_ROUND = {"mlp": 200, "dcgan64": 4}
ROUNDS = {"mlp": 40, "dcgan64": 16}
BATCH = 64


class Noise(Data):
    """Images of noise, for timing."""

    case = "mlp"

    def spec(self) -> DataSpec:
        return DataSpec(SHAPES[Noise.case])

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        return Split(np.random.default_rng(0).integers(0, 256, (4096, *SHAPES[Noise.case]), dtype=np.uint8))


class Interleaver(Observer):
    """Times the runner's rounds, and runs and times the hand-written loop's between them."""

    rounds: list[tuple[float, float]] = []
    hand: Callable[[int], None]

    @observes
    def run_started(self, run) -> None:
        Interleaver.rounds = []
        self._hand = hand_written_loop(Noise.case)
        self._hand(STEPS_PER_ROUND[Noise.case])
        self._mark = time.perf_counter()

    @observes(trylast=True)
    def step_ended(self, step: int) -> None:
        count = STEPS_PER_ROUND[Noise.case]
        if step % count == 0:
            ours = time.perf_counter() - self._mark
            started = time.perf_counter()
            self._hand(count)
            Interleaver.rounds.append((ours / count, (time.perf_counter() - started) / count))
            self._mark = time.perf_counter()


class Plugin:
    @hookimpl
    def ganrun_data(self):
        return {"noise": Noise}

    @hookimpl
    def ganrun_observers(self):
        return {"interleaver": Interleaver}


def recipe(case: str, everything: bool) -> dict:
    generator, discriminator = NETWORKS[case]
    observers = {} if everything else dict.fromkeys(("checkpoints", "samples", "mlflow", "progress"), False)
    return {
        "train": {"steps": STEPS_PER_ROUND[case] * ROUNDS[case], "batch_size": BATCH, "device": "cpu"},
        "data": {"use": "noise"},
        "loss": {"use": "gan", "latent_size": LATENTS[case]},
        "generator": generator,
        "discriminator": discriminator,
        "ema": False,
        "interleaver": {},
        **observers,
    }


def hand_written_loop(case: str) -> Callable[[int], None]:
    """What an engineer would write by hand for this very case, with nothing left to gain that we know of."""
    run = build(recipe(case, False), Path(tempfile.mkdtemp()) / "networks", Plugin())
    generator, discriminator = (run.state.slots[name].module for name in ("generator", "discriminator"))
    images = torch.from_numpy(run.data.split("train").images)
    parameters_of = {net: list(net.parameters()) for net in (generator, discriminator)}
    adam = {net: torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True) for net in parameters_of}
    place, order = 0, torch.randperm(len(images))
    channels_last = torch.channels_last
    totals = torch.zeros(2)

    def train_only(net: torch.nn.Module) -> None:
        for other, parameters in parameters_of.items():
            for parameter in parameters:
                parameter.requires_grad = other is net

    def loop(steps: int) -> None:
        nonlocal place, order
        for _ in range(steps):
            if place + BATCH > len(images):
                place, order = 0, torch.randperm(len(images))
            batch = images.index_select(0, order[place : place + BATCH])
            place += BATCH
            real = batch.contiguous(memory_format=channels_last).float().mul_(1 / 127.5).sub_(1)
            train_only(discriminator)
            fake = generator(torch.randn(BATCH, LATENTS[case]))
            loss_d = softplus(-discriminator(real)).mean() + softplus(discriminator(fake)).mean()
            loss_d.backward()
            adam[discriminator].step()
            adam[discriminator].zero_grad()
            train_only(generator)
            loss_g = softplus(-discriminator(generator(torch.randn(BATCH, LATENTS[case])))).mean()
            loss_g.backward()
            adam[generator].step()
            adam[generator].zero_grad()
            totals.add_(torch.stack((loss_d.detach(), loss_g.detach())))

    return loop


def measure(case: str, everything: bool) -> None:
    Noise.case = case
    with tempfile.TemporaryDirectory() as folder:
        execute(build(recipe(case, everything), Path(folder) / "run", Plugin()))
    rounds = Interleaver.rounds[2:]
    ours, hand = (statistics.median(times) * 1000 for times in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    spread = f"{ratios[len(ratios) // 4]:.3f} to {ratios[3 * len(ratios) // 4]:.3f}"
    observers = "all observers" if everything else "no observers"
    print(
        f"{case:8} {observers:14} runner {ours:8.3f} ms   by hand {hand:8.3f} ms   "
        f"ratio {statistics.median(ratios):.3f} (quartiles {spread}, n = {len(rounds)} rounds)",
        flush=True,
    )


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}")
    for case in sys.argv[1:] or SHAPES:
        measure(case, everything=False)
    measure("mlp", everything=True)


if __name__ == "__main__":
    main()
