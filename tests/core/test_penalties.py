"""Parts of gradient penalties, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ganrun import distance_from_one, gradient_norms, interpolates, squared_gradient_norms

SHAPE = (2, 3, 4)
WEIGHTS = torch.linspace(-0.5, 0.9, 24).view(SHAPE)
NORM = WEIGHTS.square().sum().sqrt().item()


def linear(weights):
    """D(x) = w · x, whose gradient is w everywhere."""
    return lambda x: (x * weights).flatten(1).sum(1, keepdim=True)


def cubic(x):
    """D(x) = Σ x³/3, whose gradient x² differs from sample to sample."""
    return (x**3 / 3).flatten(1).sum(1, keepdim=True)


def noise(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


def test_a_linear_critic_has_the_norm_of_its_weights_everywhere():
    norms = gradient_norms(linear(WEIGHTS), interpolates(noise(5, *SHAPE), noise(5, *SHAPE, seed=1)))
    assert torch.allclose(norms, torch.full((5,), NORM)), "one norm per sample, over all of its dimensions"
    assert torch.allclose(squared_gradient_norms(linear(WEIGHTS), noise(5, *SHAPE)), torch.full((5,), NORM**2))
    assert distance_from_one(norms).item() == pytest.approx((NORM - 1) ** 2, rel=1e-5)


def test_one_sided_leaves_small_gradients_alone():
    norms = torch.tensor([0.25, 1.0, 3.0])
    assert distance_from_one(norms, "two").item() == pytest.approx((0.75**2 + 0 + 2**2) / 3)
    assert distance_from_one(norms, "one").item() == pytest.approx(2**2 / 3)


def test_each_sample_has_its_own_alpha():
    alphas = interpolates(torch.ones(500, *SHAPE), torch.zeros(500, *SHAPE)).flatten(1)
    assert (alphas == alphas[:, :1]).all(), "one for all pixels of a sample"
    assert len(alphas[:, 0].unique()) > 490, "a different one for every sample"
    assert alphas.min() >= 0 and alphas.max() <= 1 and alphas[:, 0].mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_penalty_equals_a_loop_over_samples():
    real, fake = noise(6, *SHAPE), noise(6, *SHAPE, seed=1)
    torch.manual_seed(3)
    penalty = distance_from_one(gradient_norms(cubic, interpolates(real, fake)))
    torch.manual_seed(3)
    alphas = interpolates(torch.ones(6, *SHAPE), torch.zeros(6, *SHAPE))[:, 0, 0, 0].tolist()
    each = [
        ((alpha * x + (1 - alpha) * g).pow(2).norm().item() - 1) ** 2
        for alpha, x, g in zip(alphas, real, fake, strict=True)
    ]
    assert penalty.item() == pytest.approx(sum(each) / 6, rel=1e-4)


@pytest.mark.parametrize(
    "penalty",
    [
        lambda critic, points: distance_from_one(gradient_norms(critic, points), "two"),
        lambda critic, points: distance_from_one(gradient_norms(critic, points), "one"),
        lambda critic, points: squared_gradient_norms(critic, points).mean(),
    ],
    ids=["two-sided", "one-sided", "squared"],
)
def test_second_order_gradients_agree_with_finite_differences(penalty):
    points = noise(4, 3, dtype=torch.float64)
    weights = [noise(*shape, seed=2, dtype=torch.float64).requires_grad_() for shape in ((3, 5), (5, 1))]
    assert torch.autograd.gradcheck(lambda a, b: penalty(lambda x: (x @ a).tanh() @ b, points), weights)


@pytest.mark.parametrize("sided", ["two", "one"])
def test_a_critic_without_a_gradient_gives_no_nan(sided):
    weights = torch.zeros(SHAPE, requires_grad=True)
    penalty = distance_from_one(gradient_norms(linear(weights), noise(5, *SHAPE)), sided)
    penalty.backward()
    assert penalty.item() == pytest.approx(1.0 if sided == "two" else 0.0, abs=1e-5)
    assert weights.grad.isfinite().all()


def test_a_penalty_reaches_the_critic_alone_and_is_float32_around_a_bf16_network():
    layer, generated = nn.Conv2d(2, 1, 3), noise(5, *SHAPE).requires_grad_()

    def critic(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x).flatten(1).sum(1, keepdim=True).float()

    norms = gradient_norms(critic, generated)
    distance_from_one(norms).backward()
    assert norms.dtype == torch.float32
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0
    assert generated.grad is None
