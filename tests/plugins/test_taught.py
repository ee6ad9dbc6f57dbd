"""Each recipe `taught_*.toml` builds the networks and makes the updates of the lesson in its header.

The lessons are written here in plain torch, by hand, and trained on what ganrun's run has drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from ganrun import DataSpec
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.recipe import Recipe
from ganrun.recipe.shipped import shipped_recipes
from ganrun.training.builder import build_run
from ganrun.training.components import loss_for, network_spec
from ganrun.training.run import Run
from ganrun.training.runner import execute

BATCH = 3
SMALL = ["train.steps=1", f"train.batch_size={BATCH}", "train.device=cpu", "metric=[]"]
SMALL += [f"{observer}=false" for observer in ("mlflow", "progress", "samples", "checkpoints")]

Networks = dict[str, nn.Module]


# ── The lessons' networks ─────────────────────────────────────────────────────────────────────────────────


class Same(nn.Sequential):
    """A 5×5 convolution from n to n/2 pixels."""

    def __init__(self, fan_in: int, fan_out: int, bias: bool = True) -> None:
        super().__init__(nn.ZeroPad2d(2), nn.Conv2d(fan_in, fan_out, 5, 2, bias=bias))


class Twice(nn.Module):
    """The opposite of `Same`: pixels two apart, zeros between them, and a 5×5 convolution with the kernel turned."""

    def __init__(self, fan_in: int, fan_out: int, size: int, bias: bool = True) -> None:
        super().__init__()
        kernel = 5 if size == 5 else 4
        self.weight = nn.Parameter(torch.empty(fan_in, fan_out, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(fan_out)) if bias else None
        self.margins = (2, 3) if kernel == 5 else (2, 2)

    def forward(self, maps: Tensor) -> Tensor:
        low, high = self.margins
        spread = maps.new_zeros(*maps.shape[:2], 2 * maps.shape[2] - 1, 2 * maps.shape[3] - 1)
        spread[:, :, ::2, ::2] = maps
        padded = nn.functional.pad(spread, (low, high, low, high))
        return nn.functional.conv2d(padded, self.weight.flip(2, 3).transpose(0, 1), self.bias)


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


def small_dense() -> Networks:
    generator = nn.Sequential(
        nn.Linear(100, 128), leaky(), nn.Linear(128, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28))
    )
    convolutions = (nn.Conv2d(1, 128, 4, 2), leaky(), nn.Conv2d(128, 128, 4, 2), leaky())
    return {"generator": generator, "discriminator": nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3200, 1))}


def dense_conv() -> Networks:
    hidden = [(100, 256), (256, 512), (512, 1024)]
    blocks = [(nn.Linear(n, m, bias=False), nn.BatchNorm1d(m), leaky()) for n, m in hidden]
    generator = nn.Sequential(*chain(*blocks), nn.Linear(1024, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)))
    stages = [Same(1, 32), leaky(), Same(32, 64, bias=False), nn.BatchNorm2d(64), leaky()]
    stages += [Same(64, 128, bias=False), nn.BatchNorm2d(128), leaky()]
    return {"generator": generator, "discriminator": nn.Sequential(*stages, nn.Flatten(), nn.Linear(2048, 1))}


def dense_pair() -> Networks:
    generator = nn.Sequential(nn.Linear(100, 1024), leaky(), nn.Linear(1024, 1024), leaky(), nn.Linear(1024, 784))
    judge = [nn.Linear(784, 1024), leaky(), nn.Linear(1024, 1024), leaky(), nn.Linear(1024, 512), leaky()]
    return {
        "generator": nn.Sequential(generator, nn.Tanh(), nn.Unflatten(1, (1, 28, 28))),
        "discriminator": nn.Sequential(nn.Flatten(), *judge, nn.Linear(512, 1)),
    }


def conv_colour(units: int = 1024) -> Networks:
    first = [nn.Linear(128, units), leaky(), nn.Linear(units, 7 * 7 * 256), leaky(), nn.Unflatten(1, (256, 7, 7))]
    maps = [Twice(256, 128, 5), nn.ReLU(), Twice(128, 64, 5), nn.ReLU(), Twice(64, 3, 5), nn.Tanh()]
    judge = [
        Same(3, 32),
        leaky(),
        Same(32, 64),
        leaky(),
        Same(64, 128),
        leaky(),
        nn.Flatten(),
        nn.Linear(7 * 7 * 128, 1),
    ]
    return {"generator": nn.Sequential(*first, *maps), "discriminator": nn.Sequential(*judge)}


def skeleton() -> Networks:
    """The networks that the recipe fills in, since its lesson has none."""
    first = [nn.Linear(200, 256 * 16, bias=False), nn.Unflatten(1, (256, 4, 4)), nn.BatchNorm2d(256), nn.ReLU()]
    steps = [(Twice(n, n // 2, 4, bias=False), nn.BatchNorm2d(n // 2), nn.ReLU()) for n in (256, 128, 64)]
    judge = [(nn.Conv2d(n, m, 4, 2, 1), leaky()) for n, m in ((3, 32), (32, 64), (64, 128), (128, 256))]
    return {
        "generator": nn.Sequential(*first, *chain(*steps), Twice(32, 3, 4), nn.Tanh()),
        "discriminator": nn.Sequential(*chain(*judge), nn.Flatten(), nn.Linear(256 * 16, 1)),
    }


def autoencoder(latents: int = 200) -> Networks:
    maps = [Twice(16, 64, 5), nn.ReLU(), Twice(64, 32, 5), nn.ReLU(), Twice(32, 3, 5), nn.Tanh()]
    decoder = nn.Sequential(nn.Linear(latents, 4096), nn.Unflatten(1, (16, 16, 16)), nn.ReLU(), *maps)
    stages = [Same(3, 32), nn.ReLU(), Same(32, 64), nn.ReLU(), Same(64, 128), nn.ReLU()]
    return {
        "generator": decoder,
        "encoder": nn.Sequential(*stages, nn.Flatten(), nn.Linear(16 * 16 * 128, 2 * latents)),
    }


# ── The lessons' losses, and their steps ──────────────────────────────────────────────────────────────────


def cross_entropy(scores: Tensor, label: float) -> Tensor:
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


def squares(scores: Tensor, label: float) -> Tensor:
    return ((scores - label) ** 2).mean()


class Lesson(NamedTuple):
    """A design, as it is taught."""

    networks: Callable[..., Networks]
    weights: dict[str, int]
    """Numbers of weights, counted by hand."""

    adam: tuple[float, float, float]
    """Learning rate and betas."""

    passes: int | None = None
    """Through MNIST's 60,000 digits."""

    batch: int = 64

    loss: Callable[[Tensor, float], Tensor] = cross_entropy
    factor: float = 1.0
    """Of the discriminator's loss."""

    updates: int = 1
    """Of the discriminator, a step."""

    narrower: tuple[tuple[str, int], ...] = ()
    """Settings that are less where the lesson is trained, since a step of so many weights takes long."""

    eps: float = 1e-8
    """Adam's. A loss of twice the size makes the same updates with twice the eps."""


