"""Precision: what TF32 is set to, where; and what `precision` in a recipe stands for."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
import torch
from click.testing import CliRunner
from hypothesis import given, strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ganrun import Buffer, Data, Evaluation, Metric, Run, RunDirectory, Score, exact_float32, hookimpl, load
from ganrun.base import devices
from ganrun.base.arithmetic import float32_as
from ganrun.base.errors import RequestError
from ganrun.cli import main
from ganrun.commands import doctor
from ganrun.inference.evaluation import measured
from ganrun.recipe.reader import load_recipe
from ganrun.testing import build, registry_with, train
from ganrun.training import precision
from ganrun.training.measurements import Measurements
from ganrun.training.phases import Update
from ganrun.training.step import build_step

backends: Any = torch.backends

NODES = {
    "generic": backends,
    "cuda": backends.cudnn,
    "cuda.conv": backends.cudnn.conv,
    "cuda.rnn": backends.cudnn.rnn,
    "cuda.matmul": backends.cuda.matmul,
    "cpu.conv": backends.mkldnn.conv,
    "cpu.rnn": backends.mkldnn.rnn,
    "cpu.matmul": backends.mkldnn.matmul,
}
CUDA = [name for name in NODES if name.startswith("cuda")]

OLDER: dict[str, Callable[[], Any]] = {
    "cudnn": lambda: backends.cudnn.allow_tf32,
    "cublas": lambda: backends.cuda.matmul.allow_tf32,
    "matmul": torch.get_float32_matmul_precision,
}

SETTERS: dict[str, Callable[[], None]] = {
    "old: no TF32 in convolutions": lambda: setattr(backends.cudnn, "allow_tf32", False),
    "old: TF32 in convolutions": lambda: setattr(backends.cudnn, "allow_tf32", True),
    "old: TF32 in products": lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
    "old: high": lambda: torch.set_float32_matmul_precision("high"),
    "old: medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old: highest": lambda: torch.set_float32_matmul_precision("highest"),
    **{
        f"new: {name} {value}": partial(setattr, node, "fp32_precision", value)
        for name, node in NODES.items()
        for value in ("none", "ieee", "tf32", *(() if name.startswith("cuda") else ("bf16",)))
    },
}


def state() -> dict[str, Any]:
    """What all settings give; an older one whose reading fails gives None."""
    return {name: node.fp32_precision for name, node in NODES.items()} | {name: read(name) for name in OLDER}


def read(name: str) -> Any:
    try:
        return OLDER[name]()
    except RuntimeError:
        return None


def in_depth() -> list[dict[str, Any]]:
    """What all settings give now, and would give if those above the operations were others."""
    found, generic = [state()], backends.fp32_precision
    for value in ("ieee", "tf32", "bf16"):
        backends.fp32_precision = value
        found.append(state())
    backends.fp32_precision = generic
    return found


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Torch's settings as in a new process, before and after."""
    as_new()
    yield
    as_new()


def as_new() -> None:
    torch.set_float32_matmul_precision("highest")
    for node in NODES.values():
        node.fp32_precision = "none"
    backends.cudnn.allow_tf32 = True


def check_exact() -> None:
    assert {NODES[name].fp32_precision for name in NODES if name != "generic"} == {"ieee"}
    assert {name: read() for name, read in OLDER.items()} == {"cudnn": False, "cublas": False, "matmul": "highest"}


def check_tf32() -> None:
    assert {NODES[name].fp32_precision for name in CUDA} == {"tf32"}
    assert {NODES[name].fp32_precision for name in NODES if name.startswith("cpu")} == {"ieee"}
    assert {name: read() for name, read in OLDER.items()} == {"cudnn": True, "cublas": True, "matmul": "high"}


# ── Blocks ────────────────────────────────────────────────────────────────────────────────────────────────


