"""The observer that monitors a run's health."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal, get_args

import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

import ganrun
from ganrun import ContractError, Model, Run, Score, observes, to_unit_range
from ganrun_watch.signs import diversity, gradient_norm, separation
from ganrun_watch.troubles import Trouble, collapse, dominance, explosion, vanishing, worsening

log = logging.getLogger("ganrun")

Sign = Literal["discriminator", "diversity", "gradients", "scores"]

RECORDS = 64
"""Samples, and real records, per check."""

PREFIX = "watch/"
"""Prefix of its numbers' names: `watch/diversity`, `watch/separation.<slot>`, `watch/gradient.<slot>`."""

HEALTH, GOOD = "health", "good"
"""The entry in summary.json, and its value without trouble."""


class Watch(ganrun.Observer):
    """Warns when training goes wrong: in the terminal, as `health` in summary.json and MLflow, and as `watch/…` curves.

    At intervals it compares 64 samples with 64 real records, using the networks in training. It has no effect on
    training: the weights are bit for bit those of a run without it. The signs of trouble are the same for all losses:

    discriminator: the distance of its outputs for samples from those for real records stays above 10 standard
    deviations (`watch/separation.<slot>`). diversity: the distances between samples, relative to those between real
    records, stay below 0.3 of their earlier level (`watch/diversity`). gradients: their norm is 100 times the largest
    so far, or a thousandth of the usual (`watch/gradient.<slot>`); not available for optimisers without a second
    moment, unless they clip. scores: several evaluations in a row are worse than those around the score's best, by a
    quarter of its gain.
    """

    class Settings(ganrun.Settings):
        signs: tuple[Sign, ...] = get_args(Sign)
        """The signs that are watched for."""

        every_steps: int = Field(250, ge=1)
        """Steps between two checks of samples."""

        for_steps: int = Field(1000, ge=0)
        """Steps for which the signs of discriminator and diversity must last before they count as trouble."""

        evaluations: int = Field(5, ge=2)
        """Evaluations for which a score must be worse than at its best before that counts as trouble."""

        on_trouble: Literal["warn", "stop", "roll-back"] = "warn"
        """warn: training goes on. stop: it ends as after its last step, with a checkpoint and scores. roll-back: it
        returns to its latest checkpoint from before the trouble, and continues with other random numbers; also instead
        of failing on non-finite values. If [checkpoints] keep does not reach back that far, the run stops."""

        roll_backs: int = Field(3, ge=1)
        """Maximum number of roll-backs. At the next trouble the run stops."""

    settings: Settings
    automatic = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        """The recorded numbers, by name."""
        self._looked_at = 0
        """The step of the last check."""
        self._scores: list[Trouble] = []
        """The troubles of the latest evaluation."""
        self._present: set[str] = set()
        """The kinds of trouble at the last check."""

    @observes
    def run_started(self, run: Run) -> None:
        """Take over the recorded numbers of a resumed run."""
        self._networks = _Networks(run)
        if run.resumed:
            self._take_up(run)
        if not run.resumed or HEALTH not in run.notes:
            run.add_to_summary(HEALTH, GOOD)
        if self.settings.on_trouble == "roll-back":
            run.roll_backs = self.settings.roll_backs

    @observes
    def measured(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """Check the gradients, which have just been read from the device; and samples at their interval. The first
        gradients are remembered, too: training may explode before the first look."""
        found = _on_host(self._networks.gradients(values) if "gradients" in self.settings.signs else {})
        is_look = step // self.settings.every_steps > self._looked_at // self.settings.every_steps
        if is_look:
            found |= _on_host(self._networks.look(self.settings.signs))
        troubles = list(self._found({name: (step, value) for name, value in found.items()}))
        is_trouble = self._tell(run, troubles)
        if is_trouble or is_look or not self._history:
            self._note(step, found)
        if is_trouble or (is_look and found):
            run.record({**found, f"{PREFIX}troubles": len(troubles)})

    @observes
    def evaluated(self, run: Run, step: int, scores: Sequence[Score]) -> None:
        """Judge each score by its history."""
        if "scores" in self.settings.signs:
            histories = [[*run.past_scores(score.name), (step, score)] for score in scores]
            found = [worsening(history, self.settings.evaluations) for history in histories]
            self._scores = [trouble for trouble in found if trouble is not None]
            self._tell(run, list(self._found({})))

    @observes
    def rolled_back(self, run: Run, step: int, reason: str) -> None:
        """Discard everything after the step to which the run has gone back."""
        self._take_up(run)
        lines = [line for line in _lines(run) if line != reason]
        self._set_health(run, [*lines, f"{reason.splitlines()[0]}; the run went back to step {step}"])

    @observes
    def run_ended(self, run: Run) -> None:
        """Print a summary of what went wrong."""
        for line in _lines(run):
            run.add_message(f"trouble: {line}")

    def _take_up(self, run: Run) -> None:
        """Continue from metrics.jsonl. Troubles that are already there are not reported again."""
        self._history.clear()
        self._scores, self._looked_at = [], 0
        for record in run.directory.records():
            self._note(record.step, {name: value for name, value in record.values.items() if name.startswith(PREFIX)})
        self._present = {trouble.kind for trouble in self._found({})}

    def _note(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            self._looked_at = step
        for name, value in values.items():
            self._history[name].append((step, value))

    def _found(self, now: Mapping[str, tuple[int, float]]) -> Iterator[Trouble]:
        """The current troubles, from the history and the numbers of `now`."""
        for name in {**self._history, **now}:
            history = [*self._history.get(name, ()), *([now[name]] if name in now else [])]
            yield from _troubles_of(name, history, self.settings.for_steps)
        yield from self._scores

    def _tell(self, run: Run, troubles: Sequence[Trouble]) -> bool:
        """Report and act on troubles that are new since the last check; returns whether there are any."""
        new = [trouble for trouble in troubles if trouble.kind not in self._present]
        self._present = {trouble.kind for trouble in troubles}
        for trouble in new:
            log.warning("step %d: %s", run.step, trouble.text)
        if new:
            self._set_health(run, [*_lines(run), *(trouble.text for trouble in new)])
            self._act(run, min(new, key=lambda trouble: trouble.good_until))
        return bool(new)

    def _act(self, run: Run, trouble: Trouble) -> None:
        if self.settings.on_trouble == "roll-back" and run.state.attempt < self.settings.roll_backs:
            run.roll_back(trouble.text, trouble.good_until)
        elif self.settings.on_trouble != "warn" and not run.done:
            run.stop(trouble.text)

    def _set_health(self, run: Run, lines: Sequence[str]) -> None:
        run.add_to_summary(HEALTH, "\n".join(dict.fromkeys(lines)))


def _lines(run: Run) -> list[str]:
    """The troubles of the run so far, one per line."""
    health = run.notes.get(HEALTH, GOOD)
    return [] if health == GOOD else str(health).splitlines()


def _troubles_of(name: str, history: Sequence[tuple[int, float]], for_steps: int) -> list[Trouble]:
    """The troubles that a number indicates."""
    sign, _, slot = name.removeprefix(PREFIX).partition(".")
    found = {
        "diversity": lambda: [collapse(history, for_steps)],
        "separation": lambda: [dominance(slot, history, for_steps)],
        "gradient": lambda: [explosion(slot, history), vanishing(slot, history)],
    }.get(sign, list)()
    return [trouble for trouble in found if trouble is not None]


def _on_host(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars, read from the device at once."""
    if not values:
        return {}
    stacked = torch.stack([value.double().to(next(iter(values.values())).device) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))


class _Networks:
    """The networks in training, not their averages, which lag behind.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        shown, self._slots = run.model, run.state.slots
        trained = {name: slot.module for name, slot in self._slots.items()}
        self._model = Model(
            shown.spec, shown.loss, trained, shown.device, run.seed, sampling=shown.sampling, data=lambda: run.data
        )
        slots = shown.loss.slots.items()
        self._judges = [name for name, slot in slots if slot.kind == "discriminator" and slot.augmented]
        self._split = run.training_split

    def gradients(self, means: Mapping[str, float]) -> dict[str, Tensor]:
        """Norms of the gradients of each slot for which they are known: exactly where they are clipped."""
        found = {}
        for name, slot in self._slots.items():
            if f"grad/{name}" in means:
                found[f"{PREFIX}gradient.{name}"] = torch.tensor(means[f"grad/{name}"])
            elif slot.optimizer is not None and (norm := gradient_norm(slot.optimizer)) is not None:
                found[f"{PREFIX}gradient.{name}"] = norm
        return found

    def look(self, signs: Sequence[Sign]) -> dict[str, Tensor]:
        """The numbers of samples and discriminators."""
        found = {}
        if "diversity" in signs:
            samples = self._model.decode(self._model.fixed_latents(len(self._real[0])))
            found[f"{PREFIX}diversity"] = diversity(samples, self._real[0])
        for name in self._judges if "discriminator" in signs else ():
            with suppress(ContractError):  # the network's real inputs are unknown
                found[f"{PREFIX}separation.{name}"] = separation(*self._model.judge(name, *self._real))
        return found

    @cached_property
    def _real(self) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Images, labels and fields of some records, always the same."""
        split = self._split
        labels = None if split.labels is None else self._some(split.labels)
        return self._some(split.images), labels, {name: self._some(each) for name, each in split.beside.items()}

    def _some(self, rows: npt.NDArray[Any]) -> Tensor:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        return to_unit_range(torch.from_numpy(rows[order[:RECORDS].sort().values.numpy()]).to(self._model.device))
