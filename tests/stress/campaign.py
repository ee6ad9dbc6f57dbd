"""Many trials, and a table of what they have shown. Run by the modules that are named like `TRIALS`."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import mkdtemp
from threading import Event, Lock
from time import monotonic

from tests.stress.events import MORE, event
from tests.stress.pairs import pair
from tests.stress.recipes import FAMILIES
from tests.stress.starts import Server, reason_against
from tests.stress.stores import StoreBench, store
from tests.stress.trials import Bench, Result, file_fault, full_disk, kill, one_signal, power_cut

Trial = Callable[[Bench, Random, int], Result | None]

TRIALS: Mapping[str, Trial] = {
    "kills": kill,
    "cuts": power_cut,
    "faults": file_fault,
    "full": full_disk,
    "signals": one_signal,
    "events": event,
    "pairs": pair,
    "stores": store,
}

EVERY = 10**6
"""More trials than there are of a kind that comes to an end."""


def main(kind: str, arguments: Sequence[str] | None = None) -> int:
    """Make the trials of a kind that the command line asks for; returns the exit status."""
    asked = _asked(kind, arguments)
    if reason := reason_against():
        print(f"not here: {reason}", file=sys.stderr)
        return 2
    started = monotonic()
    folder = Path(mkdtemp(prefix="ganrun-stress-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        results = list(_results(kind, asked, folder))
    finally:
        rmtree(folder, ignore_errors=True)
    _print_table(kind, asked, results, monotonic() - started)
    return int(any(result.faults for result in results))


def trial(kind: str, benches: Sequence[Bench], seed: int, number: int) -> Result | None:
    """The trial of this number; the same again whenever it is asked for. None if there are no more for its family."""
    random = Random(f"{kind} {seed} {number}")
    return TRIALS[kind](benches[number % len(benches)], random, number // len(benches))


def _asked(kind: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m tests.stress.{kind}", description=TRIALS[kind].__doc__)
    parser.add_argument("--trials", type=int, default=EVERY if kind in ("full", "events") else 100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--workers", type=int, default=1, help="processes at the same time")
    parser.add_argument("--only", type=int, help="repeat the trial of this number, with the same seed and families")
    return parser.parse_args(arguments)


def _results(kind: str, asked: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """The result of each trial; a wrong one is told at once."""
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # the table is of what has been done until then
        signal.signal(number, lambda *_: stopped.set())
    numbers = iter([asked.only] if asked.only is not None else range(asked.trials))
    lock = Lock()

    def work(worker: int) -> list[Result]:
        server = Server(folder / f"server-{worker}")
        found = []
        try:
            benches = [_bench(kind, server, folder / f"{worker}-{family}", family) for family in asked.families]
            missing = 0
            while missing < len(benches) and not stopped.is_set():
                with lock:
                    number = next(numbers, None)
                result = None if number is None else trial(kind, benches, asked.seed, number)
                missing = 0 if result else missing + 1
                if result:
                    found.append(result)
                    _tell(kind, asked, number, result)
            return found
        finally:
            server.close()

    with ThreadPoolExecutor(asked.workers) as pool:
        for found in pool.map(work, range(asked.workers)):
            yield from found


def _bench(kind: str, server: Server, folder: Path, family: str) -> Bench:
    if kind != "stores":
        return Bench(server, folder, family, MORE if kind == "events" else None)
    bench = StoreBench(server, folder, family)
    bench.make_store()
    return bench


def _tell(kind: str, asked: argparse.Namespace, number: int | None, result: Result) -> None:
    """How to repeat a trial that is wrong, and what it has shown."""
    if result.faults or asked.only is not None:
        chosen = f"--families {' '.join(asked.families)} --seed {asked.seed} --only {number}"
        lines = (f"\n{result.row}: python -m tests.stress.{kind} {chosen}", *result.story, *result.faults)
        print("\n  ".join(lines), flush=True)


def _print_table(kind: str, asked: argparse.Namespace, results: Sequence[Result], seconds: float) -> None:
    print(f"\n{len(results)} {kind}, seed {asked.seed}, families {', '.join(asked.families)}; {date.today()},")
    packages = ", ".join(f"{name} {version(name)}" for name in ("ganrun", "torch", "safetensors", "mlflow"))
    print(
        f"{packages}, Python {platform.python_version()}, {platform.system()} {platform.release()}; {seconds:.0f} s\n"
    )
    print("| what | n | bit-exact in the end | wrong | what happened |\n| --- | --- | --- | --- | --- |")
    for row in sorted({result.row for result in results}):
        own = [result for result in results if result.row == row]
        wrong = sum(bool(result.faults) for result in own)
        how = ", ".join(f"{n} × {text}" for text, n in sorted(Counter(result.outcome for result in own).items()))
        print(f"| {row} | {len(own)} | {len(own) - wrong} | {wrong} | {how} |")
