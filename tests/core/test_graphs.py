"""Phases captured as graphs, by a stand-in on the CPU: what they compute, and what is not captured."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import BASE, FAMILIES
from torch import Tensor, nn

import ganrun
from ganrun import Generator, Optimizer, OptimizerSettings, Terms, hookimpl
from ganrun.base.ranks import Ranks
from ganrun.rundir.checkpoints import load_checkpoint, save_checkpoint
from ganrun.testing import RecordedGraph, assert_conforms, build, train
from ganrun.training import graphs
from ganrun.training.held import HostNumbers, drawn_on_host
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.step import build_step

STEPS = BASE["train"]["steps"]
"""Of the schedules."""

FALL_BACKS = {
    "r3gan": "the optimizer of the (discriminator|generator) follows a schedule of betas, which has to end first",
    "lion": 'neither fused nor has the setting "capturable"',
}
"""Families that are not captured, or not from the start, and what the line says."""

TOLERANCES = {"wgan": 1e-5}
"""Of families that are not equal bit for bit. RMSprop computes in another order where it is captured."""


class Counted(RecordedGraph):
    """Counts what is replayed."""

    replays = 0

    def replay(self) -> None:
        Counted.replays += 1
        super().replay()


@pytest.fixture(autouse=True)
def capturable_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch captures RMSprop on a GPU alone."""
    module = sys.modules["torch.optim.rmsprop"]
    monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cuda", "cpu"])
    monkeypatch.setattr(graphs, "WARM_UP", 2)
    monkeypatch.setattr(Counted, "replays", 0)


def pools() -> type[RecordedGraph]:
    return Counted


def trained(run: Run, *, captured: bool, steps: int) -> dict[str, Tensor]:
    """Everything that a checkpoint holds after so many steps, and the means."""
    measurements = Measurements()
    take_step = build_step(run, measurements, pools if captured else None)
    while run.step < steps:
        take_step()
    return left(run, measurements)


def left(run: Run, measurements: Measurements) -> dict[str, Tensor]:
    weights = {
        f"{file}/{name}": each for file, tensors in run.state.weights().items() for name, each in tensors.items()
    }
    return {**weights, **dict(numbers("progress", run.state.progress())), **dict(numbers("mean", measurements.read()))}


def numbers(name: str, tree: Any) -> Iterator[tuple[str, Tensor]]:
    """The numbers of a tree, each under its path."""
    if isinstance(tree, Mapping):
        for key, each in tree.items():
            yield from numbers(f"{name}/{key}", each) if key != "seconds" else ()
    elif isinstance(tree, list | tuple):
        yield from numbers(name, dict(enumerate(tree)))
    elif isinstance(tree, Tensor | int | float):
        yield name, torch.as_tensor(tree)


def check_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance, equal_nan=True)
    for name, value in one.items():
        close(value, other[name], msg=lambda text, at=name: f"{at}: {text}")


def made(tables: Mapping[str, Any], folder: Path, *plugins: object) -> Run:
    run = build(tables, folder, *plugins)
    run.begin()
    return run


# ── Every family ──────────────────────────────────────────────────────────────────────────────────────────

COVERED = (
    "gan, mirrored",
    "gan, clipped gradients",
    "gan, bf16",
    "gan, dropout",
    "gan, averaged dcgan",
    "lsgan, dcgan",
    "wgan",
    "wgan-gp",
    "flow matching with classes",
    "hinge",
    "cgan",
    "acgan",
    "sagan",
    "infogan",
    "vae, beta",
    "stylegan2",
    "progressive",
    "r3gan",
    "penalties on gradients",
    "penalties on outputs",
    "lazy penalties",
    "penalties on the generator",
    "diffaugment",
    "ada",
    "vq-vae",
    "cyclegan",
    "unrolled",
    "lion",
    "growing",
)
"""The others have the same phases with other networks. They were found equal, too."""

LONGER = {"stylegan2": 8, "lazy penalties": 8, "progressive": 8, "growing": 6, "r3gan": 6}
"""Steps of those whose phases are lazy, or whose structure changes."""


