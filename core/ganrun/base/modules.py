"""Copies whole networks, and moves them to a device."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

M = TypeVar("M", bound=nn.Module)


def copied(module: M) -> M:
    """A deep copy that shares no memory with the module.

    `copy.deepcopy` refuses tensors that were computed with gradients, such as the `weight` that the hooks of
    `torch.nn.utils.weight_norm` and `spectral_norm` compute in each forward. Here they are copied by value.
    """
    kept = [value for each in module.modules() for value in (*vars(each).values(), *each.buffers(recurse=False))]
    computed = [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})


def to_device(module: M, device: torch.device) -> M:
    """Move a network to the device, in place: 4-D parameters and buffers channels last, buffers without overlap.

    A module that has an attribute `memory_format` gets that layout instead.

    `Module.to(memory_format=torch.channels_last)` refuses a network with a 5-D weight, such as that of a 3-D or of
    a modulated convolution; here, tensors that are not 4-D keep their layout. A buffer whose elements share memory,
    such as one that was expanded, cannot be written to; so each of its elements gets its own place.
    """
    module, layout = module.to(device), getattr(module, "memory_format", torch.channels_last)
    for buffer in module.buffers():
        if not is_lazy(buffer) and overlaps(buffer):
            buffer.data = buffer.data.contiguous()
    for tensor in (*module.parameters(), *module.buffers()):
        if not is_lazy(tensor) and tensor.dim() == 4 and tensor.is_floating_point():
            tensor.data = tensor.data.to(memory_format=layout)
    return module


def overlaps(tensor: Tensor) -> bool:
    """Whether two elements of a tensor share memory, as after `expand`."""
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return False
    reach = 0
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride <= reach:
            return stride == 0 or _shared(_places(tensor))
        reach += stride * (size - 1)
    return False


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage and type, neither of which overlaps itself, share an element."""
    (start, end), (other_start, other_end) = _span(one), _span(other)
    return start <= other_end and other_start <= end and _shared(torch.cat([_places(one), _places(other)]))


def _shared(places: Tensor) -> bool:
    return len(torch.unique(places)) < len(places)


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first and the last position of a tensor's elements within its storage."""
    first = int(tensor.storage_offset())
    return first, first + sum(stride * (size - 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _places(tensor: Tensor) -> Tensor:
    """All positions of a tensor's elements within its storage: int64 `(numel,)`."""
    places = torch.tensor([tensor.storage_offset()])
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = (places[:, None] + stride * torch.arange(size)).flatten()
    return places
