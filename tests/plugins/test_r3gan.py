"""R3GAN: the loss against its formula in float64, the networks against torch composed another way, and whole steps."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, pad

import ganrun
from ganrun import (
    Batch,
    ContractError,
    DataSpec,
    IncompatibleError,
    Nets,
    NetworkSpec,
    RequestError,
    View,
    checkpoints_in,
    hookimpl,
)
from ganrun.contracts.beginning import begin
from ganrun.contracts.settings import parse_settings
from ganrun.testing import assert_conforms, build, train
from ganrun.training.runner import execute
from ganrun_r3gan.layers import BiasedLeakyReLU, Block, Downsample, Upsample, block_gain
from ganrun_r3gan.losses import ConditionalR3Gan, R3Gan
from ganrun_r3gan.networks import R3ganDiscriminator, R3ganGenerator, R3ganSettings

CPU = torch.device("cpu")
SHAPE = (2, 3, 4)
SMALL: dict[str, Any] = {"widths": [8, 12], "cardinality": 4, "blocks": 2, "embedding_size": 6}
"""For images of 8×8."""

TINY = R3ganSettings(**{**SMALL, "widths": (8, 12)})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# ── The loss ──────────────────────────────────────────────────────────────────────────────────────────────


def loss_of(gamma: Any = 0.0, shape: tuple[int, ...] = SHAPE) -> R3Gan:
    return R3Gan(parse_settings(R3Gan.Settings, {"gamma": gamma}), DataSpec(shape))


def nets_of(critic: Any, generator: Any = lambda z: z) -> Nets:
    return Nets({"generator": generator, "discriminator": critic})


@pytest.mark.parametrize("settings", [{}, {"gamma": 2.0}, {"gamma": {"schedule": "linear", "start": 0.0, "end": 1.0}}])
def test_the_losses_conform(settings: Mapping[str, Any]) -> None:
    assert_conforms("loss", R3Gan, settings)
    assert_conforms("loss", ConditionalR3Gan, {**settings, "noise_size": 5}, DataSpec((3, 8, 8), classes=4))


def test_each_real_image_is_compared_with_one_sample() -> None:
    judged = {"real": [1.0, -2.0, 0.5], "fake": [0.25, 3.0, -1.5]}
    real, fake = (torch.tensor(each, dtype=torch.float64)[:, None] for each in judged.values())
    loss, nets = loss_of(shape=(1,)), nets_of(lambda x: x)
    pairs = list(zip(*judged.values(), strict=True))
    terms = loss.discriminator(nets, Batch(fake, real))
    of_discriminator = sum(softplus(-(r - f)) for r, f in pairs) / 3
    assert terms.minimise["pairs"].item() == pytest.approx(of_discriminator, rel=1e-12)
    assert terms.report["gap"].item() == pytest.approx(sum(r - f for r, f in pairs) / 3, rel=1e-12)
    of_generator = loss.generator(nets, Batch(fake, real)).minimise["pairs"].item()
    assert of_generator == pytest.approx(sum(softplus(-(f - r)) for r, f in pairs) / 3, rel=1e-12)
    others = loss.discriminator(nets, Batch(fake.roll(1, 0), real)).minimise["pairs"].item()
    assert abs(others - of_discriminator) > 0.1, "the mean over other pairs is another, so it is not a mean of D alone"


def test_the_penalties_of_a_linear_critic_are_half_gamma_times_its_squared_norm() -> None:
    weights = torch.linspace(-0.5, 0.9, 24, dtype=torch.float64).view(SHAPE).requires_grad_()
    loss = loss_of(3.0)
    batch = Batch(noise(5, *SHAPE), noise(5, *SHAPE, seed=1))
    terms = loss.discriminator(nets_of(lambda x: (x * weights).flatten(1).sum(1, keepdim=True)), batch)
    squared = weights.detach().square().sum().item()
    for name in ("r1", "r2"):
        assert terms.minimise[name].item() == pytest.approx(3.0 / 2 * squared, rel=1e-12)
        assert terms.report[f"{name}_norm_squared"].item() == pytest.approx(squared, rel=1e-12)
        (slope,) = torch.autograd.grad(terms.minimise[name], weights, retain_graph=True)
        torch.testing.assert_close(slope, 3.0 * weights.detach())


def test_r1_is_taken_at_real_images_and_r2_at_samples_each_by_itself() -> None:
    """Against a gradient for each sample alone, by torch.func."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(2, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 2 * 3, 1)).double()
    real, fake = noise(4, *SHAPE), 2 * noise(4, *SHAPE, seed=1)
    slope = torch.func.grad(lambda x: critic(x[None]).sum())
    terms = loss_of(1.0).discriminator(nets_of(critic), Batch(fake, real))
    for name, points in (("r1", real), ("r2", fake)):
        by_hand = sum(slope(x).square().sum().item() for x in points) / 4 / 2
        assert terms.minimise[name].item() == pytest.approx(by_hand, rel=1e-10)


