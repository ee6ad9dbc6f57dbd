"""Arithmetic of float32: whether convolutions and matrix products may round their inputs to TensorFloat-32.

TensorFloat-32 (TF32) keeps 10 of float32's 23 bits of mantissa. On NVIDIA GPUs since Ampere, torch uses it for
convolutions by default, and a program may enable it for matrix products.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.backends.cudnn.rnn


@contextmanager
def exact_float32() -> Iterator[None]:
    """A block in which float32 is float32 on every device, even where the process allows TF32: TF32 is off.

        with ganrun.exact_float32():
            distances = torch.cdist(features, references)

    Scores, samples and readings are computed in such blocks already. Afterwards, torch's settings are as before. They
    hold for the whole process, other threads included. Also a decorator: `@exact_float32()`.
    """
    with _float32_as("ieee"):
        yield


@contextmanager
def float32_as(*, tf32: bool) -> Iterator[None]:
    """A block in which CUDA's convolutions and matrix products use TF32, or never do.

    Args:
        tf32: Whether CUDA uses it. The CPU always computes in float32.
    """
    with _float32_as("tf32" if tf32 else "ieee"):
        yield


# ── Torch's settings ──────────────────────────────────────────────────────────────────────────────────────
#
# Torch has a tree of settings, in which "none" means "inherit from the parent". Reading a node returns the effective
# value, not the value that was set there. Two older settings also write into the tree, and reading one of them fails if
# the tree disagrees. Other code, such as torch's compiler, reads them; so a block sets them to agree with the tree.

_cuda: Any = torch.backends.cudnn
_cpu: Any = torch.backends.mkldnn

CUDA: tuple[tuple[Any, ...], ...] = (
    (_cuda.conv, _cuda, torch.backends),
    (_cuda.rnn, _cuda, torch.backends),
    (torch.backends.cuda.matmul, _cuda, torch.backends),
    (_cuda, torch.backends),
)
"""Nodes of CUDA, each with its ancestors."""

CPU: tuple[tuple[Any, ...], ...] = tuple((node, torch.backends) for node in (_cpu.conv, _cpu.rnn, _cpu.matmul))
"""Nodes of the CPU. Their parent has no setter."""

OTHER = {"ieee": "tf32", "tf32": "ieee", "bf16": "ieee"}


class _State(NamedTuple):
    """All of the settings."""

    nodes: tuple[str, ...]
    """The values for `CUDA` and `CPU`."""

    matmul: str
    """The older setting of matrix products: highest, high or medium."""

    allow_cudnn: bool
    """The older setting of convolutions and recurrent networks."""


_STATES = {
    "ieee": _State(("ieee",) * 7, "highest", False),
    "tf32": _State(("tf32",) * 4 + ("ieee",) * 3, "high", True),
}


class _Block:
    """An active block, with its settings and those to restore afterwards."""

    def __init__(self, state: _State, before: _State) -> None:
        self.state = state
        self.before = before


_blocks: list[_Block] = []
"""In the order of entry. With several threads, they need not end in the reverse order."""

_lock = threading.Lock()


@contextmanager
def _float32_as(precision: str) -> Iterator[None]:
    if _holds(_STATES[precision]):  # the common case, at each step of a run: checking costs less than setting
        yield
        return
    with _lock:
        block = _Block(_STATES[precision], _found())
        _blocks.append(block)
        _apply(block.state)
    try:
        yield
    finally:
        with _lock:
            _end(block)


def _end(block: _Block) -> None:
    place = _blocks.index(block)
    del _blocks[place]
    if place == len(_blocks):
        _apply(block.before)
    else:  # the next one, in another thread, restores them
        _blocks[place].before = block.before


def _holds(state: _State) -> bool:
    """Whether these settings are already in effect."""
    if _blocks and _blocks[-1].state is state:  # a block sets all of them; other code usually changes one of these
        return bool(
            _cuda.conv.fp32_precision == state.nodes[0]
            and torch.backends.cuda.matmul.fp32_precision == state.nodes[2]
            and _cpu.matmul.fp32_precision == state.nodes[-1]
        )
    if any(node.fp32_precision != value for (node, *_), value in zip((*CUDA, *CPU), state.nodes, strict=True)):
        return False
    _hear_warning()
    try:
        return _cuda.allow_tf32 is state.allow_cudnn and torch.get_float32_matmul_precision() == state.matmul
    except RuntimeError:  # an older setting disagrees with the tree
        return False


def _found() -> _State:
    """The settings. Those of the tree are exact afterwards, so that the older ones can be read."""
    nodes = tuple(map(_own, (*CUDA, *CPU)))
    _set_nodes(_STATES["ieee"].nodes)
    _hear_warning()
    try:
        allow_cudnn: bool = _cuda.allow_tf32
    except RuntimeError:  # it disagrees with the tree
        allow_cudnn = True
    return _State(nodes, torch.get_float32_matmul_precision(), allow_cudnn)


def _apply(state: _State) -> None:
    torch.set_float32_matmul_precision(state.matmul)
    _cuda.allow_tf32 = state.allow_cudnn
    _set_nodes(state.nodes)  # last, because the others write into the tree


def _set_nodes(values: tuple[str, ...]) -> None:
    for (node, *_), value in zip((*CUDA, *CPU), values, strict=True):
        node.fp32_precision = value


def _own(chain: tuple[Any, ...]) -> str:
    """The value set at the first node of a chain itself: "none" if it inherits its parent's."""
    node, *above = chain
    value: str = node.fp32_precision
    if value == "none" or not above or above[0].fp32_precision != value:
        return value
    of_above = _own(tuple(above))
    above[0].fp32_precision = OTHER[value]
    follows = node.fp32_precision != value
    above[0].fp32_precision = of_above
    return "none" if follows else value


@cache
def _hear_warning() -> None:
    """Suppress the warning that some versions of torch give when an older setting is first read."""
    with warnings.catch_warnings(), suppress(RuntimeError):
        warnings.simplefilter("ignore")
        torch.get_float32_matmul_precision()
