"""A process that has everything imported, and forks for each start of ganrun: run as a script by `starts.Server`.

A child runs the real entry point of the command line and ends as a process of its own does. This file imports nothing
of `tests`, and ctypes only to speak to the shim, which LD_PRELOAD has loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn


class Report(ctypes.Structure):
    """What a child has done, in memory that it shares with this process: `struct report` of shim.c."""

    _fields_ = (
        ("count", ctypes.c_long),
        ("of_kind", ctypes.c_long * 10),
        ("hits", ctypes.c_long),
        ("operation", ctypes.c_char * 1024),
    )


def serve(orders: Connection, shim: ctypes.CDLL) -> dict[str, Any]:
    """Answer orders, each in a child; returns only in a child, with its order."""
    shim.stress_report.restype = ctypes.POINTER(Report)
    report = shim.stress_report()
    while True:
        try:
            order = orders.recv()
        except EOFError:  # who gives orders has ended
            sys.exit()
        if "imports" in order:
            orders.send(_import_all(order["imports"]))
            continue
        ctypes.memset(report, 0, ctypes.sizeof(Report))
        child = os.fork()
        if child == 0:
            orders.close()
            return order
        second = None
        if order["meanwhile"] and os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1]):
            other = os.fork()
            if other == 0:
                orders.close()
                return order["meanwhile"]
            second = _status_of(other, order["patience"])
            os.kill(child, signal.SIGCONT)
        status = _status_of(child, order["patience"])
        done = report.contents
        operation = done.operation.decode(errors="replace")
        orders.send((status, done.count, tuple(done.of_kind), done.hits, operation, second))


def begin(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """Make this child the process of one start."""
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, at in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(number, at)
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    if order["shim"]:
        shim.stress_arm(*(each.encode() if isinstance(each, str) else ctypes.c_long(each) for each in order["shim"]))
    sys.argv = ["ganrun", *order["arguments"]]


def run(order: dict[str, Any]) -> NoReturn:
    """The command line, and the end of its process; if the order asks, write which modules are imported.

    The end is that of any Python process, but for freeing the memory, which takes half as long as a small run.
    """
    from ganrun.cli import main

    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    if order["modules"]:
        Path(order["modules"]).write_text(json.dumps(list(sys.modules)), encoding="utf-8")
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


def _import_all(names: list[str]) -> int:
    """Import what a first start has imported; returns the number of threads."""
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children need not copy pages to collect what they share
    return len(list(Path("/proc/self/task").iterdir()))


def _status_of(child: int, patience: float) -> int:
    """The status of a child, as `subprocess` gives it; after `patience` seconds it is killed, and that is -999."""
    handle = os.pidfd_open(child)
    if not select.select([handle], [], [], patience)[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        status = -999
    else:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(handle)
    return status


USED = ("torch", "torch._dynamo", "ganrun.commands.train", "ganrun.training.builder", "ganrun.training.runner")
"""Modules that every start uses, with what they import; `starts.Server.learn` finds the others."""

if __name__ == "__main__":
    _import_all(list(USED))
    library = ctypes.CDLL(sys.argv[1])
    mine = serve(Connection(int(sys.argv[2])), library)
    begin(mine, library)
    run(mine)