def test_penalties_are_those_of_the_images_before_augmentation_from_one_pass() -> None:
    passes: list[Tensor] = []

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(x)
            return x.flatten(1).sum(1, keepdim=True)

    def tripled(x: Tensor) -> Tensor:
        return 3 * x

    batch = Batch(noise(5, *SHAPE), noise(5, *SHAPE, seed=1))
    terms = loss_of(1.0).discriminator(nets_of(View(Sum(), front=tripled)), batch)
    assert terms.report["r1_norm_squared"].item() == pytest.approx(9 * 24), "∇ₓ of 3·Σx, not of Σx"
    assert len(passes) == 2, "what is compared is also what is penalised"


def test_gamma_follows_its_schedule() -> None:
    loss = R3Gan(R3Gan.Settings(), DataSpec((1,)))
    weights = {}
    for step in (0, 250, 500, 1000):
        begin(loss, step, 1000, CPU)
        terms = loss.discriminator(nets_of(lambda x: x), Batch(torch.zeros(3, 1), torch.zeros(3, 1)))
        weights[step] = 2 * terms.minimise["r1"].item()
    assert weights == pytest.approx(
        {
            0: 0.05,
            250: 0.005 + 0.045 * (1 + math.cos(math.pi / 4)) / 2,
            500: 0.0275,
            1000: 0.005,
        }
    )


def test_a_sample_has_the_class_of_the_image_that_it_is_compared_with() -> None:
    loss = ConditionalR3Gan(ConditionalR3Gan.Settings(noise_size=1), DataSpec((1,), classes=3))
    labels = torch.tensor([2, 0, 2])
    latents = torch.tensor([[0.5, 1, 0, 0], [1.5, 1, 0, 0], [2.5, 0, 1, 0]])
    seen: list[tuple[str, Tensor, Tensor]] = []

    def generator(z: Tensor, labels: Tensor) -> Tensor:
        seen.append(("generator", z, labels))
        return z

    def critic(x: Tensor, labels: Tensor) -> Tensor:
        seen.append(("critic", x, labels))
        return x

    for objective in (loss.discriminator, loss.generator):
        seen.clear()
        objective(nets_of(critic, generator), Batch(latents, torch.ones(3, 1), labels))
        assert all(torch.equal(got, labels) for _, _, got in seen)
        assert sorted(name for name, _, _ in seen) == ["critic", "critic", "generator"]
        (drawn,) = [z for name, z, _ in seen if name == "generator"]
        assert torch.equal(drawn, latents[:, :1]), "the noise, without the class in the latents"
    with pytest.raises(ContractError, match="have no labels"):
        loss.paired_samples(nets_of(critic, generator), Batch(latents, torch.ones(3, 1)))


# ── Layers ────────────────────────────────────────────────────────────────────────────────────────────────


def test_resampling_is_that_of_1_2_1_along_both_axes() -> None:
    """Against sums of shifted pixels."""
    x = noise(2, 3, 6, 8)
    padded = pad(x, (1, 1, 1, 1))
    rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    blurred = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    torch.testing.assert_close(Downsample().double()(x), blurred[:, :, ::2, ::2])
    spread = torch.zeros(2, 3, 12, 16, dtype=torch.float64)
    spread[:, :, ::2, ::2] = x
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 2
    each = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    torch.testing.assert_close(Upsample().double()(x), conv2d(spread, each, padding=1, groups=3))


