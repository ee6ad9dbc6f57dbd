"""Progressive growing: layers against closed forms and numpy, networks and a training step against written-out ones."""

from __future__ import annotations

import copy
import re
from itertools import pairwise
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, leaky_relu

from ganrun import Batch, DataSpec, IncompatibleError, MinibatchDeviation, Nets, NetworkSpec, gradient_norms, pixel_norm
from ganrun.base.randomness import derived_seed, set_random_stream
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import shipped_recipes
from ganrun.testing import assert_conforms, build, train
from ganrun.training.assembly import check_recipe
from ganrun.training.batches import RealBatches
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step
from ganrun_progressive.growth import Growth
from ganrun_progressive.layers import LatentsToMap
from ganrun_progressive.losses import ProgressiveGan
from ganrun_progressive.networks import ProgressiveDiscriminator, ProgressiveGenerator

LATENT, SIZE, WIDTHS = 5, 16, (6, 5, 4)
STEPS = (10, 20, 20)  # of levels 4×4, 8×8 and 16×16; each is faded in during half of its own


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator(**settings):
    own = parse_settings(ProgressiveGenerator.Settings, {"widths": WIDTHS, "level_steps": STEPS, **settings})
    torch.manual_seed(0)
    return biased(ProgressiveGenerator(own, NetworkSpec((LATENT,), (3, SIZE, SIZE))))


def discriminator(**settings):
    own = parse_settings(ProgressiveDiscriminator.Settings, {"widths": WIDTHS, "level_steps": STEPS, **settings})
    torch.manual_seed(1)
    return biased(ProgressiveDiscriminator(own, NetworkSpec((3, SIZE, SIZE), (1,))))


