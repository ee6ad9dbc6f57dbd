"""Keeps ranks in the same state: it is broadcast when training begins, and compared whenever the run is scored."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ganrun.base.errors import ContractError, RequestError
from ganrun.base.ranks import from_first, largest_over_ranks, ranks
from ganrun.rundir.checkpoints import Checkpoint
from ganrun.training.run import Run
from ganrun.training.state import TrainingState

LARGEST_DIGEST = 2**62 - 1

LISTED = 3
"""Maximum tensors that a message names."""


def check_same_run(run: Run) -> None:
    """Check that all ranks have built the same run, from the same data; nothing on one rank.

    Raises:
        RequestError: saying what differs.
        RankError: if another rank could not build it.
    """
    if ranks().total == 1:
        return
    facts = {
        "the recipe": run.recipe.without_paths(run.recipe.tables()),
        "the data": run.environment["data"]["fingerprints"],
        "the version of a package": run.environment["packages"],
        "a plugin": run.environment["plugins"],
    }
    if different := _different({name: _number(fact) for name, fact in facts.items()}):
        text = f"mismatch between machines: {' and '.join(different)}"
        raise RequestError(f"{text}; the processes of a run need the same everywhere")


def share_state(run: Run) -> None:
    """Broadcast the first rank's state to all ranks: only the first may be able to read the checkpoint."""
    at = ranks()
    if at.total == 1:
        return
    content = from_first(_as_bytes(run.state.checkpoint()) if at.number == 0 else b"")
    if at.number > 0:
        run.state.load(_as_checkpoint(content))
        run.begin()


def check_equal(state: TrainingState) -> None:
    """Check that all ranks hold the same state, bit for bit. Waits for the device; nothing on one rank.

    Raises:
        ContractError: naming the tensors that differ.
    """
    if ranks().total == 1:
        return
    found = dict(_digests(state))
    digests = [int(number) for number in torch.stack(list(found.values())).tolist()]
    if different := _different(dict(zip(found, digests, strict=True))):
        rest = f" and {len(different) - LISTED} more" if len(different) > LISTED else ""
        raise ContractError(
            f"after step {state.step}, the processes that train this run hold different values of"
            f" {', '.join(different[:LISTED])}{rest}; state computed from a part of a batch must be shared, by"
            " ganrun.mean_over_ranks or ganrun.gathered_over_ranks, before it is kept"
        )


def _different(numbers: Mapping[str, int]) -> list[str]:
    """The names of values that differ between ranks."""
    both = largest_over_ranks(*numbers.values(), *(-each for each in numbers.values()))
    largest, smallest = both[: len(numbers)], [-each for each in both[len(numbers) :]]
    return [name for name, high, low in zip(numbers, largest, smallest, strict=True) if high != low]


def _number(fact: Any) -> int:
    text = json.dumps(fact, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _digests(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """A number for each tensor of the state, on its device."""
    weights, progress = state.checkpoint()
    for file, tensors in weights.items():
        yield from ((f"{file}.{name}", _digest(value)) for name, value in tensors.items())
    for slot, optimizer in progress["optimizers"].items():
        for number, entries in optimizer["state"].items():
            tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
            yield from ((f"the {slot}'s optimizer ({number}.{name})", _digest(v)) for name, v in tensors.items())


def _digest(value: Tensor) -> Tensor:
    """A checksum of the bits, which depends on their order."""
    bits = _bits(value).to(torch.int64)
    places = torch.arange(1, len(bits) + 1, device=bits.device)
    return ((bits * (2 * places + 1)).sum() & LARGEST_DIGEST).cpu()


def _bits(value: Tensor) -> Tensor:
    flat = (torch.view_as_real(value) if value.is_complex() else value).detach().contiguous().reshape(-1)
    return flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8)


def _as_bytes(checkpoint: Checkpoint) -> bytes:
    content = io.BytesIO()
    torch.save({"weights": dict(checkpoint.weights), "progress": dict(checkpoint.progress)}, content)
    return content.getvalue()


def _as_checkpoint(content: bytes) -> Checkpoint:
    return Checkpoint(**torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
