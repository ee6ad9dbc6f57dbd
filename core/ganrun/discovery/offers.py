"""Checks what plugins offer: each function returns the fault, as the end of a message, or None."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from inspect import isabstract
from typing import Any

from ganrun.base.frames import in_one_line
from ganrun.contracts.trackers import Tracker
from ganrun.discovery.kinds import KINDS, RESERVED

NAME = "[a-z0-9]+(-[a-z0-9]+)*"

SLOT_NAME = "[a-z][a-z0-9_]*"


def component_fault(kind: str, name: Any, component: Any) -> str | None:
    """The fault of a component."""
    try:
        return _name_fault(name) or _class_fault(kind, name, component)
    except Exception as error:  # from the component's own class methods and attributes
        return f'"{name}", whose class cannot be examined: {in_one_line(error)}'


def command_fault(name: Any, command: Any, taken: Collection[str]) -> str | None:
    """The fault of a command; `taken` are the names of others."""
    import click

    if fault := _name_fault(name):
        return fault
    if not isinstance(command, click.Command):
        return f'"{name}", which is not a click command'
    if name in taken:
        return f'"{name}", which is a command already'
    if name in RESERVED:
        return f'"{name}", which is the name of a table of recipes; take another name'
    try:
        command.get_short_help_str()
    except Exception as error:
        return f'"{name}", whose help fails: {in_one_line(error)}'
    return None


def tracker_fault(name: Any, tracker: Any) -> str | None:
    """The fault of a tracker."""
    if not isinstance(name, str):
        return f"the name {name!r}; a name must be a string"
    return None if isinstance(tracker, Tracker) else f'"{name}", which is not a ganrun.Tracker; offer an instance'


def check_fault(name: Any, check: Any) -> str | None:
    """The fault of a health check."""
    if not isinstance(name, str):
        return f"the name {name!r}; a name must be a string"
    return None if callable(check) else f'"{name}", which is not a function'


Fault = Callable[[Any, Any], str | None]
"""`fault(name, offered)`"""


def _name_fault(name: Any) -> str | None:
    if isinstance(name, str) and re.fullmatch(NAME, name):
        return None
    return f"the name {name!r}; a name is lower-case letters and digits, with hyphens"


def _class_fault(kind: str, name: str, component: Any) -> str | None:
    from ganrun.discovery.defaults import settings_fault  # pydantic, which `ganrun --help` does without

    contract = KINDS[kind].contract
    if not (isinstance(component, type) and issubclass(component, contract)):
        return f'"{name}", which is not a subclass of ganrun.{contract.__name__}'
    if isabstract(component):
        missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
        return f'"{name}", whose class does not define {missing}'
    fault = component.class_fault() or _parts_fault(component.parts) or settings_fault(component.Settings)
    fault = fault or (_slots_fault(component.slots) if kind == "loss" else None)  # type: ignore[attr-defined]
    if fault is None and kind == "observer" and name in RESERVED:
        fault = f"and a recipe's table [{name}] belongs to ganrun; take another name"
    return fault and f'"{name}", {fault}'


def _parts_fault(parts: Mapping[str, str]) -> str | None:
    unknown = [kind for kind in parts.values() if kind not in KINDS]
    return f"whose parts name the kind {unknown[0]!r}; known kinds: {', '.join(KINDS)}" if unknown else None


def _slots_fault(slots: Any) -> str | None:
    from ganrun.contracts.slots import Slot

    if not isinstance(slots, Mapping):
        return f"whose slots are a {type(slots).__name__}, not a mapping of names to ganrun.Slot"
    for name, slot in slots.items():
        if not (isinstance(name, str) and re.fullmatch(SLOT_NAME, name)):
            return f"whose slot {name!r} is not a Python identifier in lower-case letters"
        if name in RESERVED:
            return f'whose slot "{name}" has the name of a recipe\'s table that belongs to ganrun; take another name'
        if not isinstance(slot, Slot) or slot.kind not in KINDS:
            return f'whose slot "{name}" is {slot!r}, not a ganrun.Slot of a known kind'
    return None