LESSONS = {
    "taught_small_dense_mnist": Lesson(
        small_dense,
        {
            "generator": 100 * 128 + 128 + 128 * 784 + 784,
            "discriminator": 16 * (1 * 128 + 128 * 128) + 2 * 128 + 5 * 5 * 128 + 1,
        },
        (2e-4, 0.9, 0.999),
        passes=50,
    ),
    "taught_lsgan_folder": Lesson(
        skeleton,
        {
            "generator": 200 * 4096 + 16 * (256 * 128 + 128 * 64 + 64 * 32 + 32 * 3) + 2 * (256 + 128 + 64 + 32) + 3,
            "discriminator": 16 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256) + (32 + 64 + 128 + 256) + 4096 + 1,
        },
        (1e-3, 0.9, 0.999),
        batch=10,
        loss=squares,
        eps=2e-8,
    ),
    "taught_conv_celeba56": Lesson(
        conv_colour,
        {
            "generator": 128 * 1024 + 1024 + (1024 + 1) * 12544 + 25 * (256 * 128 + 128 * 64 + 64 * 3) + 128 + 64 + 3,
            "discriminator": 25 * (3 * 32 + 32 * 64 + 64 * 128) + 32 + 64 + 128 + 6272 + 1,
        },
        (2e-4, 0.5, 0.999),
        narrower=(("generator.hidden=[{}]", 8),),
    ),
    "taught_vae_celeba128": Lesson(
        autoencoder,
        {
            "generator": 200 * 4096 + 4096 + 25 * (16 * 64 + 64 * 32 + 32 * 3) + 64 + 32 + 3,
            "encoder": 25 * (3 * 32 + 32 * 64 + 64 * 128) + 32 + 64 + 128 + (32768 + 1) * 400,
        },
        (1e-3, 0.9, 0.999),
        narrower=(("loss.latent_size={}", 8),),
    ),
    "taught_dense_conv_mnist": Lesson(
        dense_conv,
        {
            "generator": 100 * 256 + 256 * 512 + 512 * 1024 + 1024 * 784 + 2 * (256 + 512 + 1024) + 784,
            "discriminator": 25 * (32 + 32 * 64 + 64 * 128) + 32 + 2 * (64 + 128) + 2048 + 1,
        },
        (2e-4, 0.9, 0.999),
        passes=100,
        factor=0.5,
    ),
    "taught_dense_pair_mnist": Lesson(
        dense_pair,
        {
            "generator": 100 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 784 + 784,
            "discriminator": 784 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 512 + 512 + 512 + 1,
        },
        (2e-4, 0.5, 0.999),
        passes=50,
        updates=5,
    ),
}


