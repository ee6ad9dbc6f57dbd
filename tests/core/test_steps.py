"""What changes with the step: stages, `begin`, numbers on a schedule; and augmentations, adjusted every few steps."""

from __future__ import annotations

from collections.abc import Hashable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

import ganrun
from ganrun import AdversarialLoss, Augmentation, DataSpec, Generator, NetworkSpec, Scheduled, Slot, Terms, hookimpl
from ganrun.base.errors import ContractError, IncompatibleError, RequestError
from ganrun.contracts.beginning import has_begin
from ganrun.testing import assert_conforms, build, train
from ganrun.training.measurements import Measurements
from ganrun.training.run import Run
from ganrun.training.runner import execute
from ganrun.training.step import build_step

MLP = {"use": "mlp", "hidden": [8]}
CONV = {"use": "conv", "feature_maps": 4, "stages": 1}
FALLING = {"schedule": "linear", "start": 4.0, "end": 0.0}


def tables(**more: Any) -> dict[str, Any]:
    train = {"steps": 4, "batch_size": 4, "device": "cpu", "log_every_steps": 1, **more.pop("train", {})}
    return {
        "train": train,
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "gan", "latent_size": 4},
        "generator": MLP,
        "discriminator": MLP,
        **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
        **more,
    }


# ── Stages ────────────────────────────────────────────────────────────────────────────────────────────────

STAGES = [{"from": 1, "batch_size": 8}, {"from": 3, "lr": 0.5}]


def test_a_stage_changes_batch_size_and_learning_rate(tmp_path: Path) -> None:
    run = train(tables(stage=STAGES, optimizer={"lr": 0.25}), tmp_path / "run")
    records = run.directory.records()
    assert [each.images_seen for each in records if "lr/generator" in each.values] == [4, 12, 20, 28]
    assert [each.values["lr/generator"] for each in records if "lr/generator" in each.values] == [0.25] * 3 + [0.5]


def test_a_stage_resets_every_optimizer_as_if_it_were_built_anew(tmp_path: Path) -> None:
    """With β1 = β2 = 0.9, Adam's first step after a reset has the size of the learning rate."""
    before: dict[str, Tensor] = {}
    run = build(
        tables(stage=[{"from": 2, "reset_optimizers": True}], optimizer={"lr": 0.01, "betas": [0.9, 0.9]}),
        tmp_path / "run",
    )
    take_step = build_step(run, Measurements())
    for step in range(4):
        for name, slot in run.state.slots.items():
            (counts,) = {int(each["step"]) for each in slot.optimizer.state.values()} or {0}
            assert counts == (0, 1, 2, 1)[step], "the reset comes with the stage's first step"
            before[name] = slot.parameters[0].detach().clone()
        take_step()
        if step == 2:
            for name, slot in run.state.slots.items():
                moved = (slot.parameters[0] - before[name]).abs()
                assert moved[moved > 0].median().item() == pytest.approx(0.01, rel=1e-3)


def test_a_stage_sets_the_rate_before_warm_up_and_schedule(tmp_path: Path) -> None:
    stage = [{"from": 1, "lr": 0.8}]
    run = train(tables(stage=stage, optimizer={"lr": 0.2, "warmup_steps": 2, "schedule": "linear"}), tmp_path / "run")
    rates = [each.values["lr/generator"] for each in run.directory.records() if "lr/generator" in each.values]
    assert rates == pytest.approx([0.1, 0.8, 0.8, 0.4])


