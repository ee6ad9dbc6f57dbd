"""Describes the faults of a table's settings in a recipe author's words."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ganrun.base.suggestions import did_you_mean
from ganrun.contracts.outside import SECRET_FAULT
from ganrun.contracts.settings import Settings, setting_names
from ganrun.recipe.lines import Key
from ganrun.recipe.source import header


@dataclass(frozen=True)
class Owner:
    """The component, or the engine, to which a table's settings belong."""

    name: str
    """As messages name it: `wgan-gp (ganrun 0.1.0)`."""

    see: str
    """The command that shows its settings."""

    paths: Collection[str] = ()
    """Its settings that are paths of this machine."""

    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The available names, by the settings that name other components."""


def setting_faults(
    error: ValidationError, key: Key, table: Mapping[str, Any], settings: type[Settings], owner: Owner
) -> Iterator[tuple[Key, str]]:
    """Every fault of a table, with its place in the table.

    Args:
        error: The result of the validation.
        key: The table's place.
        table: Its content.
        settings: The class that it was validated against.
        owner: The owner of the settings.
    """
    found: dict[Key, list[ErrorDetails]] = {}
    for fault in error.errors():  # each member of a union adds one fault, with its own name at the end of the path
        place = fault["loc"] if fault["type"] == "missing" else _within(table, fault["loc"])
        found.setdefault(place, []).append(fault)
    for place, faults in found.items():
        yield place, _text(key, place, faults, setting_names(settings), owner)


def shown(value: Any) -> str:
    """A value as a message shows it, truncated if long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _within(table: Any, place: Key) -> Key:
    """As much of `place` as the table has."""
    for depth, part in enumerate(place):
        try:
            table = table[part]
        except (KeyError, IndexError, TypeError):
            return place[:depth]
    return place


def _text(key: Key, place: Key, faults: list[ErrorDetails], names: list[str], owner: Owner) -> str:
    path, fault = ".".join(map(str, place)), faults[0]
    if fault["type"] == "extra_forbidden":
        hint = did_you_mean(path, names)
        takes = ", ".join(names) or "no settings"
        return f'{header(key)} has no key "{path}"{hint}\n  {owner.name} takes: {takes}\n  see: {owner.see}'
    if fault["type"] == "missing" and isinstance(place[-1], int):
        return f"{header(key)} {path.rpartition('.')[0]}: the list is too short"
    if fault["type"] == "missing":
        return f'{header(key)} needs the key "{path}"{_override(key, path, owner)}\n  see: {owner.see}'
    reason = ", or ".join(_reason(each) for each in faults)
    if any(each["type"] == SECRET_FAULT for each in faults):
        return f"{header(key)} {path}: {reason}"
    if path in owner.choices:
        reason = (
            f"it names a component: one of {', '.join(owner.choices[path])}; or a table with use = and its settings"
        )
    return f"{header(key)} {path} = {shown(fault['input'])}: {reason}" if path else f"{header(key)}: {reason}"


def _override(key: Key, path: str, owner: Owner) -> str:
    """A hint for a missing path of this machine, which the recipe of an exported model leaves out."""
    return f"; say where it is: --set {'.'.join(map(str, key))}.{path}=…" if path in owner.paths else ""


def _reason(fault: ErrorDetails) -> str:
    text = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:]