class Drawn(NamedTuple):
    """What one step of ganrun's run has drawn."""

    images: Iterator[Tensor]
    latents: Iterator[Tensor]


def one_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Train one step, and note the records and latents in the order of their use."""
    seen: list[Tensor] = []
    latents: list[Tensor] = []
    kind = type(run.model.loss)
    draw = kind.latents

    def noted(self, size, device):
        latents.append(draw(self, size, device))
        return latents[-1]

    monkeypatch.setattr(kind, "latents", noted)
    judge = run.state.slots[next(name for name in ("encoder", "discriminator") if name in run.state.slots)].module
    hook = judge.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    execute(run)
    hook.remove()
    return Drawn(iter(seen), iter(latents))


def taught_step(lesson: Lesson, networks: Networks, drawn: Drawn) -> None:
    """The step as the lesson makes it."""
    optimizers = {
        slot: torch.optim.Adam(network.parameters(), lesson.adam[0], lesson.adam[1:], lesson.eps)
        for slot, network in networks.items()
    }
    if "encoder" in networks:
        return autoencoder_step(networks, optimizers, drawn)
    generator, judge = networks["generator"], networks["discriminator"]
    for _ in range(lesson.updates):
        fake = generator(next(drawn.latents)).detach()
        real = next(drawn.images)
        next(drawn.images)
        loss = lesson.loss(judge(real), 1.0) + lesson.loss(judge(fake), 0.0)
        update(optimizers["discriminator"], lesson.factor * loss)
    return update(optimizers["generator"], lesson.loss(judge(generator(next(drawn.latents))), 1.0))


def autoencoder_step(networks: Networks, optimizers: dict[str, torch.optim.Optimizer], drawn: Drawn) -> None:
    """Cross-entropy summed over pixels in [0, 1], plus the divergence from the prior."""
    images = next(drawn.images)
    mean, log_variance = networks["encoder"](images).chunk(2, dim=1)
    latents = mean + torch.exp(log_variance / 2) * next(drawn.latents)
    pixels, target = (1 + networks["generator"](latents)) / 2, (1 + images) / 2
    divergence = -0.5 * torch.sum(1 + log_variance - mean**2 - torch.exp(log_variance))
    loss = (binary_cross_entropy(pixels, target, reduction="sum") + divergence) / len(images)
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def weights(module: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in module.parameters()])


def recipe_of(name: str, *overrides: str) -> Recipe:
    return load_recipe(shipped_recipes() / f"{name}.toml", load_registry(), overrides)


def shape_of(name: str) -> tuple[int, int, int]:
    size = recipe_of(name).data.settings.size
    return 1 if "mnist" in name else 3, size, size


def count(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize("name", LESSONS)
def test_a_recipes_networks_have_as_many_weights_as_its_lessons(name):
    lesson, recipe = LESSONS[name], recipe_of(name)
    _, loss = loss_for(recipe, DataSpec(shape_of(name)))
    taught = {slot: count(each) for slot, each in lesson.networks().items()}
    own = {slot: count(each.build(network_spec(loss, slot))) for slot, each in recipe.networks.items()}
    assert own == taught == lesson.weights


@pytest.mark.parametrize("name", LESSONS)
def test_a_step_of_a_recipe_is_its_lessons(name, tmp_path, monkeypatch):
    lesson = LESSONS[name]
    channels, size, _ = shape_of(name)
    data = f"data={{ use = 'synthetic', size = {size}, channels = {channels}, count = 24, test_count = 12 }}"
    narrower = [setting.format(value) for setting, value in lesson.narrower]
    run = build_run(recipe_of(name, data, *SMALL, *narrower), tmp_path / "run")
    networks = lesson.networks(*(value for _, value in lesson.narrower))
    for slot, network in networks.items():
        for mine, theirs in zip(network.parameters(), run.state.slots[slot].module.parameters(), strict=True):
            mine.data = theirs.detach().clone()
    before = {slot: weights(network) for slot, network in networks.items()}
    taught_step(lesson, networks, one_step(run, monkeypatch))
    for slot, network in networks.items():
        own = run.state.slots[slot].module
        (group,) = run.state.slots[slot].optimizer.param_groups
        assert (group["lr"], *group["betas"]) == lesson.adam
        off = (weights(own) - weights(network)).abs() / group["lr"]
        assert (weights(own) - before[slot]).abs().mean() > group["lr"] / 2
        certain = torch.cat([_is_certain(state["exp_avg"]) for state in run.state.slots[slot].optimizer.state.values()])
        assert certain.float().mean() > 0.5 and (off[certain] > 0.02).float().mean() < 1e-4


def _is_certain(gradient: torch.Tensor) -> torch.Tensor:
    """Whether the sign of each gradient does not depend on how a processor rounds; Adam's first step is that sign."""
    return gradient.flatten().abs() > gradient.square().mean().sqrt() / 10


