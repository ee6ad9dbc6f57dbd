"""Everything that is to be measured on a GPU, in one go: one JSON line for each figure, then tables.

    python tests/benchmarks/gpu.py [--only loops,wide,idle,celeba,memory] [--minutes 8] [--output figures.jsonl]
    python tests/benchmarks/gpu.py --device cpu --quick      the same code on tiny networks, to try the script

loops   ganrun, captured and eager, against two loops by hand: milliseconds a step, at each precision
wide    a wide DCGAN in bf16: operations a second, as a share of what a matrix product reaches
idle    the share of a step in which the GPU computes nothing
celeba  WGAN-GP at 64×64 on as many images as CelebA has: seconds for 1,000 steps
memory  what captured steps take, and eager ones

ganrun's figures are those of `ganrun.training.runner.execute`, in a thread that waits between its rounds; the arms take
turns, A B C D A B C D … The loops by hand have their data in memory and the same layers: `by hand` keeps the data on
the device and reads nothing back, `as peers` also moves each batch there and reads both losses at every step, as
published code does. Part by part and case by case, what fails is told, and the rest goes on. Neither MLflow nor
torch-fidelity needs to be installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gpu_by_hand import ByHand, Case
from torch.utils.flop_counter import FlopCounterMode

from ganrun import Data, DataSpec, Observer, Split, hookimpl, observes
from ganrun.base.devices import device_text
from ganrun.base.errors import GanrunError
from ganrun.testing import build
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.runner import execute
from ganrun.training.step import build_step

CASES = {
    "dcgan 32": Case("gan", "dcgan", (3, 32, 32)),
    "dcgan 64": Case("gan", "dcgan", (3, 64, 64)),
    "wgan-gp 32": Case("wgan-gp", "dcgan", (3, 32, 32)),
    "mlp 28": Case("gan", "mlp", (1, 28, 28)),
}
WIDE = Case("gan", "dcgan", (3, 64, 64), maps=256, batch=512)
CELEBA = Case("wgan-gp", "dcgan", (3, 64, 64), records=202_599)
PRECISIONS = ("f32", "tf32", "bf16")
GANRUN = {"ganrun captured": True, "ganrun eager": False}
PATIENCE = 180.0
"""Seconds after which a round that has not ended counts as failed."""


class Settings(NamedTuple):
    """How much is measured."""

    device: torch.device
    rounds: int
    seconds: float
    """A round's, about."""
    small: Callable[[Case], Case]
    """What a case becomes here."""
    matrix: int
    """Rows and columns of the matrices whose product is timed."""
    deadline: float


# ── ganrun, in steps ──────────────────────────────────────────────────────────────────────────────────────


class Noise(Data):
    """Images of noise, for timing."""

    case: Case

    def spec(self) -> DataSpec:
        return DataSpec(self.case.shape)

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        return Split(noise(self.case.records if name == "train" else 100, self.case.shape))


class Pace(Observer):
    """Lets a run take some steps, and then waits for the next word."""

    essential = True
    arm: Ganrun

    @observes(trylast=True)
    def step_ended(self, run: Run) -> None:
        self.arm.stepped(run)


class Ganrun:
    """A run in a thread of its own, which takes as many steps as it is told to.

    Args:
        case: What to train.
        precision: The recipe's.
        captured: Whether steps are captured as graphs; None leaves it to ganrun.
    """

    def __init__(self, case: Case, precision: str, captured: bool | None, device: torch.device) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._device = device
        self._left, self._error = 0, None
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._run = build_case(case, precision, captured, device, Path(self._folder.name) / "run", self)
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def __call__(self, steps: int) -> None:
        self._left = steps
        self._go.release()
        if not self._done.acquire(timeout=PATIENCE):
            raise TimeoutError(f"{steps} steps were not done within {PATIENCE:.0f} s")
        if self._error is not None:
            raise self._error

    def stepped(self, run: Run) -> None:
        self._left -= 1
        if self._left == 0:
            synchronize(self._device)
            self._done.release()
            self._go.acquire()
            if self._left == 0:
                run.stop("enough")

    def close(self) -> None:
        self._left = 0
        self._go.release()
        self._thread.join(PATIENCE)
        del self._run
        self._folder.cleanup()

    def _train(self) -> None:
        self._go.acquire()
        try:
            if self._left:
                execute(self._run)
        except BaseException as error:
            self._error = error
        finally:
            self._done.release()


