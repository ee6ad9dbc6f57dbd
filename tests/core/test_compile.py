"""`[train] compile`: networks compiled by torch.compile, and what is said where that does not work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

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


def after(steps: int, tables: dict[str, Any], output: Path, *plugins: object) -> Run:
    run = build(tables, output, *plugins)
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
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    return found


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize(("family", "count"), [("gan", 4), ("wgan-gp", 2), ("vae", 2)])
def test_compiled_networks_train_as_they_are(
    tmp_path: Path, graphs: list[Any], caplog: pytest.LogCaptureFixture, family: str, count: int, precision: str
) -> None:
    """wgan-gp's critic is compiled in the generator's phase alone: its own phase differentiates twice."""
    compiled = after(3, recipe(family, precision=precision), tmp_path / "compiled")
    assert len(graphs) == count and said(caplog) == []
    eager = after(3, recipe(family, precision=precision, compile=False), tmp_path / "eager")
    assert len(graphs) == count
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-4, atol=1e-5)
