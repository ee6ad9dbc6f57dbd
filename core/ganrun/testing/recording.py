"""A stand-in for a CUDA graph on the CPU, with the same semantics: what it captures, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ganrun.testing.devices import READS, is_masked

UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Operations whose results have no values yet."""


class RecordedGraph:
    """Work that is recorded once, operation by operation, and then repeated on the same tensors.

        graph = RecordedGraph()
        graph.capture(lambda: weight.sub_(0.1 * rate * gradient))
        graph.replay()

    As a CUDA graph does, it keeps every number of the host as it was at the capture, draws new random numbers in each
    replay, and refuses to be captured where the host reads a value. Backward passes are operations like all others.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def rehearse(self, work: Callable[[], None]) -> None:
        """Do the work without recording."""
        work()

    def capture(self, work: Callable[[], None]) -> None:
        """Record the work. Afterwards, all tensors that were there before and torch's random stream are as before.

        Raises:
            RuntimeError: if the host reads a value.
        """
        recorder, stream = _Recorder(), torch.get_rng_state()
        try:
            with recorder, _WithoutChecks():
                work()
        finally:
            recorder.put_back()
            torch.set_rng_state(stream)
        self._calls = recorder.calls

    @torch.no_grad()
    def replay(self) -> None:
        """Do the recorded work again."""
        for call in self._calls:
            call.repeat()


class _Call(NamedTuple):
    function: OpOverload
    args: tuple[Any, ...]
    named: Mapping[str, Any]
    results: list[tuple[int, Tensor]]
    """Tensors that the operation has made, by their place among its results; others are parts of its arguments."""

    def repeat(self) -> None:
        found = list(_leaves(self.function(*self.args, **self.named)))
        for place, result in self.results:
            result.copy_(found[place])


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Executes operations and notes them down, with their very tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self._known: dict[int, torch.UntypedStorage] = {}
        self._before: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        _check(func, args)
        inputs = {self._keep(each) for each in _leaves((*args, *named.values())) if isinstance(each, Tensor)}
        # torch may change an argument's strides or type in place: the call gets separate tensors on the same memory.
        own_args, own_named = _detached(args), {name: _detached(each) for name, each in named.items()}
        found = func(*args, **named)
        self._note(_Call(func, own_args, own_named, self._made(found, inputs)))
        return found

    def _keep(self, tensor: Tensor) -> int:
        """Save the content of pre-existing memory when it is first seen; returns its key."""
        storage = tensor.untyped_storage()
        key = int(storage._cdata)
        if key not in self._known:
            self._known[key] = storage
            self._before.append((storage, storage.clone()))  # type: ignore[no-untyped-call]
        return key

    def _made(self, found: Any, inputs: set[int]) -> list[tuple[int, Tensor]]:
        """Results in separate memory."""
        leaves = enumerate(_leaves(found))
        made = [(place, each) for place, each in leaves if isinstance(each, Tensor) and _key(each) not in inputs]
        self._known |= {_key(each): each.untyped_storage() for _, each in made}
        return [(place, each.detach()) for place, each in made]

    def _note(self, call: _Call) -> None:
        is_done = call.results or call.function._schema.is_mutable
        if is_done and _name(call.function) not in UNWRITTEN:
            self.calls.append(call)

    def put_back(self) -> None:
        """Undo all that was done."""
        for storage, content in reversed(self._before):
            storage.copy_(content)


class _WithoutChecks(TorchFunctionMode):
    """Makes one-hot vectors as a GPU does: on a CPU, torch reads the classes, to check them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (_one_hot if func is one_hot else func)(*args, **(kwargs or {}))


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    count = num_classes if num_classes >= 0 else int(tensor.max()) + 1
    return (tensor[..., None] == torch.arange(count, device=tensor.device)).long()


def _check(function: OpOverload, args: tuple[Any, ...]) -> None:
    name = _name(function)
    if name in READS or is_masked(name, args):
        cause = READS.get(name, READS["nonzero"])
        raise RuntimeError(f"the host reads a value, and a graph has none while it is captured: {cause}")


def _leaves(tree: Any) -> Iterator[Any]:
    """The items of lists and tuples, at any depth."""
    if isinstance(tree, list | tuple):
        for each in tree:
            yield from _leaves(each)
    else:
        yield tree


def _detached(tree: Any) -> Any:
    """The same lists and tuples with separate tensors on the same memory."""
    if isinstance(tree, list | tuple):
        return type(tree)([_detached(each) for each in tree])
    return tree.detach() if isinstance(tree, Tensor) else tree


def _name(function: OpOverload) -> str:
    return str(function._schema.name).partition("::")[2]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
