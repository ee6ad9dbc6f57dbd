"""Layers with equalised learning rate, and pixel norm: in float64 against torch, and at initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d, linear, normalize

from ganrun import EqualizedConv2d, EqualizedLinear, full_precision, pixel_norm

ROOT2 = math.sqrt(2)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(**settings: Any) -> nn.Module:
    return EqualizedLinear(6, 4, **settings).double()


def convolution(**settings: Any) -> nn.Module:
    return EqualizedConv2d(6, 4, 3, stride=2, padding=1, **settings).double()


def of_torch(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer of torch with these weights."""
    return linear(inputs, weight, bias) if weight.dim() == 2 else conv2d(inputs, weight, bias, stride=2, padding=1)


KINDS = pytest.mark.parametrize(
    ("make", "inputs", "fan_in"),
    [(dense, noise(5, 6), 6), (convolution, noise(5, 6, 7, 8), 6 * 9)],
    ids=["linear", "conv2d"],
)


@KINDS
@pytest.mark.parametrize("gain", [1.0, ROOT2])
@pytest.mark.parametrize("rate", [1.0, 0.01])
@pytest.mark.parametrize("bias", [0.0, 1.0, None])
def test_values_and_gradients_are_those_of_torchs_layer_with_weights_scaled_by_hand(
    make: Callable[..., Any], inputs: Tensor, fan_in: int, gain: float, rate: float, bias: float | None
) -> None:
    layer = make(gain=gain, lr_multiplier=rate, bias=bias)
    weight = (layer.weight.detach() * (gain * rate / math.sqrt(fan_in))).requires_grad_()
    shift = None if bias is None else (layer.bias.detach() * rate).requires_grad_()
    if shift is not None:
        torch.testing.assert_close(shift, torch.full((4,), bias, dtype=torch.float64), rtol=1e-6, atol=0)
    found, expected = layer(inputs), of_torch(inputs, weight, shift)
    torch.testing.assert_close(found, expected)
    push = noise(*found.shape, seed=1)
    found.backward(push)
    expected.backward(push)
    torch.testing.assert_close(layer.weight.grad, weight.grad * (gain * rate / math.sqrt(fan_in)))
    if shift is not None:
        torch.testing.assert_close(layer.bias.grad, rate * shift.grad)


@KINDS
def test_gradients_and_their_gradients_are_those_of_finite_differences(
    make: Callable[..., Any], inputs: Tensor, fan_in: int
) -> None:
    layer, own = make(gain=ROOT2, lr_multiplier=0.5, bias=0.3), inputs[:1, :, :3, :3] if inputs.dim() > 2 else inputs

    def called(values: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": shift}, (values,)).tanh()

    tensors = [each.detach().clone().requires_grad_() for each in (own, layer.weight, layer.bias)]
    assert gradcheck(called, tensors) and gradgradcheck(called, tensors)


@pytest.mark.parametrize("gain", [1.0, ROOT2])
@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_layers_start_from_n_0_1_and_give_outputs_of_deviation_gain(gain: float, rate: float) -> None:
    torch.manual_seed(0)
    wide, deep = (
        EqualizedLinear(400, 300, gain=gain, lr_multiplier=rate),
        EqualizedConv2d(64, 48, 3, padding=1, gain=gain, lr_multiplier=rate),
    )
    for layer in (wide, deep):
        stored = rate * layer.weight
        assert stored.mean().item() == pytest.approx(0, abs=0.02) and stored.std().item() == pytest.approx(1, rel=0.02)
        assert stored.quantile(0.975).item() == pytest.approx(1.96, rel=0.03)
        assert not layer.bias.any()
    assert wide(torch.randn(500, 400)).std().item() == pytest.approx(gain, rel=0.05)
    assert deep(torch.randn(16, 64, 8, 8))[..., 1:-1, 1:-1].std().item() == pytest.approx(gain, rel=0.05)


def test_a_step_of_one_size_moves_a_slow_layer_by_its_multiplier() -> None:
    moved = []
    for rate in (0.01, 1.0):
        torch.manual_seed(0)
        layer = EqualizedLinear(7, 3, bias=0.5, lr_multiplier=rate).double()
        before = layer(torch.ones(1, 7).double())
        for weight in layer.parameters():
            weight.data += 0.1
        moved.append(layer(torch.ones(1, 7).double()) - before)
    torch.testing.assert_close(moved[0], 0.01 * moved[1])


@pytest.mark.parametrize(("fan_in", "kernel"), [(4, 1), (64, 3), (16, 4)])
def test_adams_step_changes_every_layer_in_proportion_to_its_range(fan_in: int, kernel: int) -> None:
    """That is what equalised is: whatever the fan-in, a step of lr moves the weights that act by lr of their range."""
    torch.manual_seed(0)
    layer = EqualizedConv2d(fan_in, 8, kernel, gain=ROOT2)
    before = layer.scaled_weight().detach()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, betas=(0.0, 0.99))
    layer(torch.randn(2, fan_in, 8, 8)).square().sum().backward()
    optimizer.step()
    moved = (layer.scaled_weight() - before).abs()
    assert (moved / (ROOT2 / math.sqrt(fan_in * kernel**2))).mean().item() == pytest.approx(0.01, rel=0.01)


def test_pixel_norm_puts_vectors_and_pixels_on_a_sphere() -> None:
    for shape in ((9, 512), (2, 7, 3, 3)):
        features = noise(*shape)
        torch.testing.assert_close(
            pixel_norm(features), math.sqrt(shape[1]) * normalize(features, dim=1), rtol=1e-6, atol=0
        )
    small = torch.full((1, 4), 1e-4, dtype=torch.float64)
    torch.testing.assert_close(pixel_norm(small), small / math.sqrt(2e-8))
    assert not pixel_norm(torch.zeros(2, 3)).any()


def test_a_block_in_full_precision_is_in_float32_within_bf16_and_changes_nothing_elsewhere() -> None:
    layer, inputs = nn.Linear(3, 2), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(inputs):
            assert torch.equal(layer(inputs), linear(inputs, layer.weight, layer.bias))
            assert layer(inputs).dtype == torch.float32
        assert layer(inputs).dtype == torch.bfloat16
    with full_precision(inputs):
        assert not torch.is_autocast_enabled("cpu")
    with full_precision(torch.empty(1, device="meta")):
        assert nn.Linear(3, 2, device="meta")(torch.empty(4, 3, device="meta")).dtype == torch.float32
