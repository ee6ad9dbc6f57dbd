"""pix2pix and CycleGAN: objectives and networks composed another way, published counts, pools, sampling, misfits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.test_translation import PAIRED, UNPAIRED, Plugin
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss

from ganrun import (
    Batch,
    DataSpec,
    IncompatibleError,
    Nets,
    Network,
    NetworkSpec,
    RequestError,
    View,
    derived_seed,
    isolated_random,
)
from ganrun.testing import assert_conforms, build
from ganrun_export.programs import generator_of
from ganrun_translation.cyclegan import CycleGan
from ganrun_translation.patch import PatchDiscriminator
from ganrun_translation.pix2pix import Pix2Pix
from ganrun_translation.pool import Pool
from ganrun_translation.residual import Translator
from ganrun_translation.u_net import UNet

CPU = torch.device("cpu")
ONES, ZEROS = torch.ones_like, torch.zeros_like

PAIRS = DataSpec((3, 8, 8), fields={"source": (2, 8, 8)})
DOMAINS = DataSpec((3, 8, 8), fields={"source": (3, 8, 8)})


# ── Objectives ────────────────────────────────────────────────────────────────────────────────────────────


def records(spec: DataSpec) -> tuple[Tensor, Tensor, Batch]:
    """Four sources and images, and the batch of them."""
    source, images = (torch.rand(4, *shape) * 2 - 1 for shape in (spec.fields["source"], spec.sample_shape))
    return source, images, Batch(source.flatten(1), images, None, {"source": source})


def summed(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("conditional", [True, False])
def test_pix2pix_halves_its_discriminator_and_adds_a_hundredfold_distance(conditional: bool) -> None:
    loss = Pix2Pix(Pix2Pix.Settings(conditional=conditional), PAIRS)
    assert loss.ports("discriminator").inputs == (5 if conditional else 3, 8, 8)
    generator, discriminator = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(5 if conditional else 3, 1, 4, 2)
    nets = Nets({"generator": View(generator), "discriminator": View(discriminator)})
    source, images, batch = records(PAIRS)

    def logits(shown: Tensor) -> Tensor:
        return discriminator(torch.cat([source, shown], 1) if conditional else shown)

    real, fake = logits(images), logits(generator(source))
    expected = binary_cross_entropy_with_logits(real, ONES(real)) + binary_cross_entropy_with_logits(fake, ZEROS(fake))
    torch.testing.assert_close(summed(loss.discriminator(nets, batch).minimise), expected / 2)
    expected = binary_cross_entropy_with_logits(fake, ONES(fake)) + 100 * l1_loss(generator(source), images)
    torch.testing.assert_close(summed(loss.generator(nets, batch).minimise), expected)


@pytest.mark.parametrize("identity", [0.5, 0.0])
def test_cyclegan_goes_there_and_back_and_keeps_what_is_of_the_target_domain(identity: float) -> None:
    loss = CycleGan(CycleGan.Settings(identity_weight=identity), DOMAINS)
    forth, back = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
    judge, source_judge = (nn.Conv2d(3, 1, 4, 2) for _ in range(2))
    networks = (forth, back, judge, source_judge)
    nets = Nets({slot: View(network) for slot, network in zip(CycleGan.slots, networks, strict=True)})
    x, y, batch = records(DOMAINS)
    fake, fake_source = judge(forth(x)), source_judge(back(y))
    adversarial = mse_loss(fake, ONES(fake)) + mse_loss(fake_source, ONES(fake_source))
    cycles = l1_loss(back(forth(x)), x) + l1_loss(forth(back(y)), y)
    kept = l1_loss(forth(y), y) + l1_loss(back(x), x)
    found = loss.generators(nets, batch).minimise
    torch.testing.assert_close(summed(found), adversarial + 10 * cycles + 10 * identity * kept)
    assert ("identity" in found) is bool(identity)
    for judged, objective, real, made in (
        (judge, loss.discriminator, y, fake),
        (source_judge, loss.source_discriminator, x, fake_source),
    ):
        expected = mse_loss(judged(real), ONES(made)) + mse_loss(made, ZEROS(made))
        torch.testing.assert_close(summed(objective(nets, batch).minimise), expected / 2)  # pools are still empty


# ── The pool ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pool_follows_the_published_rule() -> None:
    """Written by hand, image by image: it takes images until it is full, and then exchanges half of them."""
    torch.manual_seed(0)
    pool, kept, places = Pool(5, (1, 1, 1)), dict[int, float](), 5
    for number in range(1, 300):
        with isolated_random(CPU, number):
            found = pool(torch.full((1, 1, 1, 1), float(number)))
        with isolated_random(CPU, number):
            *order, coin = torch.rand(places + 1).tolist()
        free = [place for place in range(places) if place not in kept]
        place = min(free or range(places), key=order.__getitem__)
        expected = float(number)
        if free or coin < 0.5:
            expected, kept[place] = kept.get(place, expected), expected
        assert found.item() == expected
        assert pool.images[pool.is_filled].flatten().tolist() == [kept[each] for each in sorted(kept)]


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_a_pool_gives_half_of_the_time_an_earlier_image_and_loses_none(batch: int) -> None:
    torch.manual_seed(batch)
    pool, exchanged = Pool(8, (1, 1, 1)), 0
    for step in range(100):
        before = set(pool.images[pool.is_filled].flatten().tolist())
        images = torch.arange(1.0, 1 + batch) + step * batch
        found = set(pool(images.reshape(-1, 1, 1, 1)).flatten().tolist())
        after = set(pool.images[pool.is_filled].flatten().tolist())
        assert len(after) == min(8, (step + 1) * batch) and len(found) == batch
        assert found | after == before | set(images.tolist())
        exchanged += len(found & before)
    assert 0.4 < exchanged / (100 * min(batch, 8) - 8) < 0.6


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


def parameters(network: type[Any], channels: tuple[int, int], size: int, **settings: Any) -> int:
    source, made = channels
    outputs = (1, ...) if network is PatchDiscriminator else (made, size, size)
    with torch.device("meta"):
        built = network(network.Settings(**settings), NetworkSpec((source, size, size), outputs))
    return sum(weight.numel() for weight in built.parameters())


def test_the_networks_have_the_published_numbers_of_parameters() -> None:
    """Those of the authors' program in PyTorch. It prints millions, of one channel 54.408, 29.238, 2.765 and 0.662 (its
    issue 1152). Its U-Net has no bias in two layers without norm either, the first and the innermost: 64 + 512 fewer.
    """
    biases = 64 + 512
    assert parameters(UNet, (3, 3), 256) == 54_414_531 == 54_413_955 + biases
    assert round((parameters(UNet, (1, 1), 256) - biases) / 1e6, 3) == 54.408
    assert round((parameters(UNet, (1, 1), 64) - biases) / 1e6, 3) == 29.238
    assert parameters(PatchDiscriminator, (6, 1), 256) == 2_768_705
    assert round(parameters(PatchDiscriminator, (2, 1), 256) / 1e6, 3) == 2.765
    assert round(parameters(PatchDiscriminator, (2, 1), 64, layers=2) / 1e6, 3) == 0.662
    assert parameters(PatchDiscriminator, (3, 1), 256, norm="instance") == 2_764_737
    assert parameters(Translator, (3, 3), 256) == 11_378_179
    assert parameters(Translator, (3, 3), 128) == 11_378_179 - 3 * 2 * (9 * 256 * 256 + 256)


@pytest.mark.parametrize(("layers", "side"), [(0, 1), (1, 16), (2, 34), (3, 70)])
def test_a_number_of_the_map_depends_on_a_patch_of_the_published_size(layers: int, side: int) -> None:
    settings = PatchDiscriminator.Settings(layers=layers, feature_maps=1, norm="none")
    network = PatchDiscriminator(settings, NetworkSpec((2, 128, 128), (1, ...)))
    for weight in network.parameters():
        nn.init.constant_(weight, 0.1)
    images = torch.rand(1, 2, 128, 128, requires_grad=True)
    outputs = network(images)
    outputs[0, 0, outputs.shape[2] // 2, outputs.shape[3] // 2].backward()
    rows, columns = images.grad[0, 0].any(1), images.grad[0, 0].any(0)
    assert rows.sum() == columns.sum() == side


class Skip(nn.Module):
    """One level of a U-Net, of torch's modules: down, what is inside, up, beside what came in."""

    def __init__(self, down: list[nn.Module], inside: nn.Module | None, up: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*down, *([inside] if inside else []), *up)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, self.layers(maps)], 1)