def biased(network):
    """In float64, with biases that are not 0."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.1)
    return network.double()


# ── The networks, written out ─────────────────────────────────────────────────────────────────────────────


def convolved(weights, name, maps, gain=2**0.5):
    kernel = weights[f"{name}.weight"]
    fan_in = kernel[0].numel()
    return conv2d(maps, kernel * (gain / sqrt(fan_in)), weights[f"{name}.bias"], padding=kernel.shape[-1] % 4 // 2)


def activated(maps):
    maps = leaky_relu(maps, 0.2)
    return maps / (maps.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()


def doubled(maps):
    return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(maps):
    return (maps[:, :, ::2, ::2] + maps[:, :, 1::2, ::2] + maps[:, :, ::2, 1::2] + maps[:, :, 1::2, 1::2]) / 4


def generated(weights, latents, level, alpha=1.0, size=SIZE):
    """A generator at a level, from its weights alone."""
    z = latents / (latents.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    kernel = weights["blocks.0.0.weight"].permute(3, 2, 0, 1) * sqrt(2 / (16 * z.shape[1]))
    maps = activated(conv_transpose2d(z[:, :, None, None], kernel, weights["blocks.0.0.bias"]))
    pixels, maps = None, activated(convolved(weights, "blocks.0.3", maps))
    for number in range(1, level + 1):
        pixels = convolved(weights, f"to_pixels.{number - 1}", maps, 1)
        maps = activated(convolved(weights, f"blocks.{number}.1", doubled(maps)))
        maps = activated(convolved(weights, f"blocks.{number}.4", maps))
    finest = convolved(weights, f"to_pixels.{level}", maps, 1)
    if alpha < 1:
        finest = (1 - alpha) * doubled(pixels) + alpha * finest
    return finest.repeat_interleave(size // finest.shape[2], 2).repeat_interleave(size // finest.shape[3], 3)


def judged(weights, images, level, alpha=1.0):
    """A discriminator at a level, from its weights alone, with groups of 4."""
    while images.shape[2] > 4 << level:
        images = halved(images)
    maps = leaky_relu(convolved(weights, f"from_pixels.{level}.0", images), 0.2)
    for number in range(level - 1, -1, -1):
        maps = leaky_relu(convolved(weights, f"blocks.{number}.0.0", maps), 0.2)
        maps = halved(leaky_relu(convolved(weights, f"blocks.{number}.1.0", maps), 0.2))
        if alpha < 1 and number == level - 1:
            coarse = leaky_relu(convolved(weights, f"from_pixels.{number}.0", halved(images)), 0.2)
            maps = (1 - alpha) * coarse + alpha * maps
    groups = len(maps) // 4
    spreads = [(maps[start::groups].var(0, correction=0) + 1e-8).sqrt().mean() for start in range(groups)]
    spread = torch.stack(spreads).repeat(4)[:, None, None, None].expand(-1, 1, *maps.shape[2:])
    maps = leaky_relu(convolved(weights, "head.1.0", torch.cat([maps, spread], 1)), 0.2)
    maps = leaky_relu(convolved(weights, "head.2.0", maps), 0.2).flatten(1)
    return maps @ weights["head.4.weight"].T / sqrt(maps.shape[1]) + weights["head.4.bias"]


POINTS = [(0, 0, 1.0), (10, 1, 0.0), (15, 1, 0.5), (20, 1, 1.0), (30, 2, 0.0), (35, 2, 0.5), (40, 2, 1.0)]


@pytest.mark.parametrize(("step", "level", "alpha"), POINTS)
def test_both_networks_are_the_papers_at_every_point_of_a_fade_in(step, level, alpha):
    made, critic = generator(), discriminator()
    for network in (made, critic):
        network.begin(step, 100)
        assert (network.level, network.fade.item()) == (level, alpha)
    latents, images = noise(8, LATENT), noise(8, 3, SIZE, SIZE)
    assert torch.allclose(made(latents), generated(made.state_dict(), latents, level, alpha), atol=1e-12)
    assert torch.allclose(critic(images), judged(critic.state_dict(), images, level, alpha), atol=1e-12)


@pytest.mark.parametrize("start", [10, 30])
def test_nothing_jumps_where_a_level_begins_and_where_it_is_faded_in(start):
    made, critic, latents, images = generator(), discriminator(), noise(4, LATENT), noise(4, 3, SIZE, SIZE)

    def at(step, network, inputs):
        network.begin(step, 100)
        return network(inputs).detach()

    for network, inputs in ((made, latents), (critic, images)):
        before, after = at(start - 1, network, inputs), at(start, network, inputs)
        assert torch.allclose(before, after, atol=1e-12), "α = 0 is the level before"
        network.begin(start + 9, 100)
        network.fade.fill_(1.0)
        assert torch.allclose(network(inputs), at(start + 10, network, inputs), atol=1e-12)
    small = at(9, made, latents)
    assert torch.equal(small, interpolate(small[:, :, ::4, ::4], scale_factor=4)), "each pixel is a square of 4×4"


def test_samples_stay_in_range_where_they_are_shown():
    made = generator()
    latents = noise(64, LATENT)
    with torch.no_grad():
        made.to_pixels[-1].bias.fill_(0.9)
    whole, shown = made(latents), made.eval()(latents)
    assert whole.max() > 1, "the critic sees what is beyond"
    assert torch.equal(shown, whole.clamp(-1, 1))


@pytest.mark.parametrize("make", [generator, discriminator])
def test_a_network_that_begins_at_a_step_is_one_that_went_through_all_before(make):
    inputs = noise(4, LATENT) if make is generator else noise(4, 3, SIZE, SIZE)
    through = make()
    for step in range(45):
        name, direct = through.begin(step, 60), make()
        assert direct.begin(step, 60) == name
        assert torch.equal(through(inputs), direct(inputs))
    assert name == "16×16" and make().begin(12, 60) == "4×4 to 8×8"


# ── The schedule ──────────────────────────────────────────────────────────────────────────────────────────


def test_unless_told_the_last_level_is_faded_in_by_the_middle_of_the_run():
    growth = Growth(32, None, 0.5)  # four levels in 12 parts of half a run: 1, then 1 + 1 for each
    assert [growth.at(step, 240) for step in (0, 19, 20, 30, 40, 60, 99, 100)] == [
        (0, 1.0),
        (0, 1.0),
        (1, 0.0),
        (1, 0.5),
        (1, 1.0),
        (2, 0.0),
        (2, 1.0),
        (3, 0.0),
    ]
    assert growth.at(119, 240) == (3, 0.95) and growth.at(120, 240) == growth.at(240, 240) == (3, 1.0)
    assert [growth.at(step, 1).level for step in (0, 1)] == [0, 3], "however short the run"


def test_fade_0_switches_and_fade_1_takes_all_of_a_level():
    assert [Growth(8, (4, 8), 0.0).at(step, 20) for step in (3, 4)] == [(0, 1.0), (1, 1.0)]
    assert [Growth(8, (4, 8), 1.0).at(step, 20) for step in (4, 6, 11, 12, 20)] == [
        (1, 0.0),
        (1, 0.25),
        (1, 0.875),
        (1, 1.0),
        (1, 1.0),
    ]


def test_the_stages_of_the_celeba_recipe_are_the_papers_and_go_with_its_levels():
    """600,000 images for the first level, as many to fade in each further one, and as many to train it; 12 million."""
    recipe = load_recipe(shipped_recipes() / "progressive_celeba128.toml", load_registry())
    made, judged = (recipe.networks[slot].settings for slot in ("generator", "discriminator"))
    assert (made.level_steps, made.fade) == (judged.level_steps, judged.fade)
    growth = Growth(128, made.level_steps, made.fade)
    points = [growth.at(step, recipe.train.steps) for step in range(120_000)]
    changes = [
        step for step in range(1, 120_000) if points[step].fade in (0.0, 1.0) and points[step] != points[step - 1]
    ]
    assert [stage.start for stage in recipe.stages] == changes
    assert all(recipe.resets_optimizers(step) for step in changes) and not recipe.resets_optimizers(0)
    parts = pairwise([0, *changes])
    images = [(end - start) * recipe.stage_at(start).batch_size for start, end in parts]
    assert images == pytest.approx([600_000] * 10, abs=100)
    rest = (recipe.train.steps - changes[-1]) * recipe.stage_at(changes[-1]).batch_size
    assert sum(images) + rest == pytest.approx(12e6, abs=16)


# ── Layers ────────────────────────────────────────────────────────────────────────────────────────────────


def test_gains_are_sqrt_2_before_a_leaky_relu_and_1_elsewhere():
    """Of the first layer √2 / 4, as its fan-in counts the 16 positions of the kernel."""
    made, critic = generator(), discriminator()
    gains = {
        made.blocks[0][3]: sqrt(2),
        made.blocks[1][1]: sqrt(2),
        made.to_pixels[2]: 1,
        critic.from_pixels[2][0]: sqrt(2),
        critic.head[2][0]: sqrt(2),
        critic.head[4]: 1,
    }
    for layer, gain in gains.items():
        expected = layer.weight * (gain / sqrt(layer.weight[0].numel()))
        assert torch.allclose(layer.scaled_weight(), expected, atol=1e-12)
    assert LatentsToMap(512, 512, 4).scale == pytest.approx(sqrt(2) / 4 / sqrt(512))


def test_pixel_norm_is_the_papers_and_puts_latents_on_a_sphere():
    maps = noise(2, 7, 3, 3)
    expected = maps.numpy() / np.sqrt((maps.numpy() ** 2).mean(1, keepdims=True) + 1e-8)
    assert np.allclose(pixel_norm(maps).numpy(), expected, atol=1e-12)
    assert torch.allclose(pixel_norm(noise(9, 512)).norm(dim=1), torch.full((9,), sqrt(512), dtype=torch.float64))
    made, latents = generator(), noise(3, LATENT)
    assert torch.allclose(made(latents), made(7 * latents), atol=1e-6), "the length of a latent does not matter"


@pytest.mark.parametrize(("batch", "group", "size"), [(8, 4, 4), (6, 4, 3), (5, 4, 1), (2, 4, 2), (12, 12, 12)])
def test_the_deviation_is_that_of_numpy_in_each_group(batch, group, size):
    maps = noise(batch, 3, 2, 2)
    groups = batch // size  # sample i is in group i mod the number of groups
    parts = [maps.numpy()[start::groups] for start in range(groups)]
    expected = np.tile([np.sqrt(part.var(0) + 1e-8).mean() for part in parts], size)
    channel = MinibatchDeviation(group).double()(maps)[:, 3].numpy()
    assert np.allclose(channel, expected[:, None, None], atol=1e-12)


def test_in_evaluation_the_deviation_is_the_mean_of_what_it_was():
    layer = MinibatchDeviation(4).double()
    batches = [noise(8, 3, 2, 2, seed=seed) for seed in range(3)]
    mean = 0.0
    for each in batches:
        parts = [each.numpy()[start::2] for start in range(2)]
        deviation = np.tile([np.sqrt(part.var(0) + 1e-8).mean() for part in parts], 4)
        assert np.allclose(layer(each)[:, 3].numpy(), deviation[:, None, None], atol=1e-12)
        mean += 0.01 * (deviation.mean().item() - mean)
    assert layer.eval()(batches[0])[:, 3].unique().tolist() == [pytest.approx(mean, abs=1e-12)]


def test_real_images_are_faded_as_the_generators_are():
    critic, images = discriminator(), noise(2, 3, SIZE, SIZE)
    critic.begin(35, 100)  # 8×8 to 16×16, α = ½
    coarse = images.numpy().reshape(2, 3, 8, 2, 8, 2).mean((3, 5)).repeat(2, 2).repeat(2, 3)
    assert np.allclose(critic.faded(images).numpy(), (coarse + images.numpy()) / 2, atol=1e-12)
    critic.begin(12, 100)  # 4×4 to 8×8, α = 0.2: the discriminator sees the same as of small images that are faded
    small = halved(images)
    expected = 0.8 * doubled(halved(small)) + 0.2 * small
    assert torch.allclose(avg_pool2d(critic.faded(images), 2), expected, atol=1e-12)
    critic.begin(25, 100)
    assert critic.faded(images) is images


# ── Sizes ─────────────────────────────────────────────────────────────────────────────────────────────────


def counted(network):
    return sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize(
    ("size", "widths"), [(128, (512, 512, 512, 512, 256, 128)), (1024, (512, 512, 512, 512, 256, 128, 64, 32, 16))]
)
def test_the_default_networks_have_the_papers_weights(size, widths):
    """Table 2 lists 23.1 million in each of the two networks for 1024×1024; they need no others than those here."""
    with torch.device("meta"):
        made = ProgressiveGenerator(ProgressiveGenerator.Settings(), NetworkSpec((512,), (3, size, size)))
        critic = ProgressiveDiscriminator(ProgressiveDiscriminator.Settings(), NetworkSpec((3, size, size), (1,)))
    first = (512 * 512 * 16 + 512) + (512 * 512 * 9 + 512)
    levels = [(a * b * 9 + b) + (b * b * 9 + b) for a, b in pairwise(widths)]
    pixels = [width * 3 + 3 for width in widths]
    assert counted(made) == first + sum(levels) + sum(pixels)
    head = (513 * 512 * 9 + 512) + (512 * 512 * 16 + 512) + 513
    levels = [(b * b * 9 + b) + (b * a * 9 + a) for a, b in pairwise(widths)]
    pixels = [3 * width + width for width in widths]
    assert counted(critic) == head + sum(levels) + sum(pixels)
    if size == 1024:
        unused = sum(3 * width + 3 for width in widths[:-1]), sum(4 * width for width in widths[:-1])
        found = counted(made) - unused[0], counted(critic) - unused[1]
        assert [round(each / 1e6, 1) for each in found] == [23.1, 23.1]


# ── The loss ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("gamma", [1.0, 750.0])
def test_the_loss_is_wgan_gp_with_drift(gamma):
    """With D(x) = w · x:  λ(‖w‖ − γ)²/γ² and ε·E[D(x)²]."""
    weights = torch.linspace(-0.5, 0.9, 24, dtype=torch.float64).view(2, 3, 4)
    nets = Nets({"discriminator": lambda x: (x * weights).flatten(1).sum(1, keepdim=True), "generator": lambda z: z})
    real, fake = noise(5, 2, 3, 4), noise(5, 2, 3, 4, seed=1)
    loss = ProgressiveGan(ProgressiveGan.Settings(gradient_norm=gamma), DataSpec((2, 3, 4)))
    terms = loss.discriminator(nets, Batch(fake, real))
    of_real, of_fake = ((each * weights).flatten(1).sum(1) for each in (real, fake))
    norm = weights.square().sum().sqrt().item()
    found = {name: term.item() for name, term in terms.minimise.items()}
    assert found == pytest.approx(
        {
            "real": -of_real.mean().item(),
            "fake": of_fake.mean().item(),
            "penalty": 10 * (norm - gamma) ** 2 / gamma**2,
            "drift": 0.001 * of_real.square().mean().item(),
        },
        rel=1e-5,
    )
    assert terms.report["gradient_norm"].item() == pytest.approx(norm, rel=1e-5)
    (phase, _) = loss.phases()
    assert (phase.name, phase.repeat, phase.second_order) == ("critic", 1, True)
    assert loss.generator(nets, Batch(fake)).minimise["fake"].item() == pytest.approx(-of_fake.mean().item())


def test_the_gradients_norm_is_that_of_images_in_their_own_size():
    """Of a network for 8×8 and one for 32×32 at the level of 8×8, with the same weights."""
    made = {}
    for size, widths in ((8, (6, 5)), (32, (6, 5, 4, 4))):
        own = parse_settings(ProgressiveDiscriminator.Settings, {"widths": widths, "group_size": 1})
        made[size] = biased(ProgressiveDiscriminator(own, NetworkSpec((3, size, size), (1,))))
    small, large = made[8], made[32]
    large.load_state_dict({**large.state_dict(), **small.state_dict()})
    large.begin(350, 1200)
    assert (large.level, large.is_fading, large.pixel_size) == (2, True, 2)
    large.level, large.is_fading = 1, False
    images = noise(3, 3, 8, 8)
    shown = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.allclose(small(images), large(shown), atol=1e-12)
    norms = gradient_norms(small, images)
    assert torch.allclose(large.pixel_size * gradient_norms(large, shown), norms, rtol=1e-6)
    assert large.pixel_size == 4


# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────

GROWING = {"use": "progressive", "widths": [6, 5, 4], "level_steps": [2, 8, 8]}


def tables(**more):
    return {
        "train": {"steps": 24, "batch_size": 8, "device": "cpu", "seed": 3, "log_every_steps": 1},
        "data": {"use": "digits", "size": 16},
        "loss": {"use": "progressive", "latent_size": LATENT},
        "generator": GROWING,
        "discriminator": GROWING,
        "optimizer": {"use": "adam", "lr": 1e-3, "betas": [0.0, 0.99]},
        **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
        **more,
    }


def test_a_step_in_the_middle_of_a_fade_is_that_of_a_loop_written_out(tmp_path):
    run = build(tables(), tmp_path / "run")
    run.begin()
    take_step = build_step(run, Measurements())
    for _ in range(13):  # now 8×8 to 16×16, α = ¾
        take_step()
    slots = run.state.slots
    assert (slots["generator"].module.level, slots["generator"].module.fade.item()) == (2, 0.75)
    weights = {name: parameters(slot.module) for name, slot in slots.items()}
    optimizers = {name: adam(weights[name], slots[name].optimizer) for name in slots}
    mean = parameters(slots["generator"].average.module)
    take_step()

    set_random_stream(torch.device("cpu"), derived_seed(3, "step", 0, 13))
    latents, level, alpha = torch.randn(8, LATENT), 2, 0.75
    images = RealBatches(run.data.split("train"), torch.device("cpu"), 3).take(13 * 8, 8).images
    real = (1 - alpha) * doubled(halved(images)) + alpha * images
    fake = generated(weights["generator"], latents, level, alpha).detach()
    mix = torch.rand(8, 1, 1, 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    of_real, of_fake, of_mix = (judged(weights["discriminator"], each, level, alpha) for each in (real, fake, between))
    (slopes,) = torch.autograd.grad(of_mix.sum(), between, create_graph=True)
    penalty = 10 * ((slopes.pow(2).sum((1, 2, 3)) + 1e-12).sqrt() - 1).pow(2).mean()
    (of_fake.mean() - of_real.mean() + penalty + 0.001 * of_real.pow(2).mean()).backward()
    optimizers["discriminator"].step()
    frozen = {name: each.detach() for name, each in weights["discriminator"].items()}
    fake = generated(weights["generator"], torch.randn(8, LATENT), level, alpha)
    (-judged(frozen, fake, level, alpha).mean()).backward()
    optimizers["generator"].step()

    for name, slot in slots.items():
        for key, parameter in slot.module.named_parameters():
            assert torch.allclose(parameter, weights[name][key], atol=1e-5), f"{name}.{key}"
    for key, averaged in slots["generator"].average.module.named_parameters():
        decay = min(0.999, 14 / 23)
        expected = decay * mean[key] + (1 - decay) * weights["generator"][key]
        assert torch.allclose(averaged, expected, atol=1e-5), key


def parameters(network):
    return {name: each.detach().clone().requires_grad_() for name, each in network.named_parameters()}


def adam(weights, like):
    made = torch.optim.Adam(weights.values(), lr=1e-3, betas=(0.0, 0.99), eps=1e-8)
    made.load_state_dict(copy.deepcopy(like.state_dict()))
    for group in made.param_groups:
        group["fused"] = False
    return made


def test_stages_go_with_levels_and_a_score_says_which_level_was_scored(tmp_path):
    stages = [{"from": 2, "batch_size": 4, "reset_optimizers": True}, {"from": 10, "reset_optimizers": True}]
    metric = {"use": "fid", "features": "classifier", "samples": 16}
    timing = {"steps": 14, "batch_size": 8, "device": "cpu", "evaluate_every_steps": 5}
    data = {"use": "synthetic", "size": 16, "count": 64, "test_count": 16}
    run = train(tables(train=timing, data=data, stage=stages, metric=[metric]), tmp_path / "run")
    assert run.images_seen == 2 * 8 + 12 * 4
    found = [each.evaluation[0].protocol for each in run.directory.evaluations()]
    levels = [protocol.get("structure.generator") for protocol in found]
    assert levels == ["4×4 to 8×8", "8×8 to 16×16", None]
    counts = [state["step"].item() for state in run.state.slots["generator"].optimizer.state.values()]
    assert set(counts) == {4}, "each weight has been trained by 4 steps since the last reset"


# ── What does not fit ─────────────────────────────────────────────────────────────────────────────────────

RECIPE = """[train]
steps = 40
batch_size = 4
device = "cpu"
[data]
use = "digits"
size = 16
[loss]
use = "progressive"
latent_size = 4
[generator]
use = "progressive"
widths = [4, 4, 4]
[discriminator]
use = "progressive"
widths = [4, 4, 4]
"""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], None),
        (["data.size=28"], r"r.toml:11: \[generator\] progressive .*grows to 8×8, 16×16, 32×32 .*, not to 28×28"),
        (["generator.widths=[4, 4]"], r"r.toml:11: .*widths has 2 numbers, and there are 3 levels: 4×4, 8×8, 16×16"),
        (
            ["discriminator.level_steps=[1, 2, 3, 4]"],
            r"r.toml:14: \[discriminator\] .*level_steps has 4 numbers, and there are 3 levels",
        ),
        (["generator.level_steps=[5, 5, 5]"], r"r.toml:8: \[loss\] progressive .*do not grow at the same steps; say"),
        (["discriminator.fade=0.25"], r"r.toml:8: \[loss\] progressive .*do not grow at the same steps"),
        (["discriminator.use=mlp"], r"r.toml:8: \[loss\] progressive .*two networks that grow, or two that do not"),
        (["loss={ use = 'cgan', noise_size = 4 }"], r"r.toml:11: \[generator\] progressive .*takes no labels; take a"),
        (["data={ use = 'gaussians' }"], r"r.toml:11: \[generator\] progressive .*works on images"),
    ],
)
def test_what_does_not_fit_is_reported_at_its_line(tmp_path: Path, overrides, message):
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    if message is None:
        return check_recipe(load_recipe(path, load_registry(), overrides))
    with pytest.raises(IncompatibleError) as error:
        check_recipe(load_recipe(path, load_registry(), overrides))
    assert re.search(message, str(error.value)), str(error.value)
    return None


def test_the_loss_trains_networks_that_do_not_grow_too(tmp_path):
    plain = {"use": "mlp", "hidden": [8]}
    run = train(
        tables(train={"steps": 2, "batch_size": 4, "device": "cpu"}, generator=plain, discriminator=plain),
        tmp_path / "run",
    )
    assert run.step == 2 and prod(run.model.sample(2).shape) == 2 * 16 * 16


# ── Conformance ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("settings", [{}, {"fade": 1.0}, {"level_steps": [100, 300, 400]}])
def test_the_networks_conform(settings):
    small = {"widths": [6, 5, 4], **settings}
    assert_conforms("generator", ProgressiveGenerator, small, NetworkSpec((LATENT,), (3, SIZE, SIZE)))
    for group in (1, 4):
        spec = NetworkSpec((3, SIZE, SIZE), (2,))
        assert_conforms("discriminator", ProgressiveDiscriminator, {**small, "group_size": group}, spec)


class SmallGenerator(ProgressiveGenerator):
    class Settings(ProgressiveGenerator.Settings):
        widths: tuple[int, ...] | None = (4, 4, 4, 4)


class SmallDiscriminator(ProgressiveDiscriminator):
    class Settings(ProgressiveDiscriminator.Settings):
        widths: tuple[int, ...] | None = (4, 4, 4, 4)
        group_size: int = 1


def test_the_loss_conforms():
    assert_conforms("loss", ProgressiveGan)
    networks = {"generator": SmallGenerator, "discriminator": SmallDiscriminator}
    assert_conforms("loss", ProgressiveGan, {"gradient_norm": 750.0, "drift_weight": 0.0}, networks=networks)
