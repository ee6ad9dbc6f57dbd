"""`[train] compile`: networks compiled by torch.compile, and the messages if that does not work."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganrun import Generator, NetworkSpec, View, hookimpl
from ganrun.base.errors import ContractError
from ganrun.testing import build
from ganrun.training import compiling
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.step import build_step

MLP = {"use": "mlp", "hidden": [8]}
CONV = {"use": "conv", "feature_maps": 4, "stages": 1}

FAMILIES: dict[str, dict[str, Any]] = {
    "gan": {"loss": {"use": "gan", "latent_size": 4}, "generator": MLP, "discriminator": MLP},
    "wgan-gp": {"loss": {"use": "wgan-gp", "latent_size": 4}, "generator": CONV, "discriminator": CONV},
    "vae": {"loss": {"use": "vae", "latent_size": 4}, "generator": CONV, "encoder": CONV},
}


def recipe(family: str, **settings: Any) -> dict[str, Any]:
    train = {"steps": 9, "batch_size": 4, "device": "cpu", "compile": True, **settings}
    return {
        "name": "compiled",
        "train": train,
        "data": {"use": "digits", "size": 8},
        **FAMILIES[family],
        **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
    }


def after(steps: int, tables: dict[str, Any], output: Path) -> Run:
    run = build(tables, output, Plugin())
    take_step = build_step(run, Measurements())
    for _ in range(steps):
        take_step()
    return run


def weights(run: Run) -> Tensor:
    return torch.cat([p.detach().flatten() for slot in run.state.slots.values() for p in slot.module.parameters()])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What ganrun has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "ganrun"]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that are compiled, by a compiler that only executes them."""
    found: list[torch.fx.GraphModule] = []
    compile_graph = compiling._Way._compile

    def noted(self: Any, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.append(graph)
        return compile_graph(self, graph, inputs)

    monkeypatch.setattr(compiling._Way, "_compile", noted)
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    return found


@pytest.mark.parametrize(
    ("family", "count", "precision"), [("gan", 4, "f32"), ("gan", 4, "bf16"), ("wgan-gp", 2, "bf16"), ("vae", 2, "f32")]
)
def test_compiled_networks_train_as_they_are(
    tmp_path: Path,
    graphs: list[Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    count: int,
    precision: str,
) -> None:
    """wgan-gp's critic is compiled in the generator's phase alone: its own phase differentiates twice."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")  # with compiled gradients
    compiled = after(3, recipe(family, precision=precision), tmp_path / "compiled")
    assert len(graphs) == count and said(caplog) == []
    eager = after(3, recipe(family, precision=precision, compile=False), tmp_path / "eager")
    assert len(graphs) == count
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-4, atol=1e-5)


# ── Where it does not work ────────────────────────────────────────────────────────────────────────────────


class Small(Generator):
    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layer = nn.Linear(spec.inputs[0], 64)

    def forward(self, latents: Tensor, **conditions: Tensor) -> Tensor:
        return self.layer(latents).view(-1, 1, 8, 8).tanh()


class Breaking(Small):
    """Looks at a value."""

    def forward(self, latents: Tensor, **conditions: Tensor) -> Tensor:
        if float(latents.abs().sum()) < 0:
            raise ValueError
        return super().forward(latents)


class Counting(Small):
    """Reads a number of Python that follows the step, where a tensor would do."""

    def begin(self, step: int, steps: int) -> None:
        self.scale = 1 + step / 1000

    def forward(self, latents: Tensor, **conditions: Tensor) -> Tensor:
        return super().forward(latents) * self.scale


class Growing(Small):
    """Has another structure from step 3 on."""

    def begin(self, step: int, steps: int) -> str:
        self.is_late = step >= 3
        return "late" if self.is_late else "early"

    def forward(self, latents: Tensor, **conditions: Tensor) -> Tensor:
        return super().forward(latents) * (2 if self.is_late else 1)


class Failing(Small):
    """Fails in the second call of the run, in training mode."""

    def forward(self, latents: Tensor, **conditions: Tensor) -> Tensor:
        if self.training and latents.shape[0] == 7:
            raise ValueError("the author's own mistake")
        return super().forward(latents)


class Plugin:
    @hookimpl
    def ganrun_generators(self) -> dict[str, type[Generator]]:
        return {"breaking": Breaking, "counting": Counting, "growing": Growing, "failing": Failing}


def of(generator: str, **settings: Any) -> dict[str, Any]:
    return recipe("gan", **settings) | {"generator": {"use": generator}}


def test_a_graph_break_is_told_once_and_the_network_trains(
    tmp_path: Path, graphs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    compiled = after(3, of("breaking"), tmp_path / "compiled")
    (line,) = said(caplog)
    assert (
        "compiled.toml:" in line and "[generator] breaking (Plugin 0): torch.compile cannot handle the network" in line
    )
    assert len(graphs) == 2, "those of the discriminator"
    torch.testing.assert_close(weights(compiled), weights(after(3, of("breaking", compile=False), tmp_path / "eager")))


def test_a_network_that_is_compiled_in_each_step_is_told_and_then_left(
    tmp_path: Path, graphs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    compiled = after(9, of("counting"), tmp_path / "compiled")
    again, left = said(caplog)
    assert "[generator] counting (Plugin 0): the network was compiled again in step 3" in again
    assert left.endswith("it was compiled 6 times, as something that it reads changes from call to call")
    assert len(graphs) < 2 + 2 * compiling.MOST_GRAPHS
    torch.testing.assert_close(weights(compiled), weights(after(9, of("counting", compile=False), tmp_path / "eager")))


def test_a_new_structure_and_a_new_batch_size_are_compiled_without_a_word(
    tmp_path: Path, graphs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    stages = {"stage": [{"from": 6, "batch_size": 6}]}
    compiled = after(8, of("growing") | stages, tmp_path / "compiled")
    assert said(caplog) == [] and len(graphs) == 12, "three times what a step needs"
    eager = after(8, of("growing", compile=False) | stages, tmp_path / "eager")
    torch.testing.assert_close(weights(compiled), weights(eager))


def test_an_authors_error_is_the_authors(tmp_path: Path, graphs: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    run = build(of("failing") | {"stage": [{"from": 1, "batch_size": 7}]}, tmp_path / "run", Plugin())
    take_step = build_step(run, Measurements())
    take_step()
    with pytest.raises(ContractError, match=r"failing .*ValueError: the author's own mistake"):
        take_step()
    assert said(caplog) == []


def test_a_phase_that_hides_that_it_differentiates_twice_is_named(
    tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    run = build(recipe("wgan-gp"), tmp_path / "run")
    run.phases = tuple(replace(phase, second_order=False) for phase in run.phases)
    with pytest.raises(ContractError, match=r'\[loss\] wgan-gp .*phase "critic" fails: .*double backward'):
        build_step(run, Measurements())()


def test_parts_and_methods_are_compiled_and_given_weights_are_not(graphs: list[Any]) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mapping = nn.Linear(4, 4)

        def twice(self, latents: Tensor, *, at: float = 1.0) -> Tensor:
            return self.mapping(self.mapping(latents)) * at

    compiler = compiling.Compiler(lambda: (0, None), 1)
    module, latents = Parts(), torch.randn(2, 4)
    view = View(module, call=compiler.calls(module, "here"))
    assert torch.allclose(view.mapping(latents), module.mapping(latents)) and len(graphs) == 1
    assert torch.allclose(view.twice(latents, at=2.0), 2 * module.twice(latents)) and len(graphs) == 2
    assert torch.allclose(view.given(view.weights()).mapping(latents), module.mapping(latents)) and len(graphs) == 2
    with torch.no_grad():
        view.mapping(latents)
        view.mapping(torch.randn(2, 4))
    assert len(graphs) == 3, "without gradients it is another graph"


def test_a_network_that_is_called_in_many_ways_is_left(
    graphs: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "MOST_WAYS", 3)
    module = nn.Linear(2, 2)
    view = View(module, call=compiling.Compiler(lambda: (0, None), 1).calls(module, "here"))
    for count in range(1, 7):
        assert view(torch.randn(count, 2)).shape == (count, 2)
    (line,) = said(caplog)
    assert line.endswith("it is called in more than 16 ways, with other shapes") and len(graphs) == compiling.MOST_WAYS


# ── The real one ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_inductor_computes_what_the_network_computes(caplog: pytest.LogCaptureFixture) -> None:
    """In bf16, as a view has it. The compiler is slow, so this is one small graph."""
    module, latents = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), torch.randn(2, 4)
    found = []
    for call in (None, compiling.Compiler(lambda: (0, None), 1).calls(module, "here")):
        module.zero_grad()
        output = View(module, torch.bfloat16, call=call)(latents)
        torch.autograd.backward(output.square().sum())
        found.append((output.detach(), module[0].weight.grad.clone()))
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-2)
    assert said(caplog) == []


def test_the_compiler_is_imported_by_those_who_compile_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes more than a second."""
    monkeypatch.delitem(sys.modules, compiling.__name__)
    after(1, recipe("gan", compile=False), tmp_path / "run")
    assert compiling.__name__ not in sys.modules
