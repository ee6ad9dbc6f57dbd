"""Finds what fails or waits on an accelerator, without one: on torch's meta device, whose tensors have no values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganrun.base.frames import authors_line
from ganrun.base.randomness import isolated_random

META = torch.device("meta")

READS = {
    "_local_scalar_dense": ".item(), float() or if",
    "equal": "torch.equal",
    "nonzero": "a mask as an index, or nonzero()",
    "masked_select": "masked_select",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique_consecutive",
    "bincount": "bincount",
}
"""Operations whose result the host must wait for, each with the source code that causes it."""

WITHOUT_VALUES = "Cannot copy out of meta tensor", "to numpy", "cannot be called on meta tensors"
"""In the messages of torch where a tensor's values are read."""

TAKES_INDICES = ("index", "index_put", "index_put_", "_index_put_impl_")

TAKES_CPU_TENSORS = ("copy_", "_to_copy", *TAKES_INDICES)
"""Operations that take tensors of the CPU beside those of an accelerator, as indices or sources."""


ON_CPU = "is not on the expected device"
"""In the messages of torch where tensors of two devices meet."""


@contextmanager
def on_accelerator() -> Iterator[torch.device]:
    """A block that runs as if on an accelerator: on the device that it gets, and without any arithmetic.

    Inside it, call code that runs on a CPU. If torch cannot infer shapes, or lacks an operation on that device, the
    rest of the block is skipped.

    Raises:
        AssertionError: if the block reads the value of a tensor, or mixes tensors of the CPU with those of the device;
            with the author's line.
    """
    try:
        with watched():
            yield META
    except AssertionError:
        raise
    except Exception:
        pass


@contextmanager
def watched() -> Iterator[None]:
    """As `on_accelerator`, for code that torch is known to support there: any other error is raised.

    Raises:
        AssertionError: as `on_accelerator`.
    """
    with isolated_random(torch.device("cpu"), 3), _autocast():
        try:
            with _Watch():  # type: ignore[no-untyped-call]
                yield
        except Exception as error:
            if fault := _fault(error):
                raise AssertionError(f"{fault} ({authors_line(error)})") from error
            raise


def _fault(error: BaseException) -> str | None:
    """The part of an error that concerns the author's code; None if it only concerns the device."""
    if isinstance(error, _FaultError):
        return str(error)
    if any(text in str(error) for text in WITHOUT_VALUES):
        return _waits(".tolist(), .cpu() or .numpy()")
    return _MIXED if ON_CPU in str(error) else None


@contextmanager
def _autocast() -> Iterator[None]:
    """A block in which `torch.autocast(tensor.device.type)` works on the meta device, as on every other."""
    original = torch.autocast.__init__

    def init(self: torch.autocast, device_type: str, *arguments: Any, **named: Any) -> None:
        original(self, "cpu" if device_type == META.type else device_type, *arguments, **named)

    torch.autocast.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__init__ = original  # type: ignore[method-assign]


_MIXED = "uses a tensor of the CPU together with those of the run's device; make it there, by device=latents.device"

_STREAM = "draws from a generator, which has a device; draw from torch's global random stream"


def _waits(cause: str) -> str:
    return f"reads values of a tensor on the host, for which a GPU stalls at every step: {cause}"


class _FaultError(Exception):
    pass


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Checks each operation before it is executed."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        name = func._schema.name.partition("::")[2]
        if any(each.device == META for each in tensors) or named.get("device") == META:
            if named.get("generator") is not None:
                raise _FaultError(_STREAM)
            if name in READS or is_masked(name, args):
                raise _FaultError(_waits(READS.get(name, READS["nonzero"])))
            if name not in TAKES_CPU_TENSORS and any(each.device != META and each.dim() for each in tensors):
                raise _FaultError(_MIXED)
        return func(*args, **named)


def is_masked(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an index is a mask, so that the host waits for the number of its values; one value fills a mask without
    that."""
    if name not in TAKES_INDICES or (len(args) > 2 and args[2].numel() == 1):
        return False
    return any(each is not None and each.dtype == torch.bool for each in args[1])
