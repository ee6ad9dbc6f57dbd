"""Whether a settings class can be written into a recipe and read back: checked when a plugin offers a component."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from ganrun.contracts.settings import Settings, dump_settings, parse_settings, setting_names

RESERVED = ("use", "from")
"""Keys of a component's table that are the engine's."""


def settings_fault(settings: type[Settings]) -> str | None:
    """Why a run's recipe.toml cannot hold the settings, as the end of a message; None if it can.

    A run writes out every default, and is resumed, scored and loaded from that file.
    """
    taken = [name for name in setting_names(settings) if name in RESERVED]
    if taken:
        return f'whose setting "{taken[0]}" has the name of a key that every component\'s table may have'
    defaults = settings.model_construct()
    for name in settings.model_fields:
        for reason in _unfit(getattr(defaults, name, None)):
            return f'whose default of "{name}" {reason}, which a recipe cannot hold'
    return _round_trip_fault(settings, defaults)


def _unfit(value: Any) -> Iterator[str]:
    """Values, at any depth, that TOML or a recipe cannot represent."""
    if isinstance(value, bytes | bytearray):
        yield "is bytes"
    elif isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        yield "is a date or time"
    elif isinstance(value, float) and not math.isfinite(value):
        yield "is not finite"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield "is beyond 64 bits"
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _unfit(getattr(value, name, None))
    elif isinstance(value, Mapping):
        yield from ("has keys that are not strings" for key in value if not isinstance(key, str))
        yield from _unfit_entries(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from _unfit_entries(value)


def _unfit_entries(values: Any) -> Iterator[str]:
    for each in values:
        if each is None:
            yield "holds None"
        yield from _unfit(each)


def _round_trip_fault(settings: type[Settings], defaults: Settings) -> str | None:
    """Whether the defaults, as a run writes them, are read back unchanged."""
    try:
        written = defaults.model_dump(mode="json", by_alias=True, exclude_none=True, warnings=False)
        tomli_w.dumps(written)
        read = dump_settings(parse_settings(settings, written))
        again = dump_settings(parse_settings(settings, read))
    except ValidationError as error:
        wrong = [fault for fault in error.errors() if fault["type"] != "missing"]
        place = ".".join(map(str, wrong[0]["loc"])) if wrong else ""
        return f'whose default of "{place}" its own validation refuses: {wrong[0]["msg"]}' if wrong else None
    except (PydanticSerializationError, TypeError, ValueError) as error:
        return f"whose defaults a recipe cannot hold: {error}"
    changed = [name for name in read if read[name] != again.get(name) or read[name] != written.get(name, read[name])]
    return f'whose default of "{changed[0]}" is read back as a different value' if changed else None
