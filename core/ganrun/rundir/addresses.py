"""Addresses of services in a run's own recipe: a run directory may come from anybody, so they are used only where the
user names them too."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ganrun.base.errors import RequestError
from ganrun.base.secrets import bare_address
from ganrun.base.texts import shell_quoted
from ganrun.contracts.outside import Address, marked
from ganrun.recipe.lines import Key
from ganrun.recipe.recipe import Recipe
from ganrun.recipe.source import Source
from ganrun.rundir.records import CONFIG, ENVIRONMENT, METRICS, RECIPE, SUMMARY


class _Named(NamedTuple):
    """An address that a recipe gives to an observer."""

    observer: str
    setting: str
    """The setting's name."""
    key: Key
    address: str
    variable: str
    """The environment variable that names the same service."""

    def option(self) -> str:
        """The command-line option that sets it."""
        return f"--set {shell_quoted('.'.join(map(str, self.key)) + '=' + self.address)}"


def is_of_run(recipe: Path) -> bool:
    """Whether a recipe belongs to a run directory or an exported folder."""
    names = (ENVIRONMENT, METRICS, SUMMARY, CONFIG)
    return recipe.name == RECIPE and any((recipe.parent / name).exists() for name in names)


def check_addresses(recipe: Recipe) -> None:
    """Check that the user names every address that a run's own recipe gives to an observer.

    Raises:
        RequestError: if neither `--set` nor the environment names one; with its file and line, and both remedies.
    """
    for each in _unconfirmed(recipe):
        raise RequestError(
            f"this run would be sent to {_shown(each.address)}, as its own recipe says, and a run directory may come "
            f"from anybody; if you mean that address, add: {_shown(each.option())}, or set {each.variable} to it"
        ).located(recipe.where(each.key))


def without_unconfirmed(recipe: Recipe) -> Recipe:
    """The recipe of a run, with the defaults in place of addresses that the user does not name."""
    observers = dict(recipe.observers)
    for each in _unconfirmed(recipe):
        config = observers[each.observer]
        default = type(config.settings).model_fields[each.setting].get_default(call_default_factory=True)
        settings = config.settings.model_copy(update={each.setting: default})
        observers[each.observer] = dataclasses.replace(config, settings=settings)
    return dataclasses.replace(recipe, observers=observers)


def confirming_options(recipe: Recipe) -> str:
    """The options by which the user names the recipe's addresses when the run is resumed, each after a space; empty
    where the environment names them all."""
    return "".join(f" {each.option()}" for each in _addresses(recipe) if not _is_in_environment(each))


def _unconfirmed(recipe: Recipe) -> Iterator[_Named]:
    for each in _addresses(recipe):
        if not (_is_overridden(recipe.source, each.key) or _is_in_environment(each)):
            yield each


def _addresses(recipe: Recipe) -> Iterator[_Named]:
    for observer, config in recipe.observers.items():
        fields = type(config.settings).model_fields
        names = {field.alias or name: name for name, field in fields.items()}
        for key, mark in marked(type(config.settings), Address):
            value = getattr(config.settings, names[key])
            if value is not None and value != fields[names[key]].get_default(call_default_factory=True):
                yield _Named(observer, names[key], (*config.key, key), str(value), mark.variable)


def _is_overridden(source: Source, key: Key) -> bool:
    return any(key[: len(place)] == place for place in source.overrides)


def _is_in_environment(named: _Named) -> bool:
    return bare_address(os.environ.get(named.variable, "")) == bare_address(named.address)


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)
