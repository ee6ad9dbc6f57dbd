"""How this process was started: by itself, or by torchrun as one of several that train one run. Imports no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
"""Variables that torchrun sets in the environment of every process, besides `MASTER_ADDR`."""


class Ranks(NamedTuple):
    """The number of this process among those that train the run."""

    number: int = 0
    total: int = 1


ALONE = Ranks()


class Launched(NamedTuple):
    """A process that torchrun has started."""

    ranks: Ranks
    local: int
    """Its number among those on this machine, from 0."""

    local_total: int
    """Processes on this machine."""


def launched() -> Launched | None:
    """This process as torchrun describes it; None if torchrun did not start it, or started only one."""
    found = {name: os.environ.get(name, "") for name in NUMBERS}
    if not all(map(str.isdecimal, found.values())) or "MASTER_ADDR" not in os.environ:
        return None
    rank, total, local, local_total, _ = map(int, found.values())
    return Launched(Ranks(rank, total), local, local_total) if total > 1 else None


def is_first() -> bool:
    """Whether this process prints and writes files: the first of those that train one run, or a single one."""
    found = launched()
    return found is None or found.ranks.number == 0
