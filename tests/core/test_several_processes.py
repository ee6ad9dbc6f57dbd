"""One run on several processes, by the real command: what is written, how it ends, and how it continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import tomli_w
import torch
from click.testing import CliRunner

from ganrun import RunDirectory, checkpoints_in, load_checkpoint
from ganrun.cli import main
from ganrun.commands.group import COMMANDS, ON_SEVERAL
from ganrun.testing import train

RECIPE = {
    "train": {"steps": 100_000, "batch_size": 16, "device": "cpu", "log_every_steps": 50},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "checkpoints": {"every_steps": 50},
    **dict.fromkeys(("mlflow", "samples"), False),
}

LAUNCHER = [sys.executable, "-m", "ganrun"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "--max-restarts",
    "1",
]

FAILING = '''
"""A loss that fails in one of the processes, and a first process that takes its time to end, where torchrun ends it."""

import atexit
import os
import time

import ganrun
import ganrun.base.joining
from ganrun_vanilla.losses import NonSaturatingGan


class Failing(NonSaturatingGan):
    """Fails where the environment says."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.fail("build")

    def generator(self, nets, batch):
        if batch.steps_done is not None and batch.step >= 5:
            self.fail("step")
        return super().generator(nets, batch)

    def fail(self, place):
        if (os.environ["RANK"], os.environ["FAILS_AT"]) == ("1", place):
            raise ValueError("this one has no luck")


def tell_slowly(*arguments, tell=ganrun.base.joining._tell):
    time.sleep(0.5)
    return tell(*arguments)


if os.environ.get("RANK") == "0" and os.environ["SLOW"] == "to speak":
    ganrun.base.joining._tell = tell_slowly
elif os.environ.get("RANK") == "0":
    atexit.register(time.sleep, 0.5)


@ganrun.hookimpl
def ganrun_losses():
    return {"failing": Failing}
'''


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plugin whose loss fails in one of the processes, and which slows the end of the other."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "ganrun_failing.py").write_text(FAILING, encoding="utf-8")
    info = folder / "ganrun_failing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ganrun-failing\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[ganrun]\nfailing = ganrun_failing\n", encoding="utf-8")
    return folder


class Started:
    """A command that has started processes, in a folder with the recipe."""

    def __init__(self, command: Sequence[str], folder: Path, **environment: str) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        with self.log.open("w") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
            self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)

    def wait_for(self, step: int) -> None:
        """Wait until it has trained that far."""
        metrics = self.folder / "run/metrics.jsonl"
        for _ in range(600):
            if metrics.exists() and f'"step": {step},' in metrics.read_text():
                return
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        raise AssertionError(self.said())

    def wait_for_session(self, number: int) -> None:
        """Wait until torchrun has started the run so often."""
        for _ in range(600):
            if len(sessions(self.folder)) == number:
                return
            time.sleep(0.1)
        raise AssertionError(self.said())

    def rank(self, number: int) -> psutil.Process:
        """One of the processes that train."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(each for each in children if is_rank(each) and each.environ()["RANK"] == str(number))

    def ended(self) -> int:
        """Its exit status."""
        return self.process.wait(timeout=120)

    def said(self) -> str:
        """What it has printed, without torchrun's own report."""
        return self.log.read_text()


def is_rank(process: psutil.Process) -> bool:
    """Whether torchrun has started it."""
    with suppress(psutil.Error):
        return "RANK" in process.environ()
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working directory with the recipe; afterwards, none of its processes is left."""
    (tmp_path / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    yield tmp_path
    left = [each for each in psutil.Process().children(recursive=True) if is_rank(each)]
    for each in left:
        each.kill()
    assert left == []


def summary(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run/summary.json").read_text(encoding="utf-8"))
    return found


def sessions(folder: Path) -> list[dict[str, object]]:
    """The starts of the run."""
    return RunDirectory(folder / "run").sessions()


def test_a_killed_run_goes_on_with_one_process_and_again_with_two(folder: Path, failing: Path) -> None:
    command = [*TORCHRUN, "-m", "ganrun", "r.toml", "--output", "run", "--resume"]
    started = Started(command, folder, PYTHONPATH=str(failing), SLOW="to speak")
    started.wait_for(100)
    started.rank(1).kill()
    started.wait_for_session(2)
    started.wait_for((int(str(sessions(folder)[1]["step"])) + 100) // 50 * 50)
    started.rank(1).kill()
    killed = time.monotonic()
    assert started.ended() == 1 and time.monotonic() - killed < 20
    text = "another process of the run has ended without an error message, so the run stops"
    assert started.said().count(f"error: {text}") == 2
    assert summary(folder)["status"] == "failed" and text in str(summary(folder)["error"])
    assert all(each["ranks"] == 2 and str(each["device_name"]).startswith("2 × cpu") for each in sessions(folder))

    last = int(checkpoints_in(folder / "run")[-1].name.removeprefix("step_"))
    shorter = {**RECIPE, "train": {**RECIPE["train"], "steps": last + 8}}
    train(shorter, folder / "run", resume=True)

    (folder / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    again = Started([*LAUNCHER, "resume", "run", "--gpus", "2", "--set", "train.steps=100000"], folder)
    again.wait_for((last + 100) // 50 * 50)
    again.process.send_signal(signal.SIGUSR1)  # as Slurm does, and the launcher passes it on
    assert again.ended() == 128 + signal.SIGUSR1, again.said()
    stopped = int(str(summary(folder)["steps"]))
    assert f"interrupted by SIGUSR1 at step {stopped}; to continue: ganrun resume run" in again.said()

    train({**RECIPE, "train": {**RECIPE["train"], "steps": stopped}}, folder / "whole")
    found, expected = (load_checkpoint(checkpoints_in(folder / name)[-1]) for name in ("run", "whole"))
    assert found.progress["images_seen"] == expected.progress["images_seen"]
    for file, tensors in expected.weights.items():
        for name, value in tensors.items():
            torch.testing.assert_close(found.weights[file][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("place", ["build", "step"])
def test_what_fails_in_one_process_is_said_once_and_stops_all(folder: Path, failing: Path, place: str) -> None:
    command = [*LAUNCHER, "r.toml", "--set", "loss.use=failing", "--output", "run", "--gpus", "2"]
    started = Started(command, folder, PYTHONPATH=str(failing), FAILS_AT=place, SLOW="to leave")
    assert started.ended() == {"build": 2, "step": 1}[place], started.said()
    assert started.said().count("this one has no luck") == 1, started.said()
    assert "rank 1 on " in started.said() and "Traceback" not in started.said()
    if place == "build":
        assert not (folder / "run/recipe.toml").exists()
    else:
        assert summary(folder)["status"] == "failed" and "this one has no luck" in str(summary(folder)["error"])


def test_a_batch_that_cannot_be_cut_is_refused_once(folder: Path) -> None:
    started = Started([*LAUNCHER, "r.toml", "--set", "train.batch_size=15", "--gpus", "2", "--output", "run"], folder)
    assert started.ended() == 2
    place, said = "--set train.batch_size=15", started.said().strip()
    text = f"{place}: [train] batch_size = 15: the batch is cut into equal parts for 2 processes; say 14"
    # On a busy machine, the second process may be the first to say it.
    assert said.endswith(text) and said.count(text) == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ON_SEVERAL])
def test_other_commands_are_not_for_several_processes(name: str) -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = CliRunner().invoke(main, [name], env=environment)
    assert done.exit_code == 2 and "start it without torchrun" in done.output
