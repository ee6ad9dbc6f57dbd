"""The first GAN: its losses against the paper, its networks against their contract."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import ganrun_vanilla
from ganrun import Batch, DataSpec, Generator, IncompatibleError, Nets, Network, NetworkSpec
from ganrun.testing import assert_conforms, train
from ganrun_vanilla.losses import LeastSquaresGan, MinimaxGan, NonSaturatingGan
from ganrun_vanilla.networks import ConvDiscriminator, ConvGenerator, MlpDiscriminator, MlpGenerator

POINT = DataSpec((1,))


def nets(slope: float) -> Nets:
    """D(x) = σ(slope · x) and G(z) = z, so that every value below can be worked out by hand."""
    return Nets({"discriminator": lambda x: slope * x, "generator": lambda z: z})


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


REAL, FAKE = [2.0, -1.0], [0.5, -3.0]
BATCH = Batch(torch.tensor(FAKE)[:, None], torch.tensor(REAL)[:, None])


@pytest.mark.parametrize("loss", [NonSaturatingGan, MinimaxGan])
def test_the_discriminator_minimises_the_papers_cross_entropy(loss):
    terms = loss(loss.Settings(), POINT).discriminator(nets(0.7), BATCH)
    assert terms.minimise["real"].item() == pytest.approx(-sum(math.log(sigmoid(0.7 * x)) for x in REAL) / 2)
    assert terms.minimise["fake"].item() == pytest.approx(-sum(math.log(1 - sigmoid(0.7 * x)) for x in FAKE) / 2)


def test_the_two_generators_objectives():
    saturating = MinimaxGan(MinimaxGan.Settings(), POINT).generator(nets(0.7), BATCH)
    assert saturating.minimise["fake"].item() == pytest.approx(sum(math.log(1 - sigmoid(0.7 * x)) for x in FAKE) / 2)
    usual = NonSaturatingGan(NonSaturatingGan.Settings(), POINT).generator(nets(0.7), BATCH)
    assert usual.minimise["fake"].item() == pytest.approx(-sum(math.log(sigmoid(0.7 * x)) for x in FAKE) / 2)


def test_only_the_non_saturating_generator_learns_from_a_discriminator_that_is_sure():
    gradients = []
    for loss in (NonSaturatingGan, MinimaxGan):
        logit = torch.tensor([[-20.0]], requires_grad=True)
        loss(loss.Settings(), POINT).generator_loss(logit).backward()
        gradients.append(logit.grad.item())
    assert gradients[0] == pytest.approx(-1.0, abs=1e-6), "d/dl softplus(-l) = -σ(-l)"
    assert gradients[1] == pytest.approx(-sigmoid(-20.0), rel=1e-4), "d/dl -softplus(l) = -σ(l), which vanishes"


def test_losses_stay_finite_for_extreme_logits():
    terms = NonSaturatingGan(NonSaturatingGan.Settings(), POINT).discriminator(
        nets(1.0), Batch(torch.tensor([[1e4]]), torch.tensor([[-1e4]]))
    )
    assert [value.item() for value in terms.minimise.values()] == [1e4, 1e4]


def test_least_squares_are_taken_of_the_raw_output():
    loss = LeastSquaresGan(LeastSquaresGan.Settings(), POINT)
    terms = loss.discriminator(nets(0.5), BATCH).minimise
    assert terms["real"].item() == pytest.approx(((1.0 - 1) ** 2 + (-0.5 - 1) ** 2) / 2 / 2)
    assert terms["fake"].item() == pytest.approx((0.25**2 + (-1.5) ** 2) / 2 / 2)
    generator = loss.generator(nets(0.5), BATCH).minimise
    assert generator["fake"].item() == pytest.approx(((0.25 - 1) ** 2 + (-1.5 - 1) ** 2) / 2 / 2)


def test_the_least_squares_generator_is_pulled_from_both_sides():
    """Even from where cross-entropy has no gradient: a sample far on the side of the real ones."""
    gradients = []
    for loss in (LeastSquaresGan, NonSaturatingGan):
        output = torch.tensor([[-20.0], [20.0]], requires_grad=True)
        loss(loss.Settings(), POINT).generator_loss(output).backward()
        gradients.append(output.grad.flatten().tolist())
    assert gradients[0] == pytest.approx([-21 / 2, 19 / 2])
    assert gradients[1] == pytest.approx([-1 / 2, 0.0], abs=1e-6)


@pytest.mark.parametrize("loss", [NonSaturatingGan, MinimaxGan, LeastSquaresGan])
def test_losses_conform(loss):
    assert_conforms("loss", loss)


@pytest.mark.parametrize("loss", ["gan", "minimax", "lsgan"])
def test_each_update_of_the_discriminator_sees_images_of_its_own(tmp_path, loss):
    quiet = dict.fromkeys(("mlflow", "checkpoints", "samples", "progress"), False)
    tables = {
        "train": {"steps": 3, "batch_size": 8, "device": "cpu", "repeat": {"discriminator": 4}},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": loss},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
    }
    run = train(tables | quiet, tmp_path / "run", ganrun_vanilla)
    assert (run.step, run.images_seen) == (3, 3 * 4 * 8)


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


def spec_for(component: type[Network], shape: tuple[int, ...], classes: int = 0) -> NetworkSpec:
    """Five latents to images, or images to a number."""
    is_generator = issubclass(component, Generator)
    return NetworkSpec((5,), shape, classes=classes) if is_generator else NetworkSpec(shape, (1,), classes=classes)


@pytest.mark.parametrize("settings", [{}, {"hidden": [], "norm": "none"}, {"hidden": [40, 20], "norm": "batch"}])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 7, 5), (2,)])
def test_the_dense_generator_conforms_for_any_shape(settings, shape):
    assert_conforms("generator", MlpGenerator, settings, NetworkSpec((16,), shape))


@pytest.mark.parametrize("settings", [{}, {"hidden": []}, {"hidden": [30], "dropout": 0.3}])
def test_the_dense_discriminator_conforms(settings):
    assert_conforms("discriminator", MlpDiscriminator, settings)


@pytest.mark.parametrize(("stages", "size"), [(1, 6), (2, 28), (3, 32), (4, 16)])
def test_the_convolutional_networks_conform(stages, size):
    images, settings = (3, size, size), {"stages": stages, "feature_maps": 4}
    assert_conforms("generator", ConvGenerator, settings, NetworkSpec((16,), images))
    for norm in ("none", "batch"):
        assert_conforms("discriminator", ConvDiscriminator, {**settings, "norm": norm}, NetworkSpec(images, (5,)))


@pytest.mark.parametrize("kernel_size", [3, 4, 5])
@pytest.mark.parametrize("output", ["doubling", "convolution"])
def test_they_conform_with_every_kernel_and_output(kernel_size, output):
    images, settings = (3, 8, 20), {"stages": 2, "feature_maps": 4, "kernel_size": kernel_size}
    assert_conforms("generator", ConvGenerator, {**settings, "output": output}, NetworkSpec((16,), images))
    assert_conforms("discriminator", ConvDiscriminator, {**settings, "dropout": 0.3}, NetworkSpec(images, (5,)))


@pytest.mark.parametrize("labels", ["concatenation", "embedding"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2,)])
def test_the_networks_take_labels_either_way(shape, labels):
    made, judged = NetworkSpec((5,), shape, {"labels": ()}, 3), NetworkSpec(shape, (2,), {"labels": ()}, 3)
    assert_conforms("generator", MlpGenerator, {"hidden": [20], "labels": labels}, made)
    assert_conforms("discriminator", MlpDiscriminator, {"hidden": [20], "labels": labels}, judged)
    if len(shape) == 3:
        settings = {"stages": 2, "feature_maps": 4, "labels": labels}
        assert_conforms("generator", ConvGenerator, settings, made)
        assert_conforms("discriminator", ConvDiscriminator, settings, judged)


@pytest.mark.parametrize("component", [MlpGenerator, MlpDiscriminator, ConvGenerator, ConvDiscriminator])
def test_without_labels_the_input_module_adds_no_weights(component):
    spec = spec_for(component, (1, 8, 8), classes=3)
    networks = [component(component.Settings(labels=labels), spec) for labels in ("concatenation", "embedding")]
    for network in networks:
        assert all(name.startswith("layers.") for name in network.state_dict())
    first, second = (sum(each.numel() for each in network.parameters()) for network in networks)
    assert first == second


@pytest.mark.parametrize("component", [MlpGenerator, ConvGenerator])
def test_in_bf16_a_sample_close_to_1_differs_from_1(component):
    generator = component(component.Settings(), NetworkSpec((4,), (1, 8, 8)))
    nn.init.constant_(generator.layers[-1].bias, 5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gap = 1 - generator(torch.randn(6, 4))
    assert gap.dtype == torch.float32
    assert gap.min() > 0 and gap.max() < 2**-9, "bf16 rounds to 1 from there on"


@pytest.mark.parametrize("component", [ConvGenerator, ConvDiscriminator])
def test_a_size_that_does_not_halve_evenly_is_refused(component):
    with pytest.raises(IncompatibleError, match=r"^with stages = 3 it takes sizes divisible by 8, not 28×28"):
        component(component.Settings(), spec_for(component, (1, 28, 28)))
    with pytest.raises(IncompatibleError, match=r"works on images"):
        component(component.Settings(), spec_for(component, (2,)))


def test_the_discriminators_refusal_names_the_kernels_that_take_any_size():
    with pytest.raises(IncompatibleError, match=r"not 28×28; an odd kernel_size takes any size$"):
        ConvDiscriminator(ConvDiscriminator.Settings(), NetworkSpec((1, 28, 28), (1,)))


def test_the_convolutional_networks_start_as_dcgan_prescribes():
    modules = [*ConvGenerator(ConvGenerator.Settings(), NetworkSpec((64,), (3, 32, 32))).modules()]
    modules += ConvDiscriminator(ConvDiscriminator.Settings(), NetworkSpec((3, 32, 32), (1,))).modules()
    weights = [m.weight for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    scales = torch.cat([m.weight for m in modules if isinstance(m, nn.BatchNorm2d)])
    pooled = torch.cat([weight.flatten() for weight in weights])
    assert pooled.mean().item() == pytest.approx(0, abs=1e-4) and pooled.std().item() == pytest.approx(0.02, rel=0.01)
    assert scales.mean().item() == pytest.approx(1, abs=0.005) and scales.std().item() == pytest.approx(0.02, rel=0.15)
    assert all(torch.all(m.bias == 0) for m in modules if getattr(m, "bias", None) is not None)


def test_batch_norm_is_absent_from_the_generators_output_and_the_discriminators_input():
    generator = list(ConvGenerator(ConvGenerator.Settings(), NetworkSpec((8,), (3, 32, 32))).layers)
    discriminator = list(ConvDiscriminator(ConvDiscriminator.Settings(), NetworkSpec((3, 32, 32), (1,))).layers)
    assert [type(layer) for layer in generator[-2:]] == [nn.ReLU, nn.ConvTranspose2d]
    assert [type(layer) for layer in discriminator[:2]] == [nn.Conv2d, nn.LeakyReLU]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in discriminator) == 2


# ── Maps, from stage to stage ─────────────────────────────────────────────────────────────────────────────


def maps_of(network: nn.Module, inputs: Tensor) -> list[tuple[int, ...]]:
    """The input shape of each convolution, without the batch; then the shape of the network's output."""
    shapes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, given, __: shapes.append(tuple(given[0].shape[1:])))
    output = network(inputs)
    return [*shapes, tuple(output.shape[1:])]


