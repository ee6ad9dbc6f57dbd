"""The command line: what it understands, and that every wrong request ends in one message, status 2 and no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from ganrun.cli import main
from ganrun.registry import load_registry

RECIPE = """\
name = "Small Digits"
mlflow = false

[train]
steps = 2
batch_size = 8
device = "cpu"

[data]
use = "digits"
size = 8

[loss]
use = "gan"
latent_size = 4

[generator]
use = "mlp"
hidden = [8]

[discriminator]
use = "mlp"
hidden = [8]
"""

BAD_PLUGIN = """
    from ganrun import Data, DataError, Generator, Metric, PreflightError, Problem, hookimpl, Observer, observes

    class Absent(Data):
        "Data that is not there."
        def problem(self): return Problem((1, 8, 8))
        def prepare(self): raise DataError("is not in /data; fetch it with: get-data")
        def split(self, name): raise AssertionError

    class Weightless(Metric):
        "A metric without its weights."
        def prepare(self, data, device): raise PreflightError("the weights are absent; put them into /weights")
        def measure(self, evaluation): raise AssertionError

    class Long(Generator):
        "A generator of a wrong shape."
        def __init__(self, settings, problem):
            super().__init__(settings, problem)
            import torch
            self.layer = torch.nn.Linear(problem.latent_size, 3)
        def forward(self, latents, labels=None): return self.layer(latents)

    class Deaf(Observer):
        "An observer of an event that does not exist."
        @observes
        def step_endet(self, step): pass

    @hookimpl
    def ganrun_data(): return {"absent": Absent}

    @hookimpl
    def ganrun_metrics(): return {"weightless": Weightless}

    @hookimpl
    def ganrun_generators(): return {"long": Long, "mlp": Long}

    @hookimpl
    def ganrun_losses(): raise RuntimeError("no losses today")

    @hookimpl
    def ganrun_observers(): return {"deaf": Deaf}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package whose components all fail in their own way, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("site")
    for name, source in (("faulty", dedent(BAD_PLUGIN)), ("broken", "import no_such_module\n")):
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[ganrun]\n{name} = {name}\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a sound recipe in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


# ── Wrong requests ────────────────────────────────────────────────────────────────────────────────────────