@pytest.mark.parametrize("name", LESSONS)
def test_a_recipe_sees_the_records_as_often_as_its_lesson(name):
    lesson = LESSONS[name]
    train = recipe_of(name).train
    assert train.batch_size == lesson.batch
    assert train.repeat.get("discriminator", 1) == lesson.updates
    if lesson.passes:
        assert train.steps * train.batch_size * lesson.updates == lesson.passes * 60_000


def test_half_of_a_loss_makes_the_updates_of_a_whole_one_with_twice_the_eps():
    torch.manual_seed(0)
    gradients = 1e-8 * torch.randn(5, 100, dtype=torch.float64)  # so small that eps counts

    def trained(factor, eps):
        parameter = nn.Parameter(torch.zeros(100, dtype=torch.float64))
        optimizer = torch.optim.Adam([parameter], 1.0, eps=eps)
        for gradient in gradients:
            update(optimizer, factor * (gradient * parameter).sum())
        return parameter.detach()

    assert torch.allclose(trained(0.5, 1e-8), trained(1.0, 2e-8), rtol=1e-12, atol=0)
    assert not torch.allclose(trained(0.5, 1e-8), trained(1.0, 1e-8), rtol=0.01)
    assert recipe_of("taught_dense_conv_mnist").optimizers["discriminator"].settings.eps == 2e-8


def test_the_smallest_lessons_discriminator_does_not_see_the_last_two_rows_and_columns():
    images = torch.randn(1, 1, 28, 28, requires_grad=True)
    small_dense()["discriminator"](images).sum().backward()
    seen = images.grad[0, 0] != 0
    assert seen[:26, :26].all() and not seen[26:].any() and not seen[:, 26:].any()