@pytest.mark.parametrize("kernel_size", [3, 4, 5])
@pytest.mark.parametrize("output", ["doubling", "convolution"])
def test_every_stage_doubles_the_size(kernel_size, output):
    spec = NetworkSpec((4,), (2, 24, 40))
    settings = ConvGenerator.Settings(kernel_size=kernel_size, output=output, feature_maps=4)
    maps = maps_of(ConvGenerator(settings, spec), torch.randn(2, 4))
    assert maps[0][1:] == (3, 5) and maps[-1] == (2, 24, 40)
    growth = {(tall / low, wide / narrow) for (_, low, narrow), (_, tall, wide) in pairwise(maps)}
    assert growth == ({(2, 2)} if output == "doubling" else {(2, 2), (1, 1)})
    assert [width for width, _, _ in maps[:-1]] == ([16, 8, 4] if output == "doubling" else [32, 16, 8, 4])


@pytest.mark.parametrize(("kernel_size", "size"), [(4, 24), (3, 24), (3, 25), (5, 31), (5, 1)])
def test_every_stage_halves_the_size_and_an_odd_kernel_rounds_up(kernel_size, size):
    spec = NetworkSpec((2, size, 2 * size), (3,))
    settings = ConvDiscriminator.Settings(kernel_size=kernel_size, feature_maps=4)
    maps = maps_of(ConvDiscriminator(settings, spec), torch.randn(2, 2, size, 2 * size))
    for (_, tall, wide), (_, low, narrow) in pairwise(maps[:-1]):
        assert (low, narrow) == (math.ceil(tall / 2), math.ceil(wide / 2))
    assert [width for width, _, _ in maps[:-1]] == [2, 4, 8] and maps[-1] == (3,)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel_size", range(1, 8))
