"""The layers of dense and simple convolutional networks, and the sizes of the maps between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil
from typing import Literal, NamedTuple

from torch import Tensor, nn

from ganrun import (
    IncompatibleError,
    MinibatchComparison,
    MinibatchDeviation,
    MinibatchDiscrimination,
    NetworkSpec,
    dcgan_init,
    halved_shape,
    image_shape,
    minibatch_layers,
)

LEAK = 0.2
"""Slope of leaky ReLU for negative inputs, as in DCGAN (arXiv:1511.06434)."""

Activation = Literal["relu", "leaky", "tanh"]
Norm = Literal["none", "batch"]
Padding = Literal["same", "valid"]


def activation_of(name: Activation) -> nn.Module:
    """ReLU, leaky ReLU with the slope 0.2, or tanh."""
    return {"relu": nn.ReLU(), "leaky": nn.LeakyReLU(LEAK), "tanh": nn.Tanh()}[name]


def initialise(network: nn.Module, how: str) -> None:
    """Set all weights as DCGAN does, as Glorot and Bengio propose, or leave them as torch has drawn them.

    Args:
        network: Its layers are visited in the order of `Module.apply`.
        how: dcgan is N(0, 0.02), biases 0 (`ganrun.dcgan_init`); glorot is U(±√(6 / (fan in + fan out))), biases 0
            (Glorot and Bengio 2010, equation 16); torch is U(±1/√(fan in)), biases too.
    """
    if how != "torch":
        network.apply(dcgan_init if how == "dcgan" else _glorot_init)


def _glorot_init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ── Dense layers ──────────────────────────────────────────────────────────────────────────────────────────


def dense(
    sizes: Sequence[int],
    activation: Activation,
    norm: Norm,
    dropout: float = 0.0,
    minibatch: MinibatchComparison = "none",
) -> Iterator[nn.Module]:
    """Hidden layers of all sizes but the last, a comparison of samples, and a dense layer that nothing follows."""
    yield from hidden_dense(sizes[:-1], activation, norm, dropout)
    compared, (features,) = minibatch_layers(minibatch, (sizes[-2],))
    yield from compared
    yield nn.Linear(features, sizes[-1])


def hidden_features(layers: nn.Sequential, inputs: Tensor) -> Tensor:
    """The hidden layers' output for inputs `(batch, n)`: up to a comparison of samples, or the last layer."""
    for layer in list(layers)[:-1]:
        if isinstance(layer, MinibatchDeviation | MinibatchDiscrimination):
            break
        inputs = layer(inputs)
    return inputs


def hidden_dense(sizes: Sequence[int], activation: Activation, norm: Norm, dropout: float = 0.0) -> Iterator[nn.Module]:
    """Dense layers, each with its norm, activation and dropout; `sizes` begins with the number of inputs."""
    for fan_in, fan_out in pairwise(sizes):
        yield nn.Linear(fan_in, fan_out, bias=norm == "none")
        if norm == "batch":
            yield nn.BatchNorm1d(fan_out)
        yield activation_of(activation)
        if dropout:
            yield nn.Dropout(dropout)


def checked_sizes(*sizes: int) -> tuple[int, ...]:
    """The sizes of dense layers.

    Raises:
        IncompatibleError: if one is less than 1.
    """
    if min(sizes) < 1:
        raise IncompatibleError(f"layers need at least 1 unit, not {min(sizes)}")
    return sizes


# ── Maps that double or halve ─────────────────────────────────────────────────────────────────────────────


class Maps(NamedTuple):
    """How maps change from stage to stage."""

    stages: int
    kernel_size: int
    padding: Padding
    reason: str
    """The setting that determines the number of stages, for error messages: `stages = 3`."""

    def smallest_of_generator(self, spec: NetworkSpec) -> tuple[int, int, int]:
        """(channels of the image, height and width of the first map) that the stages double into the image.

        Raises:
            IncompatibleError: if no map becomes an image of that size.
        """
        if self.padding == "same":
            return halved_shape(spec.outputs, self.stages, self.reason)
        channels, height, width = image_shape(spec.outputs)
        factor = 2**self.stages
        margin = (self.kernel_size - 2) * (factor - 1)  # n becomes 2n + kernel_size − 2 in each stage
        if min(height, width) < margin + factor or (height - margin) % factor or (width - margin) % factor:
            sides = ", ".join(str(margin + count * factor) for count in (1, 2, 3))
            raise IncompatibleError(f"{self._unpadded} it makes sides of {sides}, … pixels, not {height}×{width}")
        return channels, (height - margin) // factor, (width - margin) // factor

    def smallest_of_discriminator(self, spec: NetworkSpec) -> tuple[int, int]:
        """(height, width) of an image after all stages.

        Raises:
            IncompatibleError: if an even kernel meets a size that does not halve, or a map is smaller than its kernel.
        """
        _, height, width = image_shape(spec.inputs)
        if self.padding == "valid":
            return self._unpadded_side(height, spec), self._unpadded_side(width, spec)
        if self.kernel_size % 2 == 0:
            return halved_shape(spec.inputs, self.stages, self.reason, "an odd kernel_size takes any size")[1:]
        return ceil(height / 2**self.stages), ceil(width / 2**self.stages)

    def _unpadded_side(self, side: int, spec: NetworkSpec) -> int:
        for stage in range(1, self.stages + 1):
            if side < self.kernel_size:
                left = f"stage {stage} has {side} of the {'×'.join(map(str, spec.inputs[1:]))} pixels left"
                raise IncompatibleError(f"{self._unpadded} {left}, fewer than its kernel; use fewer stages")
            side = (side - self.kernel_size) // 2 + 1
        return side

    @property
    def _unpadded(self) -> str:
        return f'with {self.reason}, kernel_size = {self.kernel_size} and padding = "valid"'

    def doubling(self, fan_in: int, fan_out: int, bias: bool) -> nn.ConvTranspose2d:
        """A transposed convolution from size n to 2n, or to 2n + kernel_size − 2 without padding.

        2(n − 1) − 2 · padding + kernel_size + output_padding.
        """
        size, is_padded = self.kernel_size, self.padding == "same"
        padding, output_padding = ((size - 1) // 2, size % 2) if is_padded else (0, 0)
        return nn.ConvTranspose2d(fan_in, fan_out, size, 2, padding, output_padding, bias=bias)

    def halving(self, fan_in: int, fan_out: int, bias: bool) -> nn.Conv2d:
        """A convolution from size n to n/2, which an odd kernel rounds up, or to ⌊(n − kernel_size)/2⌋ + 1."""
        padding = (self.kernel_size - 1) // 2 if self.padding == "same" else 0
        return nn.Conv2d(fan_in, fan_out, self.kernel_size, 2, padding, bias=bias)
