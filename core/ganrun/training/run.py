"""A run: everything that was built for one recipe, and what observers may ask of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from ganrun.base.signals import Interruption
from ganrun.contracts.data import Data
from ganrun.contracts.losses import Loss
from ganrun.contracts.metrics import Metric, Score
from ganrun.contracts.specs import ModelSpec
from ganrun.inference.evaluation import SharedEvaluation
from ganrun.inference.model import Model
from ganrun.inference.sources import GeneratedSamples
from ganrun.recipe.recipe import Recipe
from ganrun.rundir.directory import ENVIRONMENT, METRICS, RECIPE, SUMMARY, RunDirectory
from ganrun.training.events import Events
from ganrun.training.state import TrainingState


class Run:
    """One recipe being trained, as observers are given it.

    They read `recipe` (validated, with `recipe.resolved()` as tables), `directory` (where files of the run go),
    `device`, `data` and its `spec`, `loss`, `state` (networks and optimisers), `environment` (as in
    environment.json), `model` (it samples and reconstructs, without disturbing training) and `scores` (the latest of
    each name); and they call `restore`, `past_scores`, `stop`, `announce`, `note` and `tell`.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        directory: RunDirectory,
        device: torch.device,
        data: Data,
        spec: ModelSpec,
        loss: Loss,
        state: TrainingState,
        metrics: Sequence[Metric],
        events: Events,
        environment: dict[str, Any],
        resumed: bool,
    ) -> None:
        self.recipe = recipe
        self.directory = directory
        self.device = device
        self.data = data
        self.spec = spec
        self.loss = loss
        self.state = state
        self.metrics = tuple(metrics)
        self.events = events
        self.environment = environment
        self.resumed = resumed
        """Whether it continues what the directory held already."""
        self.group: str | None = None
        """What replicates of one recipe have in common."""
        self.interruption = Interruption()
        self.scores: dict[str, Score] = {}
        """The latest of each name."""
        self.notes: dict[str, Any] = {}
        """What observers want in summary.json, by their names."""
        self.last_files: dict[str, str] = {}
        """Latest file of each role, relative to the directory."""
        self.stopped: str | None = None
        """Why training ends before the recipe's last step, if somebody said so."""
        self.messages: list[str] = []
        """What observers want the user to read when the run has ended."""
        self.model = Model(
            spec, loss, {name: slot.shown for name, slot in state.slots.items()}, device, recipe.train.seed
        )
        """What is trained, as it is scored and shown."""

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
    def images_per_second(self) -> float:
        """Mean speed over all of the run's steps."""
        return self.state.images_seen / self.state.seconds if self.state.seconds else 0.0

    # ── For observers ─────────────────────────────────────────────────────────────────────────────────

    def evaluation(self) -> SharedEvaluation:
        """What metrics are measured on, as of now."""
        return SharedEvaluation(
            spec=self.spec,
            device=self.device,
            step=self.step,
            seed=self.seed,
            samples=GeneratedSamples(self.model.draw, self.spec, self.device, self.seed),
            data=self.data,
            model=self.model,
            protocol=self._protocol(),
            on_progress=self._evaluating,
        )

    def restore(self, weights: Mapping[str, Mapping[str, Tensor]], progress: Mapping[str, Any]) -> None:
        """Continue from a state that `run.state.weights()` and `run.state.progress()` once gave.

        Raises:
            RequestError: if it belongs to other networks.
        """
        self.state.load(weights, progress)

    def past_scores(self, name: str) -> list[tuple[int, Score]]:
        """What was measured by that name before this step, with the step, in order.

        What was measured of the step itself is measured anew where a run is continued, and told by `evaluated`.
        """
        found = []
        for record in self.directory.records():
            value = record.get(f"eval/{name}")
            if value is not None and record["step"] < self.step and not record.get("rescored"):
                is_higher = record["directions"][name] == "higher"
                found.append((record["step"], Score(name, value, is_higher, record["protocols"][name])))
        return found

    def stop(self, reason: str) -> None:
        """End training as if this had been the last step; to be called at `evaluated` or `step_ended`."""
        self.stopped = reason

    def announce(self, path: Path, role: str) -> None:
        """Say that a file of the run is complete on disk: fires `file_written`."""
        self.last_files[role] = str(path.relative_to(self.directory.path))
        self.events.emit("file_written", run=self, path=path, role=role)

    def note(self, name: str, content: Any) -> None:
        """Put something into summary.json under `name`."""
        self.notes[name] = content

    def tell(self, message: str) -> None:
        """Have a line printed when the run has ended."""
        self.messages.append(message)

    # ── For the runner ────────────────────────────────────────────────────────────────────────────────

    def emit(self, event: str, **arguments: Any) -> None:
        """Tell the observers, with the run, its step and the images seen."""
        self.events.emit(event, run=self, step=self.step, images_seen=self.images_seen, **arguments)

    def write_facts(self) -> None:
        """Write recipe.toml and environment.json: what is being trained, and with what."""
        text = f"{self.recipe.source.preamble}\n{tomli_w.dumps(self.recipe.resolved())}".lstrip()
        self.directory.write_text(RECIPE, text)
        self.directory.write_json(ENVIRONMENT, self.environment)
        self.announce(self.directory / RECIPE, "recipe")
        self.announce(self.directory / ENVIRONMENT, "environment")

    def record(self, **content: Any) -> None:
        """Add a line to metrics.jsonl."""
        head = {
            "step": self.step,
            "images_seen": self.images_seen,
            "seconds": round(self.state.seconds, 3),
            "time": round(time.time(), 3),
        }
        self.directory.append_record({**head, **content})

    def write_summary(self, status: str, error: BaseException | None = None) -> None:
        """Write summary.json as of now; with the `error` that stopped the run, if one did."""
        self.directory.write_json(
            SUMMARY,
            {
                "name": self.name,
                "status": status,
                **({} if error is None else {"error": str(error) or type(error).__name__}),
                "steps": self.step,
                "images_seen": self.images_seen,
                "seconds": round(self.state.seconds, 3),
                "images_per_second": round(self.images_per_second, 1),
                "device": self.environment["device_name"],
                "scores": {name: score.value for name, score in self.scores.items()},
                **score_tables(list(self.scores.values())),
                "last": self.last_files,
                **self.notes,
            },
        )
        if (self.directory / METRICS).is_file():
            self.announce(self.directory / METRICS, "metrics")
        self.announce(self.directory / SUMMARY, "summary")

    def _evaluating(self, what: str, done: int, total: int) -> None:
        self.interruption.check()
        self.events.emit("evaluating", run=self, what=what, done=done, total=total)

    def _protocol(self) -> dict[str, str | int | float | bool]:
        """What is scored: which seed's model, and whether its average."""
        averaged = any(slot.average is not None for slot in self.state.slots.values())
        return {"ema_decay": self.recipe.ema.decay if averaged and self.recipe.ema else 0.0, "seed": self.seed}


def score_tables(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """What is told of scores beside their values, by their names: the better direction, protocols, errors, floors."""
    return {
        "directions": {score.name: "higher" if score.higher_is_better else "lower" for score in scores},
        "protocols": {score.name: dict(score.protocol) for score in scores},
        "errors": {score.name: score.error for score in scores if score.error is not None},
        "floors": {score.name: score.floor for score in scores if score.floor is not None},
    }