def test_any_kernel_makes_and_judges_images_of_the_sizes_that_fit(kernel_size, padding):
    settings = {"kernel_size": kernel_size, "padding": padding, "widths": (3, 2), "norm": "none"}
    fitting = set()
    for size in range(1, 24):
        images = (1, size, size)
        try:
            generator = ConvGenerator(ConvGenerator.Settings(**settings), NetworkSpec((4,), images))
        except IncompatibleError:
            continue
        fitting.add(size)
        assert generator(torch.randn(2, 4)).shape == (2, *images)
    grown = [4 * n + 3 * (kernel_size - 2) for n in range(1, 24)] if padding == "valid" else range(4, 24, 4)
    assert fitting == {size for size in grown if 0 < size < 24}
    for size in range(1, 24):
        images = (1, size, size)
        try:
            judge = ConvDiscriminator(ConvDiscriminator.Settings(**settings), NetworkSpec(images, (1,)))
        except IncompatibleError:
            unpadded = padding == "valid" and (size < kernel_size or (size - kernel_size) // 2 + 1 < kernel_size)
            assert unpadded or (padding == "same" and kernel_size % 2 == 0 and size % 4)
            continue
        assert judge(torch.randn(2, *images)).shape == (2, 1)


@pytest.mark.parametrize(
    ("component", "settings", "size", "message"),
    [
        (
            ConvGenerator,
            {"stages": 2},
            28,
            r"^with stages = 2, kernel_size = 4 .*makes sides of 10, 14, 18, … pixels, not 28×28",
        ),
        (ConvDiscriminator, {"widths": (4, 4, 4, 4)}, 28, r"with 4 widths, .* stage 4 has 1 of the 28×28 pixels left"),
    ],
)
def test_sizes_that_do_not_fit_without_padding_are_refused(component, settings, size, message):
    with pytest.raises(IncompatibleError, match=message):
        component(component.Settings(padding="valid", **settings), spec_for(component, (1, size, size)))


WIDE = {"widths": [6, 3], "hidden": [7, 5], "kernel_size": 5, "init": "glorot"}


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["relu", "leaky"])
def test_the_networks_conform_with_hidden_layers_and_any_widths(norm, activation):
    settings, images = {**WIDE, "norm": norm, "activation": activation}, (3, 8, 20)
    for output in ({}, {"output": "convolution", "dense_activation": "leaky"}):
        assert_conforms("generator", ConvGenerator, {**settings, **output}, NetworkSpec((16,), images))
    assert_conforms("discriminator", ConvDiscriminator, settings, NetworkSpec(images, (5,)))