def plain_u_net() -> tuple[nn.Module, list[nn.Module]]:
    """For 16×16, of width 2, built from the inside to the outside; and its layers with weights, down and then up."""
    down = [nn.Conv2d(a, b, 4, 2, 1, bias=bias) for a, b, bias in ((3, 2, 1), (2, 4, 0), (4, 8, 0), (8, 16, 1))]
    up = [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in ((16, 8), (16, 4), (8, 2))]
    of_down, of_up = [nn.BatchNorm2d(4), nn.BatchNorm2d(8)], [nn.BatchNorm2d(each) for each in (8, 4, 2)]
    last = nn.ConvTranspose2d(4, 3, 4, 2, 1)
    tops = [[nn.ReLU(), up[each], of_up[each], nn.Dropout(0.5)] for each in range(3)]
    inner = Skip([nn.LeakyReLU(0.2), down[3]], None, tops[0])
    middle = Skip([nn.LeakyReLU(0.2), down[2], of_down[1]], inner, tops[1])
    outer = Skip([nn.LeakyReLU(0.2), down[1], of_down[0]], middle, tops[2])
    order = [down[0], down[1], of_down[0], down[2], of_down[1], down[3], *chain(*zip(up, of_up, strict=True)), last]
    return nn.Sequential(down[0], outer, nn.ReLU(), last, nn.Tanh()), order


