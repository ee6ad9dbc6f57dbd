"""Tables that name a component by `use`, and hold its settings."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from ganrun.base.errors import PluginError
from ganrun.base.frames import called
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.registry import RegisteredComponent, Registry
from ganrun.recipe.faults import Owner
from ganrun.recipe.recipe import ComponentConfig
from ganrun.recipe.source import Key, header
from ganrun.recipe.tables import Tables

log = logging.getLogger("ganrun")


class ComponentReader:
    """Reads components from tables.

    Args:
        tables: The recipe's tables; they also collect the faults.
        registry: The installed components.
    """

    def __init__(self, tables: Tables, registry: Registry) -> None:
        self.tables = tables
        self.registry = registry
        self.found: dict[Key, RegisteredComponent] = {}
        """The component that each table names, even if its settings have faults."""

    def read(self, key: Key, kind: str) -> ComponentConfig | None:
        """The component of a required table; None if the table has faults, which are added to `tables`."""
        table = self.tables.table(key, required=True)
        return None if table is None else self.from_table(key, kind, table)

    def from_table(
        self, key: Key, kind: str, table: Mapping[str, Any], written: Mapping[str, Any] | None = None
    ) -> ComponentConfig | None:
        """The component of a table's content; `written` as in `Tables.settings`."""
        use = table.get("use")
        if isinstance(use, str):
            return self._named(key, kind, use, table, written)
        if written is None or "use" in written:
            what = "data set" if kind == "data" else kind
            needed = f'{header(key)} needs use = "…", the name of a{"n" * (what[0] in "aeiou")} {what}'
            self.tables.fault((*key, "use"), f"{needed}; see: ganrun list {kind}")
        return None

    def setting_names(self, kind: str, use: object) -> Collection[str]:
        """The names of a component's settings; empty if there is no such component."""
        try:
            return tuple(self.registry.find(kind, str(use)).cls.Settings.model_fields)
        except PluginError:
            return ()

    def _named(
        self, key: Key, kind: str, use: str, table: Mapping[str, Any], written: Mapping[str, Any] | None
    ) -> ComponentConfig | None:
        try:
            found = self.found[key] = self.registry.find(kind, use)
        except PluginError as error:
            if written is None or "use" in written:
                self.tables.fault((*key, "use"), error.message)
            return None
        rest = {name: value for name, value in table.items() if name != "use"}
        owner = Owner(str(found), f"ganrun show {kind} {use}")
        with called(f"{header(key)} {found}", "its Settings", self.tables.source.where(key), PluginError):
            if (*key, "use") in self.tables.source.overrides:
                rest = self._fitting(key, found, rest)
            settings = self.tables.settings(key, found.cls.Settings, rest, owner, written)
        parts = self._parts(key, found, rest if settings is None else dict(settings), written)
        return None if settings is None else ComponentConfig(found, use, settings, key, parts)

    def _parts(
        self, key: Key, found: RegisteredComponent, settings: Mapping[str, Any], written: Mapping[str, Any] | None
    ) -> dict[str, ComponentConfig]:
        """The components that its settings name: by a name alone, or by a table that says `use`."""
        parts = {}
        for name, kind in found.cls.parts.items():
            wanted = settings.get(name)
            table = {"use": wanted} if isinstance(wanted, str) else wanted
            if isinstance(table, dict):  # anything else is a fault of the settings
                is_inherited = written is not None and name not in written
                parts[name] = self.from_table((*key, name), kind, table, {} if is_inherited else None)
        return {name: part for name, part in parts.items() if part is not None}

    def _fitting(self, key: Key, found: RegisteredComponent, table: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a component which `--set` put in another's place has in common with that one."""
        try:
            parse_settings(found.cls.Settings, table)
            unfit = set()
        except ValidationError as error:
            unfit = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
        dropped = [name for name in table if name in unfit and (*key, name) not in self.tables.source.overrides]
        if dropped:
            log.warning("%s is now %s, which leaves out %s", header(key), found, ", ".join(dropped))
        return {name: value for name, value in table.items() if name not in dropped}
