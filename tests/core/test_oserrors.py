"""A full disk, folders without permission and a removed working directory, reported with the system's own message."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from click.testing import CliRunner
from PIL import Image

from ganrun.base.errors import GanrunError
from ganrun.base.oserrors import os_reason
from ganrun.cli import main
from ganrun.rundir.checkpoints import Checkpoint, save_checkpoint
from ganrun.rundir.directory import RunDirectory
from ganrun_fidelity.stored import store
from ganrun_samples.target import Target

LARGEST_BYTES = 20_000

BIG = torch.rand(100_000)


@contextmanager
def full_disk() -> Iterator[None]:
    """A block in which no file becomes longer than `LARGEST_BYTES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def checkpoint(weights: torch.Tensor, progress: torch.Tensor) -> Checkpoint:
    return Checkpoint({"generator": {"w": weights}}, {"step": 1, "images_seen": 8, "optimizers": progress})


def check_pictures(folder: Path) -> None:
    for number in range(2):
        Image.new("RGB", (256, 256), (number, 1, 2)).save(folder.parent / f"{number}.png")
    pictures = ["data", "check", "image-folder", "--set", f"root={folder.parent}", "--set", "size=256"]
    done = CliRunner(catch_exceptions=False).invoke(main, pictures)
    raise GanrunError(done.output)


WRITERS: dict[str, Callable[[Path], object]] = {
    "weights": lambda path: save_checkpoint(checkpoint(BIG, BIG[:1]), path),
    "progress": lambda path: save_checkpoint(checkpoint(BIG[:1], BIG), path),
    "picture": lambda path: Target(path.with_suffix(".png")).write(
        np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    ),
    "record": lambda path: (path.mkdir(), RunDirectory(path).write_text("summary.json", "x" * 2 * LARGEST_BYTES)),
    "decoded pictures": check_pictures,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_told_as_such_and_leaves_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    with pytest.raises((GanrunError, OSError)) as caught, full_disk():
        WRITERS[kind](tmp_path / "new")
    assert "File too large" in str(caught.value) and "unexpected pos" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if ".partial" in path.name or path.name == "manifest.json"]


def test_a_cache_that_is_full_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path))
    with full_disk():
        store("statistics", "key", {"mean": BIG}, {})
    assert "does not keep statistics" in caplog.text and "File too large" in caplog.text


def test_the_reason_is_found_behind_a_librarys_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(RuntimeError, match="unexpected") as caught, full_disk():
        torch.save(BIG, file)
    assert str(os_reason(caught.value)).startswith("File too large; ")
    assert os_reason(RuntimeError("mat1 and mat2")) is None


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────


def as_nobody(commands: Iterable[str], last: Path) -> list[str]:
    """What a user without rights is told: exit status and text of each command, and of one in the folder `last`, which
    is removed before. A forked process, which has imported everything while it may be read."""
    for warm in (["check", "r.toml"], ["sample", "absent"], ["compare", "r.toml"], ["eval", "absent"]):
        told(warm)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.seteuid(65534)
            lines = [told(command.split()) for command in commands]
            os.seteuid(os.getuid())
            os.chdir(last)
            last.rmdir()
            os.write(writing, "\n".join([*lines, told(["plugins"])]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text.splitlines()


def told(arguments: Sequence[str]) -> str:
    done = CliRunner().invoke(main, arguments)
    is_told = done.exception is None or isinstance(done.exception, SystemExit)
    return f"{done.exit_code} {' '.join(done.output.split())}" if is_told else f"not told: {done.exception!r}"


DIGITS = {"use": "digits", "size": 8}
NETWORK = {"use": "vanilla:mlp", "hidden": [4]}
RECIPE = {
    "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
    "data": DIGITS,
    "loss": {"use": "gan", "latent_size": 4},
    "generator": NETWORK,
    "discriminator": NETWORK,
    "mlflow": False,
}

REFUSED = {
    "train r.toml -o shut/run": "2 error: cannot read {shut}/run: Permission denied",
    "train shut/r.toml": "2 error: shut/r.toml: cannot be read: Permission denied",
    "schema -o shut/x.json": "2 error: shut/x.json cannot be written: Permission denied",
    "data check image-folder --set root=shut": "2 error: data image-folder: {shut} cannot be read: Permission denied",
    "data path image-folder --set root=shut/in": "2 error: data image-folder: {shut}/in cannot be read: Permission",
    "data path mnist --set root=shut": "(cannot be read: Permission denied)",
    "sample shut": "1 error: shut/config.json: Permission denied; ask its owner for permission, or choose another",
    "compare shut": "2 error: {shut}/recipe.toml cannot be read: Permission denied",
    "cache list": "2 error: the cache cannot be used: {shut}/cache cannot be read: Permission denied set GANRUN_CACHE",
    "eval shut": "1 error: shut/recipe.toml: Permission denied; ask its owner",
}


def test_a_folder_that_may_not_be_entered_is_named_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a working directory that was removed."""
    shut, gone = tmp_path / "shut", tmp_path / "gone"
    shut.mkdir(0o000)
    gone.mkdir()
    (tmp_path / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANRUN_CACHE", str(shut / "cache"))
    *lines, last = as_nobody(REFUSED, gone)
    shut.chmod(0o700)
    for line, expected in zip(lines, REFUSED.values(), strict=True):
        assert expected.format(shut=shut) in line
    assert last == "1 error: the working directory is gone; change to another one"
