"""Which device a run uses."""

from __future__ import annotations

import torch

from ganrun.errors import RequestError


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA, else MPS, else the CPU; anything else must be there.

    Raises:
        RequestError: if the device is unknown or absent.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise RequestError(f'device "{wanted}" is unknown; say auto, cpu, cuda, cuda:1 or mps') from None
    if device.type == "cuda":
        return _cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device mps was asked for, but this machine has no Apple GPU; say --device auto")
    if device.type not in ("cpu", "mps"):
        raise RequestError(f'device "{wanted}" is not supported; say auto, cpu, cuda, cuda:1 or mps')
    return device


def device_text(device: torch.device) -> str:
    """The device's name for people: `NVIDIA H200`, or `cpu (2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def _cuda(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        found = f"it has {count}" if count else "PyTorch finds none (look at nvidia-smi and at PyTorch's build)"
        raise RequestError(f"device {device} was asked for, but {found}; say --device auto or --device cpu")
    return torch.device("cuda", index)
