"""One trial: a run that is disturbed, then resumed without disturbance, and compared with an undisturbed one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.stress.disk import Disk
from tests.stress.outcome import Content, differences, outcome
from tests.stress.recipes import STEPS, recipe
from tests.stress.starts import ALL, EVER, SPACE, UNDISTURBED, Action, Ended, Kind, Orders, Server, recipe_text


class Result(NamedTuple):
    """What a trial has shown."""

    row: str
    """Where it belongs in a table."""
    outcome: str
    """In a word or two: what happened, if all is well."""
    faults: list[str]
    """What is wrong; empty if all is well."""
    story: list[str]
    """What was done, a line for each start."""


class Bench:
    """One family's run, as it ends undisturbed, and a place for trials of it.

    Args:
        server: Makes the starts.
        folder: For the trials; may not exist yet.
        family: Its name in `recipes`.
        more: Tables beside its recipe.
    """

    def __init__(self, server: Server, folder: Path, family: str, more: Mapping[str, Any] | None = None) -> None:
        self.family = family
        self.folder = folder
        self.server = server
        self._recipe = folder / f"{family}.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self._recipe.write_text(recipe_text(recipe(family, more)), encoding="utf-8")
        place = self.new_place("undisturbed")
        ended = server.learn(place, *self.arguments(place))
        assert ended.status == 0, ended.output
        self.wanted: Content = outcome(place / "run")
        self._of_kind = dict(zip(Kind, ended.of_kind, strict=True))

    def count(self, kinds: Kind = ALL) -> int:
        """Operations of these kinds in an undisturbed run."""
        return sum(number for kind, number in self._of_kind.items() if kind in kinds)

    def new_place(self, name: str) -> Path:
        """An empty folder for one trial."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def start(self, place: Path, orders: Orders = UNDISTURBED, **environment: str) -> Ended:
        """`ganrun RECIPE --output run --resume`."""
        return self.server.start(place, *self.arguments(place), orders=orders, **environment)

    def faults_of(self, place: Path) -> list[str]:
        """What the run has left otherwise than an undisturbed one."""
        return differences(outcome(place / "run"), self.wanted)

    def words_for(self, fault: FileFault) -> tuple[str, ...]:
        """Any of them tells a fault."""
        return (os.strerror(fault.number),)

    def arguments(self, place: Path, *, resume: bool = True) -> list[str]:
        """The command line of a start."""
        return [str(self._recipe), "--output", str(place / "run"), *(["--resume"] if resume else [])]


def told(what: str, ended: Ended) -> str:
    """A line of a trial's story."""
    text = f"{what}: status {ended.status}, {ended.hits} of {ended.count} operations met"
    return f"{text}, first {ended.operation}" if ended.hits else text


def resumed(bench: Bench, place: Path, story: list[str]) -> list[str]:
    """Resume undisturbed to the end; what is wrong afterwards."""
    ended = bench.start(place)
    story.append(told("resumed undisturbed", ended))
    faults = output_faults(ended)
    if ended.status != 0:
        return [*faults, f"cannot be resumed: status {ended.status}: {ended.output[-400:]}"]
    return faults + bench.faults_of(place)


def output_faults(ended: Ended) -> list[str]:
    """What nothing may do: print a traceback, or be ended by a signal that nobody has sent."""
    faults = []
    if "Traceback (most recent call last)" in ended.output:
        faults.append(f"a traceback: {ended.output.partition('Traceback')[2][:3000]}")
    if ended.status < 0 and ended.status != -signal.SIGKILL:
        faults.append(f"ended by signal {-ended.status}: {ended.output[-400:]}")
    return faults


# ── Kills ─────────────────────────────────────────────────────────────────────────────────────────────────


def kill(bench: Bench, random: Random, number: int = 0) -> Result:
    """Kill the process at one to three operations, before, in the middle of, or after them; then resume."""
    place, story, faults, kills = bench.new_place("trial"), [], [], 0
    for _ in range(random.choice((1, 1, 1, 2, 2, 3))):
        how = random.choice((Action.KILL_BEFORE, Action.KILL_TORN, Action.KILL_TORN, Action.KILL_AFTER))
        at = random.randint(1, bench.count())
        ended = bench.start(place, Orders(how, at, at))
        story.append(told(f"{how.name} at {at}", ended))
        faults += output_faults(ended)
        kills += ended.hits
        if not ended.hits:
            faults += _status_faults(ended)
    return Result(bench.family, f"kills: {kills}", faults + resumed(bench, place, story), story)


def _status_faults(ended: Ended) -> list[str]:
    return [] if ended.status == 0 else [f"status {ended.status} without a kill: {ended.output[-400:]}"]


# ── Power cuts ────────────────────────────────────────────────────────────────────────────────────────────


def power_cut(bench: Bench, random: Random, number: int = 0) -> Result:
    """Cut the power at an operation, or after the last one, once or twice; then resume."""
    place, story, faults = bench.new_place("trial"), [], []
    strict = random.random() < 0.5
    journal = bench.folder / "journal"
    for _ in range(random.choice((1, 1, 2))):
        at = random.randint(1, bench.count() + 10)
        disk = Disk(place)
        journal.unlink(missing_ok=True)
        ended = bench.start(place, Orders(Action.KILL_AFTER, at, at, journal=str(journal)))
        disk.replay(journal)
        disk.cut(place, random, strict=strict)
        story.append(told(f"power cut after {at}", ended))
        faults += output_faults(ended)
    row = f"{bench.family}, {'each folder for itself' if strict else 'names in order'}"
    return Result(row, f"cuts: {len(story)}", faults + resumed(bench, place, story), story)


