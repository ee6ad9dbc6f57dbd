"""What fails or waits on an accelerator, found without one: on torch's meta device, whose tensors have no values."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
"""Operations whose result the host must wait for, with what an author writes."""

WITHOUT_VALUES = "Cannot copy out of meta tensor", "to numpy", "cannot be called on meta tensors"
"""In the messages of torch where a tensor's values are read."""

TAKES_INDICES = ("index", "index_put", "index_put_", "_index_put_impl_")

TAKES_CPU_TENSORS = ("copy_", "_to_copy", *TAKES_INDICES)
"""Operations that take tensors of the CPU beside those of an accelerator, as indices or sources."""


@contextmanager
def on_accelerator() -> Iterator[torch.device]:
    """A block that runs as if on an accelerator: on the device that it gets, and without any arithmetic.

    A component that uses an operation for which torch cannot work out the shapes is not checked.

    Raises:
        AssertionError: if the block reads the value of a tensor, or mixes tensors of the CPU with those of the device;
            with the author's line.
    """
    with isolated_random(torch.device("cpu"), 3):
        try:
            with _Watch():  # type: ignore[no-untyped-call]
                yield META
        except _FaultError as error:
            raise AssertionError(f"{error} ({_line(error)})") from error
        except Exception as error:
            if any(text in str(error) for text in WITHOUT_VALUES):
                raise AssertionError(f"{_waits('.tolist(), .cpu() or .numpy()')} ({_line(error)})") from error
            if "is not on the expected device" in str(error):
                raise AssertionError(f"{_MIXED} ({_line(error)})") from error
            if not isinstance(error, NotImplementedError):
                raise


_MIXED = "uses a tensor of the CPU together with those of the run's device; make it there, by device=latents.device"


def _waits(cause: str) -> str:
    return f"reads values of a tensor on the host, for which a GPU stalls at every step: {cause}"


class _FaultError(Exception):
    pass


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at each operation before it is done."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        name = func._schema.name.partition("::")[2]
        if any(each.device == META for each in tensors):
            if name in READS or _is_masked(name, args):
                raise _FaultError(_waits(READS.get(name, READS["nonzero"])))
            if name not in TAKES_CPU_TENSORS and any(each.device != META and each.dim() for each in tensors):
                raise _FaultError(_MIXED)
        return func(*args, **(kwargs or {}))


def _is_masked(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an index is a mask, so that the host waits for the number of its values; one value fills a mask without
    that."""
    if name not in TAKES_INDICES or (len(args) > 2 and args[2].numel() == 1):
        return False
    return any(each is not None and each.dtype == torch.bool for each in args[1])


def _line(error: BaseException) -> str:
    """The author's innermost line: `networks.py:31`."""
    libraries = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(libraries)] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"