def build_case(
    case: Case, precision: str, captured: bool | None, device: torch.device, folder: Path, arm: Ganrun | None = None
) -> Run:
    """The run of a case.

    Raises:
        LookupError: if steps are to be captured, and this ganrun knows no such setting.
    """
    data, pace = type("CaseNoise", (Noise,), {"case": case}), type("CasePace", (Pace,), {"arm": arm})

    class Plugin:
        @hookimpl
        def ganrun_data(self):
            return {"noise": data}

        @hookimpl
        def ganrun_observers(self):
            return {"pace": pace}

    tables = case.recipe(precision, str(device))
    tables |= {"data": {"use": "noise"}} | ({"pace": {}} if arm else {})
    if captured is not None:
        tables["train"]["graphs"] = captured
    try:
        return build(tables, folder, Plugin())
    except GanrunError as error:
        if "graphs" not in str(error):
            raise
        if captured:
            raise LookupError("this version of ganrun has no setting train.graphs") from error
        return build_case(case, precision, None, device, folder, arm)


def arm_of(name: str, case: Case, precision: str, device: torch.device) -> Ganrun | ByHand:
    if name in GANRUN:
        return Ganrun(case, precision, GANRUN[name], device)
    return ByHand(case, precision, device, noise(case.records, case.shape), reads=name == "as peers")


@cache
def noise(count: int, shape: tuple[int, ...], different: int = 10_000) -> np.ndarray:
    """Images of random bytes, the same ones at every call; beyond some thousands, they come again."""
    first = np.random.default_rng(0).integers(0, 256, (min(count, different), *shape), np.uint8)
    return first if count <= different else np.resize(first, (count, *shape))


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - start


class Timing(NamedTuple):
    """What one arm took."""

    rounds: list[float]
    """Milliseconds a step in each round."""
    steps: int
    """In each round."""
    first: float
    """Seconds that the first WARM_UP steps took beyond what such steps take later: capture, and all else that is done
    once."""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


WARM_UP = 12


def take_turns(arms: Mapping[str, Callable[[int], None]], settings: Settings) -> tuple[dict[str, Timing], dict]:
    """The times of each arm, and the faults of those that failed."""
    timings, faults = {}, {}
    for name, arm in arms.items():
        with caught(faults, name):
            timings[name] = _warmed_up(arm, settings)
    for _ in range(settings.rounds):
        for name in list(timings):
            with caught(faults, name, timings):
                took = seconds(lambda name=name: arms[name](timings[name].steps), settings.device)
                timings[name].rounds.append(1000 * took / timings[name].steps)
    return timings, faults


def _warmed_up(arm: Callable[[int], None], settings: Settings) -> Timing:
    first = seconds(lambda: arm(WARM_UP), settings.device)
    usual = seconds(lambda: arm(WARM_UP), settings.device)
    steps = max(2, round(settings.seconds / (usual / WARM_UP)))
    return Timing([], steps - steps % 50 if steps > 50 else steps, first - usual)


