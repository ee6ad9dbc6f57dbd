"""Arithmetic of float32: whether convolutions and matrix products may round their inputs to TensorFloat-32.

TensorFloat-32 (TF32) keeps 10 of float32's 23 bits of mantissa. On NVIDIA GPUs since Ampere, torch lets convolutions
use it unless told otherwise, and a program may let matrix products use it, too.
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
    """A block in which convolutions and matrix products of CUDA use TF32, or in which nothing does.

    Args:
        tf32: Whether CUDA uses it. The CPU computes in float32 in any case.
    """
    with _float32_as("tf32" if tf32 else "ieee"):
        yield


# ── Torch's settings ──────────────────────────────────────────────────────────────────────────────────────
#
# Torch has a tree of settings, in which "none" means: as the node above. Reading a node gives what holds there, and not
# what was set there. Beside the tree, two older settings write into it, and reading one of them fails where the tree
# says something else. Other code reads them, torch's compiler for one; so a block sets them to agree with the tree.

_cuda: Any = torch.backends.cudnn
_cpu: Any = torch.backends.mkldnn

CUDA: tuple[tuple[Any, ...], ...] = (
    (_cuda.conv, _cuda, torch.backends),
    (_cuda.rnn, _cuda, torch.backends),
    (torch.backends.cuda.matmul, _cuda, torch.backends),
    (_cuda, torch.backends),
)
"""Nodes of CUDA, each with those above it."""

CPU: tuple[tuple[Any, ...], ...] = tuple((node, torch.backends) for node in (_cpu.conv, _cpu.rnn, _cpu.matmul))
"""Nodes of the CPU. The one between them and the root has no setter."""

OTHER = {"ieee": "tf32", "tf32": "ieee", "bf16": "ieee"}


class _State(NamedTuple):
    """All of the settings."""

    nodes: tuple[str, ...]
    """Of `CUDA` and `CPU`."""

    matmul: str
    """The older setting of matrix products: highest, high or medium."""

    allow_cudnn: bool
    """The older setting of convolutions and recurrent networks."""


_STATES = {
    "ieee": _State(("ieee",) * 7, "highest", False),
    "tf32": _State(("tf32",) * 4 + ("ieee",) * 3, "high", True),
}


class _Block:
    """A block that is being executed, with the settings in it and before it."""

    def __init__(self, state: _State, before: _State) -> None:
        self.state = state
        self.before = before


_blocks: list[_Block] = []
"""In the order in which they began. Those of several threads need not end in the reverse order."""

_lock = threading.Lock()


@contextmanager
def _float32_as(precision: str) -> Iterator[None]:
    if _holds(_STATES[precision]):  # as in each step of a run: finding out costs less than setting
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
    else:  # the next one, of another thread, puts them back
        _blocks[place].before = block.before


def _holds(state: _State) -> bool:
    """Whether the settings have this effect already."""
    if _blocks and _blocks[-1].state is state:  # it has set all of them, and other code since then mostly one of these
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
    except RuntimeError:  # an older setting says otherwise than the tree
        return False


def _found() -> _State:
    """The settings. Those of the tree are exact afterwards, so that the older ones can be read."""
    nodes = tuple(map(_own, (*CUDA, *CPU)))
    _set_nodes(_STATES["ieee"].nodes)
    _hear_warning()
    try:
        allow_cudnn: bool = _cuda.allow_tf32
    except RuntimeError:  # it says otherwise than the tree
        allow_cudnn = True
    return _State(nodes, torch.get_float32_matmul_precision(), allow_cudnn)


def _apply(state: _State) -> None:
    torch.set_float32_matmul_precision(state.matmul)
    _cuda.allow_tf32 = state.allow_cudnn
    _set_nodes(state.nodes)  # last, as the others write into the tree


def _set_nodes(values: tuple[str, ...]) -> None:
    for (node, *_), value in zip((*CUDA, *CPU), values, strict=True):
        node.fp32_precision = value


def _own(chain: tuple[Any, ...]) -> str:
    """What was set at the first node of a chain itself: "none" if nothing was, so that the one above decides."""
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
    """Hear, and pass over, what some versions of torch say once when an older setting is first read."""
    with warnings.catch_warnings(), suppress(RuntimeError):
        warnings.simplefilter("ignore")
        torch.get_float32_matmul_precision()
