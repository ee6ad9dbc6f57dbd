"""WGAN-GP, WGAN and hinge: penalties and losses against values worked out by hand, networks against their contract."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

import ganrun_wgan_gp
from ganrun import Batch, DataSpec, IncompatibleError, Nets, NetworkSpec, gradient_norms
from ganrun.contracts.settings import parse_settings
from ganrun.testing import assert_conforms, build, train
from ganrun_wgan_gp.losses import ClippedWassersteinGan, HingeGan, PenalisedWassersteinGan
from ganrun_wgan_gp.networks import ResnetCritic, ResnetGenerator

LOSSES = {"wgan-gp": PenalisedWassersteinGan, "wgan": ClippedWassersteinGan, "hinge": HingeGan}
SHAPE = (2, 3, 4)
WEIGHTS = torch.linspace(-0.5, 0.9, 24).view(SHAPE)
NORM = WEIGHTS.square().sum().sqrt().item()


def linear(weights):
    """D(x) = w · x, whose gradient is w everywhere."""
    return lambda x: (x * weights).flatten(1).sum(1, keepdim=True)


def noise(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


# ── Losses ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("settings", [{}, {"sided": "one", "penalty_weight": 0.0}, {"drift_weight": 0.001}])
def test_wgan_gp_conforms(settings):
    assert_conforms("loss", PenalisedWassersteinGan, settings)


@pytest.mark.parametrize("loss", [ClippedWassersteinGan, HingeGan])
def test_the_other_losses_conform(loss):
    assert_conforms("loss", loss)


def test_wgan_gp_is_one_sum_whose_gradient_is_equation_3s():
    """With D(x) = w · x:  w·(mean G(z) − mean x) + λ(‖w‖ − 1)², and its gradient by hand."""
    weights = WEIGHTS.clone().requires_grad_()
    nets = Nets({"discriminator": linear(weights), "generator": lambda z: z})
    real, fake = noise(5, *SHAPE), noise(5, *SHAPE, seed=1)
    loss = PenalisedWassersteinGan(parse_settings(PenalisedWassersteinGan.Settings, {}), DataSpec(SHAPE))
    terms = loss.discriminator(nets, Batch(fake, real))
    sum(terms.minimise.values()).backward()
    gap = real.mean(0) - fake.mean(0)
    by_hand = -gap + 10 * 2 * (NORM - 1) * WEIGHTS / NORM
    assert torch.allclose(weights.grad, by_hand, atol=1e-4)
    assert terms.minimise["penalty"].item() == pytest.approx(10 * (NORM - 1) ** 2, rel=1e-4)
    assert terms.report["wasserstein"].item() == pytest.approx((WEIGHTS * gap).sum().item(), rel=1e-4)
    assert terms.report["gradient_norm"].item() == pytest.approx(NORM, rel=1e-4)
    assert "drift" not in terms.minimise


def test_wgan_gps_drift_is_the_mean_square_of_the_critics_values_of_real_images():
    nets = Nets({"discriminator": lambda x: 2 * x, "generator": lambda z: z})
    loss = PenalisedWassersteinGan(PenalisedWassersteinGan.Settings(drift_weight=0.5), DataSpec((1,)))
    terms = loss.discriminator(nets, Batch(torch.full((2, 1), 9.0), torch.tensor([[1.0], [-3.0]])))
    assert terms.minimise["drift"].item() == 0.5 * (4 + 36) / 2


def test_wgan_and_hinge_are_the_papers_objectives():
    nets = Nets({"discriminator": lambda x: 0.5 * x, "generator": lambda z: z})
    batch = Batch(torch.tensor([[4.0], [-6.0]]), torch.tensor([[6.0], [-1.0]]))  # D: real 3, −0.5; fake 2, −3
    spec = DataSpec((1,))
    terms = ClippedWassersteinGan(ClippedWassersteinGan.Settings(), spec).discriminator(nets, batch)
    assert {name: term.item() for name, term in terms.minimise.items()} == {"real": -1.25, "fake": -0.5}
    assert terms.report["wasserstein"].item() == 1.75
    hinge = HingeGan(HingeGan.Settings(), spec)
    terms = hinge.discriminator(nets, batch)
    assert {name: term.item() for name, term in terms.minimise.items()} == {"real": (0 + 1.5) / 2, "fake": (3 + 0) / 2}
    assert hinge.generator(nets, batch).minimise["fake"].item() == 0.5


def recipe(loss, generator="mlp", critic="mlp", network=None, **train_settings):
    return {
        "name": "tiny",
        "ema": False,
        "mlflow": False,
        "train": {"steps": 3, "batch_size": 8, "device": "cpu", "log_every_steps": 1, **train_settings},
        "data": {"use": "digits", "size": 8},
        "loss": {"latent_size": 6, **loss},
        "generator": {"use": generator, **(network or {"hidden": [16]})},
        "discriminator": {"use": critic, **(network or {"hidden": [16]})},
        "optimizer": {"use": "rmsprop", "lr": 0.05},
    }


def records(run):
    return [json.loads(line) for line in (run.directory.path / "metrics.jsonl").read_text().splitlines()]


def test_the_critic_is_clipped_after_its_updates_and_the_generator_is_not(tmp_path):
    run = train(recipe({"use": "wgan", "clip": 0.02}), tmp_path / "run", ganrun_wgan_gp)
    critic = torch.cat([each.flatten() for each in run.state.slots["discriminator"].module.parameters()])
    generator = torch.cat([each.flatten() for each in run.state.slots["generator"].module.parameters()])
    assert critic.abs().max().item() == pytest.approx(0.02), "a learning rate of 0.05 reaches the bound at once"
    assert generator.abs().max() > 0.02


@pytest.mark.parametrize(("loss", "updates"), [("wgan-gp", 1), ("wgan-gp", 4), ("wgan", None), ("hinge", 3)])
def test_each_critic_update_uses_new_real_images(tmp_path, loss, updates):
    tables = recipe({"use": loss}, **({} if updates is None else {"repeat": {"discriminator": updates}}))
    run = train(tables, tmp_path / "run", ganrun_wgan_gp)
    assert (run.step, run.images_seen) == (3, 3 * (updates or 5) * 8), "five as in the papers, unless the recipe says"


def test_n_critic_of_earlier_versions_is_a_repeat(tmp_path, caplog):
    run = train(recipe({"use": "wgan-gp", "n_critic": 2}), tmp_path / "old", ganrun_wgan_gp)
    assert "[loss] n_critic is now [train] repeat = { discriminator = 2 }" in caplog.text
    new = train(recipe({"use": "wgan-gp"}, repeat={"discriminator": 2}), tmp_path / "new", ganrun_wgan_gp)
    assert run.images_seen == new.images_seen == 3 * 2 * 8
    for slot, weights in run.state.weights().items():
        assert all(torch.equal(weight, new.state.weights()[slot][name]) for name, weight in weights.items())
    assert "loss/critic" in records(run)[0]


@pytest.mark.parametrize("sided", ["two", "one"])
def test_a_penalised_critic_trains_in_bf16_and_in_parts(tmp_path, sided):
    tables = recipe(
        {"use": "wgan-gp", "sided": sided},
        "wgan-gp-resnet",
        "wgan-gp-resnet",
        {"widths": [4, 6]},
        precision="bf16",
        accumulate=2,
    )
    tables["optimizer"] = {"use": "adam", "lr": 1e-3}
    run = train(tables, tmp_path / "run", ganrun_wgan_gp)
    last = records(run)[-1]
    assert {"loss/critic.wasserstein", "loss/critic.gradient_norm", "loss/critic.penalty"} <= set(last)
    assert all(weight.isfinite().all() for weights in run.state.weights().values() for weight in weights.values())


NORMS = [
    ("conv", {"norm": "batch", "stages": 2}),
    ("conv", {"norm": "none", "stages": 2}),
    *[("dcgan", {"norm": norm}) for norm in ("batch", "layer", "instance", "spectral", "none")],
]


@pytest.mark.parametrize("loss", ["wgan-gp", "hinge"])
@pytest.mark.parametrize(("use", "chosen"), NORMS)
def test_the_user_is_warned_of_a_critic_that_mixes_samples_before_training(tmp_path, caplog, loss, use, chosen):
    """The penalty is on each sample's own gradient, and with batch norm there is none: section 4 of the paper."""
    tables = recipe({"use": loss})
    tables["data"]["size"] = 16
    tables["discriminator"] = {"use": use, "feature_maps": 4, **chosen}
    run = build(tables, tmp_path / "run", ganrun_wgan_gp)
    warned = "depends on the other samples of its batch" in caplog.text
    assert warned == (loss == "wgan-gp" and chosen["norm"] == "batch")
    critic = run.state.slots["discriminator"].module
    assert all(not buffer.any() for name, buffer in critic.named_buffers() if name.endswith("running_mean"))


