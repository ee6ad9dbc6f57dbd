"""Curves of several runs as charts, with all coordinates in the units of the drawings' viewBox."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ganrun_report.protocols import ScoreProtocol, protocol_difference, protocol_key
from ganrun_report.ranking import Comparison, Group
from ganrun_report.reading import AUGMENTATION_PREFIX, PastRun, Point
from ganrun_report.text import ABSENT

LEFT, RIGHT, TOP, BOTTOM = 46, 396, 12, 228
"""The axes in a viewBox of 420 × 260; the letters of the lines are to the right of them."""

MAX_POINTS = 200
"""Points drawn of one curve, evenly spaced."""

LOGARITHMIC_FROM = 30
"""Ratio of the largest to the smallest score from which the axis is logarithmic."""

MAX_DECADES = 6
"""Ticks on a logarithmic axis."""

LARGEST = 1e150
"""Larger values are drawn as this one: differences and powers of it are still numbers."""

SMALLEST = 1e-300
"""Smaller differences are drawn as none: fractions of them are no numbers."""

LETTER_DISTANCE = 13
"""Between two letters."""


@dataclass(frozen=True)
class Axis:
    """A horizontal axis."""

    key: str
    name: str

    def position(self, point: Point) -> float:
        """A point's coordinate, in the axis's unit."""
        return {"step": point.step, "images": point.images_seen, "time": point.seconds / 60}[self.key]


AXES = (Axis("step", "steps"), Axis("images", "images seen"), Axis("time", "minutes"))


@dataclass(frozen=True)
class Curve:
    """A run's curve, with its label."""

    label: str
    """`A`; `A, seed 1` if its group has several runs."""

    letter: str
    style: int
    """Number of its colour and dashes, which runs of one group share."""

    points: Sequence[Point]


@dataclass(frozen=True)
class Line:
    """A curve as drawn."""

    curve: Curve
    places: Sequence[tuple[float, float]]
    xs: Sequence[str]
    ys: Sequence[str]
    """Coordinates as text."""


@dataclass(frozen=True)
class View:
    """A chart over one horizontal axis."""

    axis: Axis
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    letters: Sequence[tuple[float, Curve]]
    """Heights of the letters at the ends of the lines."""


@dataclass(frozen=True)
class Chart:
    """One score, loss or number of an augmentation over training."""

    title: str
    note: str
    """Which direction is better, how the protocol differs from the usual one, whether the axis is logarithmic."""

    views: Sequence[View]

    @property
    def is_term(self) -> bool:
        """Whether it is a term of a loss: `discriminator.real`."""
        return "." in self.title and not self.is_augmentation

    @property
    def is_augmentation(self) -> bool:
        """Whether an augmentation reports it: `augmentation/discriminator.p`."""
        return self.title.startswith(AUGMENTATION_PREFIX)

    @property
    def description(self) -> str:
        """In words, for screen readers."""
        ends = [f"{line.curve.label} from {line.ys[0]} to {line.ys[-1]}" for line in self.views[0].lines]
        return f"{self.title} over training: {'; '.join(ends)}"


def score_charts(comparison: Comparison) -> list[Chart]:
    """A chart for each score and protocol: scores with different protocols never share one."""
    charts = []
    for score in comparison.scores:
        for protocol, curves in _by_protocol(comparison, score):
            difference = protocol_difference(protocol, comparison.usual[score])
            note = f"{protocol['better']} is better{f'; {difference}' if difference else ''}"
            charts += _chart(score, note, curves)
    return charts


def loss_charts(comparison: Comparison) -> list[Chart]:
    """A chart for each loss, each of its terms, and each number that an augmentation reports."""
    names = dict.fromkeys(name for row in comparison.rows for run in row.runs for name in run.losses)
    return [chart for name in names for chart in _chart(name, "", _loss_curves(comparison, name))]


def _by_protocol(comparison: Comparison, score: str) -> list[tuple[ScoreProtocol, list[Curve]]]:
    found: dict[str, tuple[ScoreProtocol, list[Curve]]] = {}
    for number, group in enumerate(comparison.groups):
        for run in group.runs:
            if score in run.score_curves and run.score_curves[score].points:
                protocol, points = run.score_curves[score]
                curve = _curve(comparison, number, run, points)
                found.setdefault(protocol_key(protocol), (protocol, []))[1].append(curve)
    return list(found.values())


def _loss_curves(comparison: Comparison, name: str) -> list[Curve]:
    return [
        _curve(comparison, number, run, run.losses[name])
        for number, group in enumerate(comparison.groups)
        for run in group.runs
        if name in run.losses
    ]


def _curve(comparison: Comparison, number: int, run: PastRun, points: Sequence[Point]) -> Curve:
    group = comparison.groups[number]
    return Curve(run_label(comparison, group, run), comparison.letter(group), number, _thinned(points))


