"""`--gpus N`: starts the same command once for each GPU, by torchrun's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ganrun.base.errors import RequestError
from ganrun.base.launched import launched
from ganrun.base.signals import URGENT, WARNINGS
from ganrun.base.spinner import spinner

ARGUMENTS = "ganrun.arguments"
"""Key of the whole command line's arguments in a context."""

gpus_option = click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="Train one run on N GPUs of this machine; with --device cpu, N processes.",
)


def has_launched(gpus: int | None) -> bool:
    """Start the processes that `--gpus` requests, and wait until all have ended; returns whether it requests any.

    Raises:
        RequestError: if torchrun has started another number of processes.
        SystemExit: if one of them fails, with its exit status.
    """
    at = launched()
    if gpus is not None and at is not None and at.local_total != gpus:
        raise RequestError(f"--gpus {gpus}, but torchrun has started {at.local_total} processes here; leave --gpus out")
    if gpus is None or gpus == 1 or at is not None:
        return False
    _launch(gpus)
    return True


@contextmanager
def one_of_several() -> Iterator[None]:
    """A block in which the processes that torchrun has started train together; without effect for a single one."""
    if launched() is None:
        yield
        return
    from ganrun.base.joining import joined

    with joined():
        yield


def _launch(gpus: int) -> None:
    """Run this process's command line in `gpus` processes, until all have ended."""
    with spinner("loading PyTorch"):
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes report their own errors
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(_usable_cores()) // gpus)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=gpus,
        run_id=f"ganrun-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle=",".join(_signals()),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "ganrun", *click.get_current_context().meta[ARGUMENTS])
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
    except ChildFailedError as error:
        sys.exit(_exit_status({rank: failure.exitcode for rank, failure in error.failures.items()}))


def _exit_status(found: dict[int, int]) -> int:
    """The combined exit status of the processes. Reports processes that a signal ended without a message, except those
    that the launcher ended itself."""
    for rank, status in found.items():
        if status < 0 and -status != signal.SIGTERM:
            click.echo(f"rank {rank} was ended by {signal.Signals(-status).name}", err=True)
    said = [status for status in found.values() if status > 0]
    return said[0] if said else 128 - min(found.values())


def _signals() -> list[str]:
    """The names of the signals to forward to the processes; not those that are ignored, as under nohup."""
    numbers = [*URGENT, *(number for number in WARNINGS if signal.getsignal(number) != signal.SIG_IGN)]
    return ["SIGQUIT", *(signal.Signals(number).name for number in numbers)]


def _usable_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
