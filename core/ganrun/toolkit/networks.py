"""Parts that networks share: DCGAN's initialisation, pixel norm, blocks in float32, sizes that halve evenly."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import EllipsisType

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError
from ganrun.contracts.specs import image_shape


def dcgan_init(module: nn.Module) -> None:
    """Initialise one layer as DCGAN does; `network.apply(ganrun.dcgan_init)` does it for all of them.

    Weights of dense, convolutional and transposed convolutional layers: N(0, 0.02), biases 0 (Radford et al. 2015,
    arXiv:1511.06434, section 4). Scales of batch norm: N(1, 0.02), as in the authors' code. The 0.02 is the standard
    deviation. Other layers are unchanged. Draws from the global random stream, in the order of `Module.apply`.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def pixel_norm(features: Tensor) -> Tensor:
    """Features, scaled so that the mean of their squares over channels is 1, at each pixel.

    b = a / √(mean over channels of a² + 10⁻⁸) (Karras et al. 2018, arXiv:1710.10196, section 4.2). Vectors
    `(batch, n)` become points on the sphere of radius √n.

    Args:
        features: `(batch, channels, …)`.
    """
    return features * (features.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """A block without autocast, for what needs more than bf16's eight bits: `with ganrun.full_precision(latents): …`.

    Inputs that are in bf16 already must be converted; outside autocast, the block does nothing.

    Args:
        tensor: Any tensor on the network's device.
    """
    kind = tensor.device.type
    if torch.compiler.is_exporting() or kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def float32_tanh(outputs: Tensor) -> Tensor:
    """tanh in float32, for the end of a generator's `forward`: samples in [-1, 1].

    Between 1 − 2⁻⁸ and 1 there is no bf16 number, and a likelihood takes the logarithm of that gap.
    """
    return outputs.float().tanh()


def halved_shape(
    shape: tuple[int | EllipsisType, ...], halvings: int, design: str, advice: str = ""
) -> tuple[int, int, int]:
    """(channels, height / 2 ** halvings, width / 2 ** halvings) of the images.

    Args:
        shape: Of the images: `spec.inputs` or `spec.outputs`.
        halvings: How often the network halves or doubles the size.
        design: What decides that, for the error message: `stages = 3`.
        advice: What helps, for the error message.

    Raises:
        IncompatibleError: if height or width does not halve that often without a remainder, or the samples are not
            images.
    """
    channels, height, width = image_shape(shape)
    factor = 2**halvings
    if height % factor or width % factor:
        found = f"with {design} it takes sizes divisible by {factor}, not {height}×{width}"
        raise IncompatibleError(f"{found}; {advice}" if advice else found)
    return channels, height // factor, width // factor