def layers(network: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in network.layers]


def test_hidden_layers_widths_norms_and_activations_come_in_order():
    settings = {"widths": (6, 3), "hidden": (7, 5), "kernel_size": 5}
    plain = ConvGenerator.Settings(**settings, norm="none", dense_activation="leaky")
    generator = ConvGenerator(plain, NetworkSpec((4,), (1, 8, 8)))
    dense = ["Linear", "LeakyReLU"] * 2 + ["Linear", "Unflatten", "LeakyReLU"]
    assert layers(generator) == [*dense, "ConvTranspose2d", "ReLU", "ConvTranspose2d"]
    normed = ConvGenerator(ConvGenerator.Settings(**settings), NetworkSpec((4,), (1, 8, 8)))
    dense = ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "Unflatten", "BatchNorm2d", "ReLU"]
    assert layers(normed) == [*dense, "ConvTranspose2d", "BatchNorm2d", "ReLU", "ConvTranspose2d"]
    biased = [hasattr(each, "bias") and each.bias is not None for each in (*generator.layers, *normed.layers)]
    assert biased.count(True) == 5 + 4 + 1, "no bias before a norm, which would take it away"
    judge = ConvDiscriminator(ConvDiscriminator.Settings(**settings, activation="relu"), NetworkSpec((1, 8, 8), (1,)))
    maps = ["Conv2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU", "Flatten"]
    assert layers(judge) == [*maps, *["Linear", "BatchNorm1d", "ReLU"] * 2, "Linear"]
    assert [each.weight.shape[0] for each in judge.layers if hasattr(each, "weight")] == [6, 3, 3, 7, 7, 5, 5, 1]


