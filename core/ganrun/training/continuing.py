"""Checks whether a run can start in a directory, or continue there."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

from ganrun.base.errors import RequestError
from ganrun.contracts.beginning import has_begin
from ganrun.contracts.scheduled import schedules_in
from ganrun.contracts.settings import Settings
from ganrun.recipe.recipe import ComponentConfig, Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.files import digests_of_files
from ganrun.rundir.stored import made_with
from ganrun.training.components import build_optimizer
from ganrun.training.precision import AUTO
from ganrun.training.starting import has_same_start

FREE = ("compile", "device", "graphs", "log_every_steps", "evaluate_every_steps", "limit_seconds")
"""Settings of [train] that do not decide the weights."""


SHOWN = 200
"""Maximum characters of a value in a message."""

LISTED = 20
"""Maximum differences that a message lists."""


class Difference(NamedTuple):
    """A changed setting."""

    key: str
    """Such as `train.seed`."""

    then: Any
    now: Any

    def __str__(self) -> str:
        then, now = (text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in map(str, (self.then, self.now)))
        return f"{self.key}: {then} in the run, {now} now"


def check_place(directory: RunDirectory, recipe: Recipe, *, resume: bool) -> bool:
    """Check that a run can start in a directory, or continue there; returns whether it continues.

    Args:
        directory: Where the run is to write.
        recipe: What to train.
        resume: Whether the directory may hold this run already.

    Raises:
        RequestError: if it holds a run and `resume` is false, a run of another recipe, or files of a run but no
            recipe.toml.
    """
    if not directory.holds_run:
        directory.check_free()
        return False
    if not resume:
        status = directory.summary().get("status", "unknown")
        raise RequestError(f"{directory.path} holds a run already (status: {status}); add --resume to continue it")
    if differences := differences_from(directory, recipe):
        more = [f"and {len(differences) - LISTED:,} more"] if len(differences) > LISTED else []
        listed = "\n".join(f"  {line}" for line in [*differences[:LISTED], *more])
        raise RequestError(f"{directory.path} holds a run of another recipe, so it cannot be continued:\n{listed}")
    return True


def check_unchanged(directory: RunDirectory, found: Hashable) -> None:
    """Check, while occupying a directory, that the earlier decision about it still holds.

    Args:
        directory: Where the run is to write.
        found: What `directory.state()` was when `check_place` decided; None if nothing was.

    Raises:
        RequestError: if another process has since started, continued or changed a run there.
    """
    if found not in (None, directory.state()):
        holds = "holds a run" if directory.holds_run else "holds no run"
        text = f"another process has changed {directory.path} while this one was preparing; it {holds} now"
        raise RequestError(f"{text} (status: {directory.summary().get('status', 'unknown')}); start again")


def differences_from(directory: RunDirectory, recipe: Recipe) -> list[str]:
    """The settings that would have given the run in a directory other weights: `train.seed: 0 in the run, 1 now`.

    A run may continue with other metrics, observers and cadences, and on another device. A setting that the stored
    recipe does not have yet counts as its default. Paths are compared by content, and so is `[data]`, by
    `check_same_data`.
    """
    new, old = recipe.tables(), recipe.completed(directory.recipe_source().tables, made_with(directory.recipe_path))
    _equate_starts(directory, recipe, new, old)
    if recipe.train.precision == AUTO and isinstance(old["train"], dict):  # which keeps what the run has
        new["train"]["precision"] = old["train"].get("precision")
    found = differences(_deciding(recipe, new), _deciding(recipe, old))
    return list(map(str, (*found, *_changed_files(directory, recipe))))


def stored_recipe(directory: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """The recipe that the run's directory holds, as `resolved` would give it today."""
    return recipe.resolved_like(directory.recipe_source().tables, made_with(directory.recipe_path))


def has_new_metric(recipe: Recipe, stored: Mapping[str, Any]) -> bool:
    """Whether a recipe measures something that the stored one does not; the paths of a metric's files do not matter."""
    return any(
        config.without_paths(config.table()) not in [config.without_paths(table) for table in stored["metric"]]
        for config in recipe.metrics
    )


def differences(new: Any, old: Any, path: str = "") -> Iterator[Difference]:
    """The differences between two trees of tables and lists of them."""
    if isinstance(new, dict) and isinstance(old, dict):
        for name in {**old, **new}:
            yield from differences(new.get(name), old.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(new, list) and isinstance(old, list) and all(isinstance(each, dict) for each in (*new, *old)):
        for number, (each, before) in enumerate(zip_longest(new, old)):
            yield from differences(each, before, f"{path}.{number}")
    elif new != old:
        yield Difference(path, old, new)


def data_settings(directory: RunDirectory, recipe: Recipe) -> list[Difference]:
    """The settings of `[data]` that are not as in the run."""
    old = recipe.completed(directory.recipe_source().tables, made_with(directory.recipe_path))
    return list(differences(recipe.data.table(), old["data"], "data"))


def _deciding(recipe: Recipe, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the tables that decide the weights, besides the content of the data."""
    train = tables["train"]
    decided = {"train": _deciding_train(recipe, train) if isinstance(train, dict) else train}
    return {name: table for name, table in recipe.without_paths({**tables, **decided}).items() if name != "data"}


def _deciding_train(recipe: Recipe, train: dict[str, Any]) -> dict[str, Any]:
    """The parts of `[train]` that decide the weights; a slot has one update per step unless the loss repeats it."""
    free = {*FREE, *(() if _depends_on_steps(recipe) else ("steps",))}
    usual, repeat = recipe.loss.registered.cls.repeat, train.get("repeat")
    kept = {name: value for name, value in train.items() if name not in {*free, "repeat"}}
    if isinstance(repeat, dict):
        kept["repeat"] = {slot: times for slot, times in repeat.items() if times != usual.get(slot, 1)}
    return kept


def _depends_on_steps(recipe: Recipe) -> bool:
    """Whether a learning rate, another number, or a component's `begin` may depend on the run's number of steps."""
    components = list(recipe.deciding_components())
    scheduled = (each for settings in (recipe.ema, *_settings(components)) for each in schedules_in(settings))
    varying = (build_optimizer(config).varies for config in recipe.optimizers.values())
    begun = (has_begin(config.registered.cls) for config in components)
    return any(each.follows_run for each in scheduled) or any(varying) or any(begun)


def _equate_starts(directory: RunDirectory, recipe: Recipe, new: dict[str, Any], old: dict[str, Any]) -> None:
    """Treat a network's `from` as unchanged if its weights are the ones that the run started from."""
    recorded = directory.environment().get("starts")
    for slot, config in recipe.networks.items():
        then = old[slot].get("from") if isinstance(old[slot], dict) else None
        if then not in (None, config.start) and has_same_start(config, slot, recorded):
            new[slot]["from"] = then


def _changed_files(directory: RunDirectory, recipe: Recipe) -> Iterator[Difference]:
    """The files that settings point at and whose content differs from what the run recorded."""
    recorded = directory.environment().get("files")
    for key, now in digests_of_files(recipe).items():
        then = recorded.get(key, now) if isinstance(recorded, dict) else now
        if then != now:
            yield Difference(f"the content of {key}, by its SHA-256", then, now)


def _settings(components: Iterable[ComponentConfig]) -> Iterator[Settings]:
    return (config.settings for config in components)
