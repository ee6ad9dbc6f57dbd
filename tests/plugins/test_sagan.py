"""SNGAN's, SAGAN's and BigGAN's networks: attention, norms and projection against other ways to compute them."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, max_pool2d

import ganrun
from ganrun import ContractError, IncompatibleError, NetworkSpec, RequestError
from ganrun.testing import assert_conforms, build, train
from ganrun.training.runner import execute
from ganrun_conditional.critics import ConditionalHingeGan
from ganrun_sagan.attention import SelfAttention
from ganrun_sagan.discriminators import SaganDiscriminator, SnganDiscriminator
from ganrun_sagan.generators import BigganGenerator, SaganGenerator, SnganGenerator
from ganrun_sagan.norms import ClassBatchNorm2d, VectorBatchNorm2d

GENERATORS = [SnganGenerator, SaganGenerator, BigganGenerator]
DISCRIMINATORS = [SnganDiscriminator, SaganDiscriminator]
LABELS = {"labels": ()}
SPECTRAL = (ganrun.SpectralConv2d, ganrun.SpectralLinear, ganrun.SpectralEmbedding)


def made(component, latents=12, shape=(3, 16, 16), classes=4, **settings):
    torch.manual_seed(0)
    spec = NetworkSpec((latents,), shape, LABELS if classes else {}, classes)
    return component(component.Settings(**settings), spec)


def judging(component, shape=(3, 16, 16), classes=4, **settings):
    torch.manual_seed(0)
    spec = NetworkSpec(shape, (1, ...), LABELS if classes else {}, classes)
    return component(component.Settings(**settings), spec)


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def of_type(network: nn.Module, *types: type) -> list:
    return [layer for layer in network.modules() if isinstance(layer, types)]


# ── Both kinds, against the contract ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("component", GENERATORS)
def test_the_generators_conform(component, classes):
    spec = NetworkSpec((12,), (3, 16, 16), LABELS if classes else {}, classes)
    assert_conforms("generator", component, {"widths": [8, 8, 8], "attention_size": 8}, spec)


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("component", DISCRIMINATORS)
def test_the_discriminators_conform(component, classes):
    spec = NetworkSpec((3, 16, 16), (1, ...), LABELS if classes else {}, classes)
    for settings in ({"attention_size": 8}, {"attention_size": 0, "spectral": False, "init": "normal"}):
        assert_conforms("discriminator", component, {"widths": [8, 8], **settings}, spec)


# ── Attention ─────────────────────────────────────────────────────────────────────────────────────────────


def attention(channels=16, side=4) -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention((channels, side, side)).double().eval()


def test_attention_is_the_authors_and_not_the_papers():
    """By an explicit sum over places, with weights divided by their exact spectral norm."""
    block, maps = attention(), torch.randn(2, 16, 4, 4, dtype=torch.float64)
    nn.init.constant_(block.gain, 0.7)
    block.train()
    for _ in range(300):
        block(maps)
    block.eval()

    def weights(layer):
        matrix = layer.weight[:, :, 0, 0]
        return matrix / torch.linalg.svdvals(matrix)[0]

    theta, phi, g = (torch.einsum("oc,bchw->bohw", weights(each), maps) for each in (block.theta, block.phi, block.g))
    assert theta.shape[1] == phi.shape[1] == 16 // 8 and g.shape[1] == 16 // 2
    keys, values = max_pool2d(phi, 2), max_pool2d(g, 2)
    scores = torch.einsum("bchw,bcyx->bhwyx", theta, keys).exp()
    found = torch.einsum("bhwyx,bcyx->bchw", scores / scores.sum((3, 4), keepdim=True), values)
    expected = maps + 0.7 * torch.einsum("oc,bchw->bohw", weights(block.output), found)
    torch.testing.assert_close(block(maps), expected, rtol=1e-6, atol=1e-6)


def test_attention_starts_as_the_identity_and_learns_its_gain_first():
    block, maps = attention(), torch.randn(2, 16, 4, 4, dtype=torch.float64)
    assert torch.equal(block(maps), maps)
    block(maps).square().sum().backward()
    assert block.gain.grad.abs() > 0
    assert not any(each.grad.any() for name, each in block.named_parameters() if name != "gain")


def test_attention_without_keys_of_its_own_adds_the_mean_of_the_values():
    """Where θ is orthogonal to nothing, at zero, every place gets the same: the mean over the pooled values."""
    block, maps = attention(), torch.randn(1, 16, 4, 4, dtype=torch.float64)
    nn.init.constant_(block.gain, 1.0)
    nn.init.zeros_(block.theta.weight)
    block.theta.normalised_weight = lambda: block.theta.weight  # 0 / 0
    mean = max_pool2d(block.g(maps), 2).mean((2, 3), keepdim=True)
    torch.testing.assert_close(block(maps) - maps, block.output(mean).expand(1, 16, 4, 4))


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"attention_size": 12}, (3, 16, 16), r"attention_size is 12, but its maps are 8, 16 high; take one of these"),
        ({"widths": (12, 12, 12), "attention_size": 8}, (3, 16, 16), r"8, 16, 24, … channels, not of 12"),
        ({}, (1, 30, 30), r"with 3 widths it takes sizes divisible by 4, not 30×30"),
    ],
)
def test_what_does_not_fit_is_refused(settings, shape, message):
    with pytest.raises(IncompatibleError, match=message):
        made(SaganGenerator, shape=shape, **{"widths": (8, 8, 8), **settings})


def test_attention_on_a_map_of_odd_sides_is_refused():
    with pytest.raises(IncompatibleError, match=r"halves its map, which is 7×7; change attention_size"):
        judging(SaganDiscriminator, (1, 28, 28), widths=(8, 8), attention_size=7)


def test_the_recipes_line_names_what_does_not_fit(tmp_path):
    tables = recipe(generator={"use": "biggan", "widths": [8, 8]}, loss={"use": "conditional-hinge", "noise_size": 7})
    with pytest.raises(RequestError, match=r"\[generator\] biggan.*7 latents into 2 equal parts.*a multiple of 2 in"):
        build(tables, tmp_path / "run")
    tables = recipe(generator={"use": "sngan", "widths": [8]})
    with pytest.raises(RequestError, match=r"toml:\d+: \[generator\] widths = \[8\]: .* at least 2 items"):
        build(tables, tmp_path / "run")
    tables = recipe(discriminator={"use": "sagan", "widths": [8], "attention_size": 16})
    with pytest.raises(RequestError, match=r"\[discriminator\] sagan.*attention_size is 16, but its maps are 4 high"):
        build(tables, tmp_path / "run")
    tables = recipe(loss={"use": "acgan"}, discriminator={"use": "sngan", "widths": [8]})
    build(tables, tmp_path / "run")  # it gives a head for each class, where no label is projected


# ── Spectral norm ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("network", ["sagan generator", "sagan discriminator", "biggan generator"])
def test_every_layer_has_spectral_norm_1_after_some_forwards(network):
    makers = {
        "sagan generator": lambda: made(SaganGenerator, shape=(3, 4, 4), widths=(8, 8, 8), attention_size=4),
        "biggan generator": lambda: made(BigganGenerator, shape=(3, 4, 4), widths=(8, 8, 8), attention_size=4),
        "sagan discriminator": lambda: judging(SaganDiscriminator, (3, 4, 4), widths=(8, 8), attention_size=2),
    }
    layers = makers[network]().train()
    inputs = torch.randn(2, *layers.spec.inputs)
    for _ in range(200):
        layers(inputs, torch.tensor([0, 3]))
    weighted = of_type(layers, nn.Conv2d, nn.Linear, nn.Embedding)
    plain = [each for each in weighted if not isinstance(each, SPECTRAL)]
    assert plain == ([layers.classes] if network == "biggan generator" else [])
    for layer in of_type(layers, *SPECTRAL):
        largest = torch.linalg.svdvals(layer.normalised_weight().flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=2e-3)


def test_sngans_generator_has_no_spectral_norm():
    assert not of_type(made(SnganGenerator, widths=(8, 8)), *SPECTRAL)


# ── Norms by class ────────────────────────────────────────────────────────────────────────────────────────


def test_a_norm_by_class_is_the_batchs_norm_with_each_classs_own_scale_and_shift():
    torch.manual_seed(0)
    norm, maps, labels = ClassBatchNorm2d(5, 3).double(), torch.randn(6, 5, 4, 4).double(), torch.arange(6) % 3
    nn.init.normal_(norm.scale), nn.init.normal_(norm.shift)
    outputs = norm(maps, labels)
    for label in range(3):
        per_class = batch_norm(maps, None, None, norm.scale[label], norm.shift[label], training=True)
        torch.testing.assert_close(outputs[labels == label], per_class[labels == label])


def test_a_norm_by_class_starts_as_the_norm_without_classes():
    maps = torch.randn(6, 5, 4, 4)
    torch.testing.assert_close(ClassBatchNorm2d(5, 3)(maps, torch.zeros(6, dtype=torch.int64)), nn.BatchNorm2d(5)(maps))
    assert isinstance(made(SnganGenerator, classes=0, widths=(8, 8)).body.blocks[0].norm_in.norm.weight, nn.Parameter)


def test_a_norm_by_class_needs_one():
    with pytest.raises(ContractError, match="built for labels, but the loss calls it without them"):
        made(SnganGenerator, widths=(8, 8))(torch.randn(2, 12))


def test_biggans_norm_is_linear_in_its_vector():
    torch.manual_seed(0)
    norm, maps = VectorBatchNorm2d(5, 3).double().eval(), torch.randn(6, 5, 4, 4).double()
    vectors = torch.randn(6, 3).double()
    scale, shift = (each.normalised_weight() for each in (norm.scale, norm.shift))
    expected = norm.norm(maps) * (1 + vectors @ scale.T)[:, :, None, None] + (vectors @ shift.T)[:, :, None, None]
    torch.testing.assert_close(norm(maps, vectors), expected)


def test_each_part_of_biggans_latents_enters_at_its_own_place():
    generator = made(BigganGenerator, widths=(8, 8, 8)).eval()
    seen = {}
    for index, block in enumerate(generator.body.blocks):
        block.norm_in.register_forward_pre_hook(lambda _, inputs, index=index: seen.update({index: inputs[1]}))
    generator.body.project.register_forward_pre_hook(lambda _, inputs: seen.update({"first": inputs[0]}))
    latents, labels = torch.randn(2, 12), torch.tensor([3, 1])
    generator(latents, labels)
    assert torch.equal(seen["first"], latents[:, :4])
    for index in (0, 1):
        part = latents[:, 4 * (index + 1) : 4 * (index + 2)]
        assert torch.equal(seen[index], torch.cat([generator.classes.weight[labels], part], dim=1))


# ── Projection ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("component", DISCRIMINATORS)
def test_the_class_is_projected_onto_the_sum_over_the_last_map(component):
    network = judging(component, widths=(8, 8), attention_size=0).double().eval()
    images, labels = torch.randn(3, 3, 16, 16).double(), torch.tensor([0, 2, 3])
    last = network.flat(network.blocks[0](network.first(images))).relu()
    assert last.shape[2:] == (4, 4)
    h = torch.einsum("bchw->bc", last)
    w, table = (each.normalised_weight() for each in (network.head.output, network.head.classes))
    expected = [w[0] @ h[i] + table[label] @ h[i] for i, label in enumerate(labels)]
    if network.head.output.bias is not None:
        expected = [value + network.head.output.bias[0] for value in expected]
    torch.testing.assert_close(network(images, labels)[:, 0], torch.stack(expected))


def test_a_projection_gives_one_number():
    with pytest.raises(IncompatibleError, match=r"^gives one number by class, and the loss expects 5$"):
        SnganDiscriminator(SnganDiscriminator.Settings(), NetworkSpec((3, 32, 32), (5,), LABELS, 4))


# ── Parameters, counted by hand ───────────────────────────────────────────────────────────────────────────

CIFAR = {"latents": 128, "shape": (3, 32, 32)}


def conv(fan_in: int, fan_out: int, kernel: int = 3) -> int:
    return fan_in * fan_out * kernel**2 + fan_out


def test_sngans_networks_for_cifar10_have_the_published_sizes():
    project, output, norm = 128 * 4096 + 4096, conv(256, 3), 2 * 256
    block = 2 * conv(256, 256) + conv(256, 256, 1)
    assert parameters(made(SnganGenerator, classes=0, **CIFAR)) == project + 3 * (block + 2 * norm) + norm + output
    assert parameters(made(SnganGenerator, classes=0, **CIFAR)) == 4_276_739
    by_class = project + 3 * (block + 2 * 10 * norm) + norm + output
    assert parameters(made(SnganGenerator, classes=10, **CIFAR)) == by_class == 4_304_387
    first, halving = conv(3, 128) + conv(128, 128) + conv(3, 128, 1), 2 * conv(128, 128) + conv(128, 128, 1)
    flat = 2 * conv(128, 128)
    assert parameters(judging(SnganDiscriminator, (3, 32, 32), 0)) == first + halving + 2 * flat + 128 == 1_053_824
    assert parameters(judging(SnganDiscriminator, (3, 32, 32), 10)) == 1_053_824 + 10 * 128


def attention_parameters(channels: int) -> int:
    return 2 * channels * channels // 8 + 2 * channels * channels // 2 + 1


def test_sagans_networks_for_cifar10_are_sngans_with_attention_at_16():
    assert parameters(made(SaganGenerator, classes=10, **CIFAR)) == 4_304_387 + attention_parameters(256)
    found = parameters(judging(SaganDiscriminator, (3, 32, 32), 10))
    assert found == 1_053_824 + 10 * 128 + 1 + attention_parameters(128)


def test_sagans_networks_for_imagenet_have_the_authors_layers():
    widths = (1024, 1024, 512, 256, 128, 64)
    expected = 128 * 16 * 1024 + 16 * 1024 + 2 * 64 + conv(64, 3) + attention_parameters(256)
    for i, o in pairwise(widths):
        expected += conv(i, o) + conv(o, o) + conv(i, o, 1) + 1000 * 2 * (i + o)
    with torch.device("meta"):
        generator = made(SaganGenerator, 128, (3, 128, 128), 1000, widths=widths, attention_size=32)
    assert parameters(generator) == expected
    widths = (64, 128, 256, 512, 1024)
    expected = conv(3, 64) + conv(64, 64) + conv(3, 64, 1) + 2 * conv(1024, 1024) + attention_parameters(128)
    for i, o in pairwise(widths):
        expected += conv(i, o) + conv(o, o) + conv(i, o, 1)
    settings = {"widths": widths, "flat_blocks": 1, "attention_size": 32}
    with torch.device("meta"):
        discriminator = judging(SaganDiscriminator, (3, 128, 128), 1000, **settings)
    assert parameters(discriminator) == expected + 1024 + 1 + 1000 * 1024


def test_biggans_generator_for_cifar10_counts_as_its_paper_builds_it():
    """Four parts of 20 latents, 128 numbers by class, 96 · 4 channels: as in StudioGAN's configuration."""
    width, condition = 384, 128 + 20
    generator = made(BigganGenerator, 80, (3, 32, 32), 10, widths=(width,) * 4)
    block = 2 * conv(width, width) + conv(width, width, 1) + 2 * 2 * condition * width
    expected = 20 * 16 * width + 16 * width + 3 * block + 2 * width + conv(width, 3) + 10 * 128
    assert parameters(generator) == expected


