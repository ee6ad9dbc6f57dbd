"""Calls each network once before a run starts, to check it against its contract."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError


def mixes_samples(module: nn.Module, inputs: Tensor) -> bool:
    """Whether, in training mode, an output depends on other samples of its batch, as it does with batch norm.

    Tried on a copy, because running statistics may change. Needs at least three samples: of two, batch norm makes ±1.
    """
    inputs = inputs.clone().requires_grad_()
    first = copy.deepcopy(module).train()(inputs, None)[0].sum()
    (gradient,) = torch.autograd.grad(first, inputs, allow_unused=True)
    return gradient is not None and bool(gradient[1:].any())


@torch.no_grad()
def check_output(
    module: nn.Module, inputs: Tensor, expected: tuple[int, ...], name: str, labelled: bool = False
) -> None:
    """Run a network once on two samples, in evaluation mode, and check what it returns against the contract.

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
        raise IncompatibleError(f"{name} ignores its labels; take a network that can be conditioned")
