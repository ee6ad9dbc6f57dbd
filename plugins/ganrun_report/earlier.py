"""Moves settings of earlier versions to their new place, so that old runs can be compared with new ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ganrun import RequestError, load_registry

Tables = Mapping[str, Any]


def up_to_date(recipes: Sequence[Tables]) -> list[Tables]:
    """The recipes with the settings of their losses at the places of the installed version.

    Plugins, and with them PyTorch, are loaded only if recipes with the same loss differ in its settings.
    """
    keys: dict[str, set[frozenset[str]]] = {}
    for recipe in recipes:
        keys.setdefault(_use(recipe), set()).add(frozenset(_loss(recipe)))
    return [_moved(recipe) if len(keys[_use(recipe)]) > 1 else recipe for recipe in recipes]


def _moved(recipe: Tables) -> Tables:
    try:
        moved: Mapping[str, str] = load_registry().find("loss", _use(recipe)).cls.moved
    except RequestError:  # it is not installed here
        return recipe
    tables = copy.deepcopy(dict(recipe))
    for name, place in moved.items():
        if name in tables["loss"]:
            _lay(tables, place.split("."), tables["loss"].pop(name))
    return tables


def _lay(tables: dict[str, Any], place: Sequence[str], value: Any) -> None:
    """Set a value, unless there is one or an intermediate value is not a table."""
    table: Any = tables
    for part in place[:-1]:
        table = table.setdefault(part, {}) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.setdefault(place[-1], value)


def _use(recipe: Tables) -> str:
    return str(_loss(recipe).get("use", "")).rpartition(":")[2]


def _loss(recipe: Tables) -> Tables:
    loss = recipe.get("loss")
    return loss if isinstance(loss, dict) else {}