def test_the_penalty_alone_holds_the_gradient_near_norm_one(tmp_path):
    norms = {}
    for weight in (10.0, 0.0):
        tables = recipe({"use": "wgan-gp", "penalty_weight": weight}, steps=40, log_every_steps=10)
        tables["optimizer"] = {"use": "adam", "lr": 1e-3, "betas": [0.5, 0.9]}
        run = train(tables, tmp_path / str(weight), ganrun_wgan_gp)
        norms[weight] = records(run)[-1]["loss/critic.gradient_norm"]
    assert norms[10.0] == pytest.approx(1, abs=0.5)
    assert norms[0.0] > 2, "without it, nothing bounds the critic"


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("widths", "size"), [((4, 4, 4, 4), 32), ((8, 6, 4), 12), ((5,), 7)])
def test_the_generator_conforms(widths, size):
    spec = NetworkSpec((16,), (3, size, size))
    assert_conforms("generator", ResnetGenerator, {"widths": list(widths)}, spec)


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize(("widths", "flat_blocks", "size"), [((4, 4), 2, 32), ((4, 6, 8, 8), 0, 64), ((3,), 1, 6)])
def test_the_critic_conforms(widths, flat_blocks, size, norm):
    settings = {"widths": list(widths), "flat_blocks": flat_blocks, "norm": norm}
    assert_conforms("discriminator", ResnetCritic, settings, NetworkSpec((3, size, size), (5,)))