def test_the_largest_batch_must_fit_into_the_data(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a batch takes 100,000 different ones"):
        build(tables(stage=[{"from": 1, "batch_size": 100_000}]), tmp_path / "run")


def test_the_smallest_part_must_be_one_that_batch_norm_can_train_on(tmp_path: Path) -> None:
    recipe = tables(generator={"use": "normed"}, train={"accumulate": 2})
    build(recipe, tmp_path / "sound", Plugin())
    with pytest.raises(RequestError, match="cannot train on 1 sample at a time"):
        build({**recipe, "stage": [{"from": 1, "batch_size": 2}]}, tmp_path / "run", Plugin())


# ── begin, and numbers on a schedule ──────────────────────────────────────────────────────────────────────


class Stepped(Generator):
    """Writes down when it is begun."""

    class Settings(ganrun.Settings):
        structure: str = "number"
        """What begin returns."""

    calls: list[tuple[int, int, bool]]

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layer = nn.Linear(*spec.inputs, prod(spec.output_shape))
        self.register_buffer("done", torch.zeros(()), persistent=False)
        self.calls = []

    def begin(self, step: int, steps: int) -> Hashable:
        self.done.fill_(step / steps)
        self.calls.append((step, steps, self.training))
        returned: dict[str, Any] = {"number": step // 2, "list": [step], "tensor": self.done}
        return returned.get(self.settings.structure)

    def forward(self, latents: Tensor) -> Tensor:
        return (self.layer(latents) + self.done).tanh().unflatten(1, self.spec.outputs)


class Normed(Generator):
    """Has batch norm."""

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layers = nn.Sequential(nn.Linear(*spec.inputs, 64), nn.BatchNorm1d(64))

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents).float().tanh().unflatten(1, self.spec.outputs)


class Counting(Generator):
    """Breaks its word: what it is depends on how often it was begun."""

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layer = nn.Linear(*spec.inputs, prod(spec.output_shape))
        self.count = 0

    def begin(self, step: int, steps: int) -> None:
        self.count += 1

    def forward(self, latents: Tensor) -> Tensor:
        return (self.layer(latents) * self.count).tanh().unflatten(1, self.spec.outputs)


class Growing(Generator):
    """Breaks its word: it adds weights on the way."""

    def __init__(self, settings: Any, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layer = nn.Linear(*spec.inputs, prod(spec.output_shape))

    def begin(self, step: int, steps: int) -> None:
        if step > 0:
            self.more = nn.Linear(8, 8)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layer(latents).tanh().unflatten(1, self.spec.outputs)


class Failing(Growing):
    """Fails near the end of a run."""

    def begin(self, step: int, steps: int) -> None:
        if step == steps:
            raise ZeroDivisionError("no stage is left")


class Weighted(AdversarialLoss):
    """Reports a weight that changes."""

    class Settings(ganrun.Settings):
        latent_size: int = 4
        """Length of a latent vector."""

        gamma: Scheduled = Field(Scheduled(start=1.0), ge=0)
        """Factor of the terms."""

    def discriminator(self, nets: Any, batch: Any) -> Terms:
        gamma = self.now["gamma"]
        return Terms({"real": gamma * nets.discriminator(batch.images).square().mean()}, {"gamma": gamma})

    def generator(self, nets: Any, batch: Any) -> Terms:
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents)).square().mean()})


class Forgetful(Weighted):
    """Breaks its word: its weight depends on how often it was begun."""

    calls = 0

    def begin(self, step: int, steps: int) -> None:
        self.calls += 1
        self.now["gamma"].fill_(self.calls)


class Plugin:
    @hookimpl
    def ganrun_generators(self) -> dict[str, type[Generator]]:
        return {"stepped": Stepped, "normed": Normed, "counting": Counting, "growing": Growing, "failing": Failing}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {"weighted": Weighted}


def test_networks_and_averages_are_begun_at_every_step(tmp_path: Path) -> None:
    run = build(tables(generator={"use": "stepped"}), tmp_path / "run", Plugin())
    slot = run.state.slots["generator"]
    begun = [(step, 4) for step in range(5)]
    execute(run)
    assert [call[:2] for call in slot.module.calls][-5:] == begun
    assert [call[:2] for call in slot.average.module.calls][-5:] == begun
    assert [call[2] for call in slot.average.module.calls][-5:] == [False] * 5
    assert run._beginning.structure == (2, 2)


def test_a_score_before_the_last_structure_says_in_its_protocol_which_it_is_of(tmp_path: Path) -> None:
    run = build(tables(generator={"use": "stepped"}), tmp_path / "run", Plugin())
    take_step, found = build_step(run, Measurements()), []
    for _ in range(5):
        protocol = run.evaluation().protocol
        found.append({name: value for name, value in protocol.items() if name.startswith("structure.")})
        module = run.state.slots["generator"].average.module
        assert module.done.item() == run.step / 4, "looking at the end leaves everything as it is"
        take_step()
    assert found == [*[{"structure.generator": "0"}] * 2, *[{"structure.generator": "1"}] * 2, {}]


@pytest.mark.parametrize("structure", ["list", "tensor"])
def test_what_begin_returns_is_hashable(tmp_path: Path, structure: str) -> None:
    generator = {"use": "stepped", "structure": structure}
    with pytest.raises(IncompatibleError, match=r"\[generator\] stepped .*its begin returns (list|Tensor|\w*Buffer)"):
        build(tables(generator=generator), tmp_path / "run", Plugin())


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ("counting", "its answer depends on the calls of begin before it"),
        ("growing", "begin changes its parameters or buffers at step 1"),
        ("failing", r"begin fails: ZeroDivisionError: no stage is left \(.*test_steps.py:\d+\)"),
    ],
)
def test_a_begin_that_breaks_its_word_is_found_before_the_run(tmp_path: Path, use: str, reason: str) -> None:
    with pytest.raises(RequestError, match=rf"run.toml:\d+: \[generator\] {use} .*{reason}"):
        build(tables(generator={"use": use}), tmp_path / "run", Plugin())
    with pytest.raises(AssertionError, match=reason.replace("step 1", "step 125")):
        assert_conforms("generator", Plugin().ganrun_generators()[use])