@contextmanager
def caught(faults: dict[str, str], name: str, timings: dict[str, Timing] | None = None) -> Iterator[None]:
    """A block whose exceptions become the fault of that name; its timing is dropped."""
    try:
        yield
    except Exception as error:
        faults[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        if not isinstance(error, LookupError | GanrunError):
            traceback.print_exc()
        if timings:
            timings.pop(name, None)


@contextmanager
def arms_of(names: list[str], case: Case, precision: str, device: torch.device, faults: dict) -> Any:
    """The arms that could be built, closed at the end."""
    arms: dict[str, Any] = {}
    try:
        for name in names:
            with caught(faults, name):
                arms[name] = arm_of(name, case, precision, device)
        yield arms
    finally:
        for arm in arms.values():
            arm.close()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


# ── The parts ─────────────────────────────────────────────────────────────────────────────────────────────

ARMS = [*GANRUN, "by hand", "as peers"]


def measured_case(case: Case, precision: str, settings: Settings, names: list[str]) -> Iterator[dict[str, Any]]:
    """A figure for each arm: milliseconds a step, and their ratio to those of the first arm that works."""
    faults: dict[str, str] = {}
    with arms_of(names, case, precision, settings.device, faults) as arms:
        timings, failed = take_turns(arms, settings)
    first = next((timings[name].rounds for name in names if name in timings), [])
    for name in names:
        if name not in timings:
            yield {"arm": name, "fault": (faults | failed).get(name)}
            continue
        timing = timings[name]
        yield {
            "arm": name,
            "ms": timing.median,
            "least": min(timing.rounds),
            "most": max(timing.rounds),
            "ratio": statistics.median(mine / other for mine, other in zip(timing.rounds, first, strict=True)),
            "n": len(timing.rounds),
            "steps": timing.steps,
            "once_s": timing.first,
        }


def loops(settings: Settings) -> Iterator[dict[str, Any]]:
    for name, whole in CASES.items():
        for precision in PRECISIONS:
            for figure in measured_case(settings.small(whole), precision, settings, ARMS):
                yield {"case": name, "precision": precision, **figure}


def wide(settings: Settings) -> Iterator[dict[str, Any]]:
    size, device = settings.matrix, settings.device
    one, other = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    for _ in range(3):
        one @ other
    rate = 2 * size**3 / statistics.median(seconds(lambda: one @ other, device) for _ in range(15))
    yield {"case": f"{size}³ product", "precision": "bf16", "arm": "torch", "tflops": rate / 1e12, "n": 15}
    case = settings.small(WIDE)
    with tempfile.TemporaryDirectory() as folder:
        step = build_step(build_case(case, "bf16", False, device, Path(folder) / "run"), Measurements())
        with FlopCounterMode(display=False) as counter:
            step()
    operations = counter.get_total_flops()
    for figure in measured_case(case, "bf16", settings, ["ganrun captured", "ganrun eager", "by hand"]):
        if "ms" in figure:
            reached = operations / (figure["ms"] / 1000)
            figure |= {"tflop_a_step": operations / 1e12, "tflops": reached / 1e12, "share": reached / rate}
        name = f"dcgan 64, {case.maps} maps, batch {case.batch}"
        yield {"case": name, "precision": "bf16", **figure}


def idle(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time in which kernels run, by the profiler, against the time of steps that nobody profiles."""
    for name in ("dcgan 32", "dcgan 64", "wgan-gp 32"):
        for arm in GANRUN:
            yield {"case": name, "precision": "f32", "arm": arm, **_idle(settings.small(CASES[name]), arm, settings)}


def _idle(case: Case, name: str, settings: Settings) -> dict[str, Any]:
    faults: dict[str, str] = {}
    with arms_of([name], case, "f32", settings.device, faults) as arms:
        timings, failed = take_turns(arms, settings)
        if name not in timings:
            return {"fault": (faults | failed)[name]}
        steps = min(timings[name].steps, 50)
        with _profile(settings.device) as profiler:
            took = seconds(lambda: arms[name](steps), settings.device)
    events = [each for each in profiler.events() if not getattr(each, "is_user_annotation", False)]
    kind = torch.autograd.DeviceType.CUDA if settings.device.type == "cuda" else torch.autograd.DeviceType.CPU
    spans = [(each.time_range.start, each.time_range.end) for each in events if each.device_type == kind]
    busy = covered(spans) / 1000 / steps
    launches = [each.name for each in events if "Launch" in each.name]
    return {
        "ms": timings[name].median,
        "n": len(timings[name].rounds),
        "busy_ms": busy,
        "idle": 1 - busy / timings[name].median,
        "profiled_ms": 1000 * took / steps,
        "kernels_a_step": len(spans) / steps,
        "launches_a_step": len(launches) / steps,
        "graph_launches_a_step": sum("Graph" in each for each in launches) / steps,
    }


def _profile(device: torch.device) -> torch.profiler.profile:
    """A profiler of kernels; without a GPU, of every thread's operations, to try the script."""
    if device.type == "cuda":
        return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    every = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=every)


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def celeba(settings: Settings) -> Iterator[dict[str, Any]]:
    """Time for 1,000 steps, from fewer; a step is five updates of the critic and one of the generator."""
    case = settings.small(CELEBA)
    for precision in PRECISIONS:
        arms = [*GANRUN] if precision == "f32" else ["ganrun captured"]
        for figure in measured_case(case, precision, settings, arms):
            if "ms" in figure:
                figure |= {"seconds_1000": figure["ms"], "hours_100000": figure["ms"] / 36}
            yield {"case": f"wgan-gp 64, {case.records:,} images", "precision": precision, **figure}


def memory(settings: Settings) -> Iterator[dict[str, Any]]:
    """The most that torch held for tensors, and took from the device, over some steps."""
    for name in ("dcgan 32", "dcgan 64", "wgan-gp 32"):
        for arm in GANRUN:
            yield {"case": name, "precision": "f32", "arm": arm, **_peak(settings.small(CASES[name]), arm, settings)}


def _peak(case: Case, name: str, settings: Settings) -> dict[str, Any]:
    faults: dict[str, str] = {}
    on_gpu = settings.device.type == "cuda"
    before = _held() if on_gpu else ()
    with arms_of([name], case, "f32", settings.device, faults) as arms:
        for arm in arms.values():
            with caught(faults, name):
                arm(3 * WARM_UP)
        after = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if on_gpu else ()
    if faults:
        return {"fault": faults[name]}
    names = "peak_mib", "reserved_mib"
    return {name: (most - least) / 2**20 for name, most, least in zip(names, after, before, strict=False)}


def _held() -> tuple[int, int]:
    """Bytes that torch holds for tensors and takes from the GPU; from here on, its peaks are counted anew."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()


PARTS = {"loops": loops, "wide": wide, "idle": idle, "celeba": celeba, "memory": memory}


# ── What came of it ───────────────────────────────────────────────────────────────────────────────────────


class Told(logging.Handler):
    """What ganrun logs, such as why it does not capture."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def taken(self) -> list[str]:
        taken, self.lines = list(dict.fromkeys(self.lines)), []
        return taken


def main() -> None:
    options = _options()
    settings, told = _settings(options), Told()
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    logging.getLogger("ganrun").addHandler(told)
    logging.getLogger("ganrun").setLevel(logging.INFO)
    print(json.dumps(_facts(settings.device)), flush=True)
    figures = []
    for part in options.only.split(","):
        for figure in _of_part(part, settings):
            figures.append({"part": part, **_rounded(figure), **({"told": lines} if (lines := told.taken()) else {})})
            _tell(json.dumps(figures[-1], ensure_ascii=False), options.output)
    print(_tables(figures))


def _of_part(part: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """The figures of a part, until the time is over; if it breaks, that."""
    faults: dict[str, str] = {}
    started = time.monotonic()
    with caught(faults, part):
        for figure in PARTS[part](settings):
            yield figure
            if time.monotonic() > settings.deadline:
                faults[part] = "out of time"
                break
    yield {"case": "all of it", "took_s": time.monotonic() - started, **({"fault": faults[part]} if faults else {})}


def _rounded(figure: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in figure.items()}


def _tell(line: str, output: Path | None) -> None:
    print(line, flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            print(line, file=file)


def _tables(figures: list[dict[str, Any]]) -> str:
    """A Markdown table for each part, with a column for each number."""
    lines = []
    for part in dict.fromkeys(figure["part"] for figure in figures):
        rows = [each for each in figures if each["part"] == part]
        columns = list(dict.fromkeys(name for row in rows for name in row if name not in ("part", "told")))
        lines += ["", f"{part}", "", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
        lines += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _facts(device: torch.device) -> dict[str, Any]:
    facts = {"device": device_text(device), "torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {**facts, "machine": platform.machine(), "command": sys.argv[1:]}


def _settings(options: argparse.Namespace) -> Settings:
    device, deadline = torch.device(options.device), time.monotonic() + 60 * options.minutes
    if options.quick:
        return Settings(device, 2, 0.05, Case.tiny, 256, deadline)
    return Settings(device, options.rounds, 0.25, lambda case: case, 8192, deadline)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=8, help="no case begins after that")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="for ganrun too, and not by hand alone")
    parser.add_argument("--output", type=Path, help="a file that gets the JSON lines too")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to try the script")
    return parser.parse_args()


if __name__ == "__main__":
    main()
