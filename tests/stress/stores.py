"""Runs that mirror to a SQLite store of MLflow, killed, without power, or on a full disk, at operations of the store
too: `python -m tests.stress.stores --trials N --seed S`."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from tests.stress.starts import ALL, Ended, Kind, Server
from tests.stress.trials import FULL, Bench, FileFault, Result, failed, kill, output_faults, power_cut, told

MORE: dict[str, Any] = {"mlflow": {}}
"""The store is mlflow.db in the working directory, which is the folder of the trial."""

NAMES = {"run", "mlflow.db", ".mlflow.db.lock", "mlruns"}
"""What a trial's folder holds in the end."""

MEASURED = ("perf/", "system/")
"""How the keys of points begin that differ from run to run."""

Point = tuple[str, int, float]


class StoreBench(Bench):
    """One whose runs mirror to a store. In some trials there is none yet; in the others it has another run already.

    Args:
        server: As for `Bench`.
        folder: As for `Bench`.
        family: As for `Bench`.
    """

    def __init__(self, server: Server, folder: Path, family: str) -> None:
        self.has_store = False
        server.prepare(["mlflow.store.tracking.sqlalchemy_store", "mlflow"])
        super().__init__(server, folder, family, MORE)
        self.points = points_of(folder / "undisturbed")
        self._template: Path | None = None
        self._of_kind_with_store = self._of_kind

    def make_store(self) -> None:
        """Begin other trials with a store that has a run."""
        place = self.new_place("trial")
        assert self.server.start(place, str(self._recipe), "--output", str(place / "run")).status == 0
        (place / "run").rename(place / "earlier")
        ended = self.server.start(place, str(self._recipe), "--output", str(place / "run"))
        assert ended.status == 0, ended.output
        self._of_kind_with_store = dict(zip(Kind, ended.of_kind, strict=True))
        self._template = self.folder / "template"
        place.rename(self._template)
        _forget(self._template, place / "run")

    def new_place(self, name: str) -> Path:
        """An empty folder, or one with the store that has another run."""
        place = super().new_place(name)
        if self.has_store and self._template is not None:
            shutil.copytree(self._template, place, dirs_exist_ok=True)
        return place

    def count(self, kinds: Kind = ALL) -> int:
        """Operations of an undisturbed run, with those of its store."""
        found = self._of_kind_with_store if self.has_store else self._of_kind
        return sum(number for kind, number in found.items() if kind in kinds)

    def faults_of(self, place: Path) -> list[str]:
        """What the run or its store has otherwise than after an undisturbed run."""
        return [*super().faults_of(place), *self.faults_of_store(place)]

    def faults_of_store(self, place: Path) -> list[str]:
        """What is wrong with the store."""
        left = sorted(path.name for path in place.iterdir() if path.name not in NAMES)
        try:
            return [*(f"left over: {name}" for name in left), *_faults_of_store(place, self.points)]
        except (sqlite3.Error, OSError) as error:
            return [f"the store: {error!r}"]

    def words_for(self, fault: FileFault) -> tuple[str, ...]:
        """SQLite has its own."""
        return (*super().words_for(fault), "disk is full", "disk I/O error", "unable to open database file")


def _faults_of_store(place: Path, wanted: set[Point]) -> Iterator[str]:
    with closing(sqlite3.connect(place / "mlflow.db")) as store:  # which rolls back what was not committed
        if (found := store.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            yield f"the store is damaged: {found[:3]}"
        rows = store.execute(
            "SELECT run_uuid, status, lifecycle_stage FROM runs JOIN tags USING (run_uuid)"
            " WHERE tags.key = 'run_directory' AND tags.value = ?",
            (str(place / "run"),),
        ).fetchall()
    if [row[1:] for row in rows] != [("FINISHED", "active")]:
        yield f"the runs of the directory in the store are {rows}"
    found = points_of(place)
    for name, points in (("lacks", wanted - found), ("has too much", found - wanted)):
        if points:
            yield f"the store {name} {len(points)} points: {sorted(points)[:3]}"
    if lost := _recorded(place / "run") - {(step, value) for _, step, value in found}:
        yield f"{len(lost)} values of metrics.jsonl are not in the store: {sorted(lost)[:3]}"


def points_of(place: Path) -> set[Point]:
    """The points that the store has of a folder's run, without those that are times or loads."""
    with closing(sqlite3.connect(place / "mlflow.db")) as store:
        rows = store.execute(
            "SELECT metrics.key, step, metrics.value FROM metrics JOIN tags USING (run_uuid)"
            " WHERE tags.key = 'run_directory' AND tags.value = ?",
            (str(place / "run"),),
        ).fetchall()
    return {(key, step, value) for key, step, value in rows if not key.startswith(MEASURED)}


def _recorded(run: Path) -> set[tuple[int, float]]:
    """The values in metrics.jsonl, by step."""
    found = set()
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        content = json.loads(line)
        values = {key: value for key, value in content.items() if re.match("(loss|eval)/", key)}
        found |= {(content["step"], float(value)) for value in values.values() if value is not None}
    return found


def _forget(place: Path, run: Path) -> None:
    """Make the runs of a folder those of another one, which nobody looks for."""
    for name in ("run", "earlier"):
        shutil.rmtree(place / name)
    with closing(sqlite3.connect(place / "mlflow.db")) as store:
        store.execute("UPDATE tags SET value = ? WHERE key = 'run_directory'", (f"{run}-earlier",))
        store.commit()


# ── Trials ────────────────────────────────────────────────────────────────────────────────────────────────


def store(bench: Bench, random: Random, number: int = 0) -> Result:
    """Kill a run that mirrors to a store, cut its power, or let its disk be full, once or from then on; then resume,
    and send it once more."""
    assert isinstance(bench, StoreBench)
    bench.has_store = random.random() < 0.75
    what = random.choices((kill, power_cut, _full), (5, 2, 3))[0]
    return synchronised(bench, what(bench, random))


def _full(bench: Bench, random: Random) -> Result:
    fault = random.choice(FULL)
    return failed(bench, fault, random.randint(1, bench.count(fault.kinds)))


def synchronised(bench: StoreBench, result: Result) -> Result:
    """The result after `ganrun sync`, which has nothing to send any more and does no harm."""
    place = bench.folder / "trial"
    ended: Ended = bench.server.start(place, "sync", str(place / "run"))
    story = [*result.story, told("ganrun sync", ended)]
    faults = [*result.faults, *output_faults(ended), *bench.faults_of_store(place)]
    if ended.status != 0:
        faults.append(f"ganrun sync ends with {ended.status}: {ended.output[-400:]}")
    row = f"{'a store' if bench.has_store else 'no store yet'}, {result.row.removeprefix(f'{bench.family}, ')}"
    return Result(row, result.outcome, faults, story)


if __name__ == "__main__":
    from tests.stress.campaign import main

    raise SystemExit(main("stores"))
