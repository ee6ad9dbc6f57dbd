"""Phases captured as CUDA graphs, against the same steps launched one operation at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.test_graphs import COVERED, FALL_BACKS, Plugin, check_equal, left, made, said
from tests.families import FAMILIES
from torch import Tensor

from ganrun.rundir.checkpoints import load_checkpoint, save_checkpoint
from ganrun.training.graphs import CudaGraph
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.step import build_step

WARM, STEPS = 12, 16
"""Steps after which every phase is captured, also one of every third step; and all of them."""

TOLERANCE = 1e-4
"""Relative and absolute. Kernels and random numbers are the same; a sum may be taken in another order, and learning
rates are rounded to float32 where steps are captured. Adam's ε is large, so that a gradient of rounding errors alone,
as of a bias before batch norm, moves nothing."""

MAIN = [name for name in COVERED if name not in FALL_BACKS]


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kernels each time."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture(autouse=True)
def replays(monkeypatch: pytest.MonkeyPatch) -> list[CudaGraph]:
    """The graphs that were replayed, once for each time."""
    replayed: list[CudaGraph] = []
    replay = CudaGraph.replay

    def noted(graph: CudaGraph) -> None:
        replayed.append(graph)
        replay(graph)

    monkeypatch.setattr(CudaGraph, "replay", noted)
    return replayed


def tables(name: str, device: torch.device, **train: Any) -> dict[str, Any]:
    found = FAMILIES[name].recipe(device=str(device), steps=STEPS, **train)
    return {**found, "optimizer": {"eps": 1e-3, **found.get("optimizer", {})}}


def trained(recipe: Mapping[str, Any], folder: Path, *plugins: object) -> dict[str, Tensor]:
    run, measurements = made(recipe, folder, *plugins), Measurements()
    take(run, build_step(run, measurements), STEPS)
    return on_host(left(run, measurements))


def take(run: Run, take_step: Any, until: int) -> None:
    while run.step < until:
        take_step()


def on_host(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything of it but the settings of optimisers, which say nothing of the result."""
    return {name: value.detach().cpu().clone() for name, value in found.items() if "param_groups" not in name}


@pytest.mark.parametrize("name", MAIN)
def test_a_family_is_captured_and_trains_as_without_graphs(
    name: str, gpu: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture, replays: list[CudaGraph]
) -> None:
    plugins = FAMILIES[name].plugins
    eager = trained(tables(name, gpu, graphs=False), tmp_path / "eager", *plugins)
    assert not replays
    captured = trained(tables(name, gpu), tmp_path / "captured", *plugins)
    assert not said(caplog) and len(replays) > STEPS // 2
    check_equal(captured, eager, 2e-2 if "bf16" in name else TOLERANCE)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("name", MAIN)
def test_a_step_reads_nothing_from_the_gpu(name: str, graphs: bool, gpu: torch.device, tmp_path: Path) -> None:
    run = made(tables(name, gpu, graphs=graphs), tmp_path / "run", *FAMILIES[name].plugins)
    take_step = build_step(run, Measurements())
    take(run, take_step, WARM)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(run, take_step, STEPS)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_capture_that_fails_leaves_the_random_stream_the_memory_and_other_phases_in_order(
    gpu: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture, replays: list[CudaGraph]
) -> None:
    recipe = {**tables("gan, mirrored", gpu), "loss": {"use": "reading"}}
    off = {**recipe, "train": {**recipe["train"], "graphs": False}}
    eager = trained(off, tmp_path / "eager", Plugin())
    captured = trained(recipe, tmp_path / "captured", Plugin())
    (line,) = said(caplog)
    assert '"generator" is not captured' in line
    assert len(replays) > STEPS // 2, "the other phase is captured, once more after the failure"
    check_equal(captured, eager, TOLERANCE)
    torch.cuda.empty_cache()
    assert torch.rand(8, device=gpu).shape == (8,)


@pytest.mark.parametrize("use", ["adam", "rmsprop", "sgd"])
def test_a_run_goes_on_from_a_checkpoint_with_graphs_or_without(use: str, gpu: torch.device, tmp_path: Path) -> None:
    more = {"momentum": 0.9} if use == "sgd" else {"eps": 1e-3}
    recipe = {**tables("gan, mirrored", gpu), "optimizer": {"use": use, "schedule": "linear", "lr": 1e-3, **more}}
    whole = trained(recipe, tmp_path / "whole")
    for before, after in ((True, True), (True, False), (False, True)):
        first = made({**recipe, "train": {**recipe["train"], "graphs": before}}, tmp_path / f"{before}, then {after}")
        take(first, build_step(first, Measurements()), STEPS // 2)
        folder = first.directory.path / "checkpoint"
        save_checkpoint(first.state.checkpoint(), folder)
        second = made({**recipe, "train": {**recipe["train"], "graphs": after}}, tmp_path / f"after {before}, {after}")
        second.restore(load_checkpoint(folder))
        measurements = Measurements()
        take(second, build_step(second, measurements), STEPS)
        found = {name: value for name, value in on_host(left(second, measurements)).items() if "mean" not in name}
        check_equal(found, {name: whole[name] for name in found}, TOLERANCE)


def test_another_gpu_than_the_current_one_is_captured(
    gpus: list[torch.device], tmp_path: Path, caplog: pytest.LogCaptureFixture, replays: list[CudaGraph]
) -> None:
    name = "gan, clipped gradients"
    first, second = (trained(tables(name, gpu), tmp_path / str(gpu.index)) for gpu in gpus[:2])
    assert not said(caplog) and len(replays) > STEPS and torch.cuda.current_device() == 0
    check_equal(second, first, TOLERANCE)
