"""Faults of the file system at random operations: `python -m tests.stress.faults --trials N --seed S`."""

from __future__ import annotations

from tests.stress.campaign import main

if __name__ == "__main__":
    raise SystemExit(main("faults"))
