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

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ganrun.markers import eventspec, hookspec

if TYPE_CHECKING:
    import click

    from ganrun.checkups import Checkup
    from ganrun.components import Data, Discriminator, Extractor, Generator, Metric, Observer, Score
    from ganrun.losses import Loss
    from ganrun.run import Run
    from ganrun.trackers import Tracker


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
    traceback and end the program with their status, and finds what was trained by `ganrun.find_trained`. No name of
    ganrun's own commands can be taken.
    """


@hookspec
def ganrun_trackers() -> Mapping[str, Tracker]:  # type: ignore[empty-body]
    """Places where runs are known by names of their own, so that commands take these names too."""


# ── Health ────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def ganrun_checkups() -> Mapping[str, Callable[[], Checkup]]:  # type: ignore[empty-body]
    """Questions that `ganrun doctor` asks: are the weights there, is the tracking server reachable?

    Each callable answers within seconds and returns a `ganrun.Checkup`. It changes nothing, but may set right what is
    certainly wrong, and says so.
    """


# ── The events of a run ───────────────────────────────────────────────────────────────────────────────────


class RunEvents:
    """The events of one run, in the order in which they fire:

        run_starting → run_started
          → per step: [measured] → step_ended → [evaluating … → evaluated]
        → [run_failed] → run_ended

    `file_written` comes at any time between. An observer implements any of them as a method marked with
    `ganrun.observes`, taking the arguments it needs:

        class Bell(ganrun.Observer):
            \"""Rings when a run ends.\"""

            @ganrun.observes
            def run_ended(self, status):
                print("\\a", status)

    Delivery is one observer at a time: essential ones first, then by name; `@observes(tryfirst=True)` and
    `@observes(trylast=True)` move one. A fault in an essential observer stops the run. A fault in any other is
    reported under its name, that observer hears no more of this run, and the run goes on.
    """

    @eventspec
    def run_starting(self, run: Run) -> None:
        """Everything is built and checked, the run directory exists, no step is done. The place to `run.restore`.

        What cannot be started or continued is refused here, by a `RequestError`: nothing has been written yet, and no
        other event follows.
        """

    @eventspec
    def run_started(self, run: Run) -> None:
        """Training begins at `run.step` (0, or the step that was restored)."""

    @eventspec
    def step_ended(self, run: Run, step: int, images_seen: int) -> None:
        """After every step, counted from 1. Costs no read from the device; keep it that way.

        Args:
            run: The run.
            step: Steps done.
            images_seen: Real images consumed, over all ranks.
        """

    @eventspec
    def measured(self, run: Run, step: int, images_seen: int, values: Mapping[str, float]) -> None:
        """Every `train.log_every_steps`, and after the last step: means over the steps since the last time.

        Args:
            run: The run.
            step: Steps done.
            images_seen: Real images consumed.
            values: `loss/<phase>`, `loss/<phase>.<term>`, `grad/<slot>` where gradients are clipped,
                `lr/<slot>` where a schedule moves it, `perf/images_per_second`, `perf/step_milliseconds`. All finite.
        """

    @eventspec
    def evaluating(self, run: Run, what: str, done: int, total: int) -> None:
        """While samples are drawn, images read and scores computed, after each batch of them.

        Args:
            run: The run.
            what: `samples`, `train images`, `test images` or `scores`.
            done: How many of them are done.
            total: How many there are.
        """

    @eventspec
    def evaluated(self, run: Run, step: int, images_seen: int, scores: Sequence[Score]) -> None:
        """Every `train.evaluate_every_steps`, and after the last step, where the recipe has metrics.

        Args:
            run: The run.
            step: Steps done.
            images_seen: Real images consumed.
            scores: Every score of this evaluation, each with its protocol.
        """

    @eventspec
    def rescored(self, run: Run, step: int, images_seen: int, scores: Sequence[Score]) -> None:
        """A run that had ended was scored again, by `ganrun eval`. Of the other events, only `evaluating` comes
        with it.

        Args:
            run: The run, with the weights of a checkpoint; it is not trained on.
            step: The checkpoint's step.
            images_seen: Real images consumed until then.
            scores: What was measured, each with its protocol.
        """

    @eventspec
    def file_written(self, run: Run, path: Path, role: str) -> None:
        """A file or folder of the run is complete on disk.

        Args:
            run: The run.
            path: Absolute; inside the run directory.
            role: What it is: `recipe`, `environment`, `metrics`, `samples`, `checkpoint`, `summary`, or a plugin's own.
        """

    @eventspec
    def run_failed(self, run: Run, error: BaseException) -> None:
        """The run stopped before its last step, by a fault or by the user; `run_ended` follows.

        Args:
            run: The run.
            error: What stopped it; `ganrun.Interrupted` for Ctrl-C and SIGTERM.
        """

    @eventspec
    def run_ended(self, run: Run, status: str) -> None:
        """The last event of every run.

        Args:
            run: The run.
            status: `finished`, `failed` or `interrupted`.
        """
