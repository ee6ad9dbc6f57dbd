"""Builds networks, and the views through which a run's objectives reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ganrun.base.modules import to_device
from ganrun.base.randomness import isolated_random

M = TypeVar("M", bound=nn.Module)

PRECISIONS = {"f32": None, "tf32": None, "bf16": torch.bfloat16}
"""The types of autocast inside networks, by the names that recipes use; None is float32, without autocast."""


def seeded_network(make: Callable[[], M], device: torch.device, seed: int) -> M:
    """Build a network under its own random stream, and move it to the device, as `to_device` does."""
    with isolated_random(torch.device("cpu"), seed):
        module = make()
    return to_device(module, device)