def test_widths_say_what_feature_maps_and_stages_say():
    doubling = ConvGenerator(ConvGenerator.Settings(feature_maps=4, stages=2), NetworkSpec((4,), (1, 8, 8)))
    said = ConvGenerator(ConvGenerator.Settings(widths=(8, 4)), NetworkSpec((4,), (1, 8, 8)))
    assert {name: each.shape for name, each in doubling.state_dict().items()} == {
        name: each.shape for name, each in said.state_dict().items()
    }
    assert ConvGenerator.Settings().model_dump()["feature_maps"] == 32, "recorded as a number"
    for other in ({"feature_maps": 32}, {"stages": 2}):
        with pytest.raises(ValueError, match=r"is redundant beside widths; leave one of them out"):
            ConvDiscriminator.Settings(widths=(8, 4), **other)


def test_glorots_weights_are_uniform_by_fan_in_and_fan_out():
    generator = ConvGenerator(ConvGenerator.Settings(init="glorot"), NetworkSpec((64,), (3, 32, 32)))
    judge = MlpDiscriminator(MlpDiscriminator.Settings(init="glorot"), NetworkSpec((3, 32, 32), (1,)))
    for layer in (
        each for each in [*generator.layers, *judge.layers] if isinstance(each, nn.Linear | nn.ConvTranspose2d)
    ):
        fans = (layer.weight.shape[0] + layer.weight.shape[1]) * math.prod(layer.weight.shape[2:])
        bound = math.sqrt(6 / fans)
        assert layer.weight.abs().max() <= bound
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert layer.bias is None or not layer.bias.any()
