"""A disk that is full, at every operation in turn: `python -m tests.stress.full`."""

from __future__ import annotations

from tests.stress.campaign import main

if __name__ == "__main__":
    raise SystemExit(main("full"))
