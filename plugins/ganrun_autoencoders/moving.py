"""Moving means, over steps, of sums over whole batches.

An objective sees only a part of a batch: one of `accumulate`, of one rank, in one of several updates. So its sums are
collected first, and enter the moving mean when the next step begins:

    mean ← γ mean + (1 − γ) Σ of the step before

The means do not depend on how a batch is split, and are constant within a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ganrun import Memory, mean_over_ranks, ranks


def remember(memory: Memory, **initial: Tensor) -> None:
    """Register a moving mean for each initial value, under its name."""
    memory.register_buffer("seen_step", torch.full((), -1.0))
    for name, value in initial.items():
        memory.register_buffer(name, value)
        memory.register_buffer(f"seen_{name}", torch.zeros_like(value))


@torch.no_grad()
def begin_step(memory: Memory, step: Tensor, decay: float, *names: str) -> None:
    """Update the means with the previous step's sums, if this is the first call of a step.

    Args:
        memory: Where they are.
        step: `batch.step`.
        decay: γ.
        names: The means.
    """
    is_next = (memory.seen_step >= 0) & (memory.seen_step != step)
    for name in names:
        seen = getattr(memory, f"seen_{name}")
        getattr(memory, name).lerp_(seen, is_next * (1 - decay))
        seen.mul_(~is_next)


@torch.no_grad()
def see(memory: Memory, step: Tensor, **sums: Tensor) -> None:
    """Add sums over this part of the batch, and those of all ranks."""
    for name, value in sums.items():
        getattr(memory, f"seen_{name}").add_(mean_over_ranks(value) * ranks().total)
    memory.seen_step.copy_(step)