@given(calls=st.lists(st.sampled_from(sorted(SETTERS)), max_size=6))
def test_blocks_hold_whatever_was_set_and_leave_all_of_it(calls: list[str]) -> None:
    """By the older settings, the newer ones, or a mix that torch refuses to read. A node that follows those above it
    goes on following them."""
    as_new()
    for call in calls:
        SETTERS[call]()
    before = in_depth()
    with exact_float32():
        check_exact()
        with float32_as(tf32=True):
            check_tf32()
            with exact_float32():
                check_exact()
            check_tf32()
        check_exact()
    assert in_depth() == before
    with float32_as(tf32=True):
        check_tf32()
    assert in_depth() == before


def test_an_exception_leaves_the_settings_as_they_were() -> None:
    torch.set_float32_matmul_precision("high")
    before = in_depth()
    with pytest.raises(ZeroDivisionError), exact_float32(), float32_as(tf32=True):
        raise ZeroDivisionError
    assert in_depth() == before


def test_blocks_of_two_threads_leave_the_settings_as_they_were() -> None:
    before, steps = in_depth(), [exact_float32(), float32_as(tf32=True), exact_float32()]
    for block in steps:
        block.__enter__()
    for place in (1, 0, 2):  # not the reverse order
        steps[place].__exit__(None, None, None)
    assert in_depth() == before


def test_a_function_can_be_exact() -> None:
    @exact_float32()
    def check() -> None:
        check_exact()

    check()
    check()
    assert backends.cudnn.allow_tf32


def test_blocks_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with exact_float32(), float32_as(tf32=True):
            pass


# ── Where they are ────────────────────────────────────────────────────────────────────────────────────────


class Watch(TorchDispatchMode):
    """Notes the convolutions and matrix products within it, and whether TF32 was on in each; forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[bool]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in ("convolution", "convolution_backward", "mm", "addmm", "bmm", "_cdist_forward"):
            values = {node.fp32_precision for name, node in NODES.items() if "." in name and name in CUDA}
            (value,) = values if len(values) == 1 else {"mixed"}
            self.seen.setdefault(name, set()).add({"ieee": False, "tf32": True}[value])
        return func(*args, **(kwargs or {}))


class Products(Metric):
    """A metric that computes wherever a metric can, with gradients too."""

    def prepare(self, data: Data, device: torch.device) -> None:
        self.real = torch.from_numpy(data.split("train").images[:20]).flatten(1).float()
        self.scale = (self.real @ self.real.T).mean()

    def watch(self, evaluation: Evaluation) -> None:
        self.made = evaluation.collect(Buffer(), "samples", count=20)
        self.scale = (self.real @ self.real.T).mean()

    def measure(self, evaluation: Evaluation) -> list[Score]:
        model = evaluation.model
        assert model is not None
        latents = model.fixed_latents(2).requires_grad_()
        model.decode(latents, gradients=True).sum().backward()
        (made,) = self.made.tensors()
        products = made.flatten(1).float() @ evaluation.generated(20).flatten(1).float().T
        return [Score("products", float((products.mean() + self.scale) / 1e5), True, {})]


class Plugin:
    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[Metric]]:
        return {"products": Products}


CONV = {"use": "conv", "feature_maps": 4, "stages": 1}


def recipe(name: str = "f32", loss: str = "vae", **more: Any) -> dict[str, Any]:
    settings = {"steps": 2, "batch_size": 4, "device": "cpu", "log_every_steps": 1, "precision": name}
    return {
        "name": "precise",
        "train": settings,
        "data": {"use": "digits", "size": 8},
        "loss": {"use": loss, "latent_size": 4},
        "generator": CONV,
        "encoder" if loss == "vae" else "discriminator": CONV,
        **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
        **more,
    }


FEATURES = ["--set", "metric.0.features=classifier", "--set", "metric.0.samples=50"]

SIZE = ["--set", "data.size=8"]


def command(*arguments: object) -> None:
    done = CliRunner(catch_exceptions=False).invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert done.exit_code == 0, done.output


def folder(run: Run) -> Path:
    """60 pictures of the run."""
    target = run.directory / "made"
    if not target.exists():
        command("sample", run.directory.path, "--count", 60, "--output", target)
    return target


def rounding() -> None:
    """What a user may have set for the process."""
    torch.set_float32_matmul_precision("high")
    backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize(("name", "tf32"), [("f32", False), ("tf32", True), ("bf16", False)])
@pytest.mark.parametrize("loss", ["vae", "wgan-gp"])
def test_a_step_computes_as_the_recipe_says(tmp_path: Path, name: str, tf32: bool, loss: str) -> None:
    run = build(recipe(name, loss), tmp_path / "run")
    take_step = build_step(run, Measurements())
    rounding()
    before = in_depth()
    with Watch() as watch:
        take_step()
    assert watch.seen.keys() >= {"convolution", "convolution_backward"}
    assert all(seen == {tf32} for seen in watch.seen.values()), watch.seen
    assert in_depth() == before


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that trains with TF32, in a process that has set it, too. All but its steps is exact: trials, preparing,
    samples, pictures, scores."""
    update = Update.run

    def watched(self: Update, step: int) -> None:
        outside, watch.seen = watch.seen, steps
        update(self, step)
        watch.seen = outside

    rounding()
    before, steps = in_depth(), dict[str, set[bool]]()
    metrics = [{"use": "products"}, {"use": "fid", "features": "classifier", "samples": 50}]
    tables = recipe("tf32", metric=metrics, checkpoints={}, samples={"every_steps": 1})
    with pytest.MonkeyPatch.context() as patch, Watch() as watch:
        patch.setattr(Update, "run", watched)
        run = train(tables, tmp_path_factory.mktemp("precision") / "run", Plugin())
    assert in_depth() == before
    assert watch.seen.keys() >= {"convolution", "convolution_backward", "mm", "addmm"}
    assert all(seen == {False} for seen in watch.seen.values()), watch.seen
    assert steps and all(seen == {True} for seen in steps.values()), steps
    return run


