"""Tunes Python's garbage collector for a process that imports many modules and then runs one command."""

from __future__ import annotations

import atexit
import gc

THRESHOLDS = (50_000, 20, 100)
"""Allocations between two collections of young objects, then how many of those go to one of older ones; Python's own
are 700, 10 and 10."""


def relax_garbage_collection() -> None:
    """Collect less often, and skip the collection at exit.

    PyTorch's modules are about a million objects that live until the end. By default the collector scans them
    repeatedly during import, and once more at exit: nearly a second of processor time per command.
    """
    gc.set_threshold(*THRESHOLDS)
    atexit.register(gc.freeze)
