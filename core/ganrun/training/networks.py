"""The boundary around a network: its precision inside, float32 outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError
from ganrun.base.randomness import isolated_random
from ganrun.contracts.losses import Network

M = TypeVar("M", bound=nn.Module)


def seeded_network(make: Callable[[], M], device: torch.device, seed: int) -> M:
    """Build a network under a random stream of its own, and lay it out on the device, channels last."""
    with isolated_random(torch.device("cpu"), seed):
        module = make()
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def network_view(module: nn.Module, device: torch.device, precision: str) -> Network:
    """The network as an objective sees it.

    Autocast is set inside the network's forward only. Around a whole objective it would reach the penalties,
    norms and logarithms there, which need float32.
    """
    if precision == "f32":
        return module

    def in_bf16(inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return module(inputs, labels).float()  # type: ignore[no-any-return]

    return in_bf16


def mixes_samples(module: nn.Module, inputs: Tensor) -> bool:
    """Whether, in training mode, an output depends on other samples of its batch, as it does with batch norm.

    Tried on a copy, whose running statistics may change; on at least three samples, since batch norm makes ±1 of two.
    """
    inputs = inputs.clone().requires_grad_()
    first = copy.deepcopy(module).train()(inputs, None)[0].sum()
    (gradient,) = torch.autograd.grad(first, inputs, allow_unused=True)
    return gradient is not None and bool(gradient[1:].any())


@torch.no_grad()
def check_output(
    module: nn.Module, inputs: Tensor, expected: tuple[int, ...], name: str, labelled: bool = False
) -> None:
    """Run a network once on two samples, in evaluation mode, and hold what it returns against the contract.

    Raises:
        IncompatibleError: if the forward fails or returns another shape, or if other labels change nothing.
    """
    labels = torch.arange(len(inputs), device=inputs.device) if labelled else None
    module.eval()
    try:
        output = module(inputs, labels)
        ignored = labels is not None and torch.equal(output, module(inputs, labels.flip(0)))
    except (RuntimeError, ValueError, IndexError) as error:
        raise IncompatibleError(f"{name} cannot take an input of shape {tuple(inputs.shape)}: {error}") from error
    finally:
        module.train()
    shape = tuple(output.shape)
    if shape != (len(inputs), *expected):
        raise IncompatibleError(f"{name} returned shape {shape} where {(len(inputs), *expected)} was expected")
    if ignored:
        raise IncompatibleError(
            f"{name} is given labels and makes nothing of them; take a network that can be conditioned"
        )
