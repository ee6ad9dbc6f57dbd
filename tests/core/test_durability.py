"""No data is lost: runs after a kill, a power cut, a full disk, a second process or a removed folder."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import ganrun
import ganrun_checkpoints.observer
from ganrun import Metric, Observer, RequestError, Run, RunError, Score, checkpoints_in, hookimpl, observes
from ganrun.base import locks
from ganrun.base.files import atomic_folder, clear_leftovers, remove_folder
from ganrun.testing import build, train
from ganrun.training.runner import execute

RECIPE: dict[str, Any] = {
    "train": {"steps": 6, "batch_size": 4, "device": "cpu", "log_every_steps": 1, "evaluate_every_steps": 2},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 2},
    "generator": {"use": "mlp", "hidden": [2]},
    "discriminator": {"use": "mlp", "hidden": [2]},
    "checkpoints": {"every_steps": 2, "best": "error"},
    "metric": [{"use": "by-step"}],
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}


class ByStep(Metric):
    """An error that is least at step 4."""

    def measure(self, evaluation: Any) -> list[Score]:
        return [Score("error", float(abs(evaluation.step - 4)), higher_is_better=False, protocol={"n": 1})]


class Deed(Observer):
    """Does something at an event of each step, and before the run starts."""

    essential = True
    at: ClassVar[Callable[[Run, int], None] | None] = None
    starting: ClassVar[Callable[[Run], None] | None] = None

    @observes
    def run_starting(self, run: Run) -> None:
        if Deed.starting is not None:
            Deed.starting(run)

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        if Deed.at is not None:
            Deed.at(run, step)


class Plugin:
    @hookimpl
    def ganrun_metrics(self) -> Mapping[str, type[Metric]]:
        return {"by-step": ByStep}

    @hookimpl
    def ganrun_observers(self) -> Mapping[str, type[Observer]]:
        return {"deed": Deed}


PLUGIN = Plugin()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.1)


def tables(**train: Any) -> dict[str, Any]:
    return {**RECIPE, "train": {**RECIPE["train"], **train}}


@contextmanager
def doing(deed: Callable[[Run, int], None]) -> Iterator[dict[str, Any]]:
    """The recipe of a run in which `deed` is done after each step, before its checkpoint."""
    Deed.at = staticmethod(deed)
    try:
        yield {**RECIPE, "deed": {}}
    finally:
        Deed.at = None


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, with the content of files. `ganrun.testing` writes the recipe beside the run."""
    found = {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    return {name: content for name, content in found.items() if name != "run.toml"}


def steps_recorded(folder: Path) -> list[int]:
    return [record.step for record in ganrun.RunDirectory(folder).records()]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights = ganrun.load_checkpoint(checkpoints_in(folder)[-1]).weights
    return {f"{slot}.{name}": value for slot, tensors in weights.items() for name, value in tensors.items()}


def assert_as_whole(folder: Path, whole: Path, best: tuple[int, float] = (4, 0.0)) -> None:
    """The run in `folder` has ended as the undisturbed one: weights, best state and lines."""
    ours, theirs = final_weights(folder), final_weights(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert steps_recorded(folder) == steps_recorded(whole)
    summary = ganrun.RunDirectory(folder).summary()
    assert summary["status"] == "finished"
    assert summary["best"] == {"metric": "error", "value": best[1], "step": best[0]}
    kept = ganrun.score_of(folder / "checkpoints/best")
    assert kept is not None and (kept[0], kept[1].value) == best
    assert not [name for name in snapshot(folder) if name.endswith((".partial", ".replaced"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return train(RECIPE, tmp_path_factory.mktemp("whole") / "run", PLUGIN).directory.path


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────


class KilledError(BaseException):
    """The process is gone: nothing that it would still do happens."""


@contextmanager
def killed_at(operation: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A block in which only the first operations on a folder happen; gives their names."""
    done: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync"):
            patch.setattr(os, name, _counted(name, getattr(os, name), operation, done))
        yield done


def _counted(name: str, function: Callable[..., Any], last: int, done: list[str]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        if len(done) >= last:
            raise KilledError
        done.append(name)
        return function(*arguments, **named)

    return counted


def test_a_folder_is_replaced_so_that_a_kill_at_any_operation_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operation in range(100):
        place = tmp_path / str(operation) / "best"
        for text in ("old", "new"):
            with killed_at(operation if text == "new" else 1000, monkeypatch) as done:
                try:
                    with atomic_folder(place) as partial:
                        (partial / "a").write_text(text)
                        (partial / "b").mkdir()
                        (partial / "b" / "c").write_text(text)
                except KilledError:
                    pass
        clear_leftovers(place.parent)
        assert [path.name for path in place.parent.iterdir()] == ["best"], done
        assert len({(place / name).read_text() for name in ("a", "b/c")}) == 1, done
        if len(done) < operation:
            break
    assert (place / "a").read_text() == "new" and operation > 8


def test_a_folder_is_removed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in range(100):
        shutil.copytree(Path(__file__).parents[1] / "compatibility" / "recipes", tmp_path / "a")
        whole = snapshot(tmp_path / "a")
        with killed_at(operation, monkeypatch) as done, suppress(KilledError):
            remove_folder(tmp_path / "a")
        assert not (tmp_path / "a").exists() or snapshot(tmp_path / "a") == whole
        clear_leftovers(tmp_path)
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        assert not list(tmp_path.iterdir())
        if len(done) < operation:
            break


def test_records_are_on_disk_before_their_checkpoint_and_every_rename_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps what was flushed: so a checkpoint that is there has its lines, and its own files."""
    flushed: dict[Path, int] = {}
    pending: set[Path] = set()
    checkpoints = []

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        flushed[path] = os.fstat(handle).st_size
        pending.discard(path)

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def rename(old: Any, new: Any, **named: Any) -> None:
            old, new = Path(old), Path(new)
            if new.parent.name == "checkpoints" and not new.name.startswith("."):
                checkpoints.append(new.name)
                metrics = new.parents[1] / "metrics.jsonl"
                assert flushed[metrics] == metrics.stat().st_size
                assert {path for path in old.rglob("*") if path.is_file()} <= flushed.keys()
            assert new.name.startswith(".") or old in flushed or old.name.endswith(".replaced")
            assert not pending, "a rename is flushed before the next"
            function(old, new, **named)
            if not new.name.startswith("."):
                pending.add(new.parent)

        return rename

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", fsync)
    train(RECIPE, tmp_path / "run", PLUGIN)
    assert checkpoints == ["step_00000002", "best", "step_00000004", "best", "step_00000006"] and not pending


# ── A full disk ───────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def restored_limit() -> Iterator[Callable[[bool], None]]:
    """Lets no file grow, or lets them grow again: what a full disk does, for this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(is_full: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]) if is_full else before)

    try:
        yield fill
    finally:
        fill(False)


@pytest.mark.parametrize("freed", [4, 5, None])
def test_a_disk_that_is_full_for_a_while_costs_nothing_and_for_good_only_the_end(
    tmp_path: Path, whole: Path, freed: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Full from step 2 on: lines wait, the checkpoint is tried again, and only the final state must be saved."""
    caplog.set_level("INFO", "ganrun")
    for pause in ("FIRST_PAUSE_SECONDS", "LAST_PAUSE_SECONDS"):
        monkeypatch.setattr(ganrun_checkpoints.observer, pause, 0.0)
    place = tmp_path / "run"
    with restored_limit() as fill, doing(lambda run, step: fill(2 <= step < (freed or 99))) as recipe:
        if freed is None:
            with pytest.raises(RunError, match=r"cannot write .*: File too large"):
                train(recipe, place, PLUGIN)
        else:
            run = train(recipe, place, PLUGIN)
            assert [fault.of for fault in run.faults.new] == ['observer "checkpoints"'] * (freed == 5)
    assert caplog.text.count("its lines are kept in memory") == 1
    assert caplog.text.count("training continues, and the next try") == (freed or 6) - 2
    assert ("can be written again" in caplog.text) == (freed is not None)
    if freed is None:
        assert not checkpoints_in(place) and json.loads((place / "summary.json").read_text())["status"] == "running"
        train(RECIPE, place, PLUGIN, resume=True)
    assert ("so the state at step 4, the best so far, is not kept" in caplog.text) == (freed != 4)
    assert_as_whole(place, whole, best=(6, 2.0) if freed == 5 else (4, 0.0))


@pytest.mark.parametrize("operation", ["rename", "fsync"])
def test_a_disk_that_is_full_while_the_best_state_is_replaced_leaves_nothing_behind(
    tmp_path: Path, whole: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: when the state before is to be removed, or when its folder is flushed after the new one has its place."""
    monkeypatch.setattr(ganrun_checkpoints.observer, "FIRST_PAUSE_SECONDS", 0.0)
    place, raised, does = tmp_path / "run", [], getattr(os, operation)

    def full(first: Any, *more: Any, **named: Any) -> Any:
        if not raised and list(place.glob("checkpoints/.best.*.replaced")):
            raised.append(first)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return does(first, *more, **named)

    monkeypatch.setattr(os, operation, full)
    train(RECIPE, place, PLUGIN)
    assert raised
    assert_as_whole(place, whole)


@pytest.mark.parametrize("written", range(7))
def test_a_first_write_that_fails_leaves_nothing_that_resume_refuses(
    tmp_path: Path, whole: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and folders are flushed before they count, so the disk is full after the n-th of these."""
    left = [written]

    def fsync(_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises((RequestError, RunError), match="No space left on device"):
            train(RECIPE, tmp_path / "run", PLUGIN)
    train(RECIPE, tmp_path / "run", PLUGIN, resume=True)
    assert_as_whole(tmp_path / "run", whole)


@pytest.mark.parametrize("then", ["nothing", "another folder"])
def test_a_folder_that_is_gone_is_told_and_not_half_made_again(tmp_path: Path, then: str) -> None:
    place = tmp_path / "run"

    def remove(run: Run, step: int) -> None:
        if step == 3:
            place.rename(tmp_path / "elsewhere")
            if then != "nothing":
                place.mkdir()

    with doing(remove) as recipe, pytest.raises(RunError, match=r"run is gone: it was removed, moved or replaced"):
        train(recipe, place, PLUGIN)
    assert not [name for name in snapshot(tmp_path) if name.startswith("run/")]
    assert place.exists() == (then != "nothing")
    train(RECIPE, tmp_path / "elsewhere", PLUGIN, resume=True)


# ── Two processes ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("resumed", [False, True])
def test_who_was_faster_is_found_under_the_lock(tmp_path: Path, resumed: bool) -> None:
    place = tmp_path / "run"
    if resumed:
        train(tables(steps=2), place, PLUGIN)
    slower = build(RECIPE, place, PLUGIN, resume=resumed)
    train(tables(seed=0 if resumed else 1), place, PLUGIN, resume=resumed)
    before = snapshot(place)
    with pytest.raises(RequestError, match=r"another process has changed .*run while .*\(status: finished\)"):
        execute(slower)
    assert snapshot(place) == before


@pytest.mark.parametrize("name", ["checkpoints/best/manifest.json", "metrics.jsonl", "summary.json"])
def test_a_new_run_meets_nothing_of_an_old_one(tmp_path: Path, whole: Path, name: str) -> None:
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    shutil.copy(whole / name, tmp_path / "run" / name)
    for resume in (False, True):
        with pytest.raises(RequestError, match=r"run holds no recipe\.toml, but " + name.rpartition("/m")[0]):
            build(RECIPE, tmp_path / "run", PLUGIN, resume=resume)


def _refuse(run: Run) -> None:
    raise RequestError("not today")


@pytest.mark.parametrize("who", ["observer", "steps", "lock", "new folder"])
def test_a_start_that_is_refused_changes_nothing(tmp_path: Path, whole: Path, who: str) -> None:
    """Neither leftovers nor a damaged checkpoint are removed before all have agreed; then they are."""
    place = tmp_path / "run"
    if who != "new folder":
        shutil.copytree(whole, place)
        (checkpoints_in(place)[-1] / "progress.pt").write_bytes(b"")
        for folder in (place, place / "checkpoints"):
            (folder / f".x.{'0' * 32}.partial").mkdir()
            (folder / f".x.{'1' * 32}.partial").write_text("half")
    before = snapshot(tmp_path)
    run = build(tables(steps=3) if who == "steps" else {**RECIPE, "deed": {}}, place, PLUGIN, resume=True)
    Deed.starting = staticmethod(_refuse) if who in ("observer", "new folder") else None
    try:
        with pytest.raises(RequestError, match=r"not today|already done 4 steps|in use by another process: \d+ on"):
            if who == "lock":
                with run.directory.occupied():
                    execute(run)
            execute(run)
    finally:
        Deed.starting = None
    assert snapshot(tmp_path) == before
    train(RECIPE, place, PLUGIN, resume=True)
    assert_as_whole(place, whole)


def test_what_another_run_is_writing_in_a_folder_below_is_left_alone(tmp_path: Path) -> None:
    """As where --output is the folder around all runs."""
    for name in ("samples", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f".summary.json.{'0' * 32}.partial").write_text("half")
    (tmp_path / "other" / ".lock").touch()
    ganrun.RunDirectory(tmp_path).clear_leftovers()
    assert [len(list((tmp_path / name).glob("*.partial"))) for name in ("samples", "other")] == [0, 1]


# ── What is missing on resume ─────────────────────────────────────────────────────────────────────────────


def test_lines_that_are_missing_are_said(tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = shutil.copytree(whole, tmp_path / "run")
    train(RECIPE, place, PLUGIN, resume=True)
    assert "lacks" not in caplog.text
    lines = (place / "metrics.jsonl").read_text().splitlines(keepends=True)
    (place / "metrics.jsonl").write_text("".join([lines[0][:20] + "\n", *lines[1:5]]))
    train(RECIPE, place, PLUGIN, resume=True)
    assert "metrics.jsonl lacks 4 of the 8 lines until step 6" in caplog.text


def _damage(best: Path) -> None:
    (best / "score.json").write_text((best / "score.json").read_text().replace("0.0", "0.5"))


def _forget(best: Path) -> None:
    """As ganrun 0.1.0 wrote it."""
    manifest = json.loads((best / "manifest.json").read_text())
    del manifest["sha256"]["score.json"]
    (best / "manifest.json").write_text(json.dumps(manifest))
    (best / "score.json").unlink()


@pytest.mark.parametrize(
    ("deed", "value"), [(None, 0.0), (_forget, 0.0), (_damage, 4.0)], ids=["lines lost", "0.1.0", "damaged"]
)
def test_the_best_state_has_its_own_score_and_a_damaged_one_is_not_trusted(
    tmp_path: Path, whole: Path, deed: Callable[[Path], None] | None, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    place = shutil.copytree(whole, tmp_path / "run")
    if deed is None:
        (place / "metrics.jsonl").write_text("")
    else:
        deed(place / "checkpoints/best")
    before = snapshot(place / "checkpoints/best")
    run = train(tables(steps=8), place, PLUGIN, resume=True)
    assert ("score.json is damaged" in caplog.text) == (deed is _damage)
    assert run.notes["best"]["value"] == (2.0 if deed is _damage else value)
    assert (snapshot(place / "checkpoints/best") == before) == (deed is not _damage)


def test_a_checkpoint_from_which_a_run_continued_is_written_again_after_it_went_back(tmp_path: Path) -> None:
    def go_back(run: Run, step: int) -> None:
        if step == 5 and not run.state.attempt:
            run.roll_back("trouble", good_until=3)

    train(tables(steps=4), tmp_path / "run", PLUGIN)
    with doing(go_back) as recipe:
        train(recipe, tmp_path / "run", PLUGIN, resume=True)
    assert [ganrun.step_of(each) for each in checkpoints_in(tmp_path / "run")] == [4, 6]


# ── Locks ─────────────────────────────────────────────────────────────────────────────────────────────────

WITHOUT_FLOCK = """
import errno, fcntl, sys, time
from pathlib import Path
from ganrun.base import locks

def flock(*_):
    raise OSError(errno.ENOSYS, "not implemented")

fcntl.flock = flock
try:
    with locks.locked(Path(sys.argv[1]), "it"):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except locks.LockedError as error:
    print(error, flush=True)
"""


def holding(place: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WITHOUT_FLOCK, str(place), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_a_lock_without_the_kernels_help_says_who_holds_it_and_outlives_no_process_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    place, held = tmp_path / ".lock", tmp_path / ".lock.held"
    process = holding(place, 60)
    try:
        assert first_line(process) == "held\n" and locks.is_locked(place)
        told = (
            rf"another process: {process.pid} on .*, since 2\d\d\d-.* \(last sign of life \d s ago\); .* remove .*held"
        )
        with pytest.raises(locks.LockedError, match=told), locks.locked(place, "it"):
            pass
    finally:
        process.kill()
        process.wait()
    assert locks.is_locked(place), "in another container, it may be alive"
    os.utime(held, (time.time() - 60,) * 2)
    assert not locks.is_locked(place)
    takers = [holding(place, 1), holding(place, 1)]
    lines = [first_line(taker) for taker in takers]
    assert sum(line == "held\n" for line in lines) == 1, "one alone takes over"
    assert [taker.wait() for taker in takers] == [0, 0] and not held.exists()
    held.write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": time.time()}))
    assert locks.is_locked(place)
    os.utime(held, (time.time() - 600,) * 2)
    assert not locks.is_locked(place), "for the status of a run"
    with pytest.raises(locks.LockedError, match=r"1 on elsewhere, .*10 min ago"), locks.locked(place, "it"):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 5000,
        b'{"pid": -1}',
        b'{"host": "a", "pid": 1e400, "since": 1}',
        b'{"host": "a", "pid": 1, "since": 1%s}' % (b"0" * 400),
        b"\xff",
    ],
)
def test_the_text_of_a_lock_may_be_anything(tmp_path: Path, content: bytes) -> None:
    """As in old directories, which have an empty one."""
    (tmp_path / ".lock").write_bytes(content)
    assert "another process (last sign of life" in str(locks.Holder.read(tmp_path / ".lock"))
    with locks.locked(tmp_path / ".lock", "it"):
        assert locks.Holder.read(tmp_path / ".lock").pid == os.getpid()
        with pytest.raises(locks.LockedError, match=f"{os.getpid()} on"), locks.locked(tmp_path / ".lock", "it"):
            pass
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"), locks.locked(tmp_path / ".lock", "it"):
        pass
    assert (tmp_path / "precious").read_text() == "text"
