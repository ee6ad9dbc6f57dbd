"""Training that ends in the same weights on every machine, regardless of threads, processor and library versions.

Float64 sums depend on the order of their terms, thus on threads, instruction sets and libraries, by a relative error of
about 1e-16. Training amplifies such differences until the weights have nothing in common. Here it cannot:

- `RepeatableAdam` rounds each gradient to a grid far coarser than that error. Two machines disagree only where a value
  falls within the error of the middle between two grid points.
- All other arithmetic on parameters is exact everywhere: single additions, multiplications, divisions and square roots,
  which IEEE 754 defines to the last bit. Powers, cosines and fused multiply-adds are not among them.
- Random numbers are raw bits of Philox, a stream that NumPy guarantees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

GRADIENT_GRID = 2.0**-12
"""Gradients differ by about 1e-18 to 1e-16 between machines, so a training of 1250 steps with 10⁵ parameters ends in
other weights with a probability below 1e-4. Adam learns as well with gradients as coarse as 2⁻¹⁰."""

STATE_GRID = 2.0**-20
"""Of the result, which contains running statistics. Values below 16 on this grid are exact in float32."""

MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8


class RepeatableAdam:
    """Adam on rounded gradients (Kingma & Ba 2015, algorithm 1). The parameters must be float64, on the CPU."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._mean = self._square = torch.zeros((), dtype=torch.float64)
        self._mean_weight = self._square_weight = 1.0

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update.

        Raises:
            FloatingPointError: if a gradient is not finite. The parameters remain as they were.
        """
        gradient = on_grid(parameters_to_vector(_gradient_of(each) for each in self._parameters), GRADIENT_GRID)
        if not gradient.isfinite().all():
            raise FloatingPointError
        self._mean = MEAN_DECAY * self._mean + (1 - MEAN_DECAY) * gradient
        self._square = SQUARE_DECAY * self._square + (1 - SQUARE_DECAY) * (gradient * gradient)
        self._mean_weight *= MEAN_DECAY
        self._square_weight *= SQUARE_DECAY
        size = learning_rate / (1 - self._mean_weight)
        scale = (self._square * (1 / (1 - self._square_weight))).sqrt() + EPSILON
        values = parameters_to_vector(self._parameters)
        vector_to_parameters(values - size * self._mean / scale, self._parameters)


def on_grid(values: Tensor, grid: float) -> Tensor:
    """The nearest multiples of `grid`, a power of two. Zero has no sign, which would change a digest."""
    return torch.round(values * (1 / grid)) * grid + 0.0


@torch.no_grad()
def settle(network: nn.Module) -> None:
    """Round all parameters and buffers to `STATE_GRID`, and make them float32."""
    for each in (*network.parameters(), *network.buffers()):
        if each.is_floating_point():
            each.copy_(on_grid(each, STATE_GRID))
    network.float()


def triangle(step: int, steps: int, rise: float = 0.3) -> float:
    """A schedule's factor: from 0 up to 1 over the first part of the steps, then down to 0."""
    progress = (step + 0.5) / steps
    return min(progress / rise, (1 - progress) / (1 - rise))


# ── Random numbers ────────────────────────────────────────────────────────────────────────────────────────


def random_bits(stream: int) -> np.random.Philox:
    """A source of random bits, other ones for each stream."""
    return np.random.Philox(key=stream)


def permutation(count: int, bits: np.random.Philox) -> npt.NDArray[np.int64]:
    """The numbers below `count`, in random order."""
    return np.argsort(bits.random_raw(count), kind="stable")


@torch.no_grad()
def initialise(network: nn.Module, bits: np.random.Philox) -> None:
    """Draw weights uniformly from ±1/√(inputs of a unit); biases are 0.

    The biases of norms are 0.1: where the input of a norm is constant, as for blank pictures, its output is then clear
    of the kink of ReLU at 0, where rounding errors would decide.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.copy_(_uniform(layer.weight, bits) / math.sqrt(layer.weight[0].numel()))
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and layer.bias is not None:
            layer.bias.fill_(0.1 if isinstance(layer, nn.BatchNorm2d) else 0.0)


def _uniform(like: Tensor, bits: np.random.Philox) -> Tensor:
    """Float64 numbers in [-1, 1), exact multiples of 2⁻⁵²."""
    whole = (bits.random_raw(like.numel()) >> np.uint64(11)).astype(np.float64)
    return torch.from_numpy(whole * 2.0**-52 - 1).view_as(like)


def _gradient_of(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
