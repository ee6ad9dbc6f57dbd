"""Two processes that train one run together: started once, because that takes seconds, and reused.

The fixture `pair` in conftest.py has them for all tests of a session.
"""

from __future__ import annotations

import io
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = 120
"""Seconds after which two processes wait for each other in vain."""


class Pair:
    """Ranks 0 and 1 of 2, each with one thread."""

    def __init__(self) -> None:
        self._ranks: list[Any] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both processes."""
        port = str(_free_port())
        for rank in "01":
            ours, theirs = Pipe()
            command = [sys.executable, __file__, str(theirs.fileno()), port, rank]
            self._processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
            self._ranks.append(ours)
            theirs.close()

    def __call__(self, act: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `act(*arguments)` returns on each rank: tensors, numbers and texts in dicts and lists.

        Args:
            act: A function of a module; `torch.distributed.get_rank()` is its rank.
            arguments: Anything that can be pickled; for a plugin, an object of a module's class.

        Raises:
            AssertionError: with the traceback of the first rank that fails. The next call starts others.
        """
        if not self._ranks:
            self.start()
        try:
            return self._done(pickle.dumps((act, arguments)))
        except BaseException:
            self.close()
            raise

    def _done(self, order: bytes) -> list[Any]:
        for rank in self._ranks:
            rank.send_bytes(order)
        found: dict[Any, Any] = {}
        while len(found) < 2:
            ready = wait([rank for rank in self._ranks if rank not in found], PATIENCE)
            assert ready, "the ranks wait for each other"
            found.update({rank: _answer(rank) for rank in ready})  # type: ignore[misc]
        return [found[rank] for rank in self._ranks]

    def close(self) -> None:
        """End both processes."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._ranks.clear()
        self._processes.clear()


@contextmanager
def one_thread() -> Iterator[None]:
    """A block with one thread, as each rank has: sums in another order have other last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _answer(rank: Any) -> Any:
    is_fault, value = torch.load(io.BytesIO(rank.recv_bytes()), weights_only=True)
    assert not is_fault, value
    return value


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _serve(orders: Connection, port: int, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=PATIENCE), world_size=2, rank=rank)
    while True:
        act, arguments = pickle.loads(orders.recv_bytes())
        answer = io.BytesIO()
        torch.save(_done(act, arguments), answer)
        orders.send_bytes(answer.getvalue())


def _done(act: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return False, act(*arguments)
    except Exception:
        return True, traceback.format_exc()


if __name__ == "__main__":
    tests = ModuleType("tests")  # some package has installed another one of that name
    tests.__path__ = [str(Path(__file__).parent)]
    sys.modules["tests"] = tests
    _serve(Connection(int(sys.argv[1])), *map(int, sys.argv[2:]))