def run_label(comparison: Comparison, group: Group, run: PastRun) -> str:
    """`A`; `A, seed 1` if its group has several runs."""
    return comparison.letter(group) + (f", {seed_label(group, run)}" if len(group.runs) > 1 else "")


def seed_label(group: Group, run: PastRun) -> str:
    """`seed 1`; `seed 1 (2)` for its group's second run of that seed."""
    number = 1 + [each.path for each in group.runs if each.seed == run.seed].index(run.path)
    return f"seed {ABSENT if run.seed is None else run.seed}{f' ({number})' if number > 1 else ''}"


def _thinned(points: Sequence[Point]) -> list[Point]:
    stride = math.ceil(len(points) / MAX_POINTS)
    kept = list(points[::stride])
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]


# ── Drawing ───────────────────────────────────────────────────────────────────────────────────────────────


def _chart(title: str, note: str, curves: Sequence[Curve]) -> list[Chart]:
    """Empty if no curve has two points."""
    if all(len(curve.points) < 2 for curve in curves):
        return []
    values = [point.value for curve in curves for point in curve.points]
    scale = Scale.fitting(values, BOTTOM, TOP, may_be_logarithmic=bool(note))
    notes = "; ".join(filter(None, (note, "logarithmic" if scale.is_logarithmic else "")))
    return [Chart(title, notes, [_view(axis, curves, scale) for axis in AXES])]


def _view(axis: Axis, curves: Sequence[Curve], y: Scale) -> View:
    positions = [axis.position(point) for curve in curves for point in curve.points]
    x = Scale(0.0, max(positions) or 1.0, LEFT, RIGHT)
    lines = [_line(axis, curve, x, y) for curve in curves]
    return View(axis, lines, x.ticks(4), y.ticks(4), _letters(lines))


def _line(axis: Axis, curve: Curve, x: Scale, y: Scale) -> Line:
    places = [(x.place(axis.position(point)), y.place(point.value)) for point in curve.points]
    xs = [
        f"{axis.position(point):,.1f}" if axis.key == "time" else f"{axis.position(point):,}" for point in curve.points
    ]
    return Line(curve, places, xs, [f"{point.value:.4g}" for point in curve.points])


def _letters(lines: Sequence[Line]) -> list[tuple[float, Curve]]:
    """A letter for each group, at the mean end of its lines, within the axes and without overlaps; none if there are
    more than fit."""
    ends: dict[str, list[float]] = {}
    for line in lines:
        ends.setdefault(line.curve.letter, []).append(line.places[-1][1])
    curves = {line.curve.letter: line.curve for line in lines}
    lowest = BOTTOM - (len(ends) - 1) * LETTER_DISTANCE
    if lowest < TOP:
        return []
    placed: list[tuple[float, Curve]] = []
    for height, letter in sorted((sum(each) / len(each), letter) for letter, each in ends.items()):
        highest = placed[-1][0] + LETTER_DISTANCE if placed else TOP
        placed.append((min(max(height, highest), lowest + len(placed) * LETTER_DISTANCE), curves[letter]))
    return placed


@dataclass(frozen=True)
class Scale:
    """Maps values to coordinates between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool = False

    @classmethod
    def fitting(cls, values: Sequence[float], start: float, end: float, *, may_be_logarithmic: bool) -> Scale:
        """A scale that contains all values, with a margin."""
        low, high = _drawn(min(values)), _drawn(max(values))
        if may_be_logarithmic and low > 0 and high / low >= LOGARITHMIC_FROM:
            return cls(low / 1.1, high * 1.1, start, end, is_logarithmic=True)
        margin = next((each * 0.05 for each in (high - low, abs(high)) if each > SMALLEST), 1.0)
        return cls(low - margin, high + margin, start, end)

    def place(self, value: float) -> float:
        """A value's coordinate, in units of the viewBox."""
        low, high, at = self.low, self.high, _drawn(value)
        if self.is_logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round values, with their coordinates."""
        values = _decades(self.low, self.high) if self.is_logarithmic else _steps(self.low, self.high, about)
        return [(self.place(value), _short(value)) for value in values]


def _drawn(value: float) -> float:
    return min(max(value, -LARGEST), LARGEST)


def _steps(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten; if there are few, also 2 and 5 times each; if there are many, only every second, third, … one."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = (1, 2, 5) if len(powers) <= 4 else (1,)
    sparse = powers[:: math.ceil(len(powers) / MAX_DECADES)]
    return [each * 10.0**power for power in sparse for each in fine if low <= each * 10.0**power <= high]


def _short(value: float) -> str:
    """`200`, `12.5k`, `3M`, `0.05`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
