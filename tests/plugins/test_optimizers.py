"""Optimisers and schedules: textbook steps and values, torch's own results, and a third party's through the same
interface."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, strategies as st
from pydantic import ValidationError
from torch import nn

import ganrun
from ganrun import Optimizer, OptimizerSettings, Schedule, hookimpl, load_registry
from ganrun.testing import assert_conforms, train

CPU = torch.device("cpu")
REGISTRY = load_registry()
OPTIMIZERS = REGISTRY.names("optimizer")
SCHEDULES = REGISTRY.names("schedule")


def optimizer(use: str, *, schedule: str = "constant", **settings: object) -> Optimizer:
    cls = REGISTRY.find("optimizer", use).cls
    rule = REGISTRY.find("schedule", schedule).cls
    return cls(cls.Settings(**settings), rule(rule.Settings()))


def factors(rule: Optimizer, steps: int) -> list[float]:
    return [rule.learning_rate(step, steps) / rule.settings.lr for step in range(steps)]


def test_what_is_built_in() -> None:
    assert OPTIMIZERS == ["adam", "adamw", "rmsprop", "sgd"]
    assert SCHEDULES == ["constant", "cosine", "linear"]


@pytest.mark.parametrize(
    ("kind", "name"), [*(("optimizer", each) for each in OPTIMIZERS), *(("schedule", each) for each in SCHEDULES)]
)
def test_each_conforms(kind: str, name: str) -> None:
    assert_conforms(kind, REGISTRY.find(kind, name).cls)


# ── Schedules ─────────────────────────────────────────────────────────────────────────────────────────────


def test_schedules_take_their_textbook_values() -> None:
    linear, cosine = optimizer("adam", schedule="linear"), optimizer("adam", schedule="cosine", warmup_steps=10)
    assert [factors(linear, 100)[step] for step in (0, 25, 99)] == pytest.approx([1.0, 0.75, 0.01])
    assert [factors(cosine, 110)[step] for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [factors(cosine, 111)[step] for step in (10, 60)] == pytest.approx([1.0, 0.5], abs=0.01)
    assert cosine.learning_rate(110, 110) == pytest.approx(0.0, abs=1e-12)
    constant = optimizer("adam")
    assert not constant.varies and constant.learning_rate(50, 100) == constant.settings.lr
    assert linear.varies and optimizer("adam", warmup_steps=1).varies


@pytest.mark.parametrize(("use", "middle"), [("linear", 0.625), ("cosine", 0.625), ("cosine", 0.890165)])
def test_a_schedule_may_end_above_0_and_before_the_run_does(use: str, middle: float) -> None:
    rule = REGISTRY.find("schedule", use).cls
    schedule = rule(rule.Settings(end=0.25, until=0.4))
    at = 0.1 if middle > 0.8 else 0.2  # ¼ + ¾ · ½ (1 + cos ¼π) = 0.890165
    found = [schedule.factor(progress) for progress in (0.0, at, 0.4, 0.7, 0.99)]
    assert found == pytest.approx([1.0, middle, 0.25, 0.25, 0.25], abs=1e-6)


@pytest.mark.parametrize(("use", "middle"), [("linear", 0.5), ("cosine", 0.5), ("cosine", 0.853553)])
def test_a_schedule_may_begin_to_fall_later(use: str, middle: float) -> None:
    rule = REGISTRY.find("schedule", use).cls
    schedule = rule(rule.Settings(after=0.5, until=0.9))
    at = 0.6 if middle > 0.8 else 0.7  # ½ (1 + cos ¼π) = 0.853553
    found = [schedule.factor(progress) for progress in (0.0, 0.25, 0.5, at, 0.9, 0.99)]
    assert found == pytest.approx([1.0, 1.0, 1.0, middle, 0.0, 0.0], abs=1e-6)
    with pytest.raises(ValidationError, match="after is less"):
        rule.Settings(after=0.5, until=0.5)


@given(st.sampled_from(SCHEDULES), st.integers(0, 50), st.integers(1, 200))
def test_a_schedule_never_exceeds_the_rate_and_never_rises_after_warm_up(
    schedule: str, warmup: int, steps: int
) -> None:
    found = factors(optimizer("adam", schedule=schedule, warmup_steps=warmup), steps)
    assert all(0 < factor <= 1 for factor in found)
    assert all(a >= b for a, b in itertools.pairwise(found[warmup:]))


# ── Optimisers ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_a_parabola(name: str) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    built = optimizer(name, lr=0.05).build([weight], CPU)
    for _ in range(300):
        built.zero_grad()
        weight.square().sum().backward()
        built.step()
    assert weight.abs().max() < 0.1


def test_sgd_takes_the_textbook_step() -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    built = optimizer("sgd", lr=0.1, weight_decay=0.5).build([weight], CPU)
    (4 * weight).sum().backward()
    built.step()
    assert weight.item() == pytest.approx(3.0 - 0.1 * (4 + 0.5 * 3.0))


TORCH = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}
ONLY_HERE = ("schedule", "warmup_steps", "clip_norm")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_equals_torchs_own_bit_for_bit_also_after_its_state_was_restored(name: str) -> None:
    rule = optimizer(name, lr=0.03, weight_decay=0.1)
    settings = rule.settings.model_dump(exclude=set(ONLY_HERE))
    form = {"foreach": True} if name == "rmsprop" else {"fused": True}

    def trajectory(make) -> torch.Tensor:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(7, 5))
        built = make(weight)
        for step in range(6):
            if step == 3:
                state = built.state_dict()
                built = make(weight)
                built.load_state_dict(state)
            (weight.sin() * torch.randn(7, 5)).sum().backward()
            built.step()
            weight.grad = None
        return weight.detach()

    ours = trajectory(lambda weight: rule.build([weight], CPU))
    theirs = trajectory(lambda weight: TORCH[name]([weight], **settings, **form))
    assert torch.equal(ours, theirs)


def test_a_step_does_not_import_the_compiler() -> None:
    script = """