# ── First weights ─────────────────────────────────────────────────────────────────────────────────────────


def test_sngan_starts_at_glorots_scale_and_larger_in_the_branches():
    block = made(SnganGenerator, widths=(64, 128)).body.blocks[0]
    assert block.conv_in.weight.std().item() == pytest.approx(math.sqrt(2 * 2 / (9 * (64 + 128))), rel=0.02)
    assert block.skip.weight.std().item() == pytest.approx(math.sqrt(2 / (64 + 128)), rel=0.03)
    plain = judging(SaganDiscriminator, widths=(64, 128), attention_size=8).blocks[0]
    assert plain.conv_in.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * (64 + 128))), rel=0.02)


def test_biggan_starts_orthogonal_and_normal_is_dcgans():
    generator = made(BigganGenerator, widths=(8, 16, 32))
    for layer in of_type(generator, nn.Conv2d, nn.Linear, nn.Embedding):
        rows = layer.weight.flatten(1)
        gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
    weight = made(SaganGenerator, widths=(64, 64), attention_size=16, init="normal").body.blocks[0].conv_in.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert all(not layer.bias.any() for layer in of_type(generator, nn.Conv2d, nn.Linear) if layer.bias is not None)


# ── In a run ──────────────────────────────────────────────────────────────────────────────────────────────


