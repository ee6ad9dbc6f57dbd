"""Whether a directory can hold a run: a new one, or the same one, continued."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from ganrun.base.errors import RequestError
from ganrun.contracts.beginning import has_begin
from ganrun.contracts.scheduled import schedules_in
from ganrun.contracts.settings import Settings
from ganrun.recipe.recipe import ComponentConfig, Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.stored import made_with
from ganrun.training.components import build_optimizer

FREE = ("device", "log_every_steps", "evaluate_every_steps")
"""Settings of [train] that do not decide the weights."""


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
        listed = "\n".join(f"  {line}" for line in differences)
        raise RequestError(f"{directory.path} holds a run of another recipe, so it cannot be continued:\n{listed}")
    return True


def differences_from(directory: RunDirectory, recipe: Recipe) -> list[str]:
    """The settings that would have given the run in a directory other weights: `train.seed: 0 in the run, 1 now`.

    A run may continue with other metrics, observers and cadences, and on another device. Like is compared with like:
    a setting that the stored recipe does not have yet is at its default.
    """
    new, old = recipe.tables(), recipe.completed(_stored(directory), made_with(directory.recipe_path))
    for tables in (new, old):
        if isinstance(tables["train"], dict):
            tables["train"] = _deciding(recipe, tables["train"])
    return list(_differences(new, old))


def _deciding(recipe: Recipe, train: dict[str, Any]) -> dict[str, Any]:
    """What of `[train]` decides the weights; one update per step is what a slot has unless the loss repeats it."""
    free = {*FREE, *(() if _depends_on_steps(recipe) else ("steps",))}
    usual, repeat = recipe.loss.registered.cls.repeat, train.get("repeat")
    kept = {name: value for name, value in train.items() if name not in {*free, "repeat"}}
    if isinstance(repeat, dict):
        kept["repeat"] = {slot: times for slot, times in repeat.items() if times != usual.get(slot, 1)}
    return kept


def _depends_on_steps(recipe: Recipe) -> bool:
    """Whether a learning rate, another number, or what a component does in `begin` may follow the run's steps."""
    components = list(recipe.deciding_components())
    scheduled = (each for settings in (recipe.ema, *_settings(components)) for each in schedules_in(settings))
    varying = (build_optimizer(config).varies for config in recipe.optimizers.values())
    begun = (has_begin(config.registered.cls) for config in components)
    return any(each.follows_run for each in scheduled) or any(varying) or any(begun)


def _settings(components: Iterable[ComponentConfig]) -> Iterator[Settings]:
    return (config.settings for config in components)


def _stored(directory: RunDirectory) -> dict[str, Any]:
    try:
        return tomllib.loads(directory.recipe_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{directory.recipe_path} is damaged: {error}") from error


def _differences(new: Any, old: Any, path: str = "") -> Iterator[str]:
    if isinstance(new, dict) and isinstance(old, dict):
        for name in {**old, **new}:
            yield from _differences(new.get(name), old.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(new, list) and isinstance(old, list) and all(isinstance(each, dict) for each in (*new, *old)):
        for number, (each, before) in enumerate(zip_longest(new, old)):
            yield from _differences(each, before, f"{path}.{number}")
    elif new != old:
        yield f"{path}: {old} in the run, {new} now"