def test_whoever_uses_a_model_gets_exact_samples_and_scores(run: Run) -> None:
    saved, images = load(run.directory.path, "cpu"), torch.zeros(4, 1, 8, 8)
    uses: dict[str, Callable[[], Any]] = {
        "sample": lambda: saved.sample(3),
        "batches": lambda: next(saved.batches(3)),
        "draw": lambda: saved.draw(3),
        "decode": lambda: saved.decode(saved.fixed_latents(3)),
        "encode": lambda: saved.encode(images),
        "reconstruct": lambda: saved.reconstruct(images),
        "read": lambda: saved.read("encodings", images),
        "generated": lambda: run.evaluation().generated(3),
        "measured": lambda: measured(run.metrics, run.evaluation()),
        "sample PNG": lambda: command("sample", run.directory.path, "--count", 4),
        "eval": lambda: command("eval", run.directory.path, "--metric", "fid", *FEATURES),
        "eval of a folder": lambda: command(
            "eval", folder(run), "--against", "digits", *SIZE, "--metric", "fid", *FEATURES
        ),
    }
    rounding()
    before = in_depth()
    for name, use in uses.items():
        with Watch() as watch:
            use()
        assert watch.seen and all(seen == {False} for seen in watch.seen.values()), (name, watch.seen)
        assert in_depth() == before, name


# ── In a recipe ───────────────────────────────────────────────────────────────────────────────────────────


def with_bf16(patch: pytest.MonkeyPatch) -> None:
    """From here on, every device computes in bf16, as far as "auto" sees."""
    patch.setattr(precision, "has_bf16", lambda device: True)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [line for line in caplog.messages if "precision" in line or "32" in line or "bf16" in line]
    caplog.clear()
    return lines


def weights(run: Run) -> Tensor:
    return torch.cat([p.detach().flatten() for slot in run.state.slots.values() for p in slot.module.parameters()])


