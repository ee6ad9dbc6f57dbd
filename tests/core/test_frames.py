"""A plugin's error is reported with its name, method and line, on the command line and in runs, and blamed on no
other."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pydantic import field_validator
from torch import nn

from ganrun import (
    Data,
    DataSpec,
    Evaluation,
    Factor,
    Generator,
    Loss,
    Metric,
    Observer,
    Optimizer,
    Phase,
    Score,
    Settings,
    Slot,
    Split,
    Terms,
    Tracker,
    hookimpl,
    observes,
)
from ganrun.base.errors import (
    ContractError,
    GanrunError,
    IncompatibleError,
    Interrupted,
    OutOfTime,
    PluginError,
    RequestError,
)
from ganrun.base.frames import called, failure
from ganrun.base.signals import Terminated
from ganrun.cli import main
from ganrun.discovery.kinds import RESERVED
from ganrun.discovery.registry import load_registry, locate
from ganrun.testing import build, registry_with, train

OWNER = "[generator] mlp (ganrun 0.1.0)"
CPU = torch.device("cpu")


# ── The frame itself ──────────────────────────────────────────────────────────────────────────────────────


def raising(error: BaseException) -> Callable[[], Any]:
    def function() -> None:
        raise error

    return function


def caught(raised: BaseException, **options: Any) -> GanrunError:
    with pytest.raises(GanrunError) as found, called(OWNER, "forward", **options):
        raising(raised)()
    return found.value


def test_a_foreign_exception_names_component_method_type_and_line() -> None:
    cause = ValueError("bad\nsize")
    error = caught(cause, where="x.toml:12")
    line = raising.__code__.co_firstlineno + 2
    assert str(error) == f"x.toml:12: {OWNER}: forward fails: ValueError: bad size (tests/core/test_frames.py:{line})"
    assert type(error) is ContractError and error.__cause__ is cause
    assert type(caught(cause, error=PluginError)) is PluginError
    assert "SystemExit: 3" in str(caught(SystemExit(3)))


def test_the_line_is_the_authors_and_no_librarys() -> None:
    told = r"shapes cannot be multiplied .*\(tests/core/test_frames\.py:\d+\)"
    with pytest.raises(ContractError, match=told), called(OWNER, "forward"):
        nn.Linear(2, 2)(torch.zeros(1, 3))


def test_ganruns_own_error_is_named_once_and_keeps_its_kind_and_place() -> None:
    loss, network = called("[loss] gan", "objective", where="x.toml:1"), called(OWNER, "forward", where="x.toml:12")
    with pytest.raises(IncompatibleError) as found, loss, network, called(OWNER, "layer"):
        raise IncompatibleError("it is too small")
    assert str(found.value) == f"x.toml:12: [loss] gan: {OWNER}: it is too small"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted(15), OutOfTime(), Terminated(143)], ids=type)
def test_what_the_user_decides_is_no_fault(error: BaseException) -> None:
    with pytest.raises(type(error)) as found, called(OWNER, "forward"):
        raise error
    assert found.value is error and OWNER not in str(error)


def caught_from(work: Any) -> Exception:
    with pytest.raises((MemoryError, RuntimeError)) as found:
        work()
    return found.value


def test_memory_has_a_sentence_that_says_what_to_do() -> None:
    errors = (
        torch.OutOfMemoryError("CUDA out of memory. Tried …"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("unable to mmap 4096 bytes from file <weights>: Cannot allocate memory (12)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        caught_from(lambda: torch.empty(10**15)),
        caught_from(lambda: np.empty(10**15)),
        caught_from(lambda: bytearray(2**62)),
    )
    for error in errors:
        told = str(caught(error))
        assert OWNER in told and "batch_size" in told and "accumulate" in told and "bf16" in told


def test_an_exception_whose_text_fails_is_still_told() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert f"{OWNER}: forward fails: MuteError" in str(failure(OWNER, "forward", MuteError()))
    assert len(str(caught(ValueError("x" * 10_000)))) < 700


# ── A run's components, each with one fault ───────────────────────────────────────────────────────────────


def fail(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("in a plugin")


class Flat(Data):
    """Eight black images."""

    def spec(self) -> DataSpec:
        return DataSpec((1, 8, 8))

    def prepare(self) -> None:
        return None

    def split(self, name: str) -> Split:
        import numpy as np

        return Split(np.zeros((8, 1, 8, 8), np.uint8))


class Plain(Loss):
    """Makes samples small."""

    slots = {"generator": Slot("generator")}
    latent_size = 4

    def phases(self) -> Any:
        return (Phase("fit", self.fit, trains=("generator",)),)

    def fit(self, nets: Any, batch: Any) -> Terms:
        return Terms({"size": nets.generator(batch.latents).square().mean()})


class Dense(Generator):
    """A dense layer."""

    def __init__(self, settings: Any, spec: Any) -> None:
        super().__init__(settings, spec)
        self.layer = nn.Linear(spec.inputs[0], 64)

    def forward(self, latents: Any, labels: Any = None) -> Any:
        return self.layer(latents).tanh().unflatten(1, (1, 8, 8))


class Descent(Optimizer):
    """Gradient descent."""

    def build(self, parameters: Any, device: Any) -> Any:
        return torch.optim.SGD(parameters, lr=self.settings.lr)


class Mean(Metric):
    """Mean of the samples."""

    def measure(self, evaluation: Any) -> Any:
        return [Score("mean", evaluation.generated(4).float().mean().item(), higher_is_better=True, protocol={"n": 4})]


class Ear(Observer):
    """Hears the steps."""

    essential = True

    @observes
    def step_ended(self, step: int) -> None:
        return None


SOUND: dict[str, type] = {
    "data": Flat,
    "loss": Plain,
    "generator": Dense,
    "optimizer": Descent,
    "metric": Mean,
    "observer": Ear,
}


def faulty(kind: str, **members: Any) -> object:
    """A plugin whose component of one kind has other members than the sound one."""
    base = SOUND[kind]
    classes = SOUND | {kind: type(base.__name__, (base,), {"__doc__": base.__doc__, **members})}
    hooks = {
        "ganrun_data": {"flat": classes["data"]},
        "ganrun_losses": {"plain": classes["loss"]},
        "ganrun_generators": {"dense": classes["generator"]},
        "ganrun_optimizers": {"descent": classes["optimizer"]},
        "ganrun_metrics": {"mean": classes["metric"]},
        "ganrun_observers": {"ear": classes["observer"]},
    }
    marked = {hook: staticmethod(hookimpl(lambda offered=offered: offered)) for hook, offered in hooks.items()}
    return type("Fake", (), {"__name__": "fake", **{name: _plain(offer) for name, offer in marked.items()}})()


def _plain(method: Any) -> Any:
    """pluggy takes a default for an argument of the hook; this has none."""
    offered = method.__func__.__defaults__[0]
    return staticmethod(hookimpl(lambda: offered))


RECIPE = {
    "train": {"steps": 2, "batch_size": 4, "device": "cpu", "log_every_steps": 1},
    "data": {"use": "flat"},
    "loss": {"use": "plain"},
    "generator": {"use": "dense"},
    "optimizer": {"use": "descent"},
    "metric": [{"use": "mean"}],
    "ear": {},
    **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
}


def test_the_sound_plugin_trains(tmp_path: Path) -> None:
    assert "mean" in train(RECIPE, tmp_path / "run", faulty("data")).scores


@pytest.mark.parametrize(
    ("kind", "method", "named"),
    [
        ("data", "__init__", "[data] flat (fake 0): __init__ fails"),
        ("data", "spec", "[data] flat (fake 0): spec fails"),
        ("data", "prepare", "[data] flat (fake 0): prepare fails"),
        ("data", "manifest", "[data] flat (fake 0): manifest fails"),
        ("data", "fingerprint", "[data] flat (fake 0): manifest fails"),
        ("data", "class_names", "[data] flat (fake 0): class_names fails"),
        ("loss", "__init__", "[loss] plain (fake 0): __init__ fails"),
        ("loss", "factors", "[loss] plain (fake 0): factors fails"),
        ("loss", "latents", "[loss] plain (fake 0): latents fails"),
        ("loss", "ports", "[loss] plain (fake 0): ports fails"),
        ("loss", "phases", "[loss] plain (fake 0): phases fails"),
        ("generator", "__init__", "[generator] dense (fake 0): __init__ fails"),
        ("generator", "forward", "[generator] dense (fake 0): forward fails"),
        ("optimizer", "build", "[optimizer] descent (fake 0): build fails"),
        ("metric", "__init__", "[[metric]] mean (fake 0): __init__ fails"),
        ("loss", "prepare", "[loss] plain (fake 0): prepare fails"),
        ("metric", "prepare", "[[metric]] mean (fake 0): prepare fails"),
        ("metric", "watch", "[[metric]] mean (fake 0): watch fails"),
        ("observer", "__init__", "[ear] ear (fake 0): __init__ fails"),
    ],
)
def test_a_fault_before_a_run_is_a_request_that_cannot_be_met(
    tmp_path: Path, kind: str, method: str, named: str
) -> None:
    with pytest.raises(RequestError) as found:
        build(RECIPE, tmp_path / "run", faulty(kind, **{method: fail}))
    line = fail.__code__.co_firstlineno + 1
    assert f"{named}: ZeroDivisionError: in a plugin (tests/core/test_frames.py:{line})" in str(found.value)
    assert str(found.value).startswith(f"{tmp_path / 'run.toml'}:")
    assert isinstance(found.value.__cause__, ZeroDivisionError) and not (tmp_path / "run").exists()


def test_a_validator_that_fails_names_the_component(tmp_path: Path) -> None:
    class Strict(Settings):
        check = field_validator("width")(lambda value: value if value == 3 else fail())
        width: int = 3

    with pytest.raises(PluginError, match=r"\[generator\] dense \(fake 0\): its Settings fails: ZeroDivisionError"):
        build(
            {**RECIPE, "generator": {"use": "dense", "width": 5}}, tmp_path / "r", faulty("generator", Settings=Strict)
        )


def fail_later(self: Metric, evaluation: Evaluation) -> None:
    if evaluation.step:
        fail()


@pytest.mark.parametrize(("method", "fault"), [("watch", fail_later), ("measure", fail)])
def test_a_fault_in_an_evaluation_names_the_metric_by_its_place(tmp_path: Path, method: str, fault: Any) -> None:
    named = f"metric.0 mean (fake 0): {method} fails: ZeroDivisionError"
    run = train(RECIPE, tmp_path / "run", faulty("metric", **{method: fault}))
    (found,) = run.faults.new
    assert (found.of, found.at) == ("metric.0 mean", method)
    assert named in found.text and "test_frames.py:" in found.text


@pytest.mark.parametrize(
    ("generate", "sentence"),
    [
        (fail, "generate fails: ZeroDivisionError: in a plugin"),
        (
            lambda self, nets, latents, sampling: nets.generator(latents).flatten(1),
            "generate returned (2, 64) where (2, 1, 8, 8) was expected",
        ),
        (
            lambda self, nets, latents, sampling: 2 + nets.generator(latents),
            "generate gives images that reach",
        ),
    ],
)
def test_a_fault_in_making_samples_is_the_losss_and_no_metrics(tmp_path: Path, generate: Any, sentence: str) -> None:
    with pytest.raises(IncompatibleError) as found:
        train(RECIPE, tmp_path / "run", faulty("loss", generate=generate))
    assert f"[loss] plain (fake 0): {sentence}" in str(found.value) and not (tmp_path / "run").exists()


def test_a_metric_that_gives_no_scores_is_named(tmp_path: Path) -> None:
    run = train(RECIPE, tmp_path / "run", faulty("metric", measure=lambda self, evaluation: 3.0))
    (found,) = run.faults.new
    assert "metric.0 mean (fake 0): measure gives float where a list of ganrun.Score" in found.text


def test_another_observers_exit_silences_it_and_the_run_goes_on(tmp_path: Path, caplog: Any) -> None:
    run = train(
        RECIPE,
        tmp_path / "run",
        faulty("observer", essential=False, step_ended=observes(lambda self, step: sys.exit(3))),
    )
    assert run.step == 2 and 'observer "ear" failed at step_ended and is left out' in caplog.text


# ── What a loss declares ──────────────────────────────────────────────────────────────────────────────────


def phase(**options: Any) -> Phase:
    return Phase(**{"name": "fit", "objective": lambda nets, batch: Terms({}), "trains": ("generator",), **options})


@pytest.mark.parametrize(
    ("phases", "sentence"),
    [
        ((phase(every=0),), 'the phase "fit" says every = 0; it must be a whole number of at least 1 step'),
        ((phase(every=-2),), 'the phase "fit" says every = -2'),
        ((phase(repeat=0),), 'the phase "fit" says repeat = 0; it must be a whole number of at least 1 update'),
        ((phase(repeat=2.5),), 'the phase "fit" says repeat = 2.5'),
        ((phase(trains=()),), 'the phase "fit" trains no slot; its slots are generator'),
        (
            (phase(trains=("generater",)),),
            'trains "generater", which is not a slot of the loss; did you mean "generator"?',
        ),
        ((phase(trains="generator"),), 'says trains = "generator"; say ("generator",)'),
        ((phase(trains=("generator", "generator")),), "names a slot twice"),
        ((phase(), phase()), 'two of its phases have the name "fit"'),
        ((phase(name=""),), "one of its phases has the name ''"),
        ((phase(objective=None),), 'the objective of phase "fit" is None, not a function'),
        ((), "phases() gives (); it must give a list of ganrun.Phase, at least one"),
        (None, "phases() gives None"),
    ],
)
def test_a_phase_that_cannot_work_is_refused_with_the_loss(tmp_path: Path, phases: Any, sentence: str) -> None:
    with pytest.raises(IncompatibleError) as found:
        build(RECIPE, tmp_path / "run", faulty("loss", phases=lambda self: phases))
    assert "[loss] plain (fake 0): " in str(found.value) and sentence in str(found.value)


@pytest.mark.parametrize(
    ("factors", "sentence"),
    [
        ([Factor("a", 2, "noise"), Factor("a", 2, "noise")], 'two of its factors have the name "a"'),
        ([Factor("a", 2, "noise"), Factor("b", 3, "noise")], "its factors (a 2, b 3) describe 5 latents of 4"),
        ([Factor("a", 0, "noise"), Factor("b", 4, "noise")], 'the factor "a" has the size 0'),
        ([4], "factors() gives [4]"),
    ],
)
def test_factors_that_are_not_the_latents_are_refused(tmp_path: Path, factors: Any, sentence: str) -> None:
    with pytest.raises(IncompatibleError) as found:
        build(RECIPE, tmp_path / "run", faulty("loss", factors=lambda self: factors))
    assert sentence in str(found.value)


@pytest.mark.parametrize(
    ("latents", "sentence"),
    [
        (torch.zeros(4, 4), "latents(3, …) gives float32 of shape (4, 4); it must give float32 of shape (3, 4)"),
        (torch.zeros(3, 4, dtype=torch.float64), "latents(3, …) gives float64 of shape (3, 4)"),
        (torch.full((3, 4), torch.inf), "latents(3, …) gives NaN or infinity"),
        (None, "latents(3, …) gives NoneType"),
    ],
)
def test_latents_that_no_batch_could_hold_are_refused(tmp_path: Path, latents: Any, sentence: str) -> None:
    with pytest.raises(IncompatibleError) as found:
        build(RECIPE, tmp_path / "run", faulty("loss", latents=lambda self, size, device: latents))
    assert f"[loss] plain (fake 0): {sentence}" in str(found.value)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"latent_size": 0}, "the latent size is 0; a generator needs at least 1"),
        ({"phases": lambda self: [phase(project=1)]}, 'project of phase "fit" is 1, not a function'),
        ({"readings": lambda self: ["critic"]}, "readings() gives ['critic']; it must give functions by name"),
        ({"readings": lambda self: {"critic": 1}}, "readings() gives 'critic': 1; it must give functions by name"),
        ({"memory": property(lambda self: {}, lambda self, value: None)}, "its memory is a dict, not an nn.Module"),
    ],
)
def test_what_a_loss_cannot_mean_is_refused(tmp_path: Path, members: Any, sentence: str) -> None:
    with pytest.raises(IncompatibleError) as found:
        build(RECIPE, tmp_path / "run", faulty("loss", **members))
    assert "[loss] plain (fake 0): " in str(found.value) and sentence in str(found.value)


def test_a_frozen_slot_has_no_average(tmp_path: Path) -> None:
    slots = {**Plain.slots, "judge": Slot("discriminator", averaged=True, frozen=True)}
    with pytest.raises(IncompatibleError, match='its slot "judge" is frozen, so there is nothing to average'):
        build({**RECIPE, "judge": {"use": "mlp"}}, tmp_path / "run", faulty("loss", slots=slots))


# ── Terms ─────────────────────────────────────────────────────────────────────────────────────────────────


def trained_with(tmp_path: Path, objective: Any) -> Any:
    return train(RECIPE, tmp_path / "run", faulty("loss", fit=objective))


def size(nets: Any, batch: Any) -> Any:
    return nets.generator(batch.latents).square()


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        (
            lambda x: Terms({"size": x}),
            'the term "size" of phase "fit" has the shape (4, 1, 8, 8); it must be a scalar',
        ),
        (lambda x: Terms({"size": x.mean()}, {"seen": x}), 'the term "seen" of phase "fit" has the shape'),
        (lambda x: Terms({"size": x.mean().item()}), 'the term "size" of phase "fit" is a float, and not a tensor'),
        (lambda x: Terms({"size": x.mean()}, {"seen": 0.5}), 'the term "seen" of phase "fit" is a float'),
        (
            lambda x: Terms({"size": x.mean().detach()}),
            'no term of phase "fit" (size) depends on a network that the phase',
        ),
        (lambda x: Terms({}), 'the objective of phase "fit" returned nothing to minimise'),
        (lambda x: {"size": x.mean()}, 'the objective of phase "fit" returned dict, not ganrun.Terms'),
        (lambda x: Terms({5: x.mean()}), 'phase "fit" names a term 5'),
        (lambda x: Terms({"size": x.mean()}, {"size": x.mean()}), 'minimises and reports the term "size"'),
    ],
)
def test_terms_that_break_the_contract_are_named_with_their_phase(tmp_path: Path, terms: Any, sentence: str) -> None:
    with pytest.raises(IncompatibleError) as found:
        trained_with(tmp_path, lambda self, nets, batch: terms(size(nets, batch)))
    assert sentence in str(found.value) and not (tmp_path / "run").exists()


def test_a_slot_without_a_gradient_is_named(tmp_path: Path) -> None:
    free = torch.ones((), requires_grad=True)
    with pytest.raises(
        IncompatibleError, match='phase "fit" trains the generator, and none of its terms depends on that'
    ):
        trained_with(tmp_path, lambda self, nets, batch: Terms({"size": free * 2}))


def test_renamed_terms_are_refused_and_reordered_ones_keep_their_curves(tmp_path: Path) -> None:
    def reordered(self: Any, nets: Any, batch: Any) -> Terms:
        small = size(nets, batch).mean()
        terms = {"small": small, "large": 0 * small + 100}
        return Terms(terms if batch.step == 0 else dict(reversed(terms.items())))

    run = train(
        {**RECIPE, "train": {**RECIPE["train"], "log_every_steps": 2}}, tmp_path / "run", faulty("loss", fit=reordered)
    )
    (means,) = [record.values for record in run.directory.records() if "loss/fit.large" in record.values]
    assert means["loss/fit.large"] == 100 and means["loss/fit.small"] < 1

    def renamed(self: Any, nets: Any, batch: Any) -> Terms:
        return Terms({"first" if batch.step == 0 else "second": size(nets, batch).mean()})

    with pytest.raises(
        ContractError, match="loss/fit: the terms changed; at first they were first, and now they are sec"
    ):
        trained_with(tmp_path / "other", renamed)


# ── Discovery ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs the plugin `bad` of the package `ganrun-bad`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ganrun_bad", raising=False)

    def install(source: str) -> None:
        (tmp_path / "ganrun_bad.py").write_text(f"import ganrun\nfrom ganrun import hookimpl\n{dedent(source)}")
        info = tmp_path / "ganrun_bad-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ganrun-bad\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[ganrun]\nbad = ganrun_bad\n")

    yield install
    sys.modules.pop("ganrun_bad", None)


def command_line(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


CHANGES = {
    "the default dtype": ("torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    "the default device": ("torch.set_default_device('meta')", torch.get_default_device),
    "deterministic algorithms": (
        "torch.use_deterministic_algorithms(True)",
        torch.are_deterministic_algorithms_enabled,
    ),
    "the gradient mode": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "cudnn.benchmark": ("torch.backends.cudnn.benchmark = True", lambda: torch.backends.cudnn.benchmark),
    "cudnn.allow_tf32": ("torch.backends.cudnn.allow_tf32 = False", lambda: torch.backends.cudnn.allow_tf32),
    "the matmul precision": ("torch.set_float32_matmul_precision('medium')", torch.get_float32_matmul_precision),
    "the number of threads": ("torch.set_num_threads(torch.get_num_threads() + 1)", torch.get_num_threads),
    "the random stream": ("torch.manual_seed(5)", torch.initial_seed),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("within", ["module", "hook"])
def test_what_a_plugin_changes_of_torch_is_restored_with_a_warning(
    install: Any, caplog: Any, name: str, within: str
) -> None:
    change, read = CHANGES[name]
    before = read()
    hook = f"\n@hookimpl\ndef ganrun_losses():\n    import torch\n    {change}\n    return {{}}\n"
    install(f"import torch\n{change}\n" if within == "module" else hook)
    load_registry().names("loss")
    assert read() == before
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the plugin bad changes" in warning and name in warning


def test_no_built_in_plugin_changes_anything_of_torch(caplog: Any) -> None:
    registry = load_registry()
    for kind in ("generator", "discriminator", "loss", "data", "metric", "extractor", "optimizer", "observer"):
        registry.names(kind)
    assert caplog.records == [] and not registry.broken()


def test_a_plugin_that_is_the_first_to_import_torch_cannot_change_it_unseen(install: Any, tmp_path: Path) -> None:
    import os
    import subprocess

    install(
        "import torch\ntorch.set_num_threads(torch.get_num_threads() + 3)\ntorch.set_default_dtype(torch.float64)\n"
    )
    code = "import sys\nfrom ganrun.discovery.plugins import discover\nassert 'torch' not in sys.modules\ndiscover()\n"
    code += "import torch\nassert torch.get_default_dtype() == torch.float32\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "changes the number of threads" in done.stderr and "changes the default dtype" in done.stderr


def test_prints_of_a_plugin_do_not_reach_standard_output(install: Any) -> None:
    install("print('imported')\n@hookimpl\ndef ganrun_data():\n    print('asked')\n    return {}\n")
    shown = command_line("list", "data")
    assert "imported" not in shown.stdout and "asked" not in shown.stdout
    assert "imported" in shown.stderr and "asked" in shown.stderr


HOOK = "def ganrun_losses():\n    return {}\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            f"@hookimpl(wrapper=True)\n{HOOK}    yield\n",
            "the function ganrun_losses is marked as a wrapper, and ganrun",
        ),
        (f"@hookimpl(hookwrapper=True)\n{HOOK}    yield\n", "the function ganrun_losses is marked as a wrapper"),
        (
            f"@hookimpl(tryfirst=True)\n{HOOK}",
            "the function ganrun_losses says tryfirst, but the order of plugins has no",
        ),
        (f"@hookimpl\nasync {HOOK}", "the function ganrun_losses is async, so its code would never run"),
        (f"@hookimpl\n{HOOK}    yield\n", "the function ganrun_losses is a generator, whose code would never run"),
        ("@hookimpl\ndef ganrun_loses():\n    return {}\n", 'no hook "ganrun_loses"; did you mean "ganrun_losses"?'),
    ],
)
def test_a_hook_that_would_never_be_called_is_refused(install: Any, source: str, reason: str) -> None:
    install(source)
    assert reason in load_registry().broken()["bad"]
    assert command_line("--help").exit_code == 0


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_name_of_ganruns_own_tables_cannot_be_taken(name: str) -> None:
    offers = {
        "ganrun_observers": {name: Ear},
        "ganrun_losses": {"odd": type("Odd", (Plain,), {"slots": {name: Slot("generator")}})},
    }
    for hook, kind in (("ganrun_observers", "observer"), ("ganrun_losses", "loss")):
        plugin = type("Odd", (), {"__name__": "odd", hook: staticmethod(_offering(offers[hook]))})()
        registry = registry_with(plugin)
        assert not {name, "odd"} & set(registry.names(kind))
        assert "take another name" in registry.broken()["odd"]
    plugin = type("Odd", (), {"__name__": "odd", "ganrun_commands": staticmethod(_offering({name: main}))})()
    assert name not in registry_with(plugin).commands()


def _offering(offered: Any) -> Any:
    return hookimpl(lambda: offered)


@pytest.mark.parametrize(
    ("slots", "reason"),
    [
        (["generator"], "whose slots are a list, not a mapping"),
        ({"my-net": Slot("generator")}, "whose slot 'my-net' is not a Python identifier"),
        ({5: Slot("generator")}, "whose slot 5 is not a Python"),
        ({"net": Slot("translator")}, 'whose slot "net" is Slot(kind='),  # type: ignore[arg-type]
        ({"net": "generator"}, "whose slot \"net\" is 'generator'"),
    ],
)
def test_slots_that_no_recipe_could_fill_are_refused(slots: Any, reason: str) -> None:
    plugin = type(
        "Odd",
        (),
        {"__name__": "odd", "ganrun_losses": staticmethod(_offering({"odd": type("Odd", (Plain,), {"slots": slots})}))},
    )()
    registry = registry_with(plugin)
    assert "odd" not in registry.names("loss") and reason in registry.broken()["odd"]


def test_an_observer_that_a_slot_has_the_name_of_leaves_the_table_to_the_slot(tmp_path: Path, caplog: Any) -> None:
    plugin = type(
        "Clash",
        (),
        {
            "__name__": "clash",
            "ganrun_observers": staticmethod(_offering({"generator": type("Clash", (Ear,), {"automatic": True})})),
        },
    )()
    assert train(RECIPE, tmp_path / "run", faulty("data"), plugin).step == 2
    assert 'the observer "generator" is left out' in caplog.text


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"step_endet": observes(lambda self: None)}, 'there is no event "step_endet"; did you mean "step_ended"?'),
        ({"step_ended": lambda self, step: None}, "its method step_ended lacks the decorator @ganrun.observes"),
        ({"step_ended": observes(wrapper=True)(lambda self, step: (yield))}, "step_ended is marked as a wrapper"),
        (
            {"run_ended": observes(lambda self, stat: None)},
            'run_ended takes "stat", and the event has run, status; did',
        ),
    ],
)
def test_an_event_that_would_never_arrive_is_refused(tmp_path: Path, members: Any, reason: str) -> None:
    with pytest.raises(PluginError) as found:
        build(RECIPE, tmp_path / "run", faulty("observer", **members))
    assert "[ear] ear (fake 0): does not fit the events of a run" in str(found.value) and reason in str(found.value)
    assert not (tmp_path / "run").exists()


# ── Commands beside a bad plugin ──────────────────────────────────────────────────────────────────────────

BAD = """
    from typing import Any, Callable
    import click
    from ganrun import Data, DataSpec, Generator, Settings, Split

    class Crashing(Data):
        "Its spec fails."
        def spec(self): raise ZeroDivisionError("no spec")
        def prepare(self): raise ZeroDivisionError("no data")
        def split(self, name): return Split([])

    class Odd(Generator):
        "Its settings have no schema."
        class Settings(Settings):
            model_config = {"arbitrary_types_allowed": True}
            chosen: Callable[[], int]
            "A function."

    class Silent(Generator):
        "Its summary fails."
        @classmethod
        def summary(cls): raise SystemExit("no summary")

    @hookimpl
    def ganrun_data(): return {"crashing": Crashing}

    @hookimpl
    def ganrun_generators(): return {"odd": Odd, "silent": Silent}

    @click.command()
    def explode():
        "Explode."
        raise KeyError("bang")

    class Helpless(click.Command):
        def get_short_help_str(self, limit=45): raise ValueError("no help")

    @hookimpl
    def ganrun_commands(): return {"explode": explode, "helpless": Helpless("helpless")}