@pytest.mark.parametrize("labels", ["concatenation", "embedding"])
def test_the_networks_take_labels_either_way(labels):
    images, settings = (3, 8, 8), {"widths": [4, 6], "labels": labels}
    made, judged = NetworkSpec((7,), images, {"labels": ()}, 4), NetworkSpec(images, (2,), {"labels": ()}, 4)
    assert_conforms("generator", ResnetGenerator, settings, made)
    for norm in ("none", "layer"):
        assert_conforms("discriminator", ResnetCritic, {**settings, "norm": norm}, judged)


def test_in_bf16_a_sample_close_to_1_differs_from_1():
    generator = ResnetGenerator(ResnetGenerator.Settings(widths=(4, 6)), NetworkSpec((4,), (3, 8, 8)))
    nn.init.zeros_(generator.layers[-1].weight)
    nn.init.constant_(generator.layers[-1].bias, 5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gap = 1 - generator(torch.randn(6, 4))
    assert gap.dtype == torch.float32
    assert gap.min() > 0 and gap.max() < 2**-9, "bf16 rounds to 1 from there on"


def test_a_size_that_the_widths_cannot_halve_is_refused():
    message = (
        r"^with 4 widths it takes sizes divisible by 8, not 28×28; use fewer widths or change the size in \[data\]$"
    )
    with pytest.raises(IncompatibleError, match=message):
        ResnetGenerator(ResnetGenerator.Settings(), NetworkSpec((4,), (1, 28, 28)))
    with pytest.raises(IncompatibleError, match=r"works on images"):
        ResnetCritic(ResnetCritic.Settings(), NetworkSpec((2,), (1,)))


def test_the_defaults_are_the_papers_networks_for_32_pixels():
    generator = ResnetGenerator(ResnetGenerator.Settings(), NetworkSpec((128,), (3, 32, 32)))
    critic = ResnetCritic(ResnetCritic.Settings(), NetworkSpec((3, 32, 32), (1,)))
    assert [layer.kernel_size for layer in critic.modules() if isinstance(layer, nn.Conv2d)].count((3, 3)) == 8
    assert [layer.kernel_size for layer in generator.modules() if isinstance(layer, nn.Conv2d)].count((3, 3)) == 7
    assert {each.num_features for each in generator.modules() if isinstance(each, nn.BatchNorm2d)} == {128}
    assert not any("Norm" in type(layer).__name__ for layer in critic.modules())


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_the_critic_treats_each_sample_apart(norm):
    """In training mode too, where batch norm would mix them: a penalty per sample requires it."""
    torch.manual_seed(0)
    critic = ResnetCritic(ResnetCritic.Settings(widths=(4, 8), norm=norm), NetworkSpec((3, 8, 8), (1,)))
    images = noise(5, 3, 8, 8)
    assert torch.allclose(critic(images)[:2], critic(images[:2]), atol=1e-5)
    assert torch.allclose(gradient_norms(critic, images)[:2], gradient_norms(critic, images[:2]), atol=1e-5)


def test_blocks_add_a_skip_that_no_relu_has_touched():
    """Against skips computed in the paper's order: convolve the larger map, or the map before pooling."""
    up = ResnetGenerator(ResnetGenerator.Settings(widths=(4, 6)), NetworkSpec((4,), (3, 8, 8))).layers[2]
    critic = ResnetCritic(ResnetCritic.Settings(widths=(4, 6), flat_blocks=1), NetworkSpec((3, 8, 8), (1,)))
    first, down, flat = critic.layers[:3]
    inputs = noise(2, 4, 4, 4)
    before = inputs.clone()
    skip = conv2d(interpolate(inputs, scale_factor=2), up.skip[0].weight, up.skip[0].bias)
    assert torch.allclose(up(inputs), up.branch(inputs) + skip, atol=1e-5)
    for block, x in ((first, noise(2, 3, 8, 8)), (down, inputs)):
        skip = avg_pool2d(conv2d(x, block.skip[1].weight, block.skip[1].bias), 2)
        assert torch.allclose(block(x), block.branch(x) + skip, atol=1e-5)
    x = noise(2, 6, 4, 4)
    assert torch.allclose(flat(x), flat.branch(x) + x)
    assert torch.equal(inputs, before), "nothing works in place"


def test_convolutions_start_at_glorots_scale_and_larger_in_the_branches():
    critic = ResnetCritic(ResnetCritic.Settings(widths=(64, 128)), NetworkSpec((3, 8, 8), (1,)))
    down = critic.layers[1]
    assert down.branch[1].weight.std().item() == pytest.approx((2 * 2 / (9 * 128)) ** 0.5, rel=0.02)
    assert down.skip[1].weight.std().item() == pytest.approx((2 / (64 + 128)) ** 0.5, rel=0.03)
    order = [type(layer).__name__ for layer in down.branch]
    assert ("ReLU", "Conv2d") in set(pairwise(order)) and order[-1] == "AvgPool2d"
    assert all((layer.bias == 0).all() for layer in critic.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