def test_auto_is_chosen_once_and_kept_on_any_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    kept = {"checkpoints": {"every_steps": 1}}
    with monkeypatch.context() as patch:
        with_bf16(patch)
        whole = train(recipe("auto", **kept), tmp_path / "whole")
        assert said(caplog) == [f'precision = "auto" is bf16, on {whole.environment["device_name"]}']
        short = recipe("auto", **kept)
        short["train"]["steps"] = 1
        for name in ("by its recipe", "by the user's"):
            train(short, tmp_path / name)
    for run in (whole, train(recipe("bf16"), tmp_path / "explicit")):
        assert tomllib.loads(run.directory.recipe_path.read_text())["train"]["precision"] == "bf16"
        assert run.environment["precision"] == "bf16" and torch.equal(weights(run), weights(whole))
    caplog.clear()
    resumed = train(recipe("auto", **kept), tmp_path / "by the user's", resume=True)
    assert said(caplog) == ['precision = "auto" is bf16, as the run was begun']
    assert torch.equal(weights(resumed), weights(whole))
    own = tomllib.loads((tmp_path / "by its recipe" / "recipe.toml").read_text())
    own["train"]["steps"] = 2
    resumed = train(own, tmp_path / "by its recipe", resume=True)
    assert said(caplog) == [] and torch.equal(weights(resumed), weights(whole))
    auto = train(recipe("auto"), tmp_path / "without bf16")
    assert said(caplog) == [f'precision = "auto" is f32, on {auto.environment["device_name"]}']
    assert torch.equal(weights(auto), weights(train(recipe("f32"), tmp_path / "f32")))


def test_tf32_without_it_is_f32_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rounding()
    found = train(recipe("tf32", checkpoints={}), tmp_path / "tf32")
    (line,) = said(caplog)
    assert line.endswith("has no TF32, so the run computes in f32") and "tf32.toml:" in line
    assert found.environment["precision"] == "f32"
    assert torch.equal(weights(found), weights(train(recipe("f32"), tmp_path / "f32")))
    with pytest.raises(RequestError, match=r"train\.precision: tf32 in the run, f32 now"):
        train(recipe("f32"), tmp_path / "tf32", resume=True)


def test_emulated_bf16_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On an imagined GPU."""
    monkeypatch.setattr(precision, "device_text", lambda device: "Tesla V100")
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    (tmp_path / "r.toml").write_text(tomli_w.dumps(recipe("bf16")))
    found = load_recipe(tmp_path / "r.toml", registry_with())
    directory = RunDirectory(tmp_path / "run")
    assert precision.with_precision(found, torch.device("cuda"), directory) is found
    assert said(caplog) == [f"{tmp_path / 'r.toml'}:12: Tesla V100 emulates bf16, which is slow; use f32 or auto"]
    precision.with_precision(found, torch.device("cpu"), directory)
    precision.with_precision(found, torch.device("cuda"))
    assert said(caplog) == [], "nothing is emulated, or nothing is trained"


def test_doctor_says_what_a_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """An imagined one."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**34))
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    monkeypatch.setattr(devices, "has_tf32", lambda device: True)
    assert doctor._cuda_text(torch.device("cuda", 0)) == "cuda:0: Tesla T4, 16 GiB, without bf16, with TF32"


def test_the_command_line_takes_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.toml"
    path.write_text(tomli_w.dumps(recipe("auto", checkpoints={})))
    run = [path, "--seeds", "0", "--output", tmp_path / "runs"]
    with monkeypatch.context() as patch:
        with_bf16(patch)
        command("check", path)
        done = CliRunner(catch_exceptions=False).invoke(main, [*map(str, run)])
        assert done.exit_code == 0 and 'INFO: precision = "auto" is bf16, on' in done.stderr
    command(*run, "--resume", "--set", "train.steps=3")
    command("check", path)
    command("resume", tmp_path / "runs/seed_0", "--set", "train.steps=4", "--set", "train.precision=auto")
    environment = json.loads((tmp_path / "runs/seed_0/environment.json").read_text())
    assert [session["precision"] for session in environment["sessions"]] == ["bf16"] * 3
