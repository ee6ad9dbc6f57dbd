"""Finds, on one rank, memory that would diverge across ranks: each rank sees a different part of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ganrun.base.randomness import isolated_random
from ganrun.base.ranks import exchanging_by
from ganrun.contracts.losses import Batch, Loss
from ganrun.contracts.regularizers import Regularizer
from ganrun.rehearsal.comparison import differ
from ganrun.testing.memory import Snapshot

CPU = torch.device("cpu")


def check_remembered(
    remembering: Loss | Regularizer, parts: Iterator[Batch], work: Callable[[Batch], object], where: str
) -> None:
    """The memory depends on what ranks exchange, not on the part of a batch that one of them sees.

    Two parts are worked on, the second with what was exchanged by the first, and with other random numbers.
    """
    before, exchanged = Snapshot(remembering), list[Tensor]()

    def note(value: Tensor) -> Tensor:
        exchanged.append(value.clone())
        return value

    found = []
    for seed, exchange in ((3, note), (5, lambda value: exchanged.pop(0))):
        with isolated_random(CPU, seed), exchanging_by(exchange):
            work(next(parts))
        found.append({name: buffer.clone() for name, buffer in remembering.memory.named_buffers()})
        before.restore()
    parted = [name for name, value in found[0].items() if differ(value, found[1][name])]
    assert not parted, (
        f"{where}: self.memory.{parted[0]} follows from the part of a batch that a rank works on, so it would not be "
        "the same on two ranks; remember ganrun.mean_over_ranks(value), or ganrun.gathered_over_ranks(rows)"
    )


def check_counts(make: Callable[[], nn.Module], inputs: Tensor, conditions: Mapping[str, Tensor]) -> None:
    """Buffers of whole numbers, of which ranks take no mean, do not follow from the input."""
    found = []
    for part, seed in ((slice(None, None, 2), 3), (slice(1, None, 2), 5)):
        module = make().train()
        with isolated_random(CPU, seed), torch.no_grad():
            module(inputs[part], **{name: each[part] for name, each in conditions.items()})
        found.append({name: each for name, each in module.named_buffers() if not each.is_floating_point()})
    parted = [name for name, value in found[0].items() if not torch.equal(value, found[1][name])]
    assert not parted, (
        f"its buffer {parted[0]} follows from the input, so it would not be the same on two ranks, which take means of "
        "floating-point buffers alone; make it one, or pass it through ganrun.gathered_over_ranks"
    )
