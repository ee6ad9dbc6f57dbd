"""Pictures of runs, selected and embedded for a page that contains them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganrun import read_bytes
from ganrun_report.reading import PastRun

LARGEST_BYTES = 64 << 20
"""Of a picture in a page; one that is larger is left out."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 24
"""Up to the height, which follows the width."""

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

    total: int
    """Pictures that the run has."""

    damaged: int
    """Selected pictures that are damaged, which `frames` lacks."""

    @property
    def note(self) -> str:
        """`Showing 12 of 14 steps`; empty if all are shown."""
        damaged = f"; {self.damaged} damaged" if self.damaged else ""
        return f"Showing {len(self.frames)} of {self.total} steps{damaged}" if len(self.frames) < self.total else ""


def strip_of(run: PastRun, role: str, most: int) -> Strip:
    """At most `most` of a run's pictures, unchanged, without damaged ones."""
    paths = run.pictures.get(role, {})
    selected = spread(paths, most)
    frames = [frame for step in selected if (frame := _embedded(step, paths[step])) is not None]
    return Strip(run, frames, len(paths), len(selected) - len(frames))


def spread(steps: Collection[int], most: int) -> list[int]:
    """At most `most` of the steps, including the first and the last, in about equal ratios: early steps differ more."""
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


def _embedded(step: int, path: Path) -> Frame | None:
    """None if the file is not a complete PNG, or cannot be read."""
    try:
        content = read_bytes(path, LARGEST_BYTES)
    except OSError:
        return None
    if not content.startswith(SIGNATURE) or not content.endswith(ENDING) or len(content) < HEADER_BYTES:
        return None
    width, height = struct.unpack(">II", content[HEADER_BYTES - 8 : HEADER_BYTES])
    return Frame(step, f"data:image/png;base64,{base64.b64encode(content).decode()}", width, height)
