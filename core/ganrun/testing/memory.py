"""Checks what a loss or a regulariser remembers, by comparing its state before and after a call."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.contracts.losses import Loss
from ganrun.contracts.regularizers import Regularizer
from ganrun.rehearsal.comparison import contents, differ

FIXED = ("settings", "spec", "memory")
"""Attributes that are compared in another way, or not at all."""


class Snapshot:
    """The state of a loss or regulariser before `doing`."""

    def __init__(self, loss: Loss | Regularizer, doing: str = "the objective") -> None:
        self._loss = loss
        self._doing = doing
        self._buffers = dict(loss.memory.named_buffers())  # kept, so that no new one gets the place of an old one
        self._values = {name: buffer.detach().clone() for name, buffer in self._buffers.items()}
        self._places = {name: _place(buffer) for name, buffer in self._buffers.items()}
        self._others = dict(_others(loss))

    def restore(self) -> None:
        """Put the values of the buffers back, in place."""
        with torch.no_grad():
            for name, buffer in self._buffers.items():
                buffer.detach_().copy_(self._values[name])

    def check(self) -> None:
        """Assert that nothing but values of buffers has changed since.

        Raises:
            AssertionError: naming the attribute or buffer.
        """
        now = dict(_others(self._loss))
        changed = [name for name in {**self._others, **now} if _is_changed(name, self._others, now)]
        assert not changed, (
            f"{self._doing} changes self.{changed[0]}, which no checkpoint holds; make it a buffer, by "
            "self.memory.register_buffer in __init__, and change that in place"
        )
        buffers = dict(self._loss.memory.named_buffers())
        added = buffers.keys() ^ self._buffers.keys()
        assert not added, (
            f"buffers of the memory come or go in {self._doing}: {sorted(added)}; register them in __init__"
        )
        for name, buffer in buffers.items():
            assert buffer is self._buffers[name] and _place(buffer) == self._places[name], (
                f"{self._doing} assigns a new tensor to self.memory.{name}; change the buffer in place, by "
                f"self.memory.{name}.copy_(…) or lerp_(…)"
            )
            assert not buffer.requires_grad, (
                f"self.memory.{name} is computed with gradients, so the graph of every step stays in memory; change it "
                "by a value.detach()"
            )


def _others(loss: Loss | Regularizer) -> Iterator[tuple[str, Any]]:
    """Copies of all attributes except the memory, and of what is in them, by path."""
    for name, value in vars(loss).items():
        if name not in FIXED:
            yield from contents(name, _copied(value.state_dict() if isinstance(value, nn.Module) else value))


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # what cannot be copied is compared as the object that it is
        return value


def _is_changed(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return (name in before) != (name in now) or differ(before[name], now[name])


def _place(buffer: Tensor) -> int:
    return buffer.untyped_storage().data_ptr()
