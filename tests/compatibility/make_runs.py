"""Makes the reference files for the tests in this folder: files as ganrun 0.1.0 left them on disk.

    runs_0_1_0/        run directories, one of each recipe in recipes/
    exports_0_1_0/     one run's export, without its programs and its picture
    expected_0_1_0/    expected.json: what 0.1.0 made of them; and the final weights of the runs that it continued

All of it was made once, by ganrun 0.1.0 with torch 2.14.1 in one thread on a CPU:

    OMP_NUM_THREADS=1 python tests/compatibility/make_runs.py

The tests do not need this script, which is kept to tell how the files came about. It uses names inside ganrun 0.1.0
that later versions may not have, and must not be run with them: they would be held against themselves. Runs of a later
version belong in folders of their own beside these.

Changed afterwards, so that nothing tells of the machine: paths, the host, the user and the platform in environment.json
and mlflow.json. The file .lock, which is empty, was left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ganrun

HERE = Path(__file__).parent
RUNS, EXPORTS, EXPECTED = (HERE / f"{what}_0_1_0" for what in ("runs", "exports", "expected"))
GANRUN = Path(sys.executable).with_name("ganrun")
HOME = "/home/user/ganrun"
SIGNALS = {"lsgan": "SIGINT", "wgan-gp": "SIGKILL"}
"""The runs that are broken off, and by what, as soon as the losses of step 4 are recorded."""

EXPORTED = "vae"
NOT_KEPT = shutil.ignore_patterns("*.pt2", "*.png", "README.md")

BROKEN_OFF = """
import os, signal, sys
from ganrun.cli import main
from ganrun.directory import RunDirectory

record = RunDirectory.append_record

def record_and_signal(self, content):
    record(self, content)
    if content["step"] == 4:
        os.kill(os.getpid(), signal.{signal})

RunDirectory.append_record = record_and_signal
sys.argv[0] = "ganrun"
main()
"""


def make() -> None:
    """All of it."""
    for folder in (RUNS, EXPORTS, EXPECTED):
        folder.mkdir()  # refuses to replace what is there
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ |= {"OMP_NUM_THREADS": "1", "GANRUN_CACHE": f"{place}/cache"}
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        expected = {recipe.stem: made(recipe) for recipe in sorted((HERE / "recipes").glob("*.toml"))}
    lines = ",\n".join(f"{json.dumps(name)}: {{\n{entries(facts)}\n}}" for name, facts in expected.items())
    (EXPECTED / "expected.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def made(recipe: Path) -> dict[str, Any]:
    """Train, keep and describe one run."""
    name, run = recipe.stem, Path("runs") / recipe.stem
    program = ["-c", BROKEN_OFF.format(signal=SIGNALS[name])] if name in SIGNALS else [GANRUN]
    code = told(*program, "train", recipe, "--output", run)
    assert (code != 0) == (name in SIGNALS), code
    shutil.copytree(run, RUNS / name, ignore=shutil.ignore_patterns(".lock"))
    for file in ("environment.json", "mlflow.json"):
        if (run / file).exists():
            facts = scrubbed(json.loads((run / file).read_text(encoding="utf-8")), name)
            (RUNS / name / file).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if name == EXPORTED:
        assert told(GANRUN, "export", RUNS / name, "--output", "exported") == 0
        shutil.copytree("exported", EXPORTS / name, ignore=NOT_KEPT)
    return expectations(name, run)


def told(*arguments: object) -> int:
    """The exit status of a program of Python's."""
    return subprocess.run([sys.executable, *map(str, arguments)]).returncode


def scrubbed(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The content of a file without anything of the machine that it was made on."""
    if "command" in facts:
        command = [f"{HOME}/.venv/bin/ganrun", f"recipes/{name}.toml", "--output", f"runs/{name}"]
        return {**facts, "platform": "Linux-x86_64", "host": "workstation", "command": command}
    tags = {"mlflow.user": "user", "host": "workstation", "run_directory": f"{HOME}/runs/{name}"}
    return {**facts, "uri": f"sqlite:///{HOME}/mlflow.db", "tags": {**facts["tags"], **tags}}


def expectations(name: str, run: Path) -> dict[str, Any]:
    """What 0.1.0 makes of a run as it was kept; and then of one that was broken off, at its end."""
    model = ganrun.load(run, "cpu")
    facts: dict[str, Any] = {"samples": rounded(model.sample(4))}
    if (run / "checkpoints" / "best").exists():
        facts["best"] = rounded(ganrun.load(run / "checkpoints" / "best", "cpu").sample(4))
    if any(factor.name == "class" for factor in model.problem.factors):
        facts["of_class_3"] = rounded(model.sample(4, label=3))
    encodings = model.encode(model.sample(4))
    if encodings is not None:
        facts["encodings"] = rounded(encodings)
    if name in SIGNALS:
        assert told(GANRUN, "resume", run) == 0
        (last,) = (run / "checkpoints").iterdir()
        shutil.copytree(last, EXPECTED / name, ignore=shutil.ignore_patterns("*.pt", "*.json"))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {**{name: summary[name] for name in ("steps", "scores", "protocols")}, **facts}


def entries(facts: Mapping[str, Any]) -> str:
    """Each on a line of its own."""
    return ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items())


def rounded(values: Any) -> Any:
    """Tensors as lists, to five decimals: machines differ in the seventh."""
    return [rounded(each) for each in values] if values.ndim else round(values.item(), 5)


if __name__ == "__main__":
    make()
