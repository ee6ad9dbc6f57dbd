"""Finding the plugins: each is loaded on its own, so that a broken one breaks nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy

from ganrun import hookspecs
from ganrun.markers import PROJECT

DISABLE_VARIABLE = "GANRUN_DISABLE_PLUGINS"


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `ganrun`, and what became of it."""

    name: str
    """The entry point's name."""

    package: str
    """The distribution that brought it."""

    version: str

    error: str | None = None
    """Why it could not be loaded; None for a sound one."""

    blocked: bool = False

    @property
    def status(self) -> str:
        """`ok`, `blocked` or `broken`."""
        return "broken" if self.error else "blocked" if self.blocked else "ok"

    def __str__(self) -> str:
        own_name = self.package.removeprefix("ganrun-") == self.name or self.package == "ganrun"
        return f"{self.package} {self.version}" if own_name else f"{self.package}:{self.name} {self.version}"


@dataclass(frozen=True)
class Plugins:
    """All plugins of this environment; the sound ones are registered with the manager under their names."""

    manager: pluggy.PluginManager
    found: tuple[Plugin, ...]

    def named(self, name: str) -> Plugin:
        """The plugin that the manager knows as `name`."""
        return next(plugin for plugin in self.found if plugin.name == name)


def discover(blocked: Iterable[str] = ()) -> Plugins:
    """Load every entry point of the group, except those named in `blocked` or `$GANRUN_DISABLE_PLUGINS`."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    disabled = {*blocked, *filter(None, os.environ.get(DISABLE_VARIABLE, "").replace(",", " ").split())}
    taken: set[str] = set()
    found = []
    for entry in sorted(entry_points(group=PROJECT), key=lambda entry: (entry.name, _package(entry))):
        name = entry.name if entry.name not in taken else f"{_package(entry)}.{entry.name}"
        taken.add(name)
        is_blocked = bool({name, entry.name} & disabled)
        error = None if is_blocked else _load(manager, entry, name)
        version = entry.dist.version if entry.dist else "0"
        found.append(Plugin(name, _package(entry), version, error, is_blocked))
    return Plugins(manager, tuple(found))


def unknown_blocked(blocked: Iterable[str], plugins: Plugins) -> list[str]:
    """Names in `blocked` that are no plugin's."""
    return sorted(set(blocked) - {plugin.name for plugin in plugins.found})


def _load(manager: pluggy.PluginManager, entry: EntryPoint, name: str) -> str | None:
    """Register one plugin; the reason why it could not be, or None."""
    try:
        manager.register(entry.load(), name)
        manager.check_pending()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if manager.has_plugin(name):
            manager.unregister(name=name)
        return describe_fault(error)
    return None


def describe_fault(error: BaseException) -> str:
    """An exception in one line: `ImportError: No module named 'x'`."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"