def test_upsampling_keeps_pixels_and_puts_means_between_them_and_downsampling_is_its_transpose() -> None:
    x, y = noise(2, 3, 4, 4), noise(2, 3, 8, 8, seed=1)
    up, down = Upsample().double(), Downsample().double()
    torch.testing.assert_close(up(x)[:, :, ::2, ::2], x)
    torch.testing.assert_close(up(x)[:, :, ::2, 1:-1:2], (x[..., :-1] + x[..., 1:]) / 2)
    torch.testing.assert_close((up(x) * y).sum(), 4 * (x * down(y)).sum())
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(down(ones)[:, :, 1:, 1:], ones[:, :, 1:4, 1:4]), "zeros beyond the first row and column"


def test_a_block_is_the_identity_at_first_and_its_last_convolution_learns_first() -> None:
    torch.manual_seed(0)
    block = Block(8, 16, 4, 3, block_gain(5)).double()
    x = noise(2, 8, 5, 5)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    moved = {name for name, weight in block.named_parameters() if weight.grad.any()}
    assert moved == {"branch.4.weight"}, "nothing before a convolution of 0 has a gradient"


def test_a_block_is_two_biased_activations_between_three_convolutions() -> None:
    torch.manual_seed(0)
    block = Block(8, 16, 4, 3, 1.0).double()
    for weight in block.parameters():
        nn.init.normal_(weight, 0.0, 0.3)
    (w1, b1, w2, b2, w3), x = block.parameters(), noise(2, 8, 5, 5)
    inner = leaky_relu(torch.einsum("oi,nihw->nohw", w1[:, :, 0, 0], x) + b1, 0.2)
    groups = [conv2d(part, w, padding=1) for part, w in zip(inner.chunk(4, 1), w2.chunk(4), strict=True)]
    inner = leaky_relu(torch.cat(groups, 1) + b2, 0.2)
    torch.testing.assert_close(block(x), x + torch.einsum("oi,nihw->nohw", w3[:, :, 0, 0], inner))


def test_the_gain_is_that_of_leaky_relu_and_of_the_depth() -> None:
    assert block_gain(1) == pytest.approx(nn.init.calculate_gain("leaky_relu", 0.2))
    assert block_gain(16) == pytest.approx(math.sqrt(2 / 1.04) / 2)
    assert block_gain(8) == pytest.approx(0.8246, abs=1e-4)


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("widths", "size"), [((8, 12), 8), ((4, 4, 8), 16), ((8, 8, 8, 4), 32), ((8,) * 5, 64)])
def test_the_networks_conform(widths: tuple[int, ...], size: int) -> None:
    settings = {**SMALL, "widths": list(widths), "blocks": 1}
    made, judged = ((16,), (3, size, size)), ((3, size, size), (5,))
    assert_conforms("generator", R3ganGenerator, settings, NetworkSpec(*made, classes=4))
    assert_conforms("discriminator", R3ganDiscriminator, settings, NetworkSpec(*judged, classes=4))