def test_a_begin_that_fails_during_a_run_is_named(tmp_path: Path) -> None:
    run = build(tables(generator={"use": "stepped"}), tmp_path / "run", Plugin())
    run.state.slots["generator"].module.done = None
    with pytest.raises(ContractError, match=r"run.toml:\d+: \[generator\] stepped .*begin fails: AttributeError"):
        run.begin()


def test_a_number_follows_its_schedule_in_place(tmp_path: Path) -> None:
    run = build(tables(loss={"use": "weighted", "gamma": FALLING}), tmp_path / "run", Plugin())
    gamma = run.model.loss.now["gamma"]
    execute(run)
    values = [each.values for each in run.directory.records()]
    assert [each["loss/discriminator.gamma"] for each in values if "lr/generator" not in each and each] == [4, 3, 2, 1]
    assert run.model.loss.now["gamma"] is gamma and gamma.item() == 0


def test_the_kit_tries_a_loss_at_several_steps() -> None:
    assert_conforms("loss", Weighted, {"gamma": FALLING})
    with pytest.raises(AssertionError, match=r"begun again at the same step, it gives other values of \['real'"):
        assert_conforms("loss", Forgetful)


def test_a_layer_called_begin_is_no_function_of_the_step() -> None:
    class Odd(Stepped):
        """Has a first layer."""

        begin = None  # type: ignore[assignment]

    assert not has_begin(Odd)


def test_the_average_follows_the_schedule_of_its_decay(tmp_path: Path) -> None:
    ema = {"decay": {"schedule": "linear", "start": 0.0, "end": 0.5}}
    run = build(tables(ema=ema), tmp_path / "run")
    take_step, slot = build_step(run, Measurements()), run.state.slots["generator"]
    name, weight = next(iter(slot.module.named_parameters()))
    average = slot.average.module.get_parameter(name)
    for step in range(4):
        before = average.clone()
        take_step()
        decay = min(0.5 * step / 4, (step + 1) / (step + 10))
        torch.testing.assert_close(average, decay * before + (1 - decay) * weight)


def test_adam_follows_the_schedule_of_its_betas(tmp_path: Path) -> None:
    betas = [0.0, {"schedule": "linear", "start": 0.5, "end": 0.9}]
    run = build(tables(optimizer={"betas": betas}), tmp_path / "run")
    take_step, (group,) = build_step(run, Measurements()), run.state.slots["generator"].optimizer.param_groups
    found = []
    for _ in range(4):
        take_step()
        found.append(group["betas"])
    assert found == [(0.0, pytest.approx(0.5 + 0.1 * step)) for step in range(4)]


@pytest.mark.parametrize(
    "more",
    [
        {"generator": {"use": "stepped"}},
        {"loss": {"use": "weighted", "gamma": FALLING}},
        {"ema": {"decay": {"schedule": "linear", "start": 0.0, "end": 0.5}}},
        {"optimizer": {"betas": [0.0, {"schedule": "linear", "start": 0.5, "end": 0.9}]}},
    ],
    ids=["begin", "loss", "ema", "optimizer"],
)
def test_what_follows_the_run_makes_its_steps_decide(tmp_path: Path, more: dict[str, Any]) -> None:
    recipe = tables(**more, train={"steps": 2})
    train(recipe, tmp_path / "run", Plugin())
    with pytest.raises(RequestError, match=r"train.steps: 2 in the run, 3 now"):
        build({**recipe, "train": {**recipe["train"], "steps": 3}}, tmp_path / "run", Plugin(), resume=True)


# ── Augmentations ─────────────────────────────────────────────────────────────────────────────────────────


