"""Compares two networks: bit for bit, attribute by attribute."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-3
"""Largest relative difference of two outputs on an accelerator, whose kernels may add in any order."""

TORCHS_OWN = frozenset(vars(nn.Module()))
"""The attributes that every module has: its registers of parameters, buffers, layers and hooks."""


# ── Attributes ────────────────────────────────────────────────────────────────────────────────────────────


def unsaved(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """State of a network outside its state dict: non-persistent buffers, and attributes."""
    saved = module.state_dict().keys()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name not in saved)
    yield from attributes(module)


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """All attributes of a network's layers other than parameters, buffers and layers, and their contents.

    Yields:
        A path, such as `decoder.blocks[0]`, and the value.
    """
    for prefix, layer in module.named_modules():
        for name, value in vars(layer).items():
            if name not in TORCHS_OWN:
                yield from contents(f"{prefix}.{name}".lstrip("."), value)


def contents(path: str, value: Any, depth: int = 3) -> Iterator[tuple[str, Any]]:
    """A value and, if it is a mapping or a sequence, what is in it, by path."""
    yield path, value
    if depth and isinstance(value, Mapping):
        for key, each in value.items():
            yield from contents(f"{path}[{key!r}]", each, depth - 1)
    elif depth and isinstance(value, list | tuple | deque):
        for number, each in enumerate(value):
            yield from contents(f"{path}[{number}]", each, depth - 1)


def differ(one: object, other: object) -> bool:
    """Whether two values differ, as numbers, strings or tensors."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return not same_bits(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return not np.array_equal(one, other)
    return isinstance(one, int | float | complex | str) and one != other


# ── Comparing ─────────────────────────────────────────────────────────────────────────────────────────────


def same(outputs: Any, others: Any) -> bool:
    """Whether two outputs are equal: bit for bit on a CPU."""
    ones, twos = list(tensors_in(outputs)), list(tensors_in(others))
    return len(ones) == len(twos) and all(map(_same_output, ones, twos))


def _same_output(one: Tensor, other: Tensor) -> bool:
    if one.device.type == "cpu" or not one.is_floating_point() or one.shape != other.shape:
        return same_bits(one, other)
    room = TOLERANCE * float(one.abs().nan_to_num().amax()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=TOLERANCE, atol=room, equal_nan=True)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape, type and bits; NaN equals NaN."""
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: Tensor) -> Tensor:
    whole = tensor.detach().cpu().resolve_conj().resolve_neg()
    return whole.contiguous().flatten().view(torch.uint8)


def finite(outputs: Any) -> bool:
    """Whether no tensor in a tree of outputs holds NaN or infinity."""
    return all(bool(each.isfinite().all()) for each in tensors_in(outputs))


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree of tuples, lists and tables."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple | Mapping):
        for each in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors_in(each)
