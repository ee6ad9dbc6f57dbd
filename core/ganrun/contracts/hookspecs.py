"""The manual of the hooks: what a plugin can offer, and what an observer can hear.

A plugin is a module (or any object) named by an entry point in the group `ganrun`:

    [project.entry-points.ganrun]
    stylegan = "ganrun_stylegan"

with one function per kind of component it offers, each marked with `ganrun.hookimpl`. Import torch and the
components inside the function: then `ganrun --help` and `ganrun plugins` stay fast.

    from ganrun import hookimpl

    @hookimpl
    def ganrun_generators():
        from ganrun_stylegan.networks import StyleGenerator
        return {"stylegan2": StyleGenerator}

The rules for all component hooks:

- Called once, when the registry is first asked; the order of plugins has no meaning.
- A name is lower-case, with hyphens: it is what a recipe says in `use = "…"`.
- Two plugins may offer one name; a recipe that uses it must then say `use = "plugin:name"`.
- An implementation that raises marks its plugin as broken. That stops a run only if its recipe needs the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ganrun.contracts.markers import hookspec

if TYPE_CHECKING:
    import click

    from ganrun.contracts.data import Data
    from ganrun.contracts.extractors import Extractor
    from ganrun.contracts.health import HealthCheck
    from ganrun.contracts.losses import Loss
    from ganrun.contracts.metrics import Metric
    from ganrun.contracts.networks import Discriminator, Generator
    from ganrun.contracts.observers import Observer
    from ganrun.contracts.optimizers import Optimizer, Schedule
    from ganrun.contracts.trackers import Tracker


# ── Components ────────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def ganrun_generators() -> Mapping[str, type[Generator]]:  # type: ignore[empty-body]
    """Networks from latents to samples in [-1, 1].

    A recipe fills a loss's slot of kind `generator` with one: `[generator] use = "dcgan"`.
    """


@hookspec
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:  # type: ignore[empty-body]
    """Networks from images to a vector each: critics, classifiers with heads, encoders.

    A recipe fills a loss's slot of kind `discriminator` with one: `[discriminator]`, or `[encoder]` in a VAE.
    """


@hookspec
def ganrun_losses() -> Mapping[str, type[Loss]]:  # type: ignore[empty-body]
    """Training objectives: slots, latents and phases. A recipe has exactly one: `[loss] use = "wgan-gp"`."""


@hookspec
def ganrun_data() -> Mapping[str, type[Data]]:  # type: ignore[empty-body]
    """Data sets. A recipe has exactly one: `[data] use = "celeba"`."""


@hookspec
def ganrun_metrics() -> Mapping[str, type[Metric]]:  # type: ignore[empty-body]
    """Ways of scoring samples. A recipe has any number: `[[metric]] use = "fid"`."""


@hookspec
def ganrun_extractors() -> Mapping[str, type[Extractor]]:  # type: ignore[empty-body]
    """Networks from pictures to features, for metrics that compare features.

    Such a metric's table names one: `features = "inception"`, or `features = { use = "inception", weights = "…" }`.
    """


@hookspec
def ganrun_optimizers() -> Mapping[str, type[Optimizer]]:  # type: ignore[empty-body]
    """Optimisers. A recipe has one for each slot of its loss: `[optimizer] use = "adam"`, which
    `[optimizer.discriminator]` overrides for that slot.
    """


@hookspec
def ganrun_schedules() -> Mapping[str, type[Schedule]]:  # type: ignore[empty-body]
    """How learning rates change over a run.

    An optimiser's table names one: `schedule = "linear"`, or `schedule = { use = "linear", … }`.
    """


@hookspec
def ganrun_observers() -> Mapping[str, type[Observer]]:  # type: ignore[empty-body]
    """Listeners to a run's events: trackers, progress bars, checkpoints, pictures.

    A recipe's table of the same name holds its settings: `[mlflow] experiment = "celeba64"`. An `automatic`
    one takes part without a table; `mlflow = false` leaves it out.
    """


# ── Beyond recipes ────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def ganrun_commands() -> Mapping[str, click.Command]:  # type: ignore[empty-body]
    """Commands of `ganrun` itself, by name.

    Import whatever is slow within the command. It raises errors of ganrun's own family, which are told without a
    traceback and end the program with their status, and finds what was trained by `ganrun.find_saved_model`. No name of
    ganrun's own commands can be taken.
    """


@hookspec
def ganrun_trackers() -> Mapping[str, Tracker]:  # type: ignore[empty-body]
    """Places where runs are known by names of their own, so that commands take these names too."""


# ── Health ────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def ganrun_health_checks() -> Mapping[str, Callable[[], HealthCheck]]:  # type: ignore[empty-body]
    """Checks that `ganrun doctor` runs: are the weights there, is the tracking server reachable?

    Each callable answers within seconds and returns a `ganrun.HealthCheck`. It changes nothing, but may repair what is
    certainly wrong, and says so.
    """
