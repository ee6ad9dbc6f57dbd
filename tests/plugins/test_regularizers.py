"""Regularisers: each against its paper's formula, and as a term or a phase of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ganrun import (
    AdversarialLoss,
    Batch,
    ContractError,
    DataSpec,
    IncompatibleError,
    Loss,
    Nets,
    Phase,
    Regularizer,
    RegularizerSettings,
    RequestError,
    Slot,
    Terms,
    hookimpl,
    load_registry,
    squared_gradient_norms,
)
from ganrun.contracts.settings import parse_settings
from ganrun.testing import assert_conforms, build, train
from ganrun.trained.loading import load
from ganrun_conditional.losses import ConditionalGan
from ganrun_regularizers.discriminators import Consistency, LeCam, mirrored, shifted
from ganrun_regularizers.gradients import R1, R2, Dragan, GradientPenalty
from ganrun_regularizers.networks import Orthogonal, PathLength
from ganrun_vanilla.losses import NonSaturatingGan

SHAPE = (2, 3, 4)
WEIGHTS = torch.linspace(-0.5, 0.9, 24).view(SHAPE)
NORM = WEIGHTS.square().sum().sqrt().item()
NAMES = {
    "r1": R1,
    "r2": R2,
    "gradient-penalty": GradientPenalty,
    "dragan": Dragan,
    "consistency": Consistency,
    "lecam": LeCam,
    "orthogonal": Orthogonal,
    "path-length": PathLength,
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(x: Tensor) -> Tensor:
    """D(x) = w · x, whose gradient is w everywhere; and an output that says nothing of how real x is."""
    return torch.stack([(x * WEIGHTS).flatten(1).sum(1), 7 * x.flatten(1).sum(1)], dim=1)


def quadratic(x: Tensor) -> Tensor:
    """D(x) = ½‖x‖², whose gradient is x."""
    return x.square().flatten(1).sum(1, keepdim=True) / 2


def value(component: type[Regularizer], critic: Any, real: Tensor, fake: Tensor, **settings: Any) -> float:
    """The penalty beside a GAN whose generator returns its latents."""
    loss = NonSaturatingGan(NonSaturatingGan.Settings(), DataSpec(tuple(real.shape[1:])))
    regularizer = component(parse_settings(component.Settings, settings), loss)
    nets = Nets({"generator": lambda z: z, "discriminator": critic})
    return regularizer.penalty(nets, Batch(fake, real), regularizer.settings.slot).item()


# ── Formulas ──────────────────────────────────────────────────────────────────────────────────────────────


def test_gradient_penalties_of_a_linear_critic_are_the_papers_values():
    pair = noise(5, *SHAPE), noise(5, *SHAPE, seed=1)
    assert value(R1, linear, *pair) == pytest.approx(NORM**2 / 2, rel=1e-5)
    assert value(R2, linear, *pair) == pytest.approx(NORM**2 / 2, rel=1e-5)
    assert value(GradientPenalty, linear, *pair) == pytest.approx((NORM - 1) ** 2, rel=1e-5)
    assert value(Dragan, linear, *pair, norm=2.0) == pytest.approx((NORM - 2) ** 2, rel=1e-5)


def test_each_penalty_is_taken_at_its_points():
    real, fake = noise(5, *SHAPE), 3 * noise(5, *SHAPE, seed=1)
    squares = [points.square().flatten(1).sum(1) for points in (real, fake)]
    assert value(R1, quadratic, real, fake) == pytest.approx(squares[0].mean().item() / 2, rel=1e-5)
    assert value(R2, quadratic, real, fake) == pytest.approx(squares[1].mean().item() / 2, rel=1e-5)
    small = 0.1 * real / real.flatten(1).norm(dim=1)[:, None, None, None]
    assert value(GradientPenalty, quadratic, small, small, sided="one") == 0
    assert value(GradientPenalty, quadratic, small, small) == pytest.approx(0.9**2, rel=1e-4)


def test_dragan_looks_around_the_real_images_with_its_variance():
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return quadratic(x)

    value(Dragan, critic, torch.full((400, *SHAPE), 0.5), torch.zeros(400, *SHAPE), variance=0.09)
    assert seen[0].mean().item() == pytest.approx(0.5, abs=0.02)
    assert seen[0].std().item() == pytest.approx(0.3, rel=0.03)


def test_orthogonal_counts_products_of_different_filters_only():
    def penalty(*weights: Tensor, **settings: Any) -> float:
        named = {f"{number}.weight": weight for number, weight in enumerate(weights)}
        view = type("Weights", (), {"weights": lambda self: named})()
        loss = NonSaturatingGan(NonSaturatingGan.Settings(), DataSpec(SHAPE))
        orthogonal = Orthogonal(Orthogonal.Settings(**settings), loss)
        return orthogonal.penalty(Nets({"generator": view}), Batch(noise(1)), "generator").item()

    assert penalty(3 * torch.eye(4), torch.ones(5)) == 0, "orthogonal filters of any norm, and biases"
    assert penalty(torch.tensor([[1.0, 2.0], [3.0, 0.0]])) == 2 * 3.0**2
    both = torch.ones(2, 2, 1, 1), torch.ones(2, 3)
    assert penalty(*both) == 2 * 2.0**2 + 2 * 3.0**2
    assert penalty(*both, without=("0.*",)) == 2 * 3.0**2


def test_consistency_is_zero_where_the_change_is_not_seen_and_else_the_squared_difference():
    images = noise(6, 1, 5, 5)
    blind = lambda x: x.flatten(1).sum(1, keepdim=True) * 0 + 1.0  # noqa: E731
    assert value(Consistency, blind, images, images) == 0
    symmetric = images + images.flip(3)
    left = lambda x: x[:, :, :, :2].flatten(1).sum(1, keepdim=True)  # noqa: E731
    assert value(Consistency, left, symmetric, symmetric, shift=0) == pytest.approx(0, abs=1e-10), "mirrored, or not"
    ramp = torch.arange(7.0).expand(200, 1, 7, 7)
    middle = lambda x: x[:, :, 3, 3]  # noqa: E731
    found = value(Consistency, middle, ramp, ramp, shift=1, flip=False)
    assert found == pytest.approx(2 / 3, abs=0.12), "shifts of -1, 0 and 1 pixels, equally often"


def test_shifts_repeat_the_edge_and_differ_from_image_to_image():
    images = noise(50, 2, 4, 5)
    assert torch.equal(shifted(images, 0), images)
    moved = shifted(images, 9)
    assert moved.shape == images.shape and moved.isfinite().all()
    assert all(
        set(new.flatten().tolist()) <= set(old.flatten().tolist()) for new, old in zip(moved, images, strict=True)
    )
    same = [bool((new == old).all()) for new, old in zip(mirrored(images), images, strict=True)]
    assert 10 < sum(same) < 40


def test_lecam_compares_with_moving_averages_of_the_other_kind():
    loss = NonSaturatingGan(NonSaturatingGan.Settings(), DataSpec((1,)))
    lecam = LeCam(LeCam.Settings(decay=0.75), loss)
    nets = Nets({"generator": lambda z: z, "discriminator": lambda x: x})

    def penalty(real: float, fake: float) -> float:
        return lecam.penalty(nets, Batch(torch.full((3, 1), fake), torch.full((3, 1), real)), "discriminator").item()

    assert penalty(2.0, -1.0) == 2 * 3.0**2, "the averages start at the first batch"
    # α_R = 2 + ¼·(6 − 2) = 3 and α_F = −1 + ¼·(3 + 1) = 0
    assert penalty(6.0, 3.0) == 6.0**2 + 0.0**2
    assert lecam.memory.real.item() == 3.0 and lecam.memory.fake.item() == 0.0


def test_path_lengths_of_a_linear_generator():
    """With G(z) = A z, Jᵀy = Aᵀy: of A = c·I and images of one pixel, ‖Jᵀy‖² is c² times a χ² of n numbers."""
    loss = NonSaturatingGan(NonSaturatingGan.Settings(), DataSpec((8,)))
    lengths = PathLength(PathLength.Settings(decay=0.0), loss)
    nets = Nets({"generator": lambda z: 3 * z})
    penalty = lengths.penalty(nets, Batch(noise(4000, 8)), "generator").item()
    mean = lengths.memory.mean_length.item()
    assert mean**2 + penalty == pytest.approx(9 * 8, rel=0.05), (
        "E‖Jᵀy‖² = c²·n, the square of its mean and its variance"
    )
    assert penalty == pytest.approx(9 * 0.5, rel=0.15), "the variance of a χ of 8 numbers is about ½"


def test_path_lengths_in_w_are_the_paths_of_the_synthesis():
    class Mapped:
        def __call__(self, z: Tensor) -> Tensor:
            return self.synthesis(self.mapping(z))

        def mapping(self, z: Tensor) -> Tensor:
            return 100 * z

        def synthesis(self, w: Tensor) -> Tensor:
            return w * 2

    loss = NonSaturatingGan(NonSaturatingGan.Settings(), DataSpec((8,)))
    means = {}
    for space in ("z", "w"):
        lengths = PathLength(PathLength.Settings(decay=0.0, space=space), loss)
        latents = noise(2000, 8).requires_grad_()
        lengths.penalty(Nets({"generator": Mapped()}), Batch(latents), "generator")
        means[space] = lengths.memory.mean_length.item()
    assert means["z"] / means["w"] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("component", NAMES.values(), ids=NAMES)
def test_they_conform(component):
    assert_conforms("regularizer", component)


def test_conditions_are_those_of_the_images_that_are_judged():
    """A critic whose gradient is its label shows which labels it gets: the data's for x, the latents' for G(z)."""
    spec = DataSpec(SHAPE, classes=3)
    loss = ConditionalGan(ConditionalGan.Settings(noise_size=24), spec)
    batch = Batch(loss.latents(6, torch.device("cpu")), noise(6, *SHAPE), torch.tensor([0, 1, 2, 2, 1, 0]))
    _, classes = loss.noise_and_classes(batch.latents)

    def critic(x: Tensor, labels: Tensor) -> Tensor:
        return (labels[:, None, None, None] * x).flatten(1).sum(1, keepdim=True)

    nets = Nets({"generator": lambda z, labels: z.view(-1, *SHAPE), "discriminator": critic})
    for component, labels in ((R1, batch.labels), (R2, classes)):
        penalty = component(component.Settings(), loss).penalty(nets, batch, "discriminator")
        assert penalty.item() == pytest.approx(24 * labels.float().square().mean().item() / 2, rel=1e-5)
    of_generator = loss.generated_inputs("generator", nets, batch)
    assert of_generator.inputs.shape == (6, 24) and torch.equal(of_generator.conditions["labels"], classes)


# ── In a run ──────────────────────────────────────────────────────────────────────────────────────────────


class ByHand(NonSaturatingGan):
    """A GAN with R1 in its objective."""

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        terms = super().discriminator(nets, batch)
        penalty = squared_gradient_norms(nets.discriminator, batch.images).mean() / 2
        return Terms({**terms.minimise, "r1": 3.0 * penalty})


class Lazy(NonSaturatingGan):
    """A GAN with a phase of R1."""

    def phases(self) -> Sequence[Phase]:
        critic, generator = super().phases()
        return critic, Phase("r1", self.r1, trains=("discriminator",), every=2), generator

    def r1(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"penalty": 3.0 * 2 * squared_gradient_norms(nets.discriminator, batch.images).mean() / 2})


class Fixed(AdversarialLoss):
    """A loss with a frozen slot, and one that is named as a penalty is."""

    latent_size = 4
    slots = {**AdversarialLoss.slots, "judge": Slot("discriminator", frozen=True)}

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"r1": nets.discriminator(batch.images).square().mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"fake": -nets.discriminator(nets.generator(batch.latents)).mean()})


class Pair(NonSaturatingGan):
    """A loss whose discriminator takes pairs."""

    def ports(self, slot: str) -> Any:
        ports = super().ports(slot)
        return ports._replace(inputs=(2, 8, 8)) if slot == "discriminator" else ports


class Idle(Regularizer):
    """Looks at images alone."""

    class Settings(RegularizerSettings):
        each: bool = False
        """Whether it returns a number for each image."""

    def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
        squares = batch.images.square().flatten(1).mean(1)
        return squares if self.settings.each else squares.mean()


class Plugin:
    @hookimpl
    def ganrun_regularizers(self) -> dict[str, type[Regularizer]]:
        return {"idle": Idle}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"by-hand": ByHand, "lazy": Lazy, "fixed": Fixed, "pair": Pair}


def tables(loss: str | dict[str, Any] = "gan", *regularizers: dict[str, Any], **train: Any) -> dict[str, Any]:
    return {
        "train": {"steps": 4, "batch_size": 8, "device": "cpu", "log_every_steps": 1, **train},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": loss} if isinstance(loss, str) else loss,
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        "regularizer": list(regularizers),
        **dict.fromkeys(("mlflow", "progress", "samples"), False),
    }


def records(run: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory.path / "metrics.jsonl").read_text().splitlines()]


def assert_same(one: Any, other: Any) -> None:
    for name, weights in one.state.weights().items():
        assert all(torch.equal(weight, other.state.weights()[name][key]) for key, weight in weights.items()), name


MODES = pytest.mark.parametrize("mode", [{}, {"precision": "bf16"}, {"accumulate": 2}], ids=["f32", "bf16", "parts"])


@MODES
def test_r1_of_every_step_is_a_term_as_if_the_loss_had_written_it(tmp_path, mode):
    run = train(tables("gan", {"use": "r1", "weight": 3.0}, **mode), tmp_path / "run", Plugin())
    by_hand = train(tables("by-hand", **mode), tmp_path / "by hand", Plugin())
    assert_same(run, by_hand)
    for line, other in zip(records(run), records(by_hand), strict=True):
        losses = {name: value for name, value in line.items() if name.startswith("loss/")}
        assert losses == {name: value for name, value in other.items() if name.startswith("loss/")}
        assert "loss/discriminator.r1" in losses


@MODES
def test_lazy_r1_is_a_phase_and_counts_as_often_as_it_is_left_out(tmp_path, mode):
    run = train(tables("gan", {"use": "r1", "weight": 3.0, "every": 2}, **mode), tmp_path / "run", Plugin())
    by_hand = train(tables("lazy", **mode), tmp_path / "by hand", Plugin())
    assert_same(run, by_hand)
    assert [("loss/r1" in line) for line in records(run)] == [True, False, True, False]
    assert run.images_seen == 8 * (4 + 2)


def test_a_weight_may_follow_a_schedule_and_goes_on_after_a_resume(tmp_path):
    fading = {"use": "r1", "weight": {"schedule": "linear", "start": 40.0, "end": 0.0}}
    checkpoints = {"checkpoints": {"every_steps": 2}}
    whole = train(tables("gan", fading) | checkpoints, tmp_path / "run")
    plain = train(tables("gan", {"use": "r1", "weight": 40.0}), tmp_path / "plain")
    first, other = records(whole)[0], records(plain)[0]
    assert first["loss/discriminator.r1"] == other["loss/discriminator.r1"] > 0
    at_last = [line["loss/discriminator.r1"] for line in records(whole)][-1]
    assert at_last < 0.5 * first["loss/discriminator.r1"], "a quarter of the weight in the last step"
    shutil.copytree(tmp_path / "run", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken/checkpoints/step_00000004")
    assert_same(whole, train(tables("gan", fading) | checkpoints, tmp_path / "broken", resume=True))


@pytest.mark.parametrize("loss", ["gan", "cgan", "acgan", "infogan", "wgan-gp", "hinge"])
def test_all_of_them_train_beside_any_adversarial_loss(tmp_path, loss):
    lazy = [{"use": name, "every": 2} for name in NAMES]
    run = train(tables(loss, *({"use": name} for name in NAMES)), tmp_path / "run")
    late = train(tables(loss, *lazy, precision="bf16", accumulate=2), tmp_path / "lazy")
    names = {name for line in records(late) for name in line}
    assert {f"loss/{name}" for name in NAMES} <= names
    assert run.state.weights().keys() >= {"regularizer.5", "regularizer.7"}, "what LeCam and path length remember"


def test_what_they_remember_is_resumed_and_does_not_go_with_the_model(tmp_path):
    penalties = ({"use": "lecam"}, {"use": "path-length", "every": 2})
    checkpoints = {"checkpoints": {"every_steps": 2}}
    whole = train(tables("gan", *penalties) | checkpoints, tmp_path / "whole")
    train(tables("gan", *penalties, steps=2) | checkpoints, tmp_path / "broken")
    resumed = train(tables("gan", *penalties) | checkpoints, tmp_path / "broken", resume=True)
    assert_same(whole, resumed)
    assert whole.state.penalties["regularizer.0"].penalties.item() == 4
    assert not [name for name in load(tmp_path / "whole", "cpu").networks if "regularizer" in name]


def test_a_penalty_of_the_generator_that_needs_images_makes_its_phase_read_them(tmp_path):
    class Images(R1):
        """Reads images, and penalises samples."""

        def penalty(self, nets: Nets, batch: Batch, slot: str) -> Tensor:
            return (nets.generator(batch.latents).mean() - batch.images.mean()).square()

    class Offer:
        @hookimpl
        def ganrun_regularizers(self) -> dict[str, type[Regularizer]]:
            return {"images": Images}

    run = train(tables("gan", {"use": "images", "slot": "generator"}), tmp_path / "run", Offer())
    assert run.images_seen == 4 * 2 * 8


def test_two_of_one_name_are_told_apart_by_their_slots(tmp_path):
    both = [{"use": "orthogonal", "slot": slot} for slot in ("generator", "discriminator")]
    run = train(tables("gan", *both), tmp_path / "run")
    assert {"loss/discriminator.discriminator.orthogonal", "loss/generator.generator.orthogonal"} <= records(run)[
        0
    ].keys()
    with pytest.raises(IncompatibleError, match="r1: the discriminator has that penalty already"):
        build(tables("gan", {"use": "r1"}, {"use": "r1", "weight": 2.0}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_term_of_that_name_in_the_loss_keeps_it(tmp_path):
    fixed = tables("fixed", {"use": "r1"}) | {"judge": {"use": "mlp", "hidden": [4]}}
    run = train(fixed, tmp_path / "run", Plugin())
    assert {"loss/discriminator.r1", "loss/discriminator.discriminator.r1"} <= records(run)[0].keys()


@pytest.mark.parametrize(("use", "warns"), [("r1", True), ("dragan", True), ("lecam", False), ("orthogonal", False)])
def test_the_user_is_warned_of_a_discriminator_that_mixes_samples(tmp_path, caplog, use, warns):
    mixing = {"discriminator": {"use": "conv", "norm": "batch", "stages": 2, "feature_maps": 4}}
    build(tables("gan", {"use": use}) | mixing, tmp_path / "run")
    assert (f"and {use} looks at each sample alone" in caplog.text) == warns


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path):
    judge = {"judge": {"use": "mlp", "hidden": [4]}}
    points = {"data": {"use": "gaussians", "count": 64}}
    refused = [
        (tables("fixed", {"use": "r1", "slot": "judge"}) | judge, "acts on the judge, which is frozen"),
        (tables("gan", {"use": "path-length", "slot": "discriminator"}), "measures the paths of a generator"),
        (
            tables("gan", {"use": "r1", "slot": "generator"}),
            r"\[\[regularizer\]\] r1 .*its generator takes \(64,\), and samples",
        ),
        (tables("gan", {"use": "consistency"}) | points, "works on images"),
        (tables("gan", {"use": "r1", "slot": "critic"}), 'has no slot "critic"'),
        (tables("gan", {"use": "r1", "slot": "generator"}), r"toml:\d+: \[\[regularizer\]\] r1 .* generator takes"),
        (tables("gan", {"use": "path-length", "space": "w"}), "needs a generator with methods mapping and synthesis"),
        (
            tables("gan", {"use": "orthogonal", "without": ["classes.*"]}),
            r"toml:\d+: \[\[regularizer\]\] orthogonal .*no weights of two dimensions are called \"classes",
        ),
        (tables("gan", {"use": "orthogonal", "without": ["*"]}), "no weights of two dimensions in the generator"),
        (tables("gan", {"use": "idle"}), "depends on no weight of the discriminator, so it would change nothing"),
        (tables("gan", {"use": "idle", "each": True}), "does not return a scalar tensor"),
    ]
    for wrong, message in refused:
        with pytest.raises(RequestError, match=message):
            build(wrong, tmp_path / "run", Plugin())
        assert not (tmp_path / "run").exists()


def test_a_loss_whose_discriminator_takes_no_images_must_say_what_it_takes():
    loss = Pair(Pair.Settings(), DataSpec((1, 8, 8)))
    with pytest.raises(ContractError, match="must define real_inputs and generated_inputs"):
        R1(R1.Settings(), loss).penalty(
            Nets({"discriminator": quadratic}), Batch(noise(2, 4), noise(2, 1, 8, 8)), "discriminator"
        )


# ── Repeats ───────────────────────────────────────────────────────────────────────────────────────────────


def test_repeats_hold_for_every_phase_that_trains_the_slot(tmp_path):
    run = build(tables("gan", {"use": "r1", "every": 2}, repeat={"discriminator": 3}), tmp_path / "run")
    assert {phase.name: phase.repeat for phase in run.phases} == {"discriminator": 3, "r1": 3, "generator": 1}
    assert {phase.name: phase.repeat for phase in build(tables("wgan"), tmp_path / "wgan").phases} == {
        "critic": 5,
        "generator": 1,
    }


def test_slots_that_are_trained_together_cannot_be_repeated_apart(tmp_path):
    vae = {**tables("vae", repeat={"generator": 2, "encoder": 3}), "encoder": {"use": "mlp", "hidden": [8]}}
    del vae["discriminator"]
    with pytest.raises(
        RequestError, match=r"trains generator and encoder by the same updates.*generator = 2, encoder = 3"
    ):
        build(vae, tmp_path / "run")
    vae["train"]["repeat"] = {"encoder": 3}
    assert [phase.repeat for phase in build(vae, tmp_path / "run").phases] == [3]


def test_they_are_offered_by_ganrun():
    techniques = {"feature-matching", "historical-averaging"}
    assert {found.name for found in load_registry().components("regularizer")} == NAMES.keys() | techniques