@pytest.mark.parametrize("name", COVERED)
def test_a_family_trains_as_it_does_without_graphs(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    family, steps = FAMILIES[name], LONGER.get(name, 5)
    run = made(family.recipe(steps=steps), tmp_path / "run", *family.plugins)
    start = copy.deepcopy(run.state.checkpoint())
    eager = copy.deepcopy(trained(run, captured=False, steps=steps))
    caplog.clear()
    run.restore(start)
    check_equal(trained(run, captured=True, steps=steps), eager, TOLERANCES.get(name, 0.0))
    lines = said(caplog)
    assert len(lines) == (2 if name in FALL_BACKS else 0)
    assert all(re.search(FALL_BACKS[name], line) for line in lines)
    assert bool(Counted.replays) == (name != "lion")


MLP = {"use": "mlp", "hidden": [8]}
GAN = {**BASE, "loss": {"use": "gan", "latent_size": 4}, "generator": MLP, "discriminator": MLP}
EVERYTHING = {
    **GAN,
    "loss": {"use": "wgan-gp", "latent_size": 4},
    "train": {
        **BASE["train"],
        "steps": 14,
        "accumulate": 2,
        "horizontal_flip": True,
        "repeat": {"discriminator": 5, "generator": 2},
    },
    "optimizer": {"clip_norm": 0.5, "schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.01},
    "ema": {"half_life": {"schedule": "linear", "start": 0.0, "end": 4.0}},
    "stage": [{"from": 4, "batch_size": 12}, {"from": 9, "lr": 0.01, "reset_optimizers": True}],
}
"""Repeats, parts of a batch, clipping, a schedule with a warm-up, and stages of another size and rate, with a reset."""


def test_everything_that_changes_with_the_step_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    eager = trained(made(EVERYTHING, tmp_path / "eager"), captured=False, steps=14)
    run = made(EVERYTHING, tmp_path / "run")
    captured = trained(run, captured=True, steps=14)
    check_equal(captured, eager)
    assert not said(caplog)
    assert Counted.replays == 2 * (14 - 3 * 2), (
        "each key has its own graph of each phase, and a replay does all repeats"
    )
    assert {"mean/grad/generator", "mean/loss/critic.penalty"} <= captured.keys()


@pytest.mark.parametrize("use", ["adamw", "sgd"])
def test_an_optimizer_is_followed(use: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"momentum": 0.9} if use == "sgd" else {}
    tables = {**GAN, "optimizer": {"use": use, "lr": 0.01, "schedule": "linear", **more}}
    check_equal(*(trained(made(tables, tmp_path / str(on)), captured=on, steps=5) for on in (True, False)))
    assert not said(caplog) and Counted.replays > 0


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines about what is not captured."""
    return [record.getMessage() for record in caplog.records if "captured" in record.getMessage()]


# ── Checkpoints ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("use", ["adam", "rmsprop"])
def test_a_run_goes_on_from_a_checkpoint_with_graphs_or_without(use: str, tmp_path: Path) -> None:
    tables = {**GAN, "optimizer": {"use": use, "schedule": "linear", "lr": 0.003}}
    whole = trained(made(tables, tmp_path / "whole"), captured=False, steps=8)
    for before, after in ((True, True), (True, False), (False, True)):
        run = made(tables, tmp_path / f"{before}, then {after}")
        trained(run, captured=before, steps=4)
        (group,) = run.state.progress()["optimizers"]["generator"]["param_groups"]
        assert group["lr"] == pytest.approx(0.003 * (1 - 3 / STEPS), rel=1e-12) and group["capturable"] is False
        folder = run.directory.path / "checkpoint"
        save_checkpoint(run.state.checkpoint(), folder)
        other = made(tables, tmp_path / f"after {before}, {after}")
        other.restore(load_checkpoint(folder))
        found = trained(other, captured=after, steps=8)
        kept = {name: value for name, value in found.items() if not name.startswith("mean")}
        check_equal(kept, {name: whole[name] for name in kept}, 0.0 if use == "adam" else 1e-6)


def test_a_checkpoint_that_is_restored_in_a_running_run_is_what_its_graphs_work_on(tmp_path: Path) -> None:
    def result(captured: bool) -> dict[str, Tensor]:
        run = made(GAN, tmp_path / str(captured))
        take_step = build_step(run, Measurements(), pools if captured else None)
        for _ in range(4):
            take_step()
        kept = copy.deepcopy(run.state.checkpoint())
        for _ in range(2):
            take_step()
        run.restore(kept)
        for _ in range(5):
            take_step()
        return left(run, Measurements())

    check_equal(result(True), result(False))


# ── What is not captured ──────────────────────────────────────────────────────────────────────────────────


class Reading(ganrun.AdversarialLoss):
    """Looks at values in its generator's phase."""

    latent_size = 4

    def discriminator(self, nets: Any, batch: Any) -> Terms:
        return Terms({"real": nets.discriminator(batch.images).square().mean()})

    def generator(self, nets: Any, batch: Any) -> Terms:
        found = nets.discriminator(nets.generator(batch.latents)).square().mean()
        return Terms({"fake": found * 2 if found.item() > 0.5 else found})


class CountingLoss(Reading):
    """Counts its calls."""

    calls = 0

    def generator(self, nets: Any, batch: Any) -> Terms:
        self.calls = self.calls + 1
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents)).square().mean() * self.calls})


