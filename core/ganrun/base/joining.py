"""Joins the processes that torchrun has started into one group, and tells each why another has stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ganrun.base.console import message_console
from ganrun.base.errors import GanrunError, Interrupted, RankError, RequestError
from ganrun.base.frames import in_one_line
from ganrun.base.launched import Launched, launched
from ganrun.base.secrets import without_secrets
from ganrun.base.signals import ignore_signals
from ganrun.base.streams import silence_stdout

LONGEST_WAIT = timedelta(hours=1)
"""How long a process waits for the others in a collective; the first one may be computing scores from the features of
all. A process that has ended is noticed at once."""

LONGEST_START = timedelta(minutes=15)
"""How long a process waits for the others to start; the same as torchrun."""

HEAD_START_SECONDS = 0.3
"""How long the others wait for the first process to report an error that all of them have."""

WITHOUT_A_WORD = (
    "another process of the run has ended without an error message, so the run stops; it was killed, ran out of memory,"
    " or cannot be reached. `ganrun resume` continues the run, on any number of GPUs"
)

_store: Store | None = None
"""The group's store: each process that fails writes its error there. One per process, like torch's own group."""


@contextmanager
def joined() -> Iterator[None]:
    """A block in which the processes that torchrun has started are one group; without effect for a single process.

    All but the first are silent. An error ends the process; it is reported once, by the first process that raises it.
    """
    at = launched()
    if at is None or dist.is_initialized():
        yield
        return
    if at.ranks.number > 0:
        _silence()
    _join(at)
    try:
        yield
    except Interrupted:
        dist.destroy_process_group()
        raise
    except GanrunError as error:
        ignore_signals()
        if not _tell(_cause_of(error), error.exit_status, at):
            raise SystemExit(error.exit_status) from error
        if at.ranks.number > 0:
            error.owned(f"rank {at.ranks.number} on {platform.node()}")
        raise
    except Exception as error:
        ignore_signals()
        _tell(in_one_line(error), 1, at)
        raise
    dist.destroy_process_group()


def rank_error(error: Exception) -> RankError:
    """Why a collective has failed: the error that another process reported before it ended, if any."""
    for number in range(dist.get_world_size()):
        if number != dist.get_rank() and (said := _said_by(number)) is not None:
            text = f"rank {number} has failed, so the run stops: {said['text']}"
            return RankError(text, cause=said["text"], exit_status=said["exit_status"])
    detail = in_one_line(error).partition(". ")[0]
    return RankError(f"{WITHOUT_A_WORD} ({detail})", cause=WITHOUT_A_WORD)


def _join(at: Launched) -> None:
    """Join the group.

    Raises:
        RequestError: if the others cannot be reached.
    """
    try:
        _connect(at)
    except (RuntimeError, ValueError, OSError) as error:  # torch raises many types here
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        text = f"the processes of the run cannot find each other at {place}: {in_one_line(error)}"
        raise RequestError(f"{text}; check the address and the port that torchrun was given") from error


def _connect(at: Launched) -> None:
    global _store
    if at.local < torch.cuda.device_count():
        torch.cuda.set_device(at.local)
    shared = next(rendezvous("env://", timeout=LONGEST_START))[0]
    # torchrun keeps its store when it restarts processes, with everything that earlier ones wrote.
    shared = PrefixStore(f"ganrun/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
    _store = PrefixStore("said", shared)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo",
        store=PrefixStore("group", shared),
        rank=at.ranks.number,
        world_size=at.ranks.total,
        timeout=LONGEST_WAIT,
    )


def _silence() -> None:
    """Silence this process, because the first one does the output. Tracebacks still go to standard error."""
    logging.getLogger("ganrun").setLevel(logging.CRITICAL)
    message_console().quiet = True
    warnings.simplefilter("ignore")
    silence_stdout()


# ── Failures ──────────────────────────────────────────────────────────────────────────────────────────────


def _tell(text: str, exit_status: int, at: Launched) -> bool:
    """Tell the other processes why this one ends; returns whether it still has to be reported."""
    if _store is None:
        return True
    text = without_secrets(text)
    said = {"text": text, "exit_status": exit_status}
    try:
        _store.set(f"failed/{at.ranks.number}", json.dumps(said))
        if at.ranks.number > 0:
            time.sleep(HEAD_START_SECONDS)
        return bool(_store.add(f"reported/{hashlib.sha256(text.encode()).hexdigest()}", 1) == 1)
    except RuntimeError:  # the process that keeps the store has ended
        return True


def _said_by(number: int) -> dict[str, Any] | None:
    key = f"failed/{number}"
    try:
        if _store is None or not _store.check([key]):
            return None
        said: dict[str, Any] = json.loads(_store.get(key))
    except RuntimeError:
        return None
    return said


def _cause_of(error: GanrunError) -> str:
    return error.cause if isinstance(error, RankError) else str(error)