import sys, torch
from ganrun import load_registry
cls = load_registry().find("optimizer", "adam").cls
weight = torch.nn.Parameter(torch.ones(2))
weight.grad = torch.ones(2)
cls(cls.Settings(), None).build([weight], torch.device("cpu")).step()
assert weight[0] < 1 and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ── By the same door ──────────────────────────────────────────────────────────────────────────────────────


class Halves(Schedule):
    """The learning rate is divided by a base at every fifth of the run."""

    class Settings(ganrun.Settings):
        base: float = 2.0
        """Divisor."""

    def factor(self, progress: float) -> float:
        return self.settings.base ** -int(5 * progress)


class SignSgd(Optimizer):
    """Steps of one size, by the gradient's sign (Bernstein et al. 2018, arXiv:1802.04434)."""

    class Settings(OptimizerSettings):
        lr: float = 0.01
        """Learning rate."""

        stride: float = 1.0
        """Size of a step, in learning rates."""

    def build(self, parameters, device):
        return _Signs(parameters, {"lr": self.settings.lr, "stride": self.settings.stride})


class _Signs(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.sub_(weight.grad.sign(), alpha=group["lr"] * group["stride"])


class Stranger:
    """A plugin."""

    @hookimpl
    def ganrun_optimizers(self):
        return {"sign-sgd": SignSgd}

    @hookimpl
    def ganrun_schedules(self):
        return {"halves": Halves}


TABLES = {
    "mlflow": False,
    "samples": False,
    "train": {"steps": 10, "batch_size": 8, "log_every_steps": 1, "device": "cpu"},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "optimizer": {
        "use": "sign-sgd",
        "lr": 0.01,
        "schedule": {"use": "halves", "base": 4.0},
        "discriminator": {"stride": 3.0},
        "generator": {"use": "sgd"},
    },
}


def test_a_strangers_optimizer_and_schedule_need_no_line_of_the_engine(tmp_path) -> None:
    run = train(TABLES, tmp_path / "run", Stranger())
    records = [record for record in run.directory.records() if "lr/discriminator" in record.values]
    rates = [record.values["lr/discriminator"] for record in records]
    assert rates == pytest.approx([0.01 * 4.0**-fifth for fifth in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)])
    assert all("lr/generator" not in record.values for record in records), "its rate does not change"
    resolved = run.recipe.resolved()["optimizer"]
    assert resolved["discriminator"]["schedule"] == {"use": "Stranger:halves", "base": 4.0}
    assert (resolved["discriminator"]["stride"], resolved["generator"]["use"]) == (3.0, "optimizers:sgd")
    again = train(TABLES | {"train": TABLES["train"] | {"steps": 4}}, tmp_path / "part", Stranger())
    assert again.step == 4