class Rebinding(Generator):
    """Assigns a new tensor to a buffer in every call."""

    class Settings(ganrun.Settings):
        where: str = "forward"
        """Where; anything else for a network that does not."""

    def __init__(self, settings: Any, spec: ganrun.NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layer = nn.Linear(*spec.inputs, prod(spec.output_shape))
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, latents: Tensor) -> Tensor:
        if self.settings.where == "forward" and self.training:
            self.mean = self.mean * 0.9 + latents.mean().detach()
        return (self.layer(latents) + self.mean).tanh().unflatten(1, self.spec.outputs)


class _Decaying(torch.optim.SGD):
    """Divides its rate by a count that it keeps on the host, or keeps the last gradient in a new tensor."""

    def __init__(self, parameters: Any, lr: float, keeps: str) -> None:
        super().__init__(parameters, lr=lr)
        self.keeps = keeps
        self.param_groups[0]["capturable"] = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for weight in self.param_groups[0]["params"]:
            state = self.state[weight]
            state["count"] = state.get("count", 0) + (self.keeps == "count")
            move = weight.grad + state.get("last", torch.zeros_like(weight))
            weight.sub_(self.param_groups[0]["lr"] * move / (1 + state["count"]))
            if self.keeps == "last":
                state["last"] = weight.grad.clone()


class Decaying(Optimizer):
    """Breaks the rules of capture."""

    class Settings(OptimizerSettings):
        keeps: str = "count"
        """What it keeps."""

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        return _Decaying(parameters, self.settings.lr, self.settings.keeps)


class Plugin:
    """Offers them."""

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {"reading": Reading, "counting": CountingLoss}

    @hookimpl
    def ganrun_generators(self) -> dict[str, type[Generator]]:
        return {"rebinding": Rebinding}

    @hookimpl
    def ganrun_optimizers(self) -> dict[str, type[Optimizer]]:
        return {"decaying": Decaying}


FALLING = {"schedule": "linear", "start": 0.9, "end": 0.99, "steps": 100}

