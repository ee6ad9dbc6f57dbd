"""Tables that name a component by `use`, and hold its settings."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ganrun.base.errors import PluginError
from ganrun.base.frames import called
from ganrun.contracts.markers import PROJECT
from ganrun.contracts.outside import local_paths
from ganrun.contracts.settings import Settings, parse_settings
from ganrun.discovery.made_with import MadeWith
from ganrun.discovery.registry import RegisteredComponent, Registry
from ganrun.recipe.faults import Owner, shown
from ganrun.recipe.lines import Key
from ganrun.recipe.recipe import ComponentConfig
from ganrun.recipe.source import header
from ganrun.recipe.tables import Tables

log = logging.getLogger("ganrun")


class ComponentReader:
    """Reads components from tables.

    Args:
        tables: The recipe's tables; they also collect the faults.
        registry: The installed components.
        made_with: The plugins of the run whose own recipe it is; none if it is no run's.
    """

    def __init__(self, tables: Tables, registry: Registry, made_with: MadeWith | None = None) -> None:
        self.tables = tables
        self.registry = registry
        self.made_with = made_with or MadeWith()
        self.found: dict[Key, RegisteredComponent] = {}
        """The component that each table names, even if its settings have faults."""

    # ── Tables ────────────────────────────────────────────────────────────────────────────────────────

    def read(self, key: Key, kind: str) -> ComponentConfig | None:
        """The component of a required table; None if the table has faults, which are added to `tables`."""
        table = self.tables.table(key, required=True)
        return None if table is None else self.from_table(key, kind, table)

    def network(self, key: Key, kind: str) -> ComponentConfig | None:
        """As `read`, for the network of a slot: its table may also say `from`, where its first weights come from."""
        table = self.tables.table(key, required=True)
        if table is None:
            return None
        start = self._start(key, table)
        config = self.from_table(key, kind, {name: value for name, value in table.items() if name != "from"})
        return None if config is None else dataclasses.replace(config, start=start)

    def from_table(
        self,
        key: Key,
        kind: str,
        table: Mapping[str, Any],
        written: Mapping[str, Any] | None = None,
        preferred: Sequence[str] = (),
    ) -> ComponentConfig | None:
        """The component of a table's content.

        Args:
            key: The table's place.
            kind: The component's kind.
            table: The content.
            written: As in `Tables.settings`.
            preferred: As in `Registry.find`, for a name that is a default.
        """
        if isinstance(table.get("use"), str):
            return self._named(key, kind, table, written, preferred)
        if written is None or "use" in written:
            what = "data set" if kind == "data" else kind
            needed = f'{header(key)} needs use = "…", the name of a{"n" * (what[0] in "aeiou")} {what}'
            self.tables.fault((*key, "use"), f"{needed}; see: ganrun list {kind}")
        return None

    # ── Names ─────────────────────────────────────────────────────────────────────────────────────────

    def find(self, kind: str, use: str, preferred: Sequence[str] = ()) -> RegisteredComponent:
        """The component that the recipe calls `use`: by `MadeWith.find` in a run's own recipe, else `Registry.find`.

        Raises:
            PluginError: if there is none, or several.
        """
        if self.made_with.plugins:
            return self.made_with.find(self.registry, kind, use)
        return self.registry.find(kind, use, preferred)

    def named(self, kind: str, use: object, preferred: Sequence[str] = ()) -> RegisteredComponent | None:
        """As `find`, but None instead of an error."""
        try:
            return self.find(kind, str(use), preferred)
        except PluginError:
            return None

    # ── Pieces of a table ─────────────────────────────────────────────────────────────────────────────

    def _named(
        self,
        key: Key,
        kind: str,
        table: Mapping[str, Any],
        written: Mapping[str, Any] | None,
        preferred: Sequence[str],
    ) -> ComponentConfig | None:
        try:
            found = self.found[key] = self.find(kind, table["use"], preferred)
        except PluginError as error:
            if written is None or "use" in written:
                self.tables.fault((*key, "use"), error.message)
            return None
        rest = {name: value for name, value in table.items() if name != "use"}
        choices = {name: self.registry.names(part) for name, part in found.cls.parts.items()}
        owner = Owner(str(found), f"ganrun show {kind} {table['use']}", local_paths(found.cls.Settings), choices)
        with called(f"{header(key)} {found}", "its Settings", self.tables.source.where(key), PluginError):
            if (*key, "use") in self.tables.source.overrides:
                rest = self._fitting(key, found, rest)
            settings = self.tables.settings(key, found.cls.Settings, rest, owner, written)
        parts = self._parts(key, found, rest, settings, written)
        return None if settings is None else ComponentConfig(found, settings, key, parts)

    def _parts(
        self,
        key: Key,
        found: RegisteredComponent,
        table: Mapping[str, Any],
        settings: Settings | None,
        written: Mapping[str, Any] | None,
    ) -> dict[str, ComponentConfig]:
        """The components that its settings name: by name, or by a table with `use`.

        A default that several plugins offer is that of the component's own plugin or package, else ganrun's.
        """
        parts = {}
        for name, kind in found.cls.parts.items():
            wanted = table.get(name) if settings is None else getattr(settings, name)
            part = {"use": wanted} if isinstance(wanted, str) else wanted
            if isinstance(part, dict):  # anything else is reported as a fault of the settings
                is_inherited = written is not None and name not in written
                usual = () if name in table else (found.plugin.name, found.plugin.package, PROJECT)
                parts[name] = self.from_table((*key, name), kind, part, {} if is_inherited else None, usual)
        return {name: part for name, part in parts.items() if part is not None}

    def _start(self, key: Key, table: Mapping[str, Any]) -> str | None:
        """The value of `from`, absolute if it is a path; None if `--set` has replaced the network."""
        start, overrides = table.get("from"), self.tables.source.overrides
        if start is None:
            return None
        if not isinstance(start, str) or not start.strip():
            text = f"{header(key)} from = {shown(start)}: name a run, a checkpoint or an exported folder"
            self.tables.fault((*key, "from"), text)
            return None
        if (*key, "use") in overrides and (*key, "from") not in overrides:
            log.warning("%s is now another network, which leaves out from", header(key))
            return None
        path = os.path.abspath(os.path.expanduser(start))  # noqa: PTH100, PTH111 - pathlib's raises for an unknown user
        return path if os.path.lexists(path) else start

    def _fitting(self, key: Key, found: RegisteredComponent, table: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a component chosen by `--set` shares with the one that it replaces."""
        try:
            parse_settings(found.cls.Settings, table)
            unfit = set()
        except ValidationError as error:
            unfit = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
        dropped = [name for name in table if name in unfit and (*key, name) not in self.tables.source.overrides]
        if dropped:
            log.warning("%s is now %s, which leaves out %s", header(key), found, ", ".join(dropped))
        return {name: value for name, value in table.items() if name not in dropped}
