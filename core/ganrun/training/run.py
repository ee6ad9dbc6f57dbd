"""A run: the object that its observers read and call."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ganrun.base.errors import ContractError, GanrunError
from ganrun.base.faults import Faults
from ganrun.base.jsons import json_text
from ganrun.base.launched import ALONE, Ranks
from ganrun.base.ranks import largest_over_ranks, ranks
from ganrun.base.signals import DeferredSignals
from ganrun.contracts.data import Split
from ganrun.contracts.scores import Score
from ganrun.inference.evaluation import SharedEvaluation
from ganrun.inference.samples import GeneratedSamples
from ganrun.rundir.checkpoints import Checkpoint
from ganrun.rundir.contents import table_in
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.records import (
    RUN_FILES,
    LatestScore,
    Record,
    last_files_in,
    latest_scores,
    notes_in,
    summary_entries,
)
from ganrun.training.assembly import Assembly

log = logging.getLogger("ganrun")


class Emitter(Protocol):
    """Delivers events to the observers of a run."""

    def emit(self, event: str, **arguments: Any) -> None:
        """Call every observer that implements `event`."""


class RollBack(NamedTuple):
    """A requested roll-back."""

    reason: str
    """The trouble, in words."""

    good_until: int
    """The last step at which nothing was wrong."""


class Run:
    """One recipe being trained.

    Observers read what was built for it: `recipe` (validated, with `recipe.resolved()` as tables), `data`, and of it
    `training_split` (the records to train on: the train split, or the share that the recipe asks for), `model` (it
    samples and reads records without disturbing training; `model.spec` has the facts, `model.loss` the loss), `state`
    (networks and optimisers), `phases` (of a step), `metrics` and `environment` (this start, as in environment.json);
    and `directory`, where files of the run go, and `scores`, the latest of each name.

    Args:
        assembly: What was built.
        directory: The run's directory.
        events: Delivers events to the observers.
        resumed: Whether the run continues what the directory holds already.
        found: The directory's `RunDirectory.state` when that was decided; None if it does not matter.
    """

    def __init__(
        self, assembly: Assembly, directory: RunDirectory, events: Emitter, *, resumed: bool, found: Hashable = None
    ) -> None:
        self.recipe = assembly.recipe
        self.data = assembly.data
        self.training_split: Split = assembly.training
        self.model = assembly.model
        self.state = assembly.state
        self.metrics = assembly.metrics
        self.phases = assembly.phases
        self.environment = assembly.environment
        self._beginning = assembly.beginning
        self.directory = directory
        self.events = events
        self.resumed = resumed
        self.group: str | None = None
        """The name that replicates of one recipe share; None for a single run."""
        self.interruption = DeferredSignals()
        """Signals while the run executes, and its time limit."""
        self.started: float | None = None
        """Start of `[train] limit_seconds`, by `time.monotonic`; None to start with the training."""
        self.faults = Faults()
        """What observers and metrics failed to do without ending the run."""
        self.lacks_scores = False
        """Whether a metric has failed in the latest evaluation, so that its scores are missing."""
        self.scores: dict[str, Score] = {}
        """The latest of each name."""
        self.notes: dict[str, Any] = {}
        """Content that observers add to summary.json, by name."""
        self.last_files: dict[str, str] = {}
        """Latest file of each role, relative to the directory."""
        self.messages: list[str] = []
        """Lines to print when the run has ended."""
        self.unheard = False
        """Whether some observer may not have received the last step's `step_ended` yet."""
        self.stopped: str | None = None
        """Why training ended before the recipe's last step; None unless an observer stopped it."""
        self.found = found
        """The directory's state when it was decided whether the run starts or continues there."""
        self.roll_backs = 0
        """How often the run may go back automatically if training is no longer finite. Observers set it in
        `run_started`."""
        self.going_back: RollBack | None = None
        """The roll-back requested by `roll_back`, until it is carried out."""

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.recipe.train.seed

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.train.steps

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state.step

    @property
    def images_seen(self) -> int:
        """Real images consumed."""
        return self.state.images_seen

    @property
    def structure(self) -> Hashable:
        """The last results of the components' `begin`. While they are the same, a step runs the same operations."""
        return self._beginning.structure

    @property
    def done(self) -> bool:
        """Whether training has ended: after the recipe's last step, or because an observer stopped it."""
        return self.stopped is not None or self.step >= self.steps

    # ── For observers ─────────────────────────────────────────────────────────────────────────────────

    def evaluation(self, at: Ranks = ALONE) -> SharedEvaluation:
        """An evaluation of the current weights, for metrics; emits `evaluating` after each batch.

        Args:
            at: This rank, if all ranks evaluate together; by default, this process evaluates alone.
        """
        model = self.model
        averaged = any(slot.average is not None for slot in self.state.slots.values())
        decay = self.recipe.ema.text if averaged and self.recipe.ema else 0.0
        return SharedEvaluation(
            spec=model.spec,
            device=model.device,
            step=self.step,
            seed=self.seed,
            samples=GeneratedSamples(model.draw, model.spec, model.device, self.seed, model.given),
            data=self.data,
            model=model,
            protocol={"ema_decay": decay, "seed": self.seed, **model.sampling_protocol, **self._unfinished()},
            on_progress=self._evaluating,
            at=at,
        )

    def checkpoint(self, *, unheard: bool = False) -> Checkpoint:
        """The current state, as `ganrun.save_checkpoint` writes it. metrics.jsonl is flushed to disk first, so that no
        checkpoint is ahead of its records.

        Args:
            unheard: Whether a run that continues from it emits the step's `step_ended` again: `run.unheard`, unless the
                caller is the last observer to receive it.

        Raises:
            NonFiniteError: if a weight is NaN or infinite.
            RunError: if metrics.jsonl cannot be written.
        """
        weights, progress = self.state.checkpoint()
        last = {role: name for role, name in self.last_files.items() if name not in RUN_FILES}
        summary = json_text({"steps": self.step, "last": last, **self.notes}, sort_keys=True)
        records = {"records": self.directory.flush_records(), "summary": summary}
        return Checkpoint(weights, {**progress, **records, **({"unheard": True} if unheard else {})})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. `scores` are then the latest up to its step, from metrics.jsonl; and summary.json
        keeps what observers had added by then.

        Raises:
            RequestError: if it belongs to other networks, or metrics.jsonl cannot be read.
        """
        self.state.load(checkpoint)
        self.begin()
        self._tell_missing(checkpoint.progress.get("records"))
        self.unheard = bool(checkpoint.progress.get("unheard"))
        self.scores = {name: latest.score for name, latest in self.latest_scores().items()}
        summary = self.directory.summary()
        self.lacks_scores = self.faults.restore(summary.get("faults"), self.step)
        self._take_up(summary, table_in(checkpoint.progress.get("summary")))

    def latest_scores(self) -> dict[str, LatestScore]:
        """The latest score of each name in metrics.jsonl until this step, and the step of each; without those that
        `ganrun eval` measured with other sampling settings.

        Raises:
            RequestError: if metrics.jsonl cannot be read.
        """
        return latest_scores(self.directory.evaluations(), self.step, self.model.sampling_protocol)

    def begin(self) -> None:
        """Set everything that is a function of the step to the run's step: components' `begin`, and scheduled numbers.
        The engine has already done so whenever an observer is called.

        Raises:
            ContractError: naming the component, if its `begin` fails.
        """
        self._beginning.at(self.step)

    def past_scores(self, name: str) -> list[tuple[int, Score]]:
        """The scores of that name from before this step, each with its step, in order; of several at a step, the last.

        Those of the step at which a run was resumed arrive by `evaluated`.

        Raises:
            RequestError: if metrics.jsonl cannot be read.
        """
        lines = [record for record in self.directory.evaluations() if record.step < self.step and not record.rescored]
        return list({record.step: record.scores()[name] for record in lines if name in record.scores()}.items())

    def stop(self, reason: str) -> None:
        """End training as if this had been the last step: a checkpoint, the last means and scores still follow."""
        self.stopped = reason

    def roll_back(self, reason: str, good_until: int) -> None:
        """Go back to the latest checkpoint at or before step `good_until`, and continue from there with other random
        numbers: latents, flips, dropout; the order of records stays the same. It happens between two steps, and
        `rolled_back` follows. Without such a checkpoint, training ends as by `stop`.

        Args:
            reason: What went wrong.
            good_until: The last step at which nothing was wrong.
        """
        self.going_back = RollBack(reason, good_until)

    def announce(self, path: Path, role: str) -> None:
        """Report that a file or folder of the run is complete on disk: emits `file_written`.

        Args:
            path: Absolute; inside the run directory.
            role: As in the event.
        """
        self.last_files[role] = str(path.relative_to(self.directory.path))
        self.events.emit("file_written", run=self, path=path, role=role)

    def record(self, values: Mapping[str, float], scores: Sequence[Score] = (), *, rescored: bool = False) -> None:
        """Add a line to metrics.jsonl: numbers, or scores. Numbers are named `<section>/<name>`.

        Raises:
            ContractError: if a name has no section, or the section is the engine's: `loss`, `grad`,
                `augmentation`, `lr`, `perf` or `eval`.
            RunError: if it cannot be written.
        """
        for name in values:
            check_recorded(name)
        add_line(self, values, scores, rescored=rescored)

    def agree(self) -> None:
        """Let all ranks agree on whether training ends or goes back here: because of an observer on the first one, or
        of a signal or time limit on any."""
        if ranks().total == 1:
            return
        stops, goes_back, self.roll_backs, exit_status = largest_over_ranks(
            int(self.stopped is not None),
            int(self.going_back is not None),
            self.roll_backs,
            self.interruption.exit_status,
        )
        if goes_back and self.going_back is None:
            self.going_back = RollBack("the first rank has gone back", self.step)
        if stops and self.stopped is None:
            self.stopped = "the first rank has stopped it"
        self.interruption.agreed = exit_status

    def add_to_summary(self, name: str, content: Any) -> None:
        """Add JSON content to summary.json under `name`. A resumed run keeps it until it is added again.

        Raises:
            ContractError: if the name is one of the summary's own entries, such as `status`.
        """
        if name in summary_entries():
            raise ContractError(f'an observer adds "{name}" to the summary, which has an entry of that name; rename it')
        self.notes[name] = content

    def add_message(self, message: str) -> None:
        """Add a line to print when the run has ended."""
        self.messages.append(message)

    def emit(self, event: str, **arguments: Any) -> None:
        """Emit an event with the run, its step and the images seen."""
        self.events.emit(event, run=self, step=self.step, images_seen=self.images_seen, **arguments)

    def _take_up(self, *summaries: Mapping[str, Any]) -> None:
        """Restore what observers had added to summaries up to the run's step, the latest step first."""
        steps = [(each.get("steps"), each) for each in summaries]
        until = [(step, each) for step, each in steps if isinstance(step, int) and step <= self.step]
        for _, summary in sorted(until, key=lambda each: each[0], reverse=True):
            self.notes = notes_in(summary) | self.notes
            self.last_files = last_files_in(summary) | self.last_files

    def _tell_missing(self, count: object) -> None:
        """Warn if metrics.jsonl lacks lines that belong to the restored state; 0.1.0 did not count them."""
        missing = self.directory.missing_records(count, self.step) if isinstance(count, int) else 0
        if missing:
            text = "%s lacks %d of the %d lines until step %d, which are lost; the curves have a gap there"
            log.warning(text, self.directory.metrics_path, missing, count, self.step)

    def _unfinished(self) -> dict[str, str]:
        """For a protocol, structures that differ from those of the last step: `{"structure.generator": "8×8"}`."""
        return {f"structure.{name}": now for name, now in self._beginning.unfinished(self.step).items()}

    def _evaluating(self, what: str, done: int, total: int) -> None:
        self.interruption.check()
        try:
            self.events.emit("evaluating", run=self, what=what, done=done, total=total)
        except GanrunError as error:  # an essential observer's error, not that of the metric being measured
            error.ends_run = True
            raise


ENGINE_SECTIONS = ("loss", "grad", "augmentation", "lr", "perf", "eval")
"""Sections of metrics.jsonl in which only the engine records."""


def check_recorded(name: str) -> None:
    """Check that a number may be recorded under this name by an observer.

    Raises:
        ContractError: if it has no section, or the engine's.
    """
    section, slash, _ = name.partition("/")
    if not slash or section in ENGINE_SECTIONS:
        fault = f'"{section}/" is a section of ganrun\'s own numbers' if slash else "a name has a section"
        raise ContractError(
            f'an observer records "{name}", but {fault}; call it, for example, "mine/{name.rpartition("/")[2]}"'
        )


def add_line(run: Run, values: Mapping[str, float], scores: Sequence[Score] = (), *, rescored: bool = False) -> None:
    """Add a line to metrics.jsonl, in any section.

    Raises:
        RunError: if it cannot be written.
    """
    state = run.state
    line = Record(state.step, state.images_seen, state.seconds, time.time(), values, tuple(scores), rescored)
    run.directory.append_record(line)