def test_the_networks_of_cifar10_have_the_parameters_that_one_counts_by_hand() -> None:
    block = 768 * 1536 + 1536 * (1536 // 96) * 9 + 1536 * 768 + 2 * 1536
    of_generator = 10 * 64 + (64 + 64) * 768 + 768 * 16 + 8 * block + 768 * 3
    of_discriminator = 10 * 64 + 768 * 64 + 768 * 16 + 8 * block + 768 * 3
    assert (block, of_generator, of_discriminator) == (2_583_552, 20_781_952, 20_732_800)
    with torch.device("meta"):
        generator = R3ganGenerator(R3ganSettings(), NetworkSpec((64,), (3, 32, 32), {"labels": ()}, 10))
        discriminator = R3ganDiscriminator(R3ganSettings(), NetworkSpec((3, 32, 32), (1,), {"labels": ()}, 10))
    assert sum(each.numel() for each in generator.parameters()) == of_generator
    assert sum(each.numel() for each in discriminator.parameters()) == of_discriminator


def test_weights_start_at_gain_over_the_root_of_fan_in() -> None:
    torch.manual_seed(0)
    settings = R3ganSettings(widths=(96, 192), cardinality=12, blocks=3, embedding_size=40)
    generator = R3ganGenerator(settings, NetworkSpec((64,), (3, 8, 8), {"labels": ()}, 100))
    discriminator = R3ganDiscriminator(settings, NetworkSpec((3, 8, 8), (1,), {"labels": ()}, 100))
    gain = math.sqrt(2 / 1.04) * 6**-0.25
    for network in (generator, discriminator):
        for block in (each for each in network.modules() if isinstance(each, Block)):
            first, second, last = block.branch[0].weight, block.branch[2].weight, block.branch[4].weight
            width = first.shape[1]
            assert first.std().item() == pytest.approx(gain / math.sqrt(width), rel=0.03)
            assert second.std().item() == pytest.approx(gain / math.sqrt(width * 2 // 12 * 9), rel=0.03)
            assert not last.any() and abs(first.mean().item()) < 0.01
    found = {
        "basis": generator.basis.std(),
        "weights": generator.weights.weight.std() * math.sqrt(104),
        "class in the generator": generator.embedding.weight.std(),
        "widening": generator.larger[0][0].weight.std() * math.sqrt(96),
        "to pixels": generator.larger[-1].weight.std() * math.sqrt(192),
        "from pixels": discriminator.larger[0].weight.std() * math.sqrt(3),
        "4×4": discriminator.smallest[3].weight.std() * 4,
        "last": discriminator.smallest[5].weight.std() * math.sqrt(96),
        "class in the discriminator": discriminator.embedding.weight.std() * math.sqrt(40),
    }
    assert {name: each.item() for name, each in found.items()} == pytest.approx(dict.fromkeys(found, 1.0), rel=0.09)
    biases = [each.bias for each in discriminator.modules() if isinstance(each, BiasedLeakyReLU)]
    assert len(biases) == 12 and not any(bias.any() for bias in biases)
    assert not any(layer.bias is not None for layer in generator.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def shaken(network: nn.Module) -> nn.Module:
    """In float64, away from where it starts, so that every block counts."""
    for weight in network.double().parameters():
        weight.data.add_(0.2 * noise(*weight.shape))
    return network


def blocks_by_hand(x: Tensor, weights: list[Tensor], count: int) -> Tensor:
    for _ in range(count):
        first, first_bias, second, second_bias, last = (weights.pop(0) for _ in range(5))
        inner = leaky_relu(conv2d(x, first) + first_bias, 0.2)
        inner = leaky_relu(conv2d(inner, second, padding=1, groups=4) + second_bias, 0.2)
        x = x + conv2d(inner, last)
    return x


def test_the_generator_is_a_basis_weighted_by_latents_and_class_then_stages() -> None:
    network = shaken(R3ganGenerator(TINY, NetworkSpec((5,), (3, 8, 8), {"labels": ()}, 4)))
    latents, labels = noise(6, 5), torch.tensor([0, 3, 1, 1, 2, 0])
    basis, embedding, dense, *weights = network.parameters()
    vectors = torch.cat([latents, embedding[labels]], 1) @ dense.T
    x = blocks_by_hand(torch.einsum("nc,chw->nchw", vectors, basis), weights, 2)
    x = Upsample().double()(conv2d(x, weights.pop(0)))
    pixels = conv2d(blocks_by_hand(x, weights, 2), weights.pop(0))
    assert not weights
    torch.testing.assert_close(network.train()(latents, labels).double(), pixels, rtol=1e-5, atol=1e-5)
    assert pixels.abs().max() > 1, "samples have no bounds in training"
    clipped = network.eval()(latents, labels).double()
    torch.testing.assert_close(clipped, pixels.clamp(-1, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_discriminator_is_stages_then_a_filter_for_each_channel_and_a_product_with_the_class(outputs: int) -> None:
    spec = NetworkSpec((3, 8, 8), (outputs,), {"labels": ()}, 4)
    network = shaken(R3ganDiscriminator(TINY, spec))
    images, labels = noise(6, 3, 8, 8), torch.tensor([0, 3, 1, 1, 2, 0])
    embedding, first, *weights = network.parameters()
    x = blocks_by_hand(conv2d(images, first), weights, 2)
    x = blocks_by_hand(conv2d(Downsample().double()(x), weights.pop(0)), weights, 2)
    filtered = torch.einsum("nchw,chw->nc", x, weights.pop(0)[:, 0])
    vectors = (filtered @ weights.pop(0).T).unflatten(1, (outputs, 6))
    assert not weights
    torch.testing.assert_close(network(images, labels), torch.einsum("nok,nk->no", vectors, embedding[labels]))


@pytest.mark.parametrize("widths", [(8, 12), (8, 8)])
def test_the_smallest_stage_is_in_float32_at_any_precision_and_no_other(widths: tuple[int, ...]) -> None:
    settings = TINY.model_copy(update={"widths": widths})
    generator = R3ganGenerator(settings, NetworkSpec((5,), (3, 8, 8)))
    discriminator = R3ganDiscriminator(settings, NetworkSpec((3, 8, 8), (1,)))
    types: dict[str, set[torch.dtype]] = {}
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        for stage in ("smallest", "larger"):
            for block in (each for each in getattr(network, stage).modules() if isinstance(each, Block)):
                seen = types.setdefault(f"{name}.{stage}", set())
                block.register_forward_hook(lambda *call, seen=seen: seen.add(call[-1].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(torch.randn(2, 5))
        logits = discriminator(images)
    assert images.dtype == logits.dtype == torch.float32
    assert types["generator.smallest"] == types["discriminator.smallest"] == {torch.float32}
    assert types["generator.larger"] == types["discriminator.larger"] == {torch.bfloat16}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 64, 64), "with 2 widths it takes 8×8, not 64×64; change the number of widths, or the size in [data]"),
        ((3, 8, 16), "with 2 widths it takes 8×8, not 8×16"),
        ((2,), "works on images"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(IncompatibleError) as error:
        R3ganGenerator(TINY, NetworkSpec((4,), shape))
    assert error.value.message.startswith(message)
    with pytest.raises(IncompatibleError) as error:
        R3ganDiscriminator(TINY, NetworkSpec(shape, (1,)))
    assert error.value.message.startswith(message)


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────

STEPS = 3


def recipe(loss: str = "conditional-r3gan", **train_settings: Any) -> dict[str, Any]:
    network = {"use": "r3gan", **SMALL}
    return {
        "name": "tiny",
        **dict.fromkeys(("mlflow", "progress", "samples"), False),
        "train": {"steps": STEPS, "batch_size": 8, "device": "cpu", "log_every_steps": 1, **train_settings},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": loss, "gamma": {"schedule": "cosine", "start": 0.5, "end": 0.05, "steps": 2}},
        "generator": network,
        "discriminator": network,
        "optimizer": {
            "use": "adam",
            "lr": 2e-3,
            "betas": [0.0, {"schedule": "cosine", "start": 0.9, "end": 0.99, "steps": 2}],
            "schedule": {"use": "cosine", "end": 0.25, "until": 0.5},
        },
        "ema": {"half_life": {"schedule": "cosine", "start": 0.0, "end": 4.0, "steps": 2}},
    }


class Recorded(ConditionalR3Gan):
    """The conditional loss, whose batches are kept."""

    batches: list[tuple[str, Batch]] = []

    def discriminator(self, nets: Nets, batch: Batch) -> Any:
        self.batches.append(("discriminator", batch))
        return super().discriminator(nets, batch)

    def generator(self, nets: Nets, batch: Batch) -> Any:
        self.batches.append(("generator", batch))
        return super().generator(nets, batch)


class Recorder:
    """Offers it."""

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {"recorded": Recorded}


def test_whole_steps_are_those_of_a_loop_written_by_hand(tmp_path: Path) -> None:
    run = build(recipe("recorded"), tmp_path / "run", Recorder())
    networks = {name: copy.deepcopy(slot.module) for name, slot in run.state.slots.items()}
    Recorded.batches.clear()
    execute(run)
    batches = Recorded.batches[-2 * STEPS :]
    assert [name for name, _ in batches] == ["discriminator", "generator"] * STEPS
    assert not torch.equal(batches[0][1].images, batches[1][1].images), "each phase has real images of its own"
    average = by_hand(networks["generator"], networks["discriminator"], [batch for _, batch in batches])
    for name, slot in run.state.slots.items():
        assert_same_weights(slot.module, networks[name])
    assert_same_weights(run.state.slots["generator"].average.module, average)


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    for (name, weight), (other, by_hand) in zip(found.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(weight, by_hand, rtol=2e-4, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}")
        assert name == other


def by_hand(generator: nn.Module, discriminator: nn.Module, batches: list[Batch]) -> nn.Module:
    """Trains the two networks, pair by pair; returns the average of the generator."""
    average = copy.deepcopy(generator)
    adam = {each: torch.optim.Adam(each.parameters(), foreach=False) for each in (generator, discriminator)}
    for step in range(STEPS):
        fallen = (1 - math.cos(math.pi * min(1, step / 2))) / 2
        gamma, beta2, half_life = 0.5 - 0.45 * fallen, 0.9 + 0.09 * fallen, 4 * fallen
        lr = 2e-3 * (0.25 + 0.75 * (1 + math.cos(math.pi * min(1, step / STEPS / 0.5))) / 2)
        for network, batch in ((discriminator, batches[2 * step]), (generator, batches[2 * step + 1])):
            objective = hand_discriminator if network is discriminator else hand_generator
            weights = list(network.parameters())
            gradients = torch.autograd.grad(objective(generator, discriminator, batch, gamma), weights)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            adam[network].param_groups[0].update(lr=lr, betas=(0.0, beta2))
            adam[network].step()
        kept = 2 ** (-1 / half_life) if half_life else 0.0
        for mean, weight in zip(average.parameters(), generator.parameters(), strict=True):
            mean.data = kept * mean.data + (1 - kept) * weight.data
    return average


def hand_discriminator(generator: nn.Module, critic: nn.Module, batch: Batch, gamma: float) -> Tensor:
    total = torch.zeros(())
    for z, x, y in rows(batch):
        fake = generator(z, y).detach()
        logits, slopes = [], []
        for image in (x, fake):
            point = image.clone().requires_grad_()
            logits.append(critic(point, y).squeeze())
            slopes.append(torch.autograd.grad(logits[-1], point, create_graph=True)[0].square().sum())
        total = total + torch.log1p(torch.exp(-(logits[0] - logits[1]))) + gamma / 2 * (slopes[0] + slopes[1])
    return total / batch.size


def hand_generator(generator: nn.Module, critic: nn.Module, batch: Batch, _: float) -> Tensor:
    gaps = [(critic(generator(z, y), y) - critic(x, y)).squeeze() for z, x, y in rows(batch)]
    return torch.stack([torch.log1p(torch.exp(-gap)) for gap in gaps]).mean()


def rows(batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
    noise_size = 64
    return [
        (batch.latents[i : i + 1, :noise_size], batch.images[i : i + 1], batch.labels[i : i + 1])
        for i in range(batch.size)
    ]


@pytest.mark.parametrize("loss", ["r3gan", "conditional-r3gan"])
def test_in_parts_it_learns_the_same(tmp_path: Path, loss: str) -> None:
    whole, parts = (train(recipe(loss, accumulate=n), tmp_path / f"run{n}") for n in (1, 4))
    assert whole.images_seen == 2 * STEPS * 8, "a batch for each of the two phases"
    for name, slot in whole.state.slots.items():
        assert_same_weights(slot.module, parts.state.slots[name].module)


def test_in_bf16_it_trains_and_resumes_exactly(tmp_path: Path) -> None:
    tables = {**recipe(precision="bf16"), "checkpoints": {"every_steps": 1, "keep": 5}}
    run = train(tables, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for late in checkpoints_in(tmp_path / "again")[1:]:
        shutil.rmtree(late)
    resumed = train(tables, tmp_path / "again", resume=True).state.weights()
    for slot, weights in run.state.weights().items():
        assert all(torch.equal(weight, resumed[slot][name]) for name, weight in weights.items())
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss/discriminator.pairs", "loss/discriminator.r1", "loss/discriminator.r2", "loss/generator"} <= set(last)
    assert run.model.sample(4).abs().max() <= 1


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ("data", {"size": 16}, "with 2 widths it takes 8×8, not 16×16"),
        ("generator", {"cardinality": 5}, "cardinality = 5 does not divide 8 · 2 = 16 channels inside a block"),
        ("discriminator", {"kernel_size": 4}, "kernel_size must be odd"),
        ("loss", {"gamma": -1.0}, "should be greater than or equal to 0"),
        ("data", {"use": "gaussians"}, "works on images (channels, height, width), not on samples of shape (2,)"),
    ],
)
def test_what_does_not_fit_is_reported_at_the_recipes_line(
    tmp_path: Path, table: str, settings: dict[str, Any], message: str
) -> None:
    tables = recipe()
    tables[table] = settings if "use" in settings else {**tables[table], **settings}
    with pytest.raises(RequestError) as error:
        build(tables, tmp_path / "run")
    assert message in str(error.value)
    assert "run.toml:" in str(error.value)
