"""DCGAN's networks: against the paper's figure, and each norm against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import ganrun_dcgan
from ganrun import IncompatibleError, NetworkSpec, SpectralConv2d
from ganrun.testing import assert_conforms, train
from ganrun_dcgan.networks import DcganDiscriminator, DcganGenerator, Projection

SMALL = (3, 16, 16)
NORMS = ("batch", "layer", "instance", "spectral", "none")


def generator(shape: tuple[int, ...] = SMALL, latent_size: int = 8, **settings: object) -> DcganGenerator:
    return DcganGenerator(DcganGenerator.Settings(**settings), NetworkSpec((latent_size,), shape))


def discriminator(shape: tuple[int, ...] = SMALL, outputs: int = 5, **settings: object) -> DcganDiscriminator:
    return DcganDiscriminator(DcganDiscriminator.Settings(**settings), NetworkSpec(shape, (outputs,)))


def maps_of(network: nn.Module, inputs: Tensor) -> list[tuple[int, ...]]:
    """The output shape of each convolution, without the batch."""
    shapes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    network(inputs)
    return shapes


# ── The paper ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_generator_is_that_of_the_papers_figure():
    network = generator((3, 64, 64), 100, feature_maps=128)
    expected = [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]
    assert maps_of(network, torch.randn(2, 100)) == expected
    kernels = 16 * (100 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    assert sum(each.numel() for each in network.parameters()) == kernels + 2 * (1024 + 512 + 256 + 128) + 3 == 12658435


def test_the_discriminator_mirrors_it():
    network = discriminator((3, 64, 64), 1, feature_maps=128)
    expected = [(128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (1, 1, 1)]
    assert maps_of(network, torch.randn(2, 3, 64, 64)) == expected
    kernels = 16 * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024 + 1024)
    assert sum(each.numel() for each in network.parameters()) == kernels + 2 * (256 + 512 + 1024) + 128 + 1 == 11036289


def test_the_networks_follow_the_papers_guidelines():
    made, judged = generator(), discriminator()
    kinds = [type(layer) for layer in made.layers]
    stage = [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [Projection, *stage[1:], *stage, nn.ConvTranspose2d], "no batch norm at the output"
    kinds = [type(layer) for layer in judged.layers]
    normed = [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert kinds == [nn.Conv2d, nn.LeakyReLU, *normed, nn.Conv2d, nn.Flatten], "none at the input, no sigmoid"
    layers = [*made.layers, *judged.layers]
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
    assert not any(getattr(layer, "inplace", False) for layer in layers)
    batch_norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    assert {(layer.eps, layer.momentum) for layer in batch_norms} == {(1e-5, 0.1)}, "0.8 is no second argument"


@pytest.mark.parametrize("bias", [False, True])
def test_the_projection_is_a_transposed_convolution_of_a_map_of_one_pixel(bias):
    layer, latents = Projection(5, 6, 4, bias=bias), torch.randn(3, 5)
    expected = nn.functional.conv_transpose2d(latents[:, :, None, None], layer.weight, layer.bias)
    assert expected.shape == (3, 6, 4, 4) and torch.allclose(layer(latents), expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_the_weights_start_as_the_paper_says(norm):
    torch.manual_seed(0)
    shape = (3, 32, 32)
    modules = [*generator(shape, 100).modules(), *discriminator(shape, 1, norm=norm).modules()]
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            accuracy = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(0.02, rel=accuracy)
            assert module.weight.mean().item() == pytest.approx(0, abs=0.02 * 2 * accuracy)
    scales = torch.cat([module.weight for module in modules if isinstance(module, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.005) and scales.std().item() == pytest.approx(0.02, rel=0.2)
    biases = [module.bias for module in modules if getattr(module, "bias", None) is not None]
    assert biases and not any(bias.any() for bias in biases)


# ── Contract and sizes ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [16, 28, 32, 64, 128])
def test_every_size_conforms(size, channels):
    images = (channels, size, size)
    assert_conforms("generator", DcganGenerator, {"feature_maps": 2}, NetworkSpec((7,), images))
    assert_conforms("discriminator", DcganDiscriminator, {"feature_maps": 2}, NetworkSpec(images, (3,)))


@pytest.mark.parametrize("size", [16, 28])
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_conforms(norm, size):
    images, settings = (3, size, size), {"feature_maps": 4, "norm": norm}
    assert_conforms("discriminator", DcganDiscriminator, settings, NetworkSpec(images, (5,)))
    if norm in ("batch", "none"):
        assert_conforms("generator", DcganGenerator, settings, NetworkSpec((16,), images))


@pytest.mark.parametrize("labels", ["concatenation", "embedding", "projection"])
@pytest.mark.parametrize(("size", "norm"), [(16, "batch"), (28, "layer"), (16, "spectral")])
def test_the_networks_take_labels_each_way(size, norm, labels):
    images, settings = (3, size, size), {"feature_maps": 4, "labels": labels}
    made, judged = NetworkSpec((7,), images, {"labels": ()}, 4), NetworkSpec(images, (2,), {"labels": ()}, 4)
    if labels != "projection":
        assert_conforms("generator", DcganGenerator, settings, made)
    assert_conforms("discriminator", DcganDiscriminator, {**settings, "norm": norm}, judged)


@pytest.mark.parametrize("size", [16, 28])
def test_a_projection_adds_the_product_of_the_last_map_and_the_vector_of_the_class(size):
    spec = NetworkSpec((1, size, size), (2,), {"labels": ()}, 5)
    settings = DcganDiscriminator.Settings(feature_maps=3, norm="none", labels="projection")
    network, images = DcganDiscriminator(settings, spec).double(), torch.randn(6, 1, size, size, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2, 1, 0])
    last = network.layers[-2]
    nn.init.normal_(last.bias)
    weights = last.weight.detach().view(1 + 5, 2, -1)
    maps = network.layers[:-2](images).detach().flatten(1)
    bias = last.bias.detach().view(1 + 5, 2)
    expected = [(weights[0] + weights[1 + y]) @ h + bias[0] + bias[1 + y] for h, y in zip(maps, labels, strict=True)]
    assert torch.allclose(network(images, labels), torch.stack(expected), rtol=1e-12)


def test_without_labels_a_projection_adds_nothing():
    shape = (1, 16, 16)
    torch.manual_seed(0)
    plain = discriminator(shape, 1, feature_maps=2)
    torch.manual_seed(0)
    other = discriminator(shape, 1, feature_maps=2, labels="projection")
    images = torch.randn(3, *shape)
    assert plain.state_dict().keys() == other.state_dict().keys() and torch.equal(plain(images), other(images))


def test_in_bf16_a_sample_close_to_1_differs_from_1():
    network = generator(feature_maps=4)
    nn.init.constant_(network.layers[-1].bias, 5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gap = 1 - network(torch.randn(6, 8))
    assert gap.dtype == torch.float32
    assert gap.min() > 0 and gap.max() < 2**-9, "bf16 rounds to 1 from there on"


def test_28_starts_at_7_and_large_images_stay_within_8_times_the_feature_maps():
    fashion = (1, 28, 28)
    assert maps_of(generator(fashion, 4, feature_maps=2), torch.randn(2, 4)) == [(4, 7, 7), (2, 14, 14), (1, 28, 28)]
    assert maps_of(discriminator(fashion, 1, feature_maps=2), torch.randn(2, 1, 28, 28))[-2:] == [(4, 7, 7), (1, 1, 1)]
    large = maps_of(generator((3, 256, 256), 4, feature_maps=1), torch.randn(2, 4))
    assert [shape[0] for shape in large] == [8, 8, 8, 4, 2, 1, 3]


@pytest.mark.parametrize("make", [generator, discriminator])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 24), (3, 56, 56), (3, 28, 32), (3, 64, 32), (1, 1, 1)])
def test_other_sizes_are_refused(make, shape):
    with pytest.raises(IncompatibleError, match=rf"not {shape[1]}×{shape[2]}; change the size in \[data\]"):
        make(shape)


@pytest.mark.parametrize("make", [generator, discriminator])
def test_points_are_refused(make):
    with pytest.raises(IncompatibleError, match="works on images"):
        make((2,))


# ── Norms ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_mixes_the_samples_of_a_batch(norm):
    """A gradient penalty relies on it: it is a norm of each sample's own gradient."""
    network = discriminator(norm=norm, feature_maps=4)
    images = torch.randn(6, 3, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(images)[0].sum(), images)
    assert bool(gradient[0].any())
    assert bool(gradient[1:].any()) == (norm == "batch")


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "batch"])
def test_a_penalty_on_its_gradient_reaches_every_kernel(norm):
    network = discriminator(norm=norm, feature_maps=4)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    (slope.flatten(1).norm(dim=1) - 1).square().mean().backward()
    kernels = [module.weight.grad for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(grad is not None and bool(grad.isfinite().all() and grad.any()) for grad in kernels)


def test_layer_norm_is_over_channels_height_and_width_of_each_sample():
    layer = discriminator(norm="layer", feature_maps=4).layers[3]
    maps = torch.randn(5, 8, 4, 4) * torch.arange(1, 6).view(5, 1, 1, 1) + torch.arange(8).view(8, 1, 1)
    normed = layer(maps)
    assert torch.allclose(normed.mean((1, 2, 3)), torch.zeros(5), atol=1e-5)
    assert torch.allclose(normed.var((1, 2, 3), correction=0), torch.ones(5), atol=1e-3)
    assert normed.mean((2, 3)).std(1).min() > 0.1, "the channels of one sample keep their differences"
    assert layer.weight.shape == layer.bias.shape == (8,)


def test_spectral_norm_is_on_every_layer_and_stands_alone():
    network = discriminator(norm="spectral", feature_maps=8).train()
    for _ in range(300):
        network(torch.randn(1, 3, 16, 16))
    kinds = [type(layer) for layer in network.layers]
    assert kinds == [SpectralConv2d, nn.LeakyReLU, SpectralConv2d, nn.LeakyReLU, SpectralConv2d, nn.Flatten]
    for layer in network.layers[0:5:2]:
        norm = torch.linalg.matrix_norm(layer.normalised_weight().flatten(1), ord=2)
        assert norm.item() == pytest.approx(1, abs=2e-3)


def test_spectral_norm_makes_one_power_iteration_a_forward_in_training():
    layer = SpectralConv2d(3, 6, 4)
    matrix, u = layer.weight.detach().flatten(1), layer.u.clone()
    v = matrix.T @ u / (matrix.T @ u).norm()
    u = matrix @ v / (matrix @ v).norm()
    images = torch.randn(2, 3, 8, 8)
    expected = nn.functional.conv2d(images, layer.weight / (u @ matrix @ v), layer.bias)
    assert torch.allclose(layer(images), expected, atol=1e-6)
    assert torch.allclose(layer.u, u, atol=1e-6)


def test_spectral_norm_and_its_gradient_settle_where_torchs_own_do():
    torch.manual_seed(0)
    ours, images = SpectralConv2d(3, 6, 4), torch.randn(2, 3, 8, 8)
    theirs = nn.Conv2d(3, 6, 4)
    theirs.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    spectral_norm(theirs)
    for layer in (ours, theirs):
        for _ in range(200):
            output = layer(images)
        output.square().sum().backward()
    assert torch.allclose(ours(images), theirs(images), atol=1e-4)
    assert torch.allclose(ours.weight.grad, theirs.parametrizations.weight.original.grad, rtol=1e-3, atol=1e-3)


def test_spectral_norm_learns_nothing_from_evaluation_and_keeps_its_precision():
    layer = SpectralConv2d(3, 6, 4).eval()
    images, before = torch.randn(2, 3, 8, 8), layer.u.clone()
    first = layer(images)
    assert torch.equal(first, layer(images)) and torch.equal(layer.u, before)
    exact = layer.normalised_weight()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16
        assert torch.equal(layer.normalised_weight(), exact)


# ── In a run ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("loss", "norm"), [("gan", "batch"), ("lsgan", "spectral")])
def test_it_trains_and_a_resumed_run_ends_in_the_same_weights(tmp_path, loss, norm):
    def run(name: str, steps: int, resume: bool = False) -> dict[str, Tensor]:
        tables = {
            "progress": False,
            "mlflow": False,
            "train": {"steps": steps, "batch_size": 16, "device": "cpu"},
            "data": {"use": "digits", "size": 16},
            "loss": {"use": loss, "latent_size": 8},
            "generator": {"use": "dcgan", "feature_maps": 4},
            "discriminator": {"use": "dcgan", "feature_maps": 4, "norm": norm},
            "optimizer": {"use": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        }
        state = train(tables, tmp_path / name, ganrun_dcgan, resume=resume).state
        return {
            f"{slot}.{key}": value.clone()
            for slot in ("generator", "discriminator")
            for key, value in state.slots[slot].module.state_dict().items()
        }

    start, whole = run("start", 1), run("whole", 6)
    run("parts", 3)
    parts = run("parts", 6, resume=True)
    assert all(bool(value.isfinite().all()) for value in whole.values())
    trained = [name for name in whole if name.endswith(("weight", "bias"))]
    assert [name for name in trained if torch.equal(whole[name], start[name])] == []
    assert [name for name, value in whole.items() if not torch.equal(value, parts[name])] == []