REASONS = {
    "a read": ({"loss": {"use": "reading"}}, r'"generator" .*the host reads a value.*test_graphs.py:\d+', 1),
    "a number": ({"loss": {"use": "counting"}}, "the loss counting changes its calls, a number of the host", 2),
    "a buffer": (
        {"generator": {"use": "rebinding"}},
        "the generator assigns a new tensor to its mean; change it in place",
        2,
    ),
    "a count": (
        {"optimizer": {"use": "decaying"}},
        "optimizer of the (discriminator|generator) changes its count, a number of the host",
        2,
    ),
    "a state": (
        {"optimizer": {"use": "decaying", "keeps": "last"}},
        "optimizer of the (discriminator|generator) assigns a new tensor to its last",
        2,
    ),
    "a schedule": (
        {"optimizer": {"betas": [0.0, FALLING]}},
        "the optimizer of the (discriminator|generator) follows a schedule of betas, which has to end first",
        2,
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_be_captured_is_executed_as_it_is_and_one_line_says_why(
    reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more, line, count = REASONS[reason]
    tables = {**GAN, **more}
    eager = trained(made(tables, tmp_path / "eager", Plugin()), captured=False, steps=7)
    captured = trained(made(tables, tmp_path / "run", Plugin()), captured=True, steps=7)
    check_equal(captured, eager)
    found = said(caplog)
    assert len(found) == count and all(re.search(line, each) for each in found), found
    assert bool(Counted.replays) == (count == 1), "other phases are captured"


def test_a_buffer_that_is_assigned_between_steps_ends_the_replays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def result(captured: bool) -> dict[str, Tensor]:
        run = made({**GAN, "generator": {"use": "rebinding", "where": "nowhere"}}, tmp_path / str(captured), Plugin())
        module = run.state.slots["generator"].module
        take_step = build_step(run, Measurements(), pools if captured else None)
        for step in range(6):
            module.mean = module.mean + 0.1 if step == 4 else module.mean
            take_step()
        return left(run, Measurements())

    check_equal(result(True), result(False))
    assert len(said(caplog)) == 2 and "the generator assigns a new tensor to its mean" in said(caplog)[0]
    assert Counted.replays == 2 * 2


class Fading(Reading):
    """Sets a number of the host in `begin`, and does not return it."""

    def begin(self, step: int, steps: int) -> None:
        self.share = step / steps

    def generator(self, nets: Any, batch: Any) -> Terms:
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents)).square().mean() + self.share})


class Structured(Fading):
    """Returns it."""

    def begin(self, step: int, steps: int) -> float:
        super().begin(step, steps)
        return self.share


def test_the_kit_finds_what_a_graph_would_keep() -> None:
    with pytest.raises(AssertionError, match=r"generator: captured as a graph, .* it gives other values of \['fake'\]"):
        assert_conforms("loss", Fading)
    with pytest.raises(AssertionError, match=r"changes self\.calls"):
        assert_conforms("loss", CountingLoss)
    assert_conforms("loss", Structured)


def test_what_a_gpu_run_does_on_the_host_is_seen() -> None:
    """By values alone, so that it needs no GPU."""
    cuda = torch.device("cuda")
    for draws, names in ((lambda: torch.rand(2), 1), (lambda: torch.zeros(2), 0)):
        with drawn_on_host(cuda) as drawn:
            draws()
        assert len(drawn) == names
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.RMSprop([weight])  # it counts on the host unless it is capturable
    found = []
    for _ in range(2):
        weight.grad = torch.ones(2)
        optimizer.step()
        found.append(HostNumbers({"optimizer": optimizer}, cuda))
    assert "the optimizer changes its step, a number of the host" in (found[0].fault(found[1]) or "")
    assert found[1].fault(HostNumbers({"optimizer": optimizer}, cuda)) is None


def test_graphs_can_be_turned_off_and_do_not_decide_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = {**GAN, "train": {**BASE["train"], "graphs": False}}
    trained(made(tables, tmp_path / "run"), captured=True, steps=4)
    assert not Counted.replays and not said(caplog)
    train({**GAN, "train": {**BASE["train"], "steps": 1}}, tmp_path / "old")
    build({**tables, "train": {**tables["train"], "steps": 2}}, tmp_path / "old", resume=True)


def test_several_ranks_are_not_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graphs, "ranks", lambda: Ranks(0, 2))
    trained(made(GAN, tmp_path / "run"), captured=True, steps=4)
    assert said(caplog) == ["with several ranks, phases are not captured as graphs"] and not Counted.replays


def test_a_cpu_has_no_graphs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made(GAN, tmp_path / "run")
    trained(run, captured=False, steps=4)
    assert graphs.graphs_of(run) is None and not said(caplog)
    assert isinstance(run.state.slots["generator"].optimizer.param_groups[0]["lr"], float)
