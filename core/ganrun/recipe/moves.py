"""Moves settings of earlier versions to their new place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ganrun.recipe.faults import shown
from ganrun.recipe.lines import Key
from ganrun.recipe.source import header


class Move(NamedTuple):
    """A setting that was moved."""

    old: Key
    """Where the recipe has it."""

    new: Key
    """Where it belongs."""

    value: Any

    is_said: bool
    """Whether the recipe also has a value at the new place, which takes precedence."""

    def __str__(self) -> str:
        """`[loss] n_critic is now [train] repeat = { discriminator = 5 }`."""
        text = shown(self.value)
        for part in reversed(self.new[2:]):
            text = f"{{ {part} = {text} }}"
        spelled = f"{header(self.new[:1])} {self.new[1]} = {text}"
        said = ", and the recipe sets that too, so it is left out" if self.is_said else ""
        return f"{header(self.old[:-1])} {self.old[-1]} is now {spelled}{said}"


def move_settings(tables: dict[str, Any], key: Key, moved: Mapping[str, str]) -> Iterator[Move]:
    """Move a component's former settings, in place; yields what was moved.

    Args:
        tables: All tables of a recipe.
        key: The component's table, which may be absent.
        moved: `Component.moved` of its class.
    """
    table = _at(tables, key)
    for name, place in moved.items() if isinstance(table, dict) else ():
        if name in table:
            new = tuple(place.split("."))
            value = table.pop(name)
            yield Move((*key, name), new, value, is_said=not _lay(tables, new, value))


def _at(tables: Any, key: Key) -> Any:
    for part in key:
        try:
            tables = tables[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tables


def _lay(tables: dict[str, Any], place: Key, value: Any) -> bool:
    """Set the value unless there is one; the reader reports intermediate values that are not tables."""
    table: Any = tables
    for part in place[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return True
    is_free = place[-1] not in table
    table.setdefault(place[-1], value)
    return is_free
