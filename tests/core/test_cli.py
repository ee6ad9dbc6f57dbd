"""The command line: what it accepts, and that a wrong request gets one message, status 2 and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from ganrun.cli import main
from ganrun.commands.group import COMMANDS
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.registry import load_registry

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
use = "vanilla:mlp"
hidden = [8]

[discriminator]
use = "vanilla:mlp"
hidden = [8]
"""

BAD_PLUGIN = """
    from ganrun import Data, DataError, Generator, Metric, PreflightError, DataSpec, hookimpl, Observer, observes

    class Absent(Data):
        "Data that is not there."
        def spec(self): return DataSpec((1, 8, 8))
        def prepare(self): raise DataError("is not in /data; fetch it with: get-data")
        def split(self, name): raise AssertionError

    class Weightless(Metric):
        "A metric without its weights."
        def prepare(self, data, device): raise PreflightError("the weights are absent; put them into /weights")
        def measure(self, evaluation): raise AssertionError

    class Long(Generator):
        "A generator of a wrong shape."
        def __init__(self, settings, spec):
            super().__init__(settings, spec)
            import torch
            self.layer = torch.nn.Linear(*spec.inputs, 3)
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
    def ganrun_generators(): return {"long": Long, "mlp": Long}  # which vanilla has, too

    @hookimpl
    def ganrun_losses(): raise RuntimeError("no losses today")

    @hookimpl
    def ganrun_observers(): return {"deaf": Deaf}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of components that each fail differently, and one that cannot be imported."""
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
    """A working directory with a valid recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


# ── Wrong requests ────────────────────────────────────────────────────────────────────────────────────────

WRONG = {
    "missing file": (["absent.toml"], "error: absent.toml: no such file"),
    "folder": (["folder.toml"], "error: folder.toml: is a folder, not a recipe"),
    "long name": ([f"{'x' * 300}.toml"], "cannot be read: File name too long"),
    "syntax": (["syntax.toml"], "syntax.toml:2: is not valid TOML: "),
    "binary": (["binary.toml"], "error: binary.toml:1: is not UTF-8 text"),
    "unknown table": (["r.toml", "--set", "trian.steps=5"], '--set trian.steps=5: a recipe has no table "trian"'),
    "unknown key": (["r.toml", "--set", "train.step=5"], 'has no key "step"; did you mean "steps"?'),
    "unknown component": (["r.toml", "--set", "loss.use=gna"], '--set loss.use=gna: no loss is called "gna"; did you'),
    "type": (["r.toml", "--set", "train.steps=many"], '[train] steps = "many": input should be a valid integer'),
    "range": (["r.toml", "--set", "train.steps=0"], "[train] steps = 0: input should be greater than or equal to 1"),
    "not finite": (["r.toml", "--set", "optimizer.lr=nan"], "[optimizer] lr = NaN: input should be a finite number"),
    "slot": (["r.toml", "--set", 'critic={use="conv"}'], 'the loss gan has no slot "critic"'),
    "misfit": (["r.toml", "--set", "generator={use='conv', stages=4}"], "sizes divisible by 16, not 8×8"),
    "wrong shape": (["r.toml", "--set", "generator={use='long'}"], "returned shape (2, 3) where (2, 1, 8, 8)"),
    "absent data": (["r.toml", "--set", "data={use='absent'}"], "[data] absent (faulty 1.0): is not in /data; fetch"),
    "absent weights": (["r.toml", "--set", "metric=[{use='weightless'}]"], "[[metric]] weightless (faulty 1.0): the w"),
    "deaf observer": (["r.toml", "--set", "deaf=true"], 'a run: there is no event "step_endet"; did you mean "step_en'),
    "broken plugin": (["r.toml", "--set", "generator.use=best"], 'the plugin "broken" might offer it, but is broken'),
    "raising plugin": (["r.toml", "--set", "loss.use=best"], "but is broken: RuntimeError: no losses today"),
    "collision": (["r.toml", "--set", "generator.use=mlp"], 'say use = "faulty:mlp" or use = "vanilla:mlp"'),
    "blocked plugin": (["r.toml", "--no-plugin", "vanilla"], 'the plugin "vanilla" might offer it, but is blocked'),
    "no such plugin": (["r.toml", "--no-plugin", "vanila"], 'error: there is no plugin "vanila" to leave out; did you'),
    "malformed --set": (["r.toml", "--set", "train.steps"], "error: --set takes key.path=value, such as"),
    "no such device": (["r.toml", "--device", "gpu"], '[train] device = "gpu": say auto, cpu, cuda, cuda:1 or mps'),
    "negative seed": (["r.toml", "--seed", "-1"], "[train] seed = -1: input should be greater than or equal to 0"),
    "file as output": (["r.toml", "--output", "r.toml"], "r.toml: File exists; choose another --output"),
    "output in a file": (["r.toml", "--output", "r.toml/x"], "r.toml/x: Not a directory; choose another --output"),
    "long output": (["r.toml", "--output", "x" * 300], "File name too long; choose another --output"),
    "foreign output": (["r.toml", "--output", "foreign"], "foreign holds no recipe.toml, but metrics.jsonl"),
    "kernel's folder": (["r.toml", "--output", "/proc/x"], "error: cannot write to /proc/x: "),
    "two with one output": (["r.toml", "r.toml", "--output", "x"], "error: --output is the directory of one run"),
    "resume without output": (["r.toml", "--resume"], "error: --resume needs --output DIR; to continue a run say"),
    "resume nothing": (["resume", "absent"], "error: absent is not a run directory: it does not exist"),
    "resume no run": (["resume", "foreign"], "error: foreign is not a run directory: it holds no recipe.toml"),
    "second recipe": (["r.toml", "syntax.toml"], "syntax.toml:2: is not valid TOML: "),
    "no command": (["trian"], '"trian" is neither a command nor a recipe (NAME.toml); did you mean "train"?'),
    "no command, but a recipe": (["trian", "r.toml"], '"trian" is neither a command nor a recipe (NAME.toml); did you'),
    "no option": (["r.toml", "--outptu", "x"], "No such option"),
    "check": (["check", "r.toml", "absent.toml", "syntax.toml"], "syntax.toml:2: is not valid TOML: "),
    "check a misfit": (["check", "r.toml", "--set", "generator={use='conv', stages=4}"], "[generator] conv (ganrun "),
    "show nobody": (["show", "loss", "gna"], 'error: no loss is called "gna"; did you mean "gan"?'),
    "show no kind": (["show", "losses", "gan"], "is not one of"),
    "show nothing": (["show", "loss"], "error: say which loss: ganrun show loss NAME; available: aae, acgan, "),
    "show no name": (["show", "optimizer"], "error: say which optimizer: ganrun show optimizer NAME; available: adam"),
    "show no optimizer": (["show", "optimizer", "adma"], 'error: no optimizer is called "adma"; did you mean "adam"?'),
    "list no kind": (["list", "losses"], "is not one of"),
    "list without no plugin": (["list", "recipes", "--no-plugin"], "requires an argument"),
    "plugins without no plugin": (["plugins", "--no-plugin", "vanila"], 'error: there is no plugin "vanila" to leave'),
    "schema of no JSON": (["schema", "--output", "r.toml"], "error: r.toml: a schema is JSON; say --output NAME.json"),
    "schema to nowhere": (["schema", "--output", "absent/x.json"], "error: absent/x.json cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("request_name", WRONG)
def test_a_wrong_request_gets_one_message_and_leaves_nothing(
    folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch, request_name: str
) -> None:
    arguments, message = WRONG[request_name]
    monkeypatch.syspath_prepend(str(site))
    prepare(folder)
    before = listing(folder)
    done = ganrun(*arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2
    assert message in done.output.replace(f"{folder}/", "").replace("\n│ ", "")
    assert "Traceback" not in done.output
    assert listing(folder) == before


@pytest.mark.parametrize("index", [torch.cuda.device_count(), 200])
def test_a_gpu_that_is_absent(folder: Path, index: int) -> None:
    before = listing(folder)
    done = ganrun("r.toml", "--device", f"cuda:{index}")
    assert done.exit_code == 2 and listing(folder) == before
    assert f"--set train.device=cuda:{index}: device cuda:{index} was requested, but" in done.stderr


def test_every_fault_is_reported_before_anything_is_built(folder: Path) -> None:
    done = ganrun("r.toml", "--set", "train.steps=0", "--set", "data.sise=8", "--set", "loss.latent_size=0")
    assert [line.partition(":")[0] for line in done.stderr.splitlines() if line.startswith("--set")] == [
        "--set train.steps=0",
        "--set data.sise=8",
        "--set loss.latent_size=0",
    ]


def test_check_reports_the_faults_of_all_recipes(folder: Path) -> None:
    prepare(folder)
    done = ganrun("check", "absent.toml", "r.toml", "syntax.toml")
    assert done.exit_code == 2
    assert done.stdout == "r.toml: ok\n"
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["absent.toml", "syntax.toml"]


# ── As a process ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_request_has_exit_status_2_and_nothing_on_standard_output() -> None:
    command = [sys.executable, "-m", "ganrun.cli", "resume", "absent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: absent is not a run directory: it does not exist\n"


def test_output_may_be_closed_by_its_reader() -> None:
    command = [sys.executable, "-m", "ganrun.cli", "plugins"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.wait(60) == 0 and process.stderr.read() == ""


def test_help_and_plugins_answer_without_torch() -> None:
    code = """
        import sys
        from click.testing import CliRunner
        from ganrun.cli import main
        for command in ("--help", "train --help", "x.toml --help", "--version", "trian", "plugins", "data list --help"):
            done = CliRunner().invoke(main, command.split())
            assert done.exit_code == (2 if command == "trian" else 0), done.output
        slow = ("torch", "numpy", "mlflow", "sklearn", "torchvision", "pydantic", "rich")
        print([name for name in slow if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("arguments", "needed"), [("train --help", "train"), ("list recipes", "list")])
def test_a_command_imports_no_other_command(arguments: str, needed: str) -> None:
    code = f"""
        import sys
        from click.testing import CliRunner
        from ganrun.cli import main
        from ganrun.commands.group import COMMANDS
        done = CliRunner().invoke(main, "{arguments}".split())
        assert done.exit_code == 0, done.output
        print([name for name in COMMANDS if f"ganrun.commands.{{name}}" in sys.modules], "torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"['{needed}'] False\n", done.stderr


def test_every_command_is_listed_with_its_help() -> None:
    lines = ganrun("--help").stdout.splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]]
    assert listed[: len(COMMANDS)] == list(COMMANDS) and listed[len(COMMANDS) :] == sorted(listed[len(COMMANDS) :])
    for name in COMMANDS:
        assert f"Usage: main {name} " in ganrun(name, "--help").stdout


# ── Right requests ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments",
    [
        ["r.toml", "--output", "list"],
        ["--output", "list", "r.toml"],
        ["train", "r.toml", "--output", "list"],
        ["--output", "list", "--resume", "--", "r.toml"],
        ["-o", "list", "r.toml"],
        ["r.toml", "-o", "list", "-s", "train.steps=2"],
    ],
)
def test_a_recipe_is_trained_with_options_on_either_side(folder: Path, arguments: list[str]) -> None:
    """Even where an option's value is the name of a command."""
    done = ganrun(*arguments)
    assert done.exit_code == 0, done.output
    assert summary(folder / "list")["steps"] == 2


def test_options_override_the_recipe(folder: Path) -> None:
    options = ["--seed", "7", "--set", "train.steps=1", "--set", "name=other", "--device", "cpu", "--set", "metric=[]"]
    assert ganrun("r.toml", *options, "--no-plugin", "samples").exit_code == 0
    (run,) = (folder / "runs").iterdir()
    assert run.name.startswith("other-")
    written = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    assert (written["train"]["seed"], written["train"]["steps"]) == (7, 1)
    assert not (run / "samples").exists()


def test_an_output_is_continued_only_if_asked_and_only_if_it_is_the_same_run(folder: Path) -> None:
    output = ["--output", "run", "--no-plugin", "samples"]
    assert ganrun("r.toml", *output, "--resume").exit_code == 0

    again = ganrun("r.toml", *output)
    assert again.exit_code == 2
    assert "run holds a run already (status: finished); add --resume to continue it" in again.stderr

    other = ganrun("r.toml", *output, "--resume", "--set", "data.size=16", "--seed", "1")
    assert other.exit_code == 2
    assert "  train.seed: 0 in the run, 1 now" in other.stderr
    other = ganrun("r.toml", *output, "--resume", "--set", "data.size=16")
    assert other.exit_code == 2 and "  data.size: 8 in the run, 16 now" in other.stderr

    free = ["--set", "train.log_every_steps=1", "--set", "name=new", "--set", "checkpoints.keep=1"]
    assert ganrun("r.toml", *output, "--resume", *free, "--set", "train.steps=3").exit_code == 0
    assert ganrun("resume", "run", "--set", "train.steps=4", "--no-plugin", "progress").exit_code == 0
    assert summary(folder / "run")["steps"] == 4

    (folder / "run/recipe.toml").write_bytes(b"steps = \xff")
    damaged = ganrun("r.toml", *output, "--resume")
    assert damaged.exit_code == 2 and "recipe.toml is damaged" in damaged.stderr


def test_a_continued_run_keeps_the_commit_of_its_start(folder: Path) -> None:
    def commit() -> str:
        for words in ("init -q", "add r.toml", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m c"):
            subprocess.run(["git", *words.split()], check=True, timeout=60)
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()

    def recorded() -> str:
        facts = json.loads((folder / "run/environment.json").read_text(encoding="utf-8"))
        assert facts["git"]["commit"] == first, "that of the first start stays"
        return facts["sessions"][-1]["git"]["commit"]

    first = commit()
    assert ganrun("r.toml", "--output", "run").exit_code == 0 and recorded() == first
    second = commit()
    assert ganrun("resume", "run", "--set", "train.steps=3").exit_code == 0 and recorded() == first != second
    assert ganrun("r.toml", "--output", "run", "--resume", "--set", "train.steps=4").exit_code == 0
    assert recorded() == second, "the recipe was read from there"
    assert ganrun("resume", "run").exit_code == 0 and recorded() == second, "that of the recipe in the run"


def test_several_recipes_are_trained_in_turn(folder: Path) -> None:
    (folder / "s.toml").write_text(RECIPE.replace("Small Digits", "second"), encoding="utf-8")
    assert ganrun("r.toml", "s.toml", "--no-plugin", "samples", "--no-plugin", "checkpoints").exit_code == 0
    assert sorted(path.name.rsplit("-", 3)[0] for path in (folder / "runs").iterdir()) == ["second", "small-digits"]


def test_a_shipped_recipe_is_found_from_anywhere() -> None:
    assert ganrun("check", "quickstart.toml").stdout == "quickstart.toml: ok\n"


def test_a_broken_plugin_causes_only_a_warning(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    done = ganrun("check", "r.toml")
    assert (done.exit_code, done.stdout) == (0, "r.toml: ok\n")
    assert 'warning: the plugin "broken" is broken and left out: ModuleNotFoundError' in done.stderr
    listed = ganrun("plugins", "--no-plugin", "samples").stdout.splitlines()
    states = {line.split()[0]: " ".join(line.split()[1:4]) for line in listed}
    assert states["broken"] == "broken 1.0 broken:" and states["faulty"] == "faulty 1.0 ok"
    assert states["samples"].endswith(" blocked")


def test_everything_on_the_list_can_be_shown() -> None:
    registry = load_registry()
    for kind in KINDS:
        listed = ganrun("list", kind).stdout.splitlines()[1:]
        assert [line.split()[:2] for line in listed] == [[kind, name] for name in registry.names(kind)]
        for registered in registry.components(kind):
            shown = ganrun("show", kind, registered.name).stdout
            assert registered.cls.summary() in shown
            assert all(f"  {setting}   " in shown for setting in registered.cls.Settings.model_fields)
    for arguments in (["train"], ["ema"], ["optimizer", "rmsprop"]):
        assert "settings\n  " in ganrun("show", *arguments).stdout
    assert ganrun("show", "optimizer").exit_code == 2


def test_a_setting_is_shown_with_type_default_bounds_and_meaning() -> None:
    lines = ganrun("show", "train").stdout.splitlines()
    assert "  steps   integer   required   ≥ 1" in lines
    assert '  precision   "auto" | "f32" | "tf32" | "bf16"   default "f32"' in lines
    assert "  evaluate_every_steps   integer   default off   ≥ 1" in lines
    assert "      Images per update." in lines


# ── Helpers ───────────────────────────────────────────────────────────────────────────────────────────────


def ganrun(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def prepare(folder: Path) -> None:
    """Files that are not recipes, and a folder that is not a run."""
    (folder / "folder.toml").mkdir()
    (folder / "syntax.toml").write_text("a = 1\nb = = 2\n", encoding="utf-8")
    (folder / "binary.toml").write_bytes(b"\x80\x02}q\x00.")
    (folder / "foreign").mkdir()
    (folder / "foreign/metrics.jsonl").write_text("{}\n", encoding="utf-8")


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return content
