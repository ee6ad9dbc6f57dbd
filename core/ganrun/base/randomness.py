"""Every random number of a run follows from (seed, purpose, rank, step).

Each step reseeds the global random stream, so a resumed run continues bit for bit without any saved random state, and
numbers drawn by an evaluation or an observer do not affect training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose, such as `derived_seed(seed, "step", rank, step)`.

    Args:
        seed: The run's seed.
        parts: The purpose, and the numbers that it depends on; other parts give an independent seed.
    """
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def set_random_stream(device: torch.device, seed: int) -> None:
    """Seed the global streams of the CPU and of `device`. Much cheaper than `torch.manual_seed`, which seeds every
    back end."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def isolated_random(device: torch.device, seed: int) -> Iterator[None]:
    """A block in which the global random stream starts at `seed`; outside, the stream continues as before."""
    on_device = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(on_device, device_type=device.type if on_device else "cuda"):
        set_random_stream(device, seed)
        yield
