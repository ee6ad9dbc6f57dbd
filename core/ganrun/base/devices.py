"""Devices: their names, and which of them this machine has."""

from __future__ import annotations

import re

import torch

from ganrun.base.errors import RequestError
from ganrun.base.launched import launched

NAMES = "auto, cpu, cuda, cuda:1 or mps"


def is_device_name(text: str) -> bool:
    """Whether `text` is the name of a device, present or not."""
    # torch.device cannot tell: it reads cuda:200 as index -56.
    return re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", text) is not None


def choose_device(wanted: str) -> torch.device:
    """The device of a name. `auto` means CUDA if present, else MPS if present, else the CPU.

    Raises:
        RequestError: if the name is unknown or the device is missing.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not is_device_name(wanted):
        raise RequestError(f'device "{wanted}" is unknown; say {NAMES}')
    name, _, index = wanted.partition(":")
    if name == "cuda":
        return _cuda(int(index or 0))
    if name == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device mps was requested, but this machine has no Apple GPU; say --device auto")
    return torch.device(name)


def device_of_rank(wanted: str) -> str:
    """The name of this process's own device if torchrun has started several: the GPU whose index is its local rank.

    Raises:
        RequestError: if all would share one device, or the machine has too few GPUs.
    """
    at = launched()
    if at is None or wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu" if at is not None else wanted
    if wanted not in ("auto", "cuda"):
        raise RequestError(f'{at.local_total} processes would share the device {wanted}; say "cuda" or "cpu"')
    if 0 < (count := torch.cuda.device_count()) < at.local_total:
        text = (
            f"{at.local_total} processes were started on this machine, where each sees {count} GPU{'s' * (count > 1)}"
        )
        raise RequestError(f"{text}; start one for each GPU, as --gpus {count} does")
    return f"cuda:{at.local}"


def device_text(device: torch.device, count: int = 1) -> str:
    """The display name of one device, or of several equal ones: `8 × NVIDIA H200`, or `cpu (2 threads)`."""
    return f"{count} × {_name_of(device)}" if count > 1 else _name_of(device)


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' * (threads != 1)})" if device.type == "cpu" else device.type


def has_bf16(device: torch.device) -> bool:
    """Whether the device is a CUDA GPU with native bfloat16, not an emulation."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def has_tf32(device: torch.device) -> bool:
    """Whether the device has TensorFloat-32."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_tf32_supported())


def precision_on(device: torch.device, wanted: str) -> str:
    """The precision, as recipes name it, in which a device actually computes if `wanted` is requested."""
    return "f32" if wanted == "tf32" and not has_tf32(device) else wanted


def _cuda(index: int) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        found = f"this machine has {count}" if count else "PyTorch finds none (check nvidia-smi and PyTorch's build)"
        raise RequestError(f"device cuda:{index} was requested, but {found}; say --device auto or --device cpu")
    return torch.device("cuda", index)
