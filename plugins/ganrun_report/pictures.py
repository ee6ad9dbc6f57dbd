"""Pictures of runs, chosen and packed for a page that holds all of them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganrun_report.reading import PastRun

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ENDING = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Frame:
    """One picture at one step."""

    step: int
    uri: str
    """`data:image/png;base64,…`"""

    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """One run's pictures of one role, by step."""

    run: PastRun
    frames: Sequence[Frame]
    left_out: int
    """Pictures that the run has besides."""


def strip_of(run: PastRun, role: str, most: int) -> Strip:
    """At most so many of a run's pictures, as they lie on disk; damaged ones are left out."""
    paths = run.pictures.get(role, {})
    frames = [frame for step in spread(paths, most) if (frame := _packed(step, paths[step])) is not None]
    return Strip(run, frames, len(paths) - len(frames))


def spread(steps: Collection[int], most: int) -> list[int]:
    """At most so many of the steps, the first and the last among them, in about equal ratios: early on there is more to
    see."""
    ordered = sorted(steps)
    if len(ordered) <= most:
        return ordered
    if most == 1:
        return ordered[-1:]
    first, last = max(ordered[0], 1), ordered[-1]
    chosen = {ordered[0], last}
    for index in range(1, most - 1):
        wanted = first * (last / first) ** (index / (most - 1))
        chosen.add(min((step for step in ordered if step not in chosen), key=lambda step: abs(step - wanted)))
    return sorted(chosen)


def _packed(step: int, path: Path) -> Frame | None:
    """None for what is no whole PNG, or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(SIGNATURE) or not content.endswith(ENDING):
        return None
    width, height = struct.unpack(">II", content[16:24])
    return Frame(step, f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height)