@pytest.fixture
def u_nets() -> tuple[UNet, nn.Module]:
    """ganrun's, and torch's with the same weights and running statistics."""
    torch.manual_seed(0)
    spec = NetworkSpec((3, 16, 16), (3, 16, 16))
    network, (plain, layers) = UNet(UNet.Settings(feature_maps=2), spec), plain_u_net()
    for weight, own in zip(network.parameters(), chain(*(layer.parameters() for layer in layers)), strict=True):
        own.data = weight.data = torch.randn(weight.shape) / 2
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    for norm, own in zip((part for part in network.modules() if isinstance(part, nn.BatchNorm2d)), norms, strict=True):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        own.load_state_dict(norm.state_dict())
    return network, plain


def test_the_u_net_is_that_of_torch_s_modules_in_each_mode(u_nets: tuple[UNet, nn.Module]) -> None:
    network, plain = u_nets
    images = torch.randn(3, 3, 16, 16)
    for mode in (False, True):
        with isolated_random(CPU, 1):
            found = network.train(mode)(images)
        with isolated_random(CPU, 1):
            torch.testing.assert_close(found, plain.train(mode)(images))


def test_as_in_training_is_training_mode_with_a_batch_of_one_and_changes_nothing(
    u_nets: tuple[UNet, nn.Module],
) -> None:
    network, plain = u_nets
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(3, 3, 16, 16)
    for image in images.split(1):
        with isolated_random(CPU, 1):
            found = network.eval().as_in_training(image)
        with isolated_random(CPU, 1):
            torch.testing.assert_close(found, plain.train()(image))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for part in plain.modules():
        part.p = 0.0
    for stage in network.up:
        stage.dropout = 0.0
    alone = torch.cat([plain(image) for image in images.split(1)])
    torch.testing.assert_close(network.as_in_training(images), alone)


def plain_translator() -> Iterator[nn.Module]:
    """Of width 2, with one block, before tanh."""

    def normed(*layers: nn.Module) -> list[nn.Module]:
        return [*layers, nn.InstanceNorm2d(1), nn.ReLU()]

    yield from normed(nn.ReflectionPad2d(3), nn.Conv2d(3, 2, 7))
    yield from normed(nn.Conv2d(2, 4, 3, 2, 1))
    yield from normed(nn.Conv2d(4, 8, 3, 2, 1))
    padded = [[nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3)] for _ in range(2)]
    yield Residual(nn.Sequential(*normed(*padded[0]), *padded[1], nn.InstanceNorm2d(8)))
    yield from normed(nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1))
    yield from normed(nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1))
    yield from (nn.ReflectionPad2d(3), nn.Conv2d(2, 3, 7), nn.Tanh())


class Residual(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps)


@pytest.mark.filterwarnings("ignore:input's size at dim=1")  # norms here do not say how many channels they take
def test_the_translator_is_that_of_torch_s_modules_at_any_size() -> None:
    torch.manual_seed(0)
    settings, plain = Translator.Settings(feature_maps=2, blocks=1), nn.Sequential(*plain_translator())
    network = Translator(settings, NetworkSpec((3, 8, 8), (3, 8, 8)))
    for weight, own in zip(network.parameters(), plain.parameters(), strict=True):
        own.data = weight.data = torch.randn(weight.shape) / 2
    for size in ((8, 8), (12, 20)):
        images = torch.randn(2, 3, *size)
        torch.testing.assert_close(network(images), plain(images))


# ── Sampling ──────────────────────────────────────────────────────────────────────────────────────────────


