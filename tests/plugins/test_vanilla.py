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


# ── Designs of the field's introductions, counted by hand ─────────────────────────────────────────────────

MADE = NetworkSpec((100,), (1, 28, 28))
JUDGED = NetworkSpec((1, 28, 28), (1,))


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def maps_of(network: nn.Module, inputs: Tensor) -> list[tuple[int, ...]]:
    """The input shape of each convolution, without the batch; then the shape of the network's output."""
    shapes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, given, __: shapes.append(tuple(given[0].shape[1:])))
    output = network(inputs)
    return [*shapes, tuple(output.shape[1:])]


def test_a_dense_generator_against_strided_convolutions():
    generator = MlpGenerator(MlpGenerator.Settings(hidden=(256, 512, 1024), norm="batch"), MADE)
    weights = 100 * 256 + 256 * 512 + 512 * 1024 + 1024 * 784
    assert parameters(generator) == weights + 2 * (256 + 512 + 1024) + 784 == 1_488_144
    judge = ConvDiscriminator(ConvDiscriminator.Settings(kernel_size=5, norm="none", dropout=0.3), JUDGED)
    assert maps_of(judge, torch.randn(2, 1, 28, 28)) == [(1, 28, 28), (32, 14, 14), (64, 7, 7), (1,)]
    kernels = 25 * (1 * 32 + 32 * 64 + 64 * 128)
    assert parameters(judge) == kernels + (32 + 64 + 128) + (128 * 4 * 4 + 1) == 259_073
    assert [layer.p for layer in judge.layers if isinstance(layer, nn.Dropout)] == [0.3] * 3, "one a stage"


def test_a_convolutional_generator_whose_hidden_maps_reach_the_images_size():
    settings = {"kernel_size": 3, "feature_maps": 64, "stages": 2}
    generator = ConvGenerator(ConvGenerator.Settings(**settings, output="convolution"), MADE)
    expected = [(256, 7, 7), (128, 14, 14), (64, 28, 28), (1, 28, 28)]
    assert maps_of(generator, torch.randn(2, 100)) == expected
    kernels = 9 * (256 * 128 + 128 * 64 + 64 * 1)
    assert parameters(generator) == 100 * 256 * 49 + kernels + 2 * (256 + 128 + 64) + 1 == 1_624_513
    judge = ConvDiscriminator(ConvDiscriminator.Settings(kernel_size=3), JUDGED)
    kernels = 9 * (1 * 32 + 32 * 64 + 64 * 128)
    assert parameters(judge) == kernels + 32 + 2 * (64 + 128) + (128 * 4 * 4 + 1) == 94_913


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