"""


@pytest.fixture
def bad(install: Any) -> None:
    install(dedent(BAD))


def test_the_help_is_shown_beside_a_command_whose_own_help_fails(bad: None) -> None:
    shown = command_line("--help")
    assert shown.exit_code == 0 and "explode" in shown.output and "helpless" not in shown.output
    assert 'ganrun_commands offers "helpless", whose help fails: ValueError: no help' in command_line("helples").output


def test_every_other_component_is_listed_beside_a_bad_one(bad: None) -> None:
    shown = command_line("list")
    assert shown.exit_code == 0 and "fashion-mnist" in shown.output
    assert "generator silent (ganrun-bad 1.0): summary fails: SystemExit: no summary (ganrun_bad.py:" in shown.output
    data = command_line("data", "list")
    assert data.exit_code == 0 and "fashion-mnist" in data.output
    assert "data crashing (ganrun-bad 1.0): spec fails: ZeroDivisionError: no spec (ganrun_bad.py:" in data.output


def test_a_data_set_that_fails_is_named_by_data_check(bad: None) -> None:
    checked = command_line("data", "check", "crashing")
    assert checked.exit_code == 2 and "data crashing: prepare fails: ZeroDivisionError: no data (gan" in checked.output
    assert "Traceback" not in checked.output


def test_the_schema_is_written_without_a_component_that_has_none(bad: None, tmp_path: Path) -> None:
    written = command_line("schema", "--output", str(tmp_path / "s.json"))
    assert written.exit_code == 0 and 'the plugin "bad" is broken and left out' in written.stderr
    definitions = json.loads((tmp_path / "s.json").read_text())["$defs"]
    assert "generator.vanilla.mlp" in definitions and "generator.bad.odd" not in definitions
    shown = command_line("show", "generator", "odd")
    assert shown.exit_code == 2 and "generator odd (ganrun-bad 1.0): its description fails: Pydantic" in shown.output


def test_a_command_that_fails_is_named_and_its_traceback_shown_on_demand(
    bad: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = command_line("explode")
    assert failed.exit_code == 1 and failed.output.startswith(
        "error: the command explode (ganrun-bad 1.0): it fails: KeyError: 'bang' (ganrun_bad.py:"
    )
    assert "Traceback" not in failed.output
    monkeypatch.setenv("GANRUN_TRACEBACK", "1")
    told = command_line("explode").output
    assert "Traceback" in told and 'raise KeyError("bang")' in told


def test_a_recipe_of_others_trains_beside_a_bad_plugin(bad: None, tmp_path: Path) -> None:
    overrides = ["train.steps=1", "train.batch_size=4", "mlflow=false", "samples=false", "metric=[]", "target=false"]
    options = [part for each in overrides for part in ("--set", each)]
    trained = command_line("recipes/quickstart.toml", "--output", str(tmp_path / "run"), "--device", "cpu", *options)
    assert trained.exit_code == 0, trained.output
    refused = command_line("check", "recipes/quickstart.toml", "--set", "data={use='crashing'}")
    assert (
        refused.exit_code == 2 and "[data] crashing (ganrun-bad 1.0): spec fails: ZeroDivisionError" in refused.output
    )


class Lost(Tracker):
    """Fails."""

    find = runs_of = experiments = fail


class Known(Tracker):
    """Knows one run."""

    def find(self, run_id: str) -> Any:
        return Path("runs/one") if run_id == "one" else "two" if run_id == "two" else None

    def runs_of(self, experiment: str) -> Any:
        return None

    def experiments(self) -> Any:
        return []


def test_a_broken_tracker_hides_no_run_that_another_knows() -> None:
    offered = {"lost": Lost(), "known": Known(), "none": 5}
    registry = registry_with(
        type("Trackers", (), {"__name__": "a", "ganrun_trackers": staticmethod(_offering(offered))})()
    )
    assert locate("one", registry) == Path("runs/one")
    with pytest.raises(RequestError) as found:
        locate("three", registry)
    assert "the tracker lost (a 0): find fails: ZeroDivisionError: in a plugin (tests/core/test_frames.py:" in str(
        found.value
    )
    with pytest.raises(RequestError, match=r"the tracker known .*: find returns 'two', not a path or None"):
        locate("two", registry)
    assert 'ganrun_trackers offers "none", which is not a ganrun.Tracker' in registry.broken()["a"]
