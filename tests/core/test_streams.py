"""Terminals, pipes and files that lack characters, space or a reader: every command ends, and says what was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner
from PIL import Image

from ganrun.cli import main
from ganrun.commands.group import COMMANDS
from ganrun.discovery.registry import load_registry

NAME = "größe ≥ 😀"

NETWORK = {"use": "vanilla:mlp", "hidden": [4]}

RECIPE = {
    "name": NAME,
    "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
    "data": {"use": "digits", "size": 16},
    "loss": {"use": "vae", "latent_size": 4},
    "encoder": NETWORK,
    "generator": NETWORK,
    "metric": [{"use": "reconstruction", "real_samples": 64}],
    **dict.fromkeys(("mlflow", "samples"), False),
}

DIGITS = ["--set", "size=8"]

EVERY_COMMAND = {
    "help": ["--help"],
    "train": ["train", "r.toml", "-o", f"other {NAME}"],
    "resume": ["resume", f"run {NAME}", "--set", "train.steps=3"],
    "eval": ["eval", f"run {NAME}", "--metric", "reconstruction", "--set", "metric.0.real_samples=64"],
    "list": ["list"],
    "list recipes": ["list", "recipes"],
    "show": ["show", "loss", "wgan-gp"],
    "check": ["check", "r.toml"],
    "plugins": ["plugins"],
    "schema": ["schema", "-o", f"{NAME}.json"],
    "doctor": ["doctor"],
    "data list": ["data", "list"],
    "data check": ["data", "check", "image-folder", "--set", f"root={NAME}", *DIGITS],
    "data fetch": ["data", "fetch", "image-folder", "--set", f"root={NAME}", *DIGITS],
    "cache list": ["cache", "list"],
    "cache clear": ["cache", "clear"],
    "compare": ["compare", "."],
    "compare --json": ["compare", ".", "--json"],
    "report": ["report", ".", "-o", f"{NAME}.html"],
    "sample": ["sample", f"run {NAME}", "-n", "4", "-o", f"{NAME}.png"],
    "interpolate": ["interpolate", f"run {NAME}", "-n", "2"],
    "traverse": ["traverse", f"run {NAME}", "-n", "2"],
    "reconstruct": ["reconstruct", f"run {NAME}", "-n", "4"],
    "translate": ["translate", "--help"],
    "restore": ["restore", "--help"],
    "export": ["export", "--help"],
    "sync": ["sync", "--help"],
    "ui": ["ui", "--help"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a folder of pictures and a run, whose names are not ASCII."""
    found = tmp_path_factory.mktemp("streams")
    (found / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    for number, each in enumerate(pixels):
        place = found / NAME / f"{NAME} {number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(place / f"{NAME} {number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        done = CliRunner(catch_exceptions=False).invoke(main, ["r.toml", "-o", f"run {NAME}"])
    assert done.exit_code == 0, done.output
    return found


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_no_command_needs_more_than_ascii(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GANRUN_CACHE", str(folder / f"cache {NAME}"))
    done = CliRunner(charset="ascii", catch_exceptions=False).invoke(main, EVERY_COMMAND[command])
    assert done.exit_code == 0, done.output
    shown = (done.stdout_bytes + done.stderr_bytes).decode("ascii")
    assert "gr??" not in shown, "characters are escaped and not replaced"
    if command.endswith("--json"):
        assert NAME in {row["name"] for ranking in json.loads(shown)["rankings"] for row in ranking["rows"]}


def test_every_command_is_among_them() -> None:
    tried = {arguments[0] for arguments in EVERY_COMMAND.values()}
    assert {*COMMANDS, *load_registry().commands(COMMANDS)} <= tried


def test_an_encoding_keeps_the_characters_that_it_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GANRUN_CACHE", str(folder / f"cache {NAME}"))
    done = CliRunner(charset="cp1252", catch_exceptions=False).invoke(main, EVERY_COMMAND["data check"])
    assert r"größe \u2265 \U0001f600" in done.stdout_bytes.decode("cp1252")


# ── As a process ──────────────────────────────────────────────────────────────────────────────────────────

LOST = "error: what was printed is incomplete: No space left on device; the command itself has ended\n"


@pytest.mark.parametrize(
    ("redirected", "status", "out", "err"),
    [
        (">&-", 0, "", ""),
        ("2>&-", 0, "plugin", ""),
        (">&- 2>&-", 0, "", ""),
        ("> /dev/full", 1, "", LOST),
        ("2> /dev/full", 0, "plugin", ""),
        ("> /dev/full 2> /dev/full", 1, "", ""),
        ("| true", 0, "", ""),
        ("2>&1 | true", 0, "", ""),
    ],
)
def test_a_stream_that_takes_nothing_ends_no_command(redirected: str, status: int, out: str, err: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m ganrun plugins {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.startswith(out), done.stderr) == (status, True, err)


def test_a_file_does_not_take_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Output of other libraries would be written into it."""
    code = "from ganrun.base.streams import protect_streams; protect_streams(); print(open('file', 'w').fileno())"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" >&- 2>&-; {sys.executable} -c "{code}" 2>&-'],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert int(done.stdout) > 2 and done.stderr == ""
