"""Features in float64, where a distance or a kernel would cost float32 its digits."""

from __future__ import annotations

import torch
from torch import Tensor


def in_float64(features: Tensor, device: torch.device | None = None) -> Tensor:
    """The features in float64 on a device, their own unless given; on the CPU where the device has no float64."""
    device = device or features.device
    return features.to("cpu" if device.type == "mps" else device).double()
