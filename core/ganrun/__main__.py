"""`python -m ganrun`, as torchrun starts it."""

from __future__ import annotations

from ganrun.cli import main

if __name__ == "__main__":
    main(prog_name="ganrun")
