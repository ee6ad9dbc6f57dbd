"""The standard output of the process."""

from __future__ import annotations

import os
import sys


def silence_stdout() -> None:
    """Discard everything that this process writes to standard output from now on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
