"""Kills at random operations: `python -m tests.stress.kills --trials N --seed S`."""

from __future__ import annotations

from tests.stress.campaign import main

if __name__ == "__main__":
    raise SystemExit(main("kills"))
