"""The report: one self-contained HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ganrun import RequestError, atomic_path, printable
from ganrun_report import charts
from ganrun_report.charts import loss_charts, run_label, score_charts, seed_label
from ganrun_report.pictures import Strip, strip_of
from ganrun_report.public import public_environment, public_recipe, public_text
from ganrun_report.ranking import Comparison, Group
from ganrun_report.reading import PastRun
from ganrun_report.table import (
    Column,
    difference_columns,
    legend,
    ranking_tables,
    row_name,
    steps_text,
    summary_text,
)
from ganrun_report.text import ABSENT, duration_text

LARGE_BYTES = 10_000_000
"""Mail servers often refuse larger files."""

MAX_NAMES = 3
"""Recipe names in the title."""


@dataclass(frozen=True)
class ShownRun:
    """A run on the page."""

    run: PastRun
    group: Group
    label: str
    """`A`; `A, seed 1` if its group has several runs."""

    title: str
    """`A · quickstart, seed 1`."""

    @property
    def recipe(self) -> str:
        """As the page may show it."""
        return public_recipe(self.run)

    @property
    def error(self) -> str:
        """The error that stopped the run, as the page may show it; empty if unknown."""
        return public_text(self.run.error or "")

    @property
    def notes(self) -> list[str]:
        """Remarks on unreadable files, as the page may show them."""
        return list(map(public_text, self.run.notes))


@dataclass(frozen=True)
class Gallery:
    """The pictures of one role, run by run."""

    role: str
    strips: Sequence[tuple[ShownRun, Strip]]

    @property
    def title(self) -> str:
        """`real-and-generated` → `Real and generated`."""
        return self.role.replace("-", " ").replace("_", " ").capitalize()

    @property
    def is_still(self) -> bool:
        """Whether no run has more than one picture, so that there are no steps to choose from."""
        return all(len(strip.frames) < 2 for _, strip in self.strips)

    @property
    def steps(self) -> set[int]:
        """Steps at which any run has a picture here."""
        return {frame.step for _, strip in self.strips for frame in strip.frames}


def write_page(path: Path, comparison: Comparison, most_pictures: int) -> list[str]:
    """Write the report.

    Args:
        path: The file.
        comparison: What it shows.
        most_pictures: Maximum number of steps for which a run's pictures are shown.

    Returns:
        Notes for its author.

    Raises:
        RequestError: if it cannot be written.
    """
    html = page(comparison, most_pictures)
    try:
        with atomic_path(path.absolute()) as partial:
            partial.write_text(html, encoding="utf-8", errors="replace")  # file names need not be valid text
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}; choose another --output") from error
    return list(_notes(comparison, len(html)))


def page(comparison: Comparison, most_pictures: int) -> str:
    """The page's text."""
    runs = _shown_runs(comparison)
    template = _jinja().get_template("page.html.jinja")
    style, script = _template_file("page.css"), _template_file("page.js")
    galleries, losses = _galleries(runs, most_pictures), loss_charts(comparison)
    return template.render(
        title=_title(comparison),
        lead=summary_text(comparison),
        today=date.today().isoformat(),
        version=version("ganrun"),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        rankings=[(heading, columns[:-1]) for heading, columns in ranking_tables(comparison)],  # without folders
        legend=legend(comparison),
        by=comparison.by,
        runs=runs,
        galleries=galleries,
        steps=sorted({step for gallery in galleries for step in gallery.steps}),
        groups=[row_name(comparison, group) for group in comparison.groups],
        score_charts=score_charts(comparison),
        loss_charts=[chart for chart in losses if not (chart.is_term or chart.is_augmentation)],
        augmentation_charts=[chart for chart in losses if chart.is_augmentation],
        term_charts=[chart for chart in losses if chart.is_term],
        axes=charts.AXES,
        differences=difference_columns(comparison) if len(comparison.groups) > 1 else [],
        environment=_environment_tables(runs),
        steps_text=steps_text,
        duration_text=duration_text,
    )


def _title(comparison: Comparison) -> str:
    """The names of the recipes; if there are many, of the best ones."""
    names = list(dict.fromkeys(group.name for group in comparison.groups))
    more = len(names) - MAX_NAMES
    return " / ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _jinja() -> Environment:
    environment = Environment(
        loader=PackageLoader("ganrun_report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,  # before it is escaped as HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(key: str) -> Markup:
    """A dotted key that may be broken after its dots and underscores."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(key))))


def _template_file(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy that allows this style, this script and embedded pictures: no network, nothing else."""
    allowed = {"style-src": _digest(style), "script-src": _digest(script), "img-src": "data:"}
    directives = [f"{name} {source}" for name, source in allowed.items()]
    return "; ".join(["default-src 'none'", *directives, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _notes(comparison: Comparison, size: int) -> Iterator[str]:
    if comparison.by is None:
        yield "none of these runs was scored: use ganrun eval RUN --metric NAME"
    if size > LARGE_BYTES:
        yield f"the page has {size / 1e6:.0f} MB; name fewer runs, or use --pictures N to show fewer steps per run"


# ── Its parts ─────────────────────────────────────────────────────────────────────────────────────────────


def _shown_runs(comparison: Comparison) -> list[ShownRun]:
    return [
        ShownRun(
            run,
            group,
            label=run_label(comparison, group, run),
            title=f"{comparison.letter(group)} · {run.name}, {seed_label(group, run)}",
        )
        for group in comparison.groups
        for run in group.runs
    ]


def _galleries(runs: Sequence[ShownRun], most: int) -> list[Gallery]:
    """Samples come first: every model has them."""
    roles = sorted({role for shown in runs for role in shown.run.pictures}, key=lambda role: (role != "samples", role))
    galleries = [
        Gallery(role, [(shown, strip_of(shown.run, role, most)) for shown in runs if role in shown.run.pictures])
        for role in roles
    ]
    return [gallery for gallery in galleries if gallery.steps]


def _environment_tables(runs: Sequence[ShownRun]) -> dict[str, list[Column]]:
    """The entries that differ between runs, and those that do not."""
    tables = [public_environment(shown.run) for shown in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    values = {key: [table.get(key, ABSENT) for table in tables] for key in keys}
    different = {key: each for key, each in values.items() if len(set(each)) > 1}
    shared = {key: each[0] for key, each in values.items() if key not in different}
    by_run = zip(runs, zip(*different.values(), strict=True), strict=False)
    columns = [Column(shown.label, each) for shown, each in by_run]
    return {
        "different": [Column("", list(different)), *columns] if different else [],
        "shared": [Column("", list(shared)), Column("all runs", list(shared.values()))] if shared else [],
    }
