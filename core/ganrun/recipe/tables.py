"""A recipe's tables while they are read: collects faults, each with its place, and reports all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from ganrun.base.errors import RecipeError
from ganrun.base.secrets import secret_in, secret_under
from ganrun.contracts.settings import Settings, parse_settings
from ganrun.recipe.faults import Owner, setting_faults, shown
from ganrun.recipe.lines import Key
from ganrun.recipe.source import Source, header, listed

S = TypeVar("S", bound=Settings)

SECRET_ADVICE = (
    "a recipe is stored in runs and handed out with them, so remove it from here, and set it in the environment of the "
    "service that needs it"
)


class Tables:
    """The tables of one source.

    Args:
        source: The parsed recipe.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.content = source.tables
        self.faults: list[str] = []
        self._places: set[Key] = set()

    def fault(self, key: Key, text: str) -> None:
        """Add a fault at `key`."""
        self._places.add(key)
        self.faults.append(f"{self.source.where(key)}: {text}")

    def check(self) -> None:
        """Report the faults found so far, and every password and token anywhere in the recipe.

        Raises:
            RecipeError: if there are any faults.
        """
        for key, what in _secrets_in(self.content):
            if key not in self._places:
                self.fault(key, f"{'.'.join(map(str, key))} holds a {what}; {SECRET_ADVICE}")
        for line, what in self.source.secrets_in_comments():
            self.faults.append(f"{self.source.path}:{line}: this comment holds a {what}; {SECRET_ADVICE}")
        if self.faults:
            raise RecipeError(listed(self.faults))

    def text(self, name: str, default: str) -> str:
        """The string of a top-level key; `default`, with a fault, if it is not a string."""
        value = self.content.get(name, default)
        if not isinstance(value, str) or not value.strip():
            self.fault((name,), f"{name} must be a non-empty string, not {shown(value)}")
            return default
        return value

    def table(self, key: Key, *, required: bool = False) -> dict[str, Any] | None:
        """The table at `key`, empty if absent; None, with a fault, if it is not a table, or absent but required."""
        value: Any = self.content
        for part in key:
            if isinstance(part, str) and part not in value:
                if required:
                    self.fault((), f"the table [{part}] is missing")
                return None if required else {}
            value = value[part]
        if not isinstance(value, dict):
            self.fault(key, f"{header(key)} must be a table, not {shown(value)}")
            return None
        return value

    def settings(
        self,
        key: Key,
        settings: type[S],
        table: Mapping[str, Any],
        owner: Owner,
        written: Mapping[str, Any] | None = None,
    ) -> S | None:
        """Validate a table's settings; None, with its faults added, if it has any.

        Args:
            key: The table's place.
            settings: The class to validate against.
            table: Its content.
            owner: The owner of the settings.
            written: The keys written at `key` itself, if the table has inherited others. Faults of inherited settings
                are left to the table that they come from.
        """
        try:
            return parse_settings(settings, table)
        except ValidationError as error:
            for place, text in setting_faults(error, key, table, settings, owner):
                if written is None or not place or place[0] in written:
                    self.fault((*key, *place), text)
            return None

    def entries(self, name: str) -> list[Key]:
        """The places of the tables of a list, such as `[[metric]]`; empty, with a fault, if it is not a list."""
        entries = self.content.get(name, [])
        if isinstance(entries, list):
            return [(name, index) for index in range(len(entries))]
        self.fault((name,), f"{name}s are written as [[{name}]], with two brackets, since there may be several")
        return []

    def engine_settings(self, key: Key, settings: type[S], *, required: bool = False) -> S | None:
        """The settings of one of the engine's own tables."""
        table = self.table(key, required=required)
        owner = Owner("the engine", f"ganrun show {key[0]}")
        return None if table is None else self.settings(key, settings, table, owner)


def _secrets_in(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """The places of strings that hold a secret, each with the kind of secret."""
    if isinstance(value, str):
        what = secret_in(value) or secret_under(str(key[-1]), value)
        yield from [(key, what)] if what else []
    elif isinstance(value, dict | list):
        for part, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _secrets_in(each, (*key, part))
