"""Curves of several runs as charts: everything that the page draws is computed here, in the units of its viewBox."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ganrun_report.ranking import ABSENT, Comparison, Group, difference, terms_key
from ganrun_report.reading import PastRun, Point, Terms

LEFT, RIGHT, TOP, BOTTOM = 46, 396, 12, 228
"""Where the axes lie in a viewBox of 420 × 260; the letters of the lines stand right of them."""

MOST_POINTS = 200
"""Of one line; of longer curves every so many-th point is drawn."""

LOGARITHMIC_FROM = 30
"""Scores whose largest value is so many times the smallest have a logarithmic axis."""

MOST_DECADES = 6
"""Marked on a logarithmic axis."""

APART = 13
"""Between two letters."""


@dataclass(frozen=True)
class Axis:
    """What lies along the bottom."""

    key: str
    name: str

    def position(self, point: Point) -> float:
        """Where a point lies on it."""
        return {"step": point.step, "images": point.images_seen, "time": point.seconds / 60}[self.key]


AXES = (Axis("step", "steps"), Axis("images", "images seen"), Axis("time", "minutes"))


@dataclass(frozen=True)
class Curve:
    """A run's curve, and what it is called."""

    label: str
    """`A`; `A, seed 1` where its group has several runs."""

    letter: str
    kind: int
    """Runs of one group look alike."""

    points: Sequence[Point]


@dataclass(frozen=True)
class Line:
    """A curve as drawn."""

    curve: Curve
    places: Sequence[tuple[float, float]]
    xs: Sequence[str]
    ys: Sequence[str]
    """The values, as they are told."""


@dataclass(frozen=True)
class View:
    """A chart over one of the axes."""

    axis: Axis
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    letters: Sequence[tuple[float, Curve]]
    """At the ends of the lines: their heights."""


@dataclass(frozen=True)
class Chart:
    """One score or loss over training."""

    title: str
    note: str
    """The direction that is better, an axis that is logarithmic, terms that are unlike the usual ones."""

    views: Sequence[View]

    @property
    def is_term(self) -> bool:
        """Whether it is a part of another: `discriminator.real`."""
        return "." in self.title

    @property
    def description(self) -> str:
        """In words, for whoever does not see it."""
        ends = [f"{line.curve.label} from {line.ys[0]} to {line.ys[-1]}" for line in self.views[0].lines]
        return f"{self.title} over training: {'; '.join(ends)}"


def score_charts(comparison: Comparison) -> list[Chart]:
    """A chart for each score and each set of terms: values of unlike terms never share one."""
    charts = []
    for score in comparison.scores:
        for terms, curves in _by_terms(comparison, f"eval/{score}"):
            unlike = difference(terms, comparison.usual[score])
            note = f"{terms['better']} is better{f'; {unlike}' if unlike else ''}"
            charts += _chart(score, note, curves)
    return charts


def loss_charts(comparison: Comparison) -> list[Chart]:
    """A chart for each loss and its terms."""
    keys = {key: 1 for row in comparison.rows for run in row.runs for key in run.curves if key.startswith("loss/")}
    return [chart for key in keys for chart in _chart(key.removeprefix("loss/"), "", _curves(comparison, key))]


def _by_terms(comparison: Comparison, key: str) -> list[tuple[Terms, list[Curve]]]:
    found: dict[str, tuple[Terms, list[Curve]]] = {}
    for run, curve in _owned(comparison, key):
        terms = run.curve_terms[key]
        found.setdefault(terms_key(terms), (terms, []))[1].append(curve)
    return list(found.values())


def _curves(comparison: Comparison, key: str) -> list[Curve]:
    return [curve for _, curve in _owned(comparison, key)]


def _owned(comparison: Comparison, key: str) -> Iterator[tuple[PastRun, Curve]]:
    for kind, group in enumerate(comparison.groups):
        for run in group.runs:
            if run.curves.get(key):
                label = run_label(comparison, group, run)
                yield run, Curve(label, comparison.letter(group), kind, _thinned(run.curves[key]))


def run_label(comparison: Comparison, group: Group, run: PastRun) -> str:
    """`A`; `A, seed 1` where its group has several runs."""
    return comparison.letter(group) + (f", {seed_label(group, run)}" if len(group.runs) > 1 else "")


def seed_label(group: Group, run: PastRun) -> str:
    """`seed 1`; `seed 1 (2)` for its group's second run of that seed."""
    number = 1 + [each.path for each in group.runs if each.seed == run.seed].index(run.path)
    return f"seed {ABSENT if run.seed is None else run.seed}{f' ({number})' if number > 1 else ''}"


def _thinned(points: Sequence[Point]) -> list[Point]:
    stride = math.ceil(len(points) / MOST_POINTS)
    kept = list(points[::stride])
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]


# ── Drawing ───────────────────────────────────────────────────────────────────────────────────────────────


def _chart(title: str, note: str, curves: Sequence[Curve]) -> list[Chart]:
    """Nothing where no curve has two points."""
    if all(len(curve.points) < 2 for curve in curves):
        return []
    values = [point.value for curve in curves for point in curve.points]
    scale = Scale.fitting(values, BOTTOM, TOP, may_be_logarithmic=bool(note))
    told = "; ".join(filter(None, (note, "logarithmic" if scale.is_logarithmic else "")))
    return [Chart(title, told, [_view(axis, curves, scale) for axis in AXES])]


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
    """One for each group, at the mean end of its lines, within the axes and no two over each other; none where there
    are more than have room."""
    ends: dict[str, list[float]] = {}
    for line in lines:
        ends.setdefault(line.curve.letter, []).append(line.places[-1][1])
    curves = {line.curve.letter: line.curve for line in lines}
    room = BOTTOM - (len(ends) - 1) * APART
    if room < TOP:
        return []
    error_context: list[tuple[float, Curve]] = []
    for height, letter in sorted((sum(each) / len(each), letter) for letter, each in ends.items()):
        highest = error_context[-1][0] + APART if error_context else TOP
        error_context.append((min(max(height, highest), room + len(error_context) * APART), curves[letter]))
    return error_context


@dataclass(frozen=True)
class Scale:
    """From values to places between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool = False

    @classmethod
    def fitting(cls, values: Sequence[float], start: float, end: float, *, may_be_logarithmic: bool) -> Scale:
        """One that holds all values, with some air."""
        low, high = min(values), max(values)
        if may_be_logarithmic and low > 0 and high / low >= LOGARITHMIC_FROM:
            return cls(low / 1.1, high * 1.1, start, end, is_logarithmic=True)
        air = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        return cls(low - air, high + air, start, end)

    def place(self, value: float) -> float:
        """In units of the viewBox."""
        low, high, at = self.low, self.high, value
        if self.is_logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round values, with their places."""
        values = _decades(self.low, self.high) if self.is_logarithmic else _steps(self.low, self.high, about)
        return [(self.place(value), _short(value)) for value in values]


def _steps(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten; twice and five times them too where they are few, and not all of them where they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = (1, 2, 5) if len(powers) <= 4 else (1,)
    sparse = powers[:: math.ceil(len(powers) / MOST_DECADES)]
    return [each * 10.0**power for power in sparse for each in fine if low <= each * 10.0**power <= high]


def _short(value: float) -> str:
    """`200`, `12.5k`, `3M`, `0.05`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