WRONG = {
    "missing file": (["absent.toml"], "error: absent.toml: no such file"),
    "folder": (["folder.toml"], "error: folder.toml: is a folder, not a recipe"),
    "long name": ([f"{'x' * 300}.toml"], "cannot be read: File name too long"),
    "syntax": (["syntax.toml"], "syntax.toml:2: is no valid TOML: "),
    "binary": (["binary.toml"], "error: binary.toml: is not UTF-8 text"),
    "unknown table": (["r.toml", "--set", "trian.steps=5"], '--set trian.steps=5: a recipe has no table "trian"'),
    "unknown key": (["r.toml", "--set", "train.step=5"], 'has no key "step"; did you mean "steps"?'),
    "unknown component": (["r.toml", "--set", "loss.use=gna"], '--set loss.use=gna: no loss is called "gna"; did you'),
    "type": (["r.toml", "--set", "train.steps=many"], '[train] steps = "many": input should be a valid integer'),
    "range": (["r.toml", "--set", "train.steps=0"], "[train] steps = 0: input should be greater than or equal to 1"),
    "not finite": (["r.toml", "--set", "optimizer.lr=nan"], "[optimizer] lr = NaN: input should be a finite number"),
    "slot": (["r.toml", "--set", 'critic={use="mlp"}'], 'the loss gan has no slot "critic"'),
    "misfit": (["r.toml", "--set", "generator={use='conv', stages=4}"], "sizes divisible by 16, not 8×8"),
    "wrong shape": (["r.toml", "--set", "generator={use='long'}"], "returned shape (2, 3) where (2, 1, 8, 8)"),
    "absent data": (["r.toml", "--set", "data={use='absent'}"], "[data] absent (faulty 1.0): is not in /data; fetch"),
    "absent weights": (["r.toml", "--set", "metric=[{use='weightless'}]"], "[[metric]] weightless (faulty 1.0): the w"),
    "deaf observer": (["r.toml", "--set", "deaf=true"], 'the observer "deaf" does not fit the events of a run'),
    "broken plugin": (["r.toml", "--set", "generator.use=best"], 'the plugin "broken" might offer it, but is broken'),
    "raising plugin": (["r.toml", "--set", "loss.use=best"], "but is broken: RuntimeError: no losses today"),
    "collision": (["r.toml"], 'say use = "faulty:mlp" or use = "vanilla:mlp"'),
    "blocked plugin": (["r.toml", "--no-plugin", "vanilla"], 'the plugin "vanilla" might offer it, but is blocked'),
    "no such plugin": (["r.toml", "--no-plugin", "vanila"], "error: --no-plugin vanila: there is no such plugin"),
    "malformed --set": (["r.toml", "--set", "train.steps"], "error: --set takes key.path=value, such as"),
    "no such device": (["r.toml", "--device", "gpu"], '[train] device = "gpu": say auto, cpu, cuda, cuda:1 or mps'),
    "negative seed": (["r.toml", "--seed", "-1"], "[train] seed = -1: input should be greater than or equal to 0"),
    "file as output": (["r.toml", "--output", "r.toml"], "r.toml: File exists; choose another --output"),
    "output in a file": (["r.toml", "--output", "r.toml/x"], "r.toml/x: Not a directory; choose another --output"),
    "long output": (["r.toml", "--output", "x" * 300], "File name too long; choose another --output"),
    "foreign output": (["r.toml", "--output", "foreign"], "foreign holds no recipe.toml, but metrics.jsonl"),
    "kernel's folder": (["r.toml", "--output", "/proc/x"], "error: cannot write to /proc/x: "),
    "two with one output": (["r.toml", "r.toml", "--output", "x"], "error: --output names one run's directory"),
    "resume without output": (["r.toml", "--resume"], "error: --resume needs --output DIR; to continue a run say"),
    "resume nothing": (["resume", "absent"], "error: absent is no run directory: it does not exist"),
    "resume no run": (["resume", "foreign"], "error: foreign is no run directory: it holds no recipe.toml"),
    "second recipe": (["r.toml", "syntax.toml"], "syntax.toml:2: is no valid TOML: "),
    "no command": (["trian"], '"trian" is neither a command nor a recipe (NAME.toml); did you mean "train"?'),
    "no option": (["r.toml", "--outptu", "x"], "No such option"),
    "check": (["check", "r.toml", "absent.toml", "syntax.toml"], "syntax.toml:2: is no valid TOML: "),
    "check a misfit": (["check", "r.toml", "--set", "generator={use='conv', stages=4}"], "r.toml:4: "),
    "show nobody": (["show", "loss", "gna"], 'error: no loss is called "gna"; did you mean "gan"?'),
    "show no kind": (["show", "losses", "gan"], "is not one of"),
    "show nothing": (["show", "loss"], "error: say which loss: ganrun show loss NAME; there are gan, minimax"),
    "show no optimizer": (["show", "optimizer", "adma"], 'error: no optimizer is called "adma"; did you mean "adam"?'),
    "list no kind": (["list", "losses"], "is not one of"),
    "schema to nowhere": (["schema", "--output", "absent/x.json"], "error: absent/x.json cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("request_name", WRONG)
def test_a_wrong_request_gets_one_message_and_leaves_nothing(
    folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch, request_name: str
) -> None:
    arguments, message = WRONG[request_name]
    monkeypatch.syspath_prepend(str(site))
    needs_faulty = any(word in request_name for word in ("absent", "weights", "shape", "observer", "raising", "collision"))
    if not needs_faulty:
        monkeypatch.setenv("GANRUN_DISABLE_PLUGINS", "faulty")
    elif request_name != "collision":
        (folder / "r.toml").write_text(RECIPE.replace('"mlp"', '"vanilla:mlp"'), encoding="utf-8")
    prepare(folder)
    before = listing(folder)
    done = ganrun(*arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2
    assert message in done.output.replace(f"{folder}/", "").replace("\n│ ", "")
    assert "Traceback" not in done.output
    assert listing(folder) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cuda:200"])
def test_cuda_that_is_absent(folder: Path, device: str) -> None:
    before = listing(folder)
    done = ganrun("r.toml", "--device", device)
    assert done.exit_code == 2 and listing(folder) == before
    assert f"--set train.device={device}: device cuda" in done.stderr and "PyTorch finds none" in done.stderr
