"""What ranks cost on a CPU: two processes of one thread each against one of two threads, and gloo's exchanges.

    python tests/benchmarks/ranks.py [--rounds 7] [--steps 6]

DCGAN at 32×32 on whole batches of 64, eager, in f32. All processes live from beginning to end; the two arms take turns,
A B A B …, and while one works, the other waits. Beside the time of a step stands the processor time of all threads,
which other work on the machine changes little. An exchange is timed by itself: of one flat tensor, as after every
update, and of one number, as after every step.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ganrun.base.ranks import average_over_ranks
from ganrun.testing import build
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step

RECIPE: dict[str, Any] = {
    "train": {"steps": 1_000_000, "batch_size": 64, "device": "cpu"},
    "data": {"use": "synthetic", "size": 32, "channels": 3},
    "loss": {"use": "gan", "latent_size": 100},
    "generator": {"use": "dcgan", "feature_maps": 64},
    "discriminator": {"use": "dcgan", "feature_maps": 64},
    "ema": False,
    **dict.fromkeys(("checkpoints", "samples", "mlflow", "progress"), False),
}
MEGABYTES = (1, 10, 100)


class Worker:
    """What a process does when it is told to; each method returns seconds, and `steps` those of the processor too."""

    def __init__(self, folder: Path) -> None:
        self._run = build(RECIPE, folder, resume=False)
        self._step = build_step(self._run, Measurements())

    def steps(self, count: int) -> tuple[float, float]:
        """For each of some steps."""
        agree = getattr(self._run, "agree", lambda: None)
        start, used = time.perf_counter(), time.process_time()
        for _ in range(count):
            self._step()
            agree()
        return (time.perf_counter() - start) / count, (time.process_time() - used) / count

    def mean(self, megabytes: int) -> float:
        """For the mean over ranks of tensors that are so large together, as after an update."""
        tensors = [torch.ones(megabytes * 250_000 // 4) for _ in range(4)]
        average_over_ranks(tensors)
        return _median(lambda: average_over_ranks(tensors), 15)

    def exchange(self, megabytes: int) -> float:
        """For gloo's part of that."""
        tensor = torch.ones(megabytes * 250_000)
        dist.all_reduce(tensor)
        return _median(lambda: dist.all_reduce(tensor), 15)

    def number(self) -> float:
        """For an exchange of one number."""
        one = torch.zeros(1, dtype=torch.int64)
        return _median(lambda: dist.all_reduce(one, dist.ReduceOp.MAX), 500)


def _median(action: Any, times: int) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def serve(orders: Connection, rank: int, total: int, port: int) -> None:
    """Do what the orders say until they end."""
    torch.set_num_threads(2 // total)
    logging.getLogger("ganrun").setLevel(logging.ERROR)  # that batch norm sees half a batch is known here
    if total > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=total, rank=rank)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder) / "run")
        while order := orders.recv():
            orders.send(getattr(worker, order[0])(*order[1:]))
    if total > 1:
        dist.destroy_process_group()


class Arm:
    """Some processes that train together.

    Args:
        total: How many.
    """

    def __init__(self, total: int) -> None:
        context, port = multiprocessing.get_context("spawn"), _free_port()
        self._processes, self._orders = [], []
        for rank in range(total):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, rank, total, port), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._orders.append(here)

    def __call__(self, *order: str | int) -> list[Any]:
        """What each process replies."""
        for orders in self._orders:
            orders.send(order)
        return [orders.recv() for orders in self._orders]

    def steps(self, count: int) -> tuple[float, float]:
        """Milliseconds a step of the slowest process, and of the processor in all of them."""
        elapsed, used = zip(*self("steps", count), strict=True)
        return 1000 * max(elapsed), 1000 * sum(used)

    def close(self) -> None:
        for orders in self._orders:
            orders.send(())
        for process in self._processes:
            process.join()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> None:
    options = _options()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {versions}; medians (quartiles)", flush=True)
    one, two = Arm(1), Arm(2)
    for arm in (one, two):
        arm.steps(2)
    rounds = [(one.steps(options.steps), two.steps(options.steps)) for _ in range(options.rounds)]
    for what, number in (("elapsed", 0), ("processor", 1)):
        firsts, seconds = ([each[number] for each in column] for column in zip(*rounds, strict=True))
        print(f"{what:9} one process of two threads   {_spread(firsts)} ms a step")
        print(f"{what:9} two processes of one thread  {_spread(seconds)} ms a step")
        ratios = [second / first for first, second in zip(firsts, seconds, strict=True)]
        print(f"{what:9} ratio {_spread(ratios)}, n = {len(rounds)} rounds of {options.steps} steps")
    for size in MEGABYTES:
        whole, part = (1000 * max(two(what, size)) for what in ("mean", "exchange"))
        print(f"mean of tensors of {size} MB {whole:.2f} ms, of it all_reduce {part:.2f} ms; medians of 15", flush=True)
    print(f"one number {1e6 * max(two('number')):.0f} µs, median of 500; load {os.getloadavg()[0]:.1f}")
    for arm in (one, two):
        arm.close()


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    quartiles = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    return f"{statistics.median(ordered):.4g} (quartiles {quartiles[0]:.4g} to {quartiles[1]:.4g})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    return parser.parse_args()


if __name__ == "__main__":
    main()
