"""Finding the plugins: each is loaded on its own, so that a broken one breaks nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy

from ganrun.base.errors import PluginError
from ganrun.base.suggestions import did_you_mean
from ganrun.contracts import hookspecs
from ganrun.contracts.markers import PROJECT

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("ganrun_"))
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

    def is_called(self, qualifier: str) -> bool:
        """Whether `qualifier:name` in a recipe may mean this plugin: its name or its package, or nothing at all."""
        return qualifier in ("", self.name, self.package)

    def __str__(self) -> str:
        own_name = self.name in (self.package, self.package.removeprefix("ganrun-")) or self.package == PROJECT
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
    for entry in sorted(entry_points(group=PROJECT), key=_order):
        package, version = _origin(entry)
        name = entry.name if entry.name not in taken else f"{package}.{entry.name}"
        taken.add(name)
        is_blocked = bool({name, entry.name} & disabled)
        error = None if is_blocked else _load(manager, entry, name)
        found.append(Plugin(name, package, version, error, is_blocked))
    return Plugins(manager, tuple(found))


def unknown_blocked(blocked: Iterable[str], plugins: Plugins) -> list[str]:
    """Names in `blocked` that are no plugin's."""
    return sorted(set(blocked) - {plugin.name for plugin in plugins.found})


def _load(manager: pluggy.PluginManager, entry: EntryPoint, name: str) -> str | None:
    """Register one plugin; the reason why it could not be, or None."""
    try:
        plugin = entry.load()
        _check_marks(plugin)
        manager.register(plugin, name)
        manager.check_pending()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if manager.has_plugin(name):
            manager.unregister(name=name)
        return describe_fault(error)
    return None


def _check_marks(plugin: object) -> None:
    """Refuse a hook without its marker, which pluggy would not see.

    Raises:
        PluginError: naming the function.
    """
    for hook in HOOKS:
        function = getattr(plugin, hook, None)
        if callable(function) and not hasattr(function, f"{PROJECT}_impl"):
            raise PluginError(f"the function {hook} lacks the decorator @ganrun.hookimpl")


def describe_fault(error: BaseException) -> str:
    """An exception in one line: `ImportError: No module named 'x'`."""
    unknown = re.match(r"unknown hook '(\w+)'", str(error))
    if isinstance(error, pluggy.PluginValidationError) and unknown:
        return f'there is no hook "{unknown[1]}"{did_you_mean(unknown[1], HOOKS)}'
    if isinstance(error, PluginError):
        return error.message
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _order(entry: EntryPoint) -> tuple[str, bool, str]:
    """By name; ganrun's own first, so that no other package takes a built-in plugin's name."""
    package, _ = _origin(entry)
    return entry.name, package != PROJECT, package


def _origin(entry: EntryPoint) -> tuple[str, str]:
    """Package and version; a package whose metadata are damaged must not stop the others."""
    try:
        return (entry.dist.name or "?", entry.dist.version or "0") if entry.dist else ("?", "0")
    except Exception:
        return "?", "0"
