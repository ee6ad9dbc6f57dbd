"""Curves of a run's losses and scores, as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganrun import Record, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = {1: 1, 2: 2, 4: 2}
"""By the number of panels; else three."""

WIDTH, PANEL_HEIGHT, DOTS_PER_INCH = 10.2, 2.6, 100
"""The first two in inches: the picture is 1,020 pixels wide; a panel's height is without its legend."""

LEFT, RIGHT, TOP, BOTTOM = 0.6, 0.15, 0.3, 0.35
"""Margins around a panel's axes, in inches, with the tick labels and the title. Fixed: matplotlib's automatic layout
draws everything twice."""

LETTER, HANDLE, LINE = 0.065, 0.5, 0.18
"""Inches: the width of a letter in the legend, the width of a line sample, the height of a line of text."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito, which colour-blind people can distinguish; without yellow, too light on white."""

STYLES = ("-", "--", ":")
"""For more curves than colours."""

LARGEST = 1e150
"""Larger values are drawn as this one: matplotlib computes differences and powers of them."""

REAL = "real images"
LOSS_PREFIX = "loss/"

Curve = list[tuple[int, float]]
"""Steps and values."""


@dataclass
class Panel:
    """The curves that share one pair of axes."""

    title: str
    curves: dict[str, Curve] = field(default_factory=dict)
    floor: float | None = None
    """The score of real images."""

    @property
    def names(self) -> list[str]:
        """The entries of the legend."""
        return [*self.curves, *([] if self.floor is None else [REAL])]


def curves(records: Sequence[Record]) -> npt.NDArray[np.uint8] | None:
    """A run's records as one picture, uint8 `(height, width, 3)`; None if there is nothing to draw.

    A panel for each score that was measured during training, with the score of real images as a dashed line, then one
    for each phase of the loss, with its terms. Works without a display.
    """
    trained = [record for record in records if not record.rescored]
    panels = [*_score_panels(trained), *_loss_panels(trained)]
    return _picture(panels) if panels else None


def _score_panels(records: Sequence[Record]) -> list[Panel]:
    panels: dict[str, Panel] = {}
    for record in records:
        for score in record.evaluation:
            panel = panels.setdefault(score.name, Panel(score.name))
            panel.curves.setdefault("generated", []).append((record.step, score.value))
            panel.floor = panel.floor if score.floor is None else score.floor
    return [panels[name] for name in sorted(panels)]


def _loss_panels(records: Sequence[Record]) -> list[Panel]:
    panels: dict[str, Panel] = {}
    for name in sorted({name for record in records for name in record.values if name.startswith(LOSS_PREFIX)}):
        phase, _, term = name.removeprefix(LOSS_PREFIX).partition(".")
        curve = [(record.step, record.values[name]) for record in records if name in record.values]
        panels.setdefault(phase, Panel(f"loss: {phase}")).curves[term or "sum"] = curve
    return list(panels.values())


def _picture(panels: Sequence[Panel]) -> npt.NDArray[np.uint8]:
    from matplotlib.figure import Figure

    across = PANELS_PER_ROW.get(len(panels), 3)
    width = WIDTH / across
    legend_columns = [_legend_columns(panel, width) for panel in panels]
    legend_rows = max(ceil(len(panel.names) / each) for panel, each in zip(panels, legend_columns, strict=True))
    height = PANEL_HEIGHT + LINE * legend_rows
    whole = height * ceil(len(panels) / across)
    figure = Figure((WIDTH, whole), dpi=DOTS_PER_INCH)
    size = (width - LEFT - RIGHT) / WIDTH, (PANEL_HEIGHT - TOP - BOTTOM) / whole
    for number, panel in enumerate(panels):
        row, column = divmod(number, across)
        corner = (column * width + LEFT) / WIDTH, 1 - (row * height + PANEL_HEIGHT - BOTTOM) / whole
        _draw(figure.add_axes((*corner, *size)), panel, legend_columns[number])
    return _pixels(figure)


def _legend_columns(panel: Panel, width: float) -> int:
    """The number of names that fit side by side below a panel `width` inches wide."""
    return max(1, int(width / (LETTER * max(map(len, panel.names)) + HANDLE)))


def _draw(axes: Axes, panel: Panel, legend_columns: int) -> None:
    axes.set_title(_label(panel.title), fontsize=10, parse_math=False)
    axes.set_xlabel("step", fontsize=8, loc="right", labelpad=0)
    for number, (name, curve) in enumerate(panel.curves.items()):
        style = STYLES[number // len(PALETTE) % len(STYLES)]
        colour, dots = PALETTE[number % len(PALETTE)], "o" if len(curve) < 20 else ""
        look: dict[str, Any] = {
            "marker": dots,
            "markersize": 3,
            "color": colour,
            "linewidth": 1.2,
            "label": _label(name),
        }
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, np.clip(values, -LARGEST, LARGEST), style, **look)
    if panel.floor is not None:
        axes.axhline(min(max(panel.floor, -LARGEST), LARGEST), color="0.4", linestyle="--", linewidth=1, label=REAL)
    axes.grid(color="0.9")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.names) > 1:
        legend = axes.legend(
            fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=legend_columns
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _label(name: str) -> str:
    """A name as matplotlib shows it: without control characters, and without an underscore at the start, which would
    hide it."""
    return re.sub("^_", " _", one_line(name))


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    file = BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))
