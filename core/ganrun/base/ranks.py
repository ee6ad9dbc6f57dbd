"""Ranks: the processes that train one run together. A single process is rank 0 of 1.

Every rank draws the whole batch from the same random stream, and splits it as gradient accumulation does; each rank
takes its parts. So a run of two ranks computes what a run of one computes with `accumulate = 2`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from ganrun.base.joining import rank_error
from ganrun.base.launched import ALONE, Ranks
from ganrun.base.randomness import set_random_stream

Lists = list[list[Tensor]]


def ranks() -> Ranks:
    """This process's `number` among the `total` that train the run together; 0 of 1 if it trains alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without a gradient; on one rank, the tensor's own values.

    For what a loss keeps in its memory: a running mean over part of the batch differs between ranks, one over the whole
    batch does not. Every rank must call it equally often, with tensors of one shape.
    """
    if ranks().total == 1:
        return _by_itself(value)
    mean = value.detach().clone()
    average_over_ranks([mean])
    return mean


def gathered_over_ranks(rows: Tensor) -> Tensor:
    """The rows of all ranks in their order, without a gradient: those of the whole batch, of any type; on one rank, the
    rows themselves.

    For what a loss keeps of a batch's rows, such as a pool of samples: every rank then keeps the same. Every rank must
    call it equally often, with tensors of one shape.

    Args:
        rows: `(rows, …)`, on the run's device.
    """
    at = ranks()
    if at.total == 1:
        return _by_itself(rows)
    own = _bytes_of(rows)
    found = [torch.empty_like(own) for _ in range(at.total)]
    with exchanging():
        dist.all_gather(found, own)
    return torch.cat(found).view(rows.dtype).view(at.total * len(rows), *rows.shape[1:])


@torch.no_grad()
def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all ranks, by one exchange. The tensors have one type, on one device."""
    total = ranks().total
    if total == 1 or not tensors:
        return
    flat = torch.cat([each.reshape(-1) for each in tensors])
    flat.div_(total)  # before the exchange: a mask may hold the largest number there is
    with exchanging():
        dist.all_reduce(flat)
    means = torch.split(flat, [each.numel() for each in tensors])
    torch._foreach_copy_(list(tensors), [mean.view_as(each) for each, mean in zip(tensors, means, strict=True)])


def gathered(value: Lists, at: Ranks) -> list[Lists]:
    """The values of all ranks in order, on the first one; on the others, nothing.

    Args:
        value: Lists of tensors, which come back on the device of the first rank.
        at: This rank. A single one gets its own value.
    """
    if at.total == 1:
        return [value]
    if at.number > 0:
        _send(value)
        return []
    device = next((each.device for batch in value for each in batch), torch.device("cpu"))
    return [value, *(_received(rank, device) for rank in range(1, at.total))]


@contextmanager
def rank_stream(device: torch.device, seed: int) -> Iterator[None]:
    """A block in which this rank has its own random numbers; afterwards, the common stream continues.

    With the common stream, every rank would draw the same dropout masks and the same interpolates.

    Args:
        device: Device of the stream.
        seed: The stream's; it must depend on the rank.
    """
    states = [generator.get_state() for generator in _generators(device)]
    set_random_stream(device, seed)
    try:
        yield
    finally:
        for generator, state in zip(_generators(device), states, strict=True):
            generator.set_state(state)


# ── Between hosts ─────────────────────────────────────────────────────────────────────────────────────────


def largest_over_ranks(*numbers: int) -> list[int]:
    """The largest of each number over all ranks. Runs on the host, so no rank waits for its device, and a rank that has
    ended is noticed. Every rank must call it equally often."""
    if ranks().total == 1:
        return list(numbers)
    found = torch.tensor(numbers, dtype=torch.int64)
    with exchanging():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return [int(number) for number in found.tolist()]


def first_says(answer: bool) -> bool:
    """The first rank's answer: only that one knows the run's directory. Every rank must call it equally often."""
    return bool(largest_over_ranks(int(answer) if ranks().number == 0 else 0)[0])


def from_first(content: bytes) -> bytes:
    """The first rank's value; the others' are ignored. Every rank must call it equally often."""
    if ranks().total == 1:
        return content
    is_first = ranks().number == 0
    (size,) = largest_over_ranks(len(content) if is_first else 0)
    sent = torch.frombuffer(bytearray(content), dtype=torch.uint8) if is_first else torch.empty(size, dtype=torch.uint8)
    with exchanging():
        dist.broadcast(sent, src=0)
    return sent.numpy().tobytes()


@contextmanager
def exchanging() -> Iterator[None]:
    """A block in which ranks exchange something.

    Raises:
        RankError: if another rank has ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise rank_error(error) from error


def _generators(device: torch.device) -> list[torch.Generator]:
    on_device = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
    return [torch.default_generator, *on_device]


# ── Lists of tensors, as bytes ────────────────────────────────────────────────────────────────────────────


def _bytes_of(tensor: Tensor) -> Tensor:
    """The values of a tensor as a flat one of uint8, which every back end takes."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def _send(value: Lists) -> None:
    """Send lists of tensors to the first rank: what they are, in JSON, and then their values."""
    kinds = [[(str(each.dtype).removeprefix("torch."), list(each.shape)) for each in batch] for batch in value]
    head = torch.frombuffer(bytearray(json.dumps(kinds).encode()), dtype=torch.uint8)
    body = [_bytes_of(each.cpu()) for batch in value for each in batch]
    message = torch.cat([head, *body])
    with exchanging():
        dist.send(torch.tensor([len(head), len(message)]), dst=0)
        dist.send(message, dst=0)


def _received(rank: int, device: torch.device) -> Lists:
    """The lists that a rank has sent, on `device`."""
    sizes = torch.zeros(2, dtype=torch.int64)
    with exchanging():
        dist.recv(sizes, src=rank)
        message = torch.empty(int(sizes[1]), dtype=torch.uint8)
        dist.recv(message, src=rank)
    head, body = torch.split(message, [int(sizes[0]), len(message) - int(sizes[0])])
    kinds = [[(getattr(torch, name), shape) for name, shape in batch] for batch in json.loads(head.numpy().tobytes())]
    sizes_in_bytes = [prod(shape) * kind.itemsize for batch in kinds for kind, shape in batch]
    parts = iter(torch.split(body, sizes_in_bytes))
    # A part may start at an address that is not aligned for its type.
    return [[next(parts).clone().view(kind).view(shape).to(device) for kind, shape in batch] for batch in kinds]


# ── One rank by itself ────────────────────────────────────────────────────────────────────────────────────


def _by_itself(value: Tensor) -> Tensor:
    return _stand_in(value.detach())


def _unchanged(value: Tensor) -> Tensor:
    return value


_stand_in: Callable[[Tensor], Tensor] = _unchanged


@contextmanager
def exchanging_by(exchange: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A block in which `exchange(value)` replaces every exchange of a single rank: a test's other ranks."""
    global _stand_in
    before, _stand_in = _stand_in, exchange
    try:
        yield
    finally:
        _stand_in = before
