"""What a run recorded, as curves: its losses and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganrun import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = {1: 1, 2: 2, 4: 2}
"""By their number; else three."""
WIDTH, PANEL_HEIGHT, DOTS_PER_INCH = 10.2, 2.6, 100
"""The first two in inches: a picture is 1,020 pixels wide; a panel is so high without its legend."""


PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart; yellow is left out, which nobody sees on white."""

LEFT, RIGHT, TOP, BOTTOM = 0.6, 0.15, 0.3, 0.35
"""Inches around a panel's axes: for the scale, for nothing, for the title, for steps. They are told and not left to
matplotlib, which would draw everything twice to find them."""

LETTER, HANDLE, LINE = 0.065, 0.5, 0.18
"""Inches: a legend's letter, what stands beside its words, and its line."""

STYLES = ("-", "--", ":")
"""For more curves than colours."""

Curve = tuple[list[int], list[float]]


def curves(records: Sequence[Record]) -> npt.NDArray[np.uint8] | None:
    """The lines of metrics.jsonl as one picture, uint8 `(height, width, 3)`; None where there is nothing to draw.

    A panel for each score of the run's own evaluations, with real images' score as a dashed line, then one for each
    phase of the loss with its terms. Needs no display.
    """
    from matplotlib.figure import Figure

    own = [record for record in records if not record.rescored]
    panels = _panels(own)
    if not panels:
        return None
    across = PANELS_PER_ROW.get(len(panels), 3)
    down = -(-len(panels) // across)
    columns = [_legend_columns(lines, WIDTH / across) for lines in panels.values()]
    legend = max(-(-len(lines) // each) for lines, each in zip(panels.values(), columns, strict=True))
    width, height = WIDTH / across, PANEL_HEIGHT + LINE * legend
    figure = Figure((WIDTH, down * height), dpi=DOTS_PER_INCH)
    inner = (width - LEFT - RIGHT) / WIDTH, (PANEL_HEIGHT - TOP - BOTTOM) / (down * height)
    for number, (title, lines) in enumerate(panels.items()):
        row, column = divmod(number, across)
        left, bottom = (column * width + LEFT) / WIDTH, 1 - (row * height + PANEL_HEIGHT - BOTTOM) / (down * height)
        _draw(figure.add_axes((left, bottom, *inner)), title, lines, columns[number])
    return _pixels(figure)


def _panels(records: Sequence[Record]) -> dict[str, dict[str, Curve]]:
    """Curves by panel and name; scores first."""
    panels: dict[str, dict[str, Curve]] = {}
    for name in sorted({score.name for record in records for score in record.evaluation}):
        scores = [(record.step, record.scores()[name]) for record in records if name in record.scores()]
        panels[name] = {"generated": _curve((step, score.value) for step, score in scores)}
        floors = [(step, score.floor) for step, score in scores if score.floor is not None]
        panels[name] |= {REAL: _curve(floors)} if floors else {}
    for key in sorted({key for record in records for key in record.values if key.startswith("loss/")}):
        phase, _, term = key.removeprefix("loss/").partition(".")
        points = [(record.step, record.values[key]) for record in records if key in record.values]
        panels.setdefault(f"loss: {phase}", {})[term or "sum"] = _curve(points)
    return panels


def _curve(points: Iterable[tuple[int, float]]) -> Curve:
    steps_and_values = list(points)
    return [step for step, _ in steps_and_values], [value for _, value in steps_and_values]


REAL = "real images"


def _legend_columns(lines: Mapping[str, Curve], width: float) -> int:
    """How many names stand side by side below a panel of so many inches."""
    return max(1, int(width / (LETTER * max(map(len, lines)) + HANDLE)))


def _draw(axes: Axes, title: str, lines: Mapping[str, Curve], legend_columns: int) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=8, loc="right", labelpad=0)
    for number, (name, (steps, values)) in enumerate(lines.items()):
        if name == REAL:
            axes.axhline(values[-1], color="0.4", linestyle="--", linewidth=1, label=name)
            continue
        style = STYLES[number // len(PALETTE) % len(STYLES)]
        dots = "o" if len(steps) < 20 else ""
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(steps, values, style, marker=dots, markersize=3, color=colour, linewidth=1.2, label=name)
    axes.grid(color="0.9")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=legend_columns)


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    file = BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))
