"""The boundary around a network: its precision inside, float32 outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ganrun.base.modules import to_device
from ganrun.base.randomness import isolated_random
from ganrun.contracts.losses import Network

M = TypeVar("M", bound=nn.Module)


def seeded_network(make: Callable[[], M], device: torch.device, seed: int) -> M:
    """Build a network under its own random stream, and move it to the device, as `to_device` does."""
    with isolated_random(torch.device("cpu"), seed):
        module = make()
    return to_device(module, device)


def network_view(module: nn.Module, device: torch.device, precision: str) -> Network:
    """The network as an objective calls it: with `precision` inside, float32 outside.

    Autocast is set inside the network's forward only. Around a whole objective it would reach the penalties,
    norms and logarithms there, which need float32.
    """
    if precision == "f32":
        return module

    def in_bf16(inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return module(inputs, labels).float()  # type: ignore[no-any-return]

    return in_bf16