# ── Faults of the file system ─────────────────────────────────────────────────────────────────────────────

PICTURES = (".png", ".gif")


class FileFault(NamedTuple):
    """A fault of a file system."""

    number: int
    kinds: Kind
    for_good: bool
    short: bool = False
    """Whether a write is cut short first, as on a disk that becomes full."""

    def __str__(self) -> str:
        text = f"{errno.errorcode[self.number]} {'from then on' if self.for_good else 'once'}"
        return f"{text}, after a short write" if self.short else text

    def orders(self, at: int) -> Orders:
        """The fault from the operation `at` on."""
        action = Action.FAIL_SHORT if self.short else Action.FAIL
        return Orders(action, at, EVER if self.for_good else at, self.number, self.kinds)


TIDYING = Kind.UNLINK | Kind.RMDIR
FILE_FAULTS = (
    FileFault(errno.ENOSPC, SPACE, for_good=False),
    FileFault(errno.ENOSPC, SPACE, for_good=True),
    FileFault(errno.ENOSPC, SPACE, for_good=True, short=True),
    FileFault(errno.EDQUOT, SPACE, for_good=True),
    FileFault(errno.EIO, ALL, for_good=False),
    FileFault(errno.EIO, ALL, for_good=True),
    FileFault(errno.ESTALE, ALL, for_good=False),
    FileFault(errno.EBUSY, TIDYING, for_good=False),
    FileFault(errno.EBUSY, TIDYING, for_good=True),
    FileFault(errno.EROFS, ALL, for_good=True),
)

FULL = FILE_FAULTS[:3]


def file_fault(bench: Bench, random: Random, number: int = 0) -> Result:
    """Let one operation fail, or all from one on; then resume without the fault."""
    fault = random.choice(FILE_FAULTS)
    return failed(bench, fault, random.randint(1, bench.count(fault.kinds)))


def full_disk(bench: Bench, random: Random, number: int = 0) -> Result | None:
    """The same for a full disk, once, from then on, and after a short write, at every operation in turn."""
    at, which = number // len(FULL) + 1, FULL[number % len(FULL)]
    return failed(bench, which, at) if at <= bench.count(which.kinds) else None


def failed(bench: Bench, fault: FileFault, at: int) -> Result:
    """The trial of one fault at one operation."""
    place, story = bench.new_place("trial"), []
    ended = bench.start(place, fault.orders(at))
    story.append(told(f"{fault} at {at} of kinds {int(fault.kinds)}", ended))
    faults = output_faults(ended)
    if ended.status not in (0, 1, 2):
        faults.append(f"status {ended.status}: {ended.output[-400:]}")
    is_told = any(word in ended.output for word in bench.words_for(fault))
    left = bench.faults_of(place)
    if ended.status == 0:
        faults += [f"with status 0: {each}" for each in left if not (_is_put_off(each) or _is_partial(each))]
    if not is_told and (ended.status != 0 or any(map(_is_put_off, left))):
        faults.append(f'"{os.strerror(fault.number)}" is not in the message: {ended.output[-400:]}')
    after = resumed(bench, place, story)
    faults += [each for each in after if not (_is_put_off(each) or _is_told_picture(each, ended))]
    return Result(str(fault), f"status {ended.status}", faults, story)


def _is_put_off(fault: str) -> bool:
    """Whether it is about a checkpoint before the last: one that cannot be written is tried again at a later step."""
    return "checkpoints/step_" in fault and f"step_{STEPS:08d}" not in fault


def _is_partial(fault: str) -> bool:
    """Whether it is about a file that the next start removes."""
    return "left over: " in fault and ".partial" in fault


def _is_told_picture(fault: str, ended: Ended) -> bool:
    """Whether it is a picture that is missing, or one made of those, and the start has failed and said so."""
    is_picture = fault.endswith(PICTURES) or ".gif: " in fault or "summary.json / 0 / last" in fault
    return ended.status == 1 and is_picture and "samples" in ended.output


# ── Signals ───────────────────────────────────────────────────────────────────────────────────────────────

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


def one_signal(bench: Bench, random: Random, number: int = 0) -> Result:
    """Send a signal at an operation, or at several; then resume."""
    place, story = bench.new_place("trial"), []
    number = signal.Signals[random.choice(SIGNALS)]
    at = random.randint(1, bench.count())
    last = at if random.random() < 0.7 else at + random.randint(1, 5)
    ended = bench.start(place, Orders(Action.SIGNAL, at, last, number))
    story.append(told(f"{number.name} at {at}..{last}", ended))
    faults = output_faults(ended)
    if ended.status not in (0, 128 + number):
        faults.append(f"status {ended.status}, not {128 + number}: {ended.output[-400:]}")
    row = f"{number.name}{'' if last == at else ', more than once'}"
    if ended.status == 0:
        faults += [f"with status 0: {each}" for each in bench.faults_of(place)]
    return Result(row, f"status {ended.status}", faults + resumed(bench, place, story), story)
