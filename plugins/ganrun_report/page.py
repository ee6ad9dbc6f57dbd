"""The report: one HTML file that holds everything it shows, and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ganrun import RequestError, atomic_path
from ganrun_report import charts
from ganrun_report.charts import loss_charts, run_label, score_charts, seed_label
from ganrun_report.pictures import Strip, strip_of
from ganrun_report.ranking import ABSENT, Comparison, Group, flat
from ganrun_report.reading import PastRun
from ganrun_report.table import (
    Column,
    difference_columns,
    duration_text,
    legend,
    rankings,
    row_name,
    steps_text,
    summary_text,
)

LARGE_BYTES = 10_000_000
"""Beyond this a page is no longer easily mailed."""

MOST_NAMES = 3
"""In the title."""

PRIVATE = ("host", "command", "data.files", "problem.class_names")
"""What of the environment has no place on a page that is passed on, or no use there."""


@dataclass(frozen=True)
class Shown:
    """A run of the page."""

    run: PastRun
    group: Group
    label: str
    """`A`; `A, seed 1` where its group has several runs."""

    kind: int
    """Of its lines."""

    title: str
    """`A · quickstart, seed 1`."""


@dataclass(frozen=True)
class Role:
    """Pictures of one kind, run by run."""

    name: str
    strips: Sequence[tuple[Shown, Strip]]

    @property
    def title(self) -> str:
        """`real-and-generated` → `Real and generated`."""
        return self.name.replace("-", " ").replace("_", " ").capitalize()

    @property
    def is_still(self) -> bool:
        """Whether no run has more than one: then there is nothing to step through."""
        return all(len(strip.frames) < 2 for _, strip in self.strips)

    @property
    def steps(self) -> set[int]:
        """At which any run has one here."""
        return {frame.step for _, strip in self.strips for frame in strip.frames}

    @property
    def left_out(self) -> int:
        """Pictures that the page does not have."""
        return sum(strip.left_out for _, strip in self.strips)


def write_page(path: Path, comparison: Comparison, most_pictures: int) -> list[str]:
    """Write the report; what its author should know.

    Args:
        path: Of the file.
        comparison: What it shows.
        most_pictures: Steps of which a run's pictures are shown, at most.

    Raises:
        RequestError: if it cannot be written.
    """
    html = page(comparison, most_pictures)
    try:
        with atomic_path(path.absolute()) as partial:
            partial.write_text(html, encoding="utf-8", errors="replace")  # names of files need not be text
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}; choose another --output") from error
    return list(_notes(comparison, len(html)))


def page(comparison: Comparison, most_pictures: int) -> str:
    """The page's text."""
    runs = _shown(comparison)
    template = _environment().get_template("page.html.jinja")
    style, script = _part("page.css"), _part("page.js")
    roles, losses = _roles(runs, most_pictures), loss_charts(comparison)
    return template.render(
        title=_title(comparison),
        lead=summary_text(comparison),
        today=date.today().isoformat(),
        version=version("ganrun"),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        rankings=[(heading, columns[:-1]) for heading, columns in rankings(comparison)],  # without folders
        legend=legend(comparison),
        by=comparison.by,
        runs=runs,
        roles=roles,
        steps=sorted({step for role in roles for step in role.steps}),
        most_pictures=most_pictures,
        groups=[(row_name(comparison, group), kind) for kind, group in enumerate(comparison.groups)],
        score_charts=score_charts(comparison),
        loss_charts=[chart for chart in losses if not chart.is_term],
        term_charts=[chart for chart in losses if chart.is_term],
        axes=charts.AXES,
        differences=difference_columns(comparison) if len(comparison.groups) > 1 else [],
        environment=_environments(runs),
        steps_text=steps_text,
        duration_text=duration_text,
    )


def _title(comparison: Comparison) -> str:
    """The recipes' names, or the best ones' where they are many."""
    names = list(dict.fromkeys(group.name for group in comparison.groups))
    more = len(names) - MOST_NAMES
    return " / ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ganrun_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(key: str) -> Markup:
    """A dotted key that a narrow column may break behind its dots and underscores."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(key))))


def _part(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """What the browser is to allow: this style, this script and pictures within the page. No network, nothing else."""
    allowed = {"style-src": _digest(style), "script-src": _digest(script), "img-src": "data:"}
    directives = [f"{name} {source}" for name, source in allowed.items()]
    return "; ".join(["default-src 'none'", *directives, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _notes(comparison: Comparison, size: int) -> Sequence[str]:
    notes = []
    if comparison.by is None:
        notes.append("none of these runs was scored: ganrun eval RUN --metric NAME does it afterwards")
    if size > LARGE_BYTES:
        notes.append(f"the page has {size / 1e6:.0f} MB; name fewer runs, or say --pictures N for fewer steps a run")
    return notes


# ── Its parts ─────────────────────────────────────────────────────────────────────────────────────────────


def _shown(comparison: Comparison) -> list[Shown]:
    found = []
    for kind, group in enumerate(comparison.groups):
        for run in group.runs:
            title = f"{comparison.letter(group)} · {run.name}, {seed_label(group, run)}"
            found.append(Shown(run, group, run_label(comparison, group, run), kind, title))
    return found


def _roles(runs: Sequence[Shown], most: int) -> list[Role]:
    """Samples first, for every model has them."""
    names = sorted({name for shown in runs for name in shown.run.pictures}, key=lambda name: (name != "samples", name))
    roles = [
        Role(name, [(shown, strip_of(shown.run, name, most)) for shown in runs if name in shown.run.pictures])
        for name in names
    ]
    return [role for role in roles if role.steps]


def _environments(runs: Sequence[Shown]) -> dict[str, list[Column]]:
    """Facts that are not the same of all runs, and those that are."""
    tables = [_public(shown.run) for shown in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    values = {key: [table.get(key, ABSENT) for table in tables] for key in keys}
    unlike = {key: each for key, each in values.items() if len(set(each)) > 1}
    shared = {key: each[0] for key, each in values.items() if key not in unlike}
    columns = [Column(shown.label, each) for shown, each in zip(runs, zip(*unlike.values(), strict=True), strict=False)]
    return {
        "unlike": [Column("", list(unlike)), *columns] if unlike else [],
        "shared": [Column("", list(shared)), Column("all runs", list(shared.values()))] if shared else [],
    }


def _public(run: PastRun) -> dict[str, str]:
    """A run's environment, flat, without what is private."""
    return {key: value for key, value in flat(run.environment) if not key.startswith(PRIVATE)}
