"""The hooks of a plugin: what it can offer, and how.

A plugin is a module (or any object) that a package names in the entry-point group `ganrun`:

    [project.entry-points.ganrun]
    stylegan = "ganrun_stylegan"

It has one function for each kind of component that it offers, marked with `ganrun.hookimpl`. Import torch and the
components inside the function, so that `ganrun --help` and `ganrun plugins` stay fast:

    from ganrun import hookimpl

    @hookimpl
    def ganrun_generators():
        from ganrun_stylegan.networks import StyleGenerator
        return {"stylegan2": StyleGenerator}

Rules for all hooks of components:

- A hook is called once, when a component of its kind is first needed. The order of plugins has no meaning.
- A name has lower-case letters, digits and hyphens: it is what a recipe says in `use = "…"`.
- Two plugins may offer the same name; a recipe that uses it must then say `use = "plugin:name"`.
- An implementation that raises marks its plugin as broken. That stops a run only if its recipe needs the plugin.
"""

# A specification has no body: plugins implement it.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ganrun.contracts.markers import hookspec

if TYPE_CHECKING:
    import click

    from ganrun.contracts.augmentations import Augmentation
    from ganrun.contracts.data import Data
    from ganrun.contracts.extractors import Extractor
    from ganrun.contracts.health import HealthCheck
    from ganrun.contracts.losses import Loss
    from ganrun.contracts.metrics import Metric
    from ganrun.contracts.networks import Discriminator, Generator, Network
    from ganrun.contracts.observers import Observer
    from ganrun.contracts.optimizers import Optimizer, Schedule
    from ganrun.contracts.regularizers import Regularizer
    from ganrun.contracts.trackers import Tracker


# ── Components ────────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """Networks from latents to samples in [-1, 1].

    A recipe fills a loss's slot of kind `generator` with one: `[generator] use = "dcgan"`.
    """


@hookspec
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """Networks from images to one vector each: critics, classifiers with heads, encoders.

    A recipe fills a loss's slot of kind `discriminator` with one: `[discriminator]`, or `[encoder]` in a VAE.
    """


@hookspec
def ganrun_networks() -> Mapping[str, type[Network]]:
    """Networks of any inputs and outputs: translators, velocity fields, mappings.

    A recipe fills a loss's slot of kind `network` with one, in the table of the slot's name.
    """


@hookspec
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """Training objectives: slots, latents and phases. A recipe has exactly one: `[loss] use = "wgan-gp"`."""


@hookspec
def ganrun_augmentations() -> Mapping[str, type[Augmentation]]:
    """Augmentations of every image that a discriminator is shown. A recipe has one or none: `[augmentation] use =
    "ada"`.
    """


@hookspec
def ganrun_regularizers() -> Mapping[str, type[Regularizer]]:
    """Penalties on one network. A recipe has any number of them: `[[regularizer]] use = "r1"`."""


@hookspec
def ganrun_data() -> Mapping[str, type[Data]]:
    """Data sets. A recipe has exactly one: `[data] use = "celeba"`."""


@hookspec
def ganrun_metrics() -> Mapping[str, type[Metric]]:
    """Metrics that score samples. A recipe has any number of them: `[[metric]] use = "fid"`."""


@hookspec
def ganrun_extractors() -> Mapping[str, type[Extractor]]:
    """Networks from images to features, for metrics that compare features.

    Their tables name one: `features = "inception"`, or `features = { use = "inception", weights = "…" }`.
    """


@hookspec
def ganrun_optimizers() -> Mapping[str, type[Optimizer]]:
    """Optimisers. A recipe has one for each slot of its loss: `[optimizer] use = "adam"` for all of them, and
    `[optimizer.discriminator]` to override it for one.
    """


@hookspec
def ganrun_schedules() -> Mapping[str, type[Schedule]]:
    """Schedules, which change the learning rate over a run.

    The table of an optimiser names one: `schedule = "linear"`, or `schedule = { use = "linear", … }`.
    """


@hookspec
def ganrun_observers() -> Mapping[str, type[Observer]]:
    """Observers, which handle the events of a run: trackers, progress bars, checkpoints, sample grids.

    The recipe's table of the same name has its settings: `[mlflow] experiment = "celeba64"`. An `automatic` observer
    takes part without a table; `mlflow = false` leaves it out.
    """


# ── Beyond recipes ────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def ganrun_commands() -> Mapping[str, click.Command]:
    """Subcommands of `ganrun`, by name.

    `ganrun --help` imports their module, so import slow packages inside the command. The command line reports a
    `ganrun.GanrunError` without a traceback and exits with its status. `ganrun.find_saved_model` loads trained models.
    A plugin cannot replace a command of ganrun or of another plugin.
    """


@hookspec
def ganrun_trackers() -> Mapping[str, Tracker]:
    """Trackers, which know runs by ids: commands accept these ids in place of run directories."""


# ── Health ────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def ganrun_health_checks() -> Mapping[str, Callable[[], HealthCheck]]:
    """Checks that `ganrun doctor` runs: are the weights present, is the tracking server reachable?

    Each callable returns a `ganrun.HealthCheck` within seconds. It changes nothing, except that it may repair an
    obvious defect, and then reports that.
    """
