"""Monitoring: its numbers, its criteria for trouble, and that it does not affect training."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tests.families import FAMILIES
from torch import nn

import ganrun
from ganrun import Observer, Run, Score, checkpoints_in, hookimpl, load_checkpoint, observes
from ganrun.testing import assert_conforms, build, registry_with, train
from ganrun.training.runner import execute
from ganrun_report.reading import read_run
from ganrun_watch.signs import diversity, gradient_norm, separation
from ganrun_watch.troubles import collapse, dominance, explosion, vanishing, worsening

OFTEN = {"every_steps": 1, "for_steps": 2}

WON = {
    "train": {"steps": 12, "batch_size": 32, "device": "cpu", "log_every_steps": 1, "seed": 3},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [32]},
    "optimizer": {"generator": {"lr": 1e-9}, "discriminator": {"lr": 1e-2}},
    "mlflow": False,
    "samples": False,
    "progress": False,
}
"""A generator that does not learn, and a discriminator that soon has won."""


# ── Numbers ───────────────────────────────────────────────────────────────────────────────────────────────


def test_separation_is_the_same_for_every_level_and_scale_of_the_outputs() -> None:
    real, samples = torch.tensor([1.0, 3.0]), torch.tensor([-5.0, -3.0])
    assert separation(real, samples).item() == pytest.approx(6 / math.sqrt(2))
    assert separation(7 + 0.01 * real, 7 + 0.01 * samples).item() == pytest.approx(6 / math.sqrt(2), rel=1e-4)


def test_diversity_is_1_for_real_records_and_0_for_copies() -> None:
    real = torch.randn(64, 3, 4, 4)
    assert diversity(real + 2, real).item() == pytest.approx(1)
    assert diversity(real[:1].expand(64, -1, -1, -1), real).item() == 0
    assert diversity(real[:8].repeat(8, 1, 1, 1), real).item() == 0  # eight modes, far from each other
    assert diversity(real / 4, real).item() == pytest.approx(0.25, rel=1e-4)
    assert diversity(real, torch.zeros(64, 3, 4, 4)).item() == 1  # no measure of what real records differ by


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.AdamW])
def test_the_norm_of_gradients_is_what_the_optimizer_remembers(make) -> None:
    weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    optimizer = make(weights)
    assert gradient_norm(optimizer) is None
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.full_like(weight, -2.0)
        optimizer.step()
    assert gradient_norm(optimizer).item() == pytest.approx(math.sqrt(5 * 4), rel=1e-4)


def test_an_optimizer_without_a_second_moment_does_not_know_the_norm() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert gradient_norm(optimizer) is None


# ── Troubles ──────────────────────────────────────────────────────────────────────────────────────────────


def history(*values: float, every: int = 10) -> list[tuple[int, float]]:
    return [(every * number, value) for number, value in enumerate(values, start=1)]


def scores(*values: float, higher: bool = False) -> list[tuple[int, Score]]:
    return [(step, Score("fid", value, higher, {"n": 1})) for step, value in history(*values)]


def test_a_discriminator_has_won_only_if_it_lasts() -> None:
    assert dominance("critic", history(3, 20, 20, 20), for_steps=20)[1:3] == (20, 10)
    assert dominance("critic", history(20, 20, 20, 9), for_steps=20) is None
    assert dominance("critic", history(20, 20), for_steps=20) is None


def test_samples_have_collapsed_if_they_differ_less_than_they_did_for_long() -> None:
    assert collapse(history(0.02, 0.5, 0.6, 0.6, 0.1, 0.1, 0.1), for_steps=20)[1:3] == (50, 40)
    assert collapse(history(0.02, 0.1, 0.2, 0.3, 0.4), for_steps=20) is None
    assert collapse(history(1.0, 0.1, 0.1, 0.1, 0.2), for_steps=20) is None, "noise before training"
    assert collapse(history(0.01, 0.01, 0.01), for_steps=20)[2] == 0, "constant from the start"


def test_gradients_explode_or_vanish_by_what_they_have_been() -> None:
    assert explosion("critic", history(1, 5, 1, 501))[1:3] == (40, 30)
    assert explosion("critic", history(1, 5, 25, 125, 499)) is None
    assert explosion("critic", history(0, 3)) is None
    assert vanishing("critic", history(1, 2, 500, 0.001))[1:3] == (40, 30)
    assert vanishing("critic", history(1, 2, 500, 0.01)) is None


@pytest.mark.parametrize(("sign", "offset"), [(1, 0), (-1, 0), (1, -1000)])
def test_a_score_worsens_whatever_its_unit_and_direction(sign, offset) -> None:
    def judged(*values: float):
        return worsening(scores(*(sign * value + offset for value in values), higher=sign < 0), evaluations=3)

    assert judged(100, 20, 21, 22, 45, 50, 60)[1:3] == (50, 40)
    assert judged(100, 20, 21, 22, 45, 21, 60) is None
    assert judged(100, 20, 21, 22, 23, 24, 25) is None
    assert judged(100, 20, 60, math.nan, 60) is None


# ── In a run ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gan, dropout", "hinge, sngan", "acgan", "vq-vae", "cyclegan"])
def test_weights_are_those_of_a_run_without_it(name, tmp_path) -> None:
    family = FAMILIES[name]
    tables = {**family.recipe(steps=2, log_every_steps=1), "checkpoints": {}}
    watched = train({**tables, "watch": OFTEN}, tmp_path / "watched", *family.plugins)
    alone = train({**tables, "watch": False}, tmp_path / "alone", *family.plugins)
    assert [record for record in watched.directory.records() if "watch/diversity" in record.values]
    assert not any("watch/troubles" in record.values for record in alone.directory.records())
    found, expected = (load_checkpoint(checkpoints_in(run.directory.path)[-1]) for run in (watched, alone))
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    torch.testing.assert_close(found.progress["optimizers"], expected.progress["optimizers"], rtol=0, atol=0)


def test_each_discriminator_is_judged_by_what_the_loss_shows_it(tmp_path) -> None:
    family = FAMILIES["cyclegan"]
    run = train({**family.recipe(steps=1, log_every_steps=1), "watch": OFTEN}, tmp_path / "run", *family.plugins)
    names = {name for record in run.directory.records() for name in record.values if "separation" in name}
    assert names == {"watch/separation.discriminator", "watch/separation.source_discriminator"}


def test_trouble_is_told_recorded_and_ends_the_run_if_asked_to(tmp_path, caplog) -> None:
    watch = {"every_steps": 2, "for_steps": 4, "on_trouble": "stop"}
    run = train({**WON, "watch": watch}, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert run.step < 12 and summary["stopped"] == summary["health"]
    assert summary["health"].startswith("the discriminator has won: since step ")
    assert caplog.text.count("the discriminator has won") == 1
    assert run.messages[-1] == f"trouble: {summary['health']}"
    assert read_run(tmp_path / "run").notes == [f"trouble: {summary['health']}"]
    assert [record.values["watch/troubles"] for record in run.directory.records() if "watch/troubles" in record.values][
        -1
    ] == 1


def test_a_run_goes_back_to_before_the_trouble_and_stops_if_that_does_not_help(tmp_path, caplog) -> None:
    watch = {"every_steps": 2, "for_steps": 4, "on_trouble": "roll-back", "roll_backs": 2}
    tables = {**WON, "train": {**WON["train"], "steps": 40}, "checkpoints": {"every_steps": 1, "keep": 99}}
    run = train({**tables, "watch": watch}, tmp_path / "run")
    *went_back, last = run.notes["health"].splitlines()
    assert run.state.attempt == 2 and run.stopped == last and run.step < 40
    assert all("has won" in line and "the run went back to step " in line for line in went_back)
    goal = int(went_back[0].rpartition(" ")[2])
    assert goal % 2 == 0 and caplog.text.count(f"back from step {goal + 6} to step {goal}") == 2
    steps = [record.step for record in run.directory.records() if "loss/generator" in record.values]
    assert steps == list(range(1, run.step + 1))


class Broken(Observer):
    """Breaks the networks at step 6: `collapsed` makes every sample the same, `exploding` makes the losses steep."""

    class Settings(ganrun.Settings):
        how: str

    @observes
    def step_ended(self, run: Run, step: int) -> None:
        slot, factor = {"collapsed": ("generator", 0.0), "exploding": ("discriminator", 50.0)}[self.settings.how]
        if step == 6:
            with torch.no_grad():
                for weight in run.state.slots[slot].module.parameters():
                    weight.mul_(factor)


class Plugin:
    @hookimpl
    def ganrun_observers(self) -> dict[str, type[Observer]]:
        return {"broken": Broken}


@pytest.mark.parametrize(
    ("how", "kind"), [("collapsed", "samples have collapsed"), ("exploding", "gradients of the generator explode")]
)
def test_networks_that_break_in_mid_run_are_told(how, kind, tmp_path) -> None:
    tables = {**WON, "optimizer": {"lr": 1e-6, "betas": [0.5, 0.9]}, "watch": {"every_steps": 1, "for_steps": 4}}
    run = train({**tables, "broken": {"how": how}}, tmp_path / "run", Plugin())
    assert run.notes["health"].startswith(f"{kind}") and (" since step 7 " in run.notes["health"]) == (
        how == "collapsed"
    )


def test_gradients_that_explode_before_the_first_look_are_reported(tmp_path) -> None:
    """A learning rate that is far too high often shows within the first hundred steps."""
    tables = {**WON, "optimizer": {"lr": 1e-6, "betas": [0.5, 0.9]}, "watch": {"every_steps": 1000}}
    run = train({**tables, "broken": {"how": "exploding"}}, tmp_path / "run", Plugin())
    assert run.notes["health"].startswith("gradients of the generator explode: at step 7 ")


def test_a_resumed_run_goes_on_with_what_was_recorded(tmp_path, caplog) -> None:
    short = {**WON["train"], "steps": 4}
    watch = {"every_steps": 2, "for_steps": 4}
    train({**WON, "train": short, "watch": watch}, tmp_path / "run")
    assert "has won" not in caplog.text
    run = build({**WON, "train": {**short, "steps": 12}, "watch": watch}, tmp_path / "run", resume=True)
    execute(run)
    whole = train({**WON, "watch": watch}, tmp_path / "whole")
    assert run.notes["health"] == whole.notes["health"] != "good"


def test_a_healthy_run_is_called_good(tmp_path) -> None:
    run = train({**WON, "watch": {"every_steps": 20}}, tmp_path / "run")
    assert run.notes["health"] == "good" and not run.messages


def test_it_conforms() -> None:
    assert_conforms("observer", registry_with().find("observer", "watch").cls)