def test_samples_as_in_training_repeat_themselves_and_are_exported(tmp_path: Path) -> None:
    model = build(recipe(PAIRED), tmp_path / "run", Plugin()).model
    before = copy.deepcopy(model.networks["generator"].state_dict())
    chosen, latents = model.with_sampling(mode="training"), model.fixed_latents(3)
    samples, program = chosen.decode(latents), generator_of(chosen).module()
    assert torch.equal(chosen.decode(latents), samples) and not torch.allclose(model.decode(latents), samples)
    with isolated_random(CPU, derived_seed(model.seed, "samples")), torch.no_grad():
        torch.testing.assert_close(program(latents), samples)
    assert all(torch.equal(each, before[name]) for name, each in model.networks["generator"].state_dict().items())


# ── What fits ─────────────────────────────────────────────────────────────────────────────────────────────


def recipe(tables: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Tables of a whole recipe, with settings of tables changed."""
    off = dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False)
    whole = {"train": {"steps": 2, "batch_size": 4, "device": "cpu"}, **off, **tables}
    return {**whole, **{name: {**whole.get(name, {}), **change} for name, change in changes.items()}}


@pytest.mark.parametrize(
    ("tables", "changes", "fault"),
    [
        (PAIRED, {"data": {"use": "digits"}}, 'images from images, which are a field "source"'),
        (PAIRED, {"data": {"size": 10}}, r"with stages = 2 it takes sizes divisible by 4, not 10×10"),
        (PAIRED, {"discriminator": {"layers": 2}}, "layers = 2 it takes images of at least 12 pixels, not 8×8; lower"),
        (
            PAIRED,
            {"generator": UNPAIRED["generator"] | {"feature_maps": 2}, "sampling": {"mode": "training"}},
            'mode "training" needs a generator that can compute as in training, such as u-net',
        ),
        (UNPAIRED, {"data": {"size": 10}}, "with two halvings it takes sizes divisible by 4, not 10×10"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    tables: dict[str, Any], changes: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    if "generator" in changes:
        tables = {**tables, "generator": {}}
    with pytest.raises((RequestError, IncompatibleError), match=fault):
        build(recipe(tables, **changes), tmp_path / "run", Plugin())


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: loss(Pix2Pix, (1, 4, 4)), "as one, and they are 4×4 and 8×8; set conditional = false"),
        (lambda: loss(CycleGan, (1, 8, 8)), r"\(1, 8, 8\) where images are \(3, 8, 8\); set identity_weight = 0"),
        (lambda: loss(CycleGan, (3, 8, 8), mask=(1, 8, 8)), 'only one of them would know the field "mask"'),
        (lambda: network(UNet, 4, 8), "makes images of the size that it takes, 4×4, not 8×8"),
        (lambda: network(Translator, 4, 8), "makes images of the size that it takes, 4×4, not 8×8"),
        (lambda: network(Translator, 4, 4), "takes images of at least 8 pixels, not 4×4"),
    ],
)
def test_shapes_that_do_not_fit_are_named(make: Callable[[], object], fault: str) -> None:
    with pytest.raises(IncompatibleError, match=fault):
        make()


def loss(cls: type[Any], source: tuple[int, ...], **fields: tuple[int, ...]) -> object:
    return cls(cls.Settings(), DataSpec((3, 8, 8), fields={"source": source, **fields}))


def network(cls: type[Network], source: int, made: int) -> object:
    return cls(cls.Settings(), NetworkSpec((3, source, source), (3, made, made)))


@pytest.mark.parametrize(
    ("cls", "settings", "source"),
    [
        (Pix2Pix, {}, (2, 8, 8)),
        (Pix2Pix, {"conditional": False}, (1, 4, 4)),
        (CycleGan, {"pool": 8}, (3, 8, 8)),
        (CycleGan, {"pool": 0, "identity_weight": 0.0}, (1, 4, 4)),
    ],
)
def test_the_losses_keep_their_contract(cls: type[Any], settings: dict[str, Any], source: tuple[int, ...]) -> None:
    assert_conforms("loss", cls, settings, DataSpec((3, 8, 8), fields={"source": source}))


def test_the_networks_keep_their_contracts() -> None:
    pairs, judged = NetworkSpec((2, 8, 8), (3, 8, 8)), NetworkSpec((3, 16, 16), (1, ...))
    for norm in ("batch", "instance", "none"):
        assert_conforms("network", UNet, {"feature_maps": 2, "norm": norm}, pairs)
        assert_conforms("discriminator", PatchDiscriminator, {"feature_maps": 2, "layers": 2, "norm": norm}, judged)
    assert_conforms("network", Translator, {"feature_maps": 2, "blocks": 1}, pairs)
    assert_conforms("discriminator", PatchDiscriminator, {"feature_maps": 2, "layers": 0}, judged)