class Watching(Augmentation):
    """Notes what it is shown, and changes nothing."""

    class Settings(ganrun.Settings):
        every: int = 2
        """Steps between two looks."""

    def __init__(self, settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        for name in ("outputs", "images", "calls", "drawn"):
            self.register_buffer(name, torch.zeros(()))

    @property
    def every(self) -> int:  # type: ignore[override]
        return self.settings.every

    def forward(self, images: Tensor) -> Tensor:
        return images * 1

    def adjust(self, outputs: Tensor, images: int) -> None:
        assert not outputs.requires_grad
        self.outputs.fill_(len(outputs))
        self.images.fill_(images)
        self.calls.add_(1)
        self.drawn.copy_(torch.rand(()))


class Stacked(AdversarialLoss):
    """Shows the discriminator two images at once."""

    slots = {**AdversarialLoss.slots, "discriminator": Slot("discriminator", augmented=True)}
    latent_size = 4

    def ports(self, slot: str) -> ganrun.Ports:
        ports = super().ports(slot)
        return ports if slot == "generator" else ganrun.Ports((2, 8, 8), (1, ...))

    def discriminator(self, nets: Any, batch: Any) -> Terms:
        return Terms({"real": nets.discriminator(batch.images.repeat(1, 2, 1, 1)).square().mean()})

    def generator(self, nets: Any, batch: Any) -> Terms:
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents).repeat(1, 2, 1, 1)).square().mean()})


class Once(Watching):
    """Has a gradient that torch cannot differentiate."""

    def forward(self, images: Tensor) -> Tensor:
        return Halved.apply(images)


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


class Watchers:
    @hookimpl
    def ganrun_augmentations(self) -> dict[str, type[Augmentation]]:
        return {"watching": Watching, "once": Once}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {"stacked": Stacked}


WATCHED = {"augmentation": {"use": "watching"}}


def noted(run: Run) -> dict[str, float]:
    return {name: value.item() for name, value in run.state.weights()["discriminator.augmentation"].items()}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("networks", [MLP, CONV], ids=["mlp", "batch norm"])
def test_a_look_at_real_images_changes_nothing(tmp_path: Path, networks: dict[str, Any], accumulate: int) -> None:
    recipe = tables(
        generator=networks, discriminator=networks, train={"accumulate": accumulate, "horizontal_flip": True}
    )
    plain = train(recipe, tmp_path / "plain").state.weights()
    watched = train({**recipe, **WATCHED}, tmp_path / "watched", Watchers()).state.weights()
    assert watched.keys() - plain.keys() == {"discriminator.augmentation"}
    for name, tensors in plain.items():
        assert all(torch.equal(tensors[key], watched[name][key]) for key in tensors), name


def test_an_augmentation_is_told_the_images_since_its_last_adjustment(tmp_path: Path) -> None:
    run = train(tables(**WATCHED, stage=[{"from": 3, "batch_size": 8}]), tmp_path / "run", Watchers())
    assert (noted(run)["outputs"], noted(run)["images"], noted(run)["calls"]) == (8, 4 + 8, 2)


def test_between_two_adjustments_a_run_resumes_with_the_same_count(tmp_path: Path) -> None:
    recipe = {**tables(**WATCHED, train={"steps": 3}), "checkpoints": {"every_steps": 1}}
    train(recipe, tmp_path / "run", Watchers())
    longer = {**recipe, "train": {**recipe["train"], "steps": 4}}
    resumed = noted(train(longer, tmp_path / "run", Watchers(), resume=True))
    assert resumed == noted(train(longer, tmp_path / "whole", Watchers()))
    assert resumed["images"] == 8


def test_scores_and_pictures_are_made_without_it(tmp_path: Path) -> None:
    run = build(tables(**WATCHED), tmp_path / "run", Watchers())
    run.state.slots["discriminator"].augmentation.forward = None
    assert run.model.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(ContractError, match=r"\[augmentation\] watching .*: forward fails"):
        build_step(run, Measurements())()


def test_an_augmentation_is_for_what_the_network_is_shown(tmp_path: Path) -> None:
    recipe = tables(loss={"use": "stacked"})
    run = build({**recipe, "augmentation": {"use": "watching", "every": 0}}, tmp_path / "never", Watchers())
    assert run.state.slots["discriminator"].augmentation.spec.sample_shape == (2, 8, 8)
    build_step(run, Measurements())()
    with pytest.raises(IncompatibleError, match=r"\[augmentation\] watching .*takes \(2, 8, 8\).*define real_inputs"):
        build({**recipe, **WATCHED}, tmp_path / "run", Watchers())


def test_only_a_loss_that_differentiates_twice_asks_for_it(tmp_path: Path) -> None:
    recipe = {**tables(), "augmentation": {"use": "once"}}
    train(recipe, tmp_path / "once", Watchers())
    recipe["loss"] = {"use": "wgan-gp", "latent_size": 4}
    with pytest.raises(IncompatibleError, match=r"\[augmentation\] once .*cannot be differentiated twice"):
        build(recipe, tmp_path / "twice", Watchers())