def recipe(**changed) -> dict:
    return {
        "train": {"steps": 1, "batch_size": 4, "device": "cpu", "repeat": {"discriminator": 2}},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "conditional-hinge", "noise_size": 6},
        "generator": {"use": "sagan", "widths": [8, 8], "attention_size": 8},
        "discriminator": {"use": "sagan", "widths": [8], "flat_blocks": 1, "attention_size": 4},
        "optimizer": {"use": "adam", "lr": 1e-4, "betas": [0.0, 0.9], "discriminator": {"lr": 4e-4}},
        **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
        **changed,
    }


class Recording(ConditionalHingeGan):
    """Keeps the batches of its phases."""

    seen: list = []

    def discriminator(self, nets, batch):
        self.seen.append(batch)
        return super().discriminator(nets, batch)

    def generator(self, nets, batch):
        self.seen.append(batch)
        return super().generator(nets, batch)


class RecordingPlugin:
    @ganrun.hookimpl
    def ganrun_losses(self):
        return {"recording": Recording}


def test_a_step_is_the_hand_written_one_parameter_by_parameter(tmp_path):
    """SAGAN: hinge, spectral norm, norms by class, projection, attention, and two learning rates."""
    run = build(recipe(loss={"use": "recording", "noise_size": 6}), tmp_path / "run", RecordingPlugin())
    g, d = (copy.deepcopy(run.state.slots[name].module).train() for name in ("generator", "discriminator"))
    for network in (g, d):
        network.requires_grad_(True)
        for block in of_type(network, SelfAttention):
            nn.init.constant_(block.gain, 0.5)
    for slot, mine in (("generator", g), ("discriminator", d)):
        run.state.slots[slot].module.load_state_dict(mine.state_dict())
    Recording.seen.clear()
    execute(run)
    assert len(Recording.seen) == 3
    rates = {g: 1e-4, d: 4e-4}
    adam = {each: torch.optim.Adam(each.parameters(), lr=rate, betas=(0.0, 0.9)) for each, rate in rates.items()}

    def samples(batch):
        labels = batch.latents[:, 6:].argmax(1)
        return g(batch.latents[:, :6], labels), labels

    for batch in Recording.seen[:2]:
        with torch.no_grad():
            fake, labels = samples(batch)
        real_value, fake_value = d(batch.images, batch.labels), d(fake, labels)
        loss = torch.clamp(1 - real_value, min=0).mean() + torch.clamp(1 + fake_value, min=0).mean()
        adam[d].zero_grad(), loss.backward(), adam[d].step()
    fake, labels = samples(Recording.seen[2])
    adam[g].zero_grad(), (-d(fake, labels).mean()).backward(), adam[g].step()
    for name, mine in (("generator", g), ("discriminator", d)):
        theirs = run.state.slots[name].module.state_dict()
        for key, value in mine.state_dict().items():
            torch.testing.assert_close(
                theirs[key], value, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.parametrize(
    "changed",
    [
        {"generator": {"use": "biggan", "widths": [8, 8]}, "regularizer": [{"use": "orthogonal"}]},
        {"loss": {"use": "conditional-wgan-gp", "noise_size": 6}, "discriminator": {"use": "sngan", "widths": [8]}},
        {"loss": {"use": "hinge", "latent_size": 6}},
    ],
)
def test_every_pair_trains_in_bf16_with_accumulation_and_finite_weights(changed, tmp_path):
    tables = recipe(**changed)
    tables["train"] |= {"steps": 2, "batch_size": 8, "precision": "bf16", "accumulate": 2}
    run = train(tables, tmp_path / "run")
    assert all(weight.isfinite().all() for weights in run.state.weights().values() for weight in weights.values())


def test_a_resumed_run_ends_in_the_same_weights(tmp_path):
    def ended(name, *lengths):
        for number, steps in enumerate(lengths):
            tables = recipe(
                checkpoints={"every_steps": 1}, loss={**LOSS, "draw_classes": "as-data", "dequantise": True}
            )
            tables["train"] |= {"steps": steps}
            run = train(tables, tmp_path / name, resume=number > 0)
        return run.state.weights() | {"memory": dict(run.state.memory.named_buffers())}

    LOSS = recipe()["loss"]
    whole, parts = ended("whole", 3), ended("parts", 2, 3)
    assert all(torch.equal(whole[slot][key], parts[slot][key]) for slot in whole for key in whole[slot])
    assert whole["memory"]["class_counts"].sum() == 1437
