"""A process that has everything imported, and forks for each start of ganrun: run as a script by `starts.Server`.

A child runs the real entry point of the command line and ends as a process of its own does. This file imports nothing
of `tests`, and ctypes only to speak to the shim, which LD_PRELOAD has loaded.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


class Report(ctypes.Structure):
    """What a child has done, in memory that it shares with this process: `struct report` of shim.c."""

    _fields_ = (("count", ctypes.c_long), ("hits", ctypes.c_long), ("operation", ctypes.c_char * 1024))


def serve(orders: Connection, shim: ctypes.CDLL) -> dict[str, Any]:
    """Answer orders, each in a child; returns only in a child, with its order."""
    shim.stress_report.restype = ctypes.POINTER(Report)
    report = shim.stress_report()
    while True:
        order = orders.recv()
        if "imports" in order:
            orders.send(_import_all(order["imports"]))
            continue
        ctypes.memset(report, 0, ctypes.sizeof(Report))
        child = os.fork()
        if child == 0:
            orders.close()
            return order
        status = _status_of(child, order["patience"])
        done = report.contents
        orders.send((status, done.count, done.hits, done.operation.decode(errors="replace")))


def begin(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """Make this child the process of one start."""
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, at in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(number, at)
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    shim.stress_arm(*(each.encode() if isinstance(each, str) else ctypes.c_long(each) for each in order["shim"]))
    sys.argv = ["ganrun", *order["arguments"]]


def run(order: dict[str, Any]) -> None:
    """The command line; at the end, write which modules are imported, if the order asks."""
    from ganrun.cli import main

    try:
        main()
    finally:
        if order["modules"]:
            with open(order["modules"], "w", encoding="utf-8") as file:
                json.dump(list(sys.modules), file)


def _import_all(names: list[str]) -> int:
    """Import what a first start has imported; returns the number of threads."""
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    return len(os.listdir("/proc/self/task"))


def _status_of(child: int, patience: float) -> int:
    """The status of a child, as `subprocess` gives it; after `patience` seconds it is killed."""
    handle = os.pidfd_open(child)
    if not select.select([handle], [], [], patience)[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        status = -999
    else:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(handle)
    return status


if __name__ == "__main__":
    library = ctypes.CDLL(sys.argv[1])
    mine = serve(Connection(int(sys.argv[2])), library)
    begin(mine, library)
    run(mine)
