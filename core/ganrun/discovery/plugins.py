"""Finds the plugins. Each is loaded separately, so that a broken one does not affect the others."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import pluggy

from ganrun.base.errors import GanrunError, PluginError, RequestError
from ganrun.base.frames import in_one_line, passes
from ganrun.base.suggestions import did_you_mean
from ganrun.contracts import hookspecs
from ganrun.contracts.markers import PROJECT, never_called
from ganrun.discovery.guard import guarded
from ganrun.discovery.packages import installed_plugins

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("ganrun_"))
DISABLE_VARIABLE = "GANRUN_DISABLE_PLUGINS"


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `ganrun`, and whether it could be loaded."""

    name: str
    """The entry point's name."""

    package: str
    """The distribution that it belongs to."""

    version: str
    """The distribution's."""

    error: str | None = None
    """Why it could not be loaded; None if it was, or is blocked."""

    blocked: bool = False
    """Whether the user has disabled it."""

    @property
    def status(self) -> str:
        """`ok`, `blocked` or `broken`."""
        return "broken" if self.error else "blocked" if self.blocked else "ok"

    def is_called(self, qualifier: str) -> bool:
        """Whether `qualifier:name` in a recipe can refer to this plugin: its name, its package, or no qualifier."""
        return qualifier in ("", self.name, self.package)

    def __str__(self) -> str:
        own_name = self.name in (self.package, self.package.removeprefix("ganrun-")) or self.package == PROJECT
        return f"{self.package} {self.version}" if own_name else f"{self.package}:{self.name} {self.version}"


@dataclass(frozen=True)
class Plugins:
    """All plugins of this environment; those that could be loaded are registered with the manager by name."""

    manager: pluggy.PluginManager
    found: tuple[Plugin, ...]

    faults: tuple[str, ...] = ()
    """Problems in packages' metadata that may hide plugins, or missing plugins of ganrun's own."""

    def named(self, name: str) -> Plugin:
        """The plugin that the manager has registered as `name`."""
        return next(plugin for plugin in self.found if plugin.name == name)


def discover(blocked: Collection[str] = ()) -> Plugins:
    """Load every entry point of the group, except those named in `blocked` or `$GANRUN_DISABLE_PLUGINS`.

    Raises:
        RequestError: if `blocked` names a plugin that is not installed.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    disabled = {*blocked, *os.environ.get(DISABLE_VARIABLE, "").replace(",", " ").split()}
    found: dict[str, Plugin] = {}
    installed = installed_plugins()
    for package, version, entry in installed.entries:
        name = entry.name if entry.name not in found else f"{package}.{entry.name}"
        is_blocked = not disabled.isdisjoint({name, entry.name})
        error = None if is_blocked else _load(manager, entry, name)
        found[name] = Plugin(name, package, version, error, is_blocked)
    for name in blocked:
        if name not in found:
            hint = did_you_mean(name, found) or f"; there are {', '.join(found)}"
            raise RequestError(f'there is no plugin "{name}" to leave out{hint}')
    return Plugins(manager, tuple(found.values()), (*installed.faults, *installed.absent))


def describe_error(error: BaseException) -> str:
    """An exception in one line: `ImportError: No module named 'x'`."""
    unknown = re.match(r"unknown hook '(\w+)'", str(error))
    if isinstance(error, pluggy.PluginValidationError) and unknown:
        return f'there is no hook "{unknown[1]}"{did_you_mean(unknown[1], HOOKS)}'
    return str(error) if isinstance(error, GanrunError) else in_one_line(error)


def check_hooks(plugin: object) -> None:
    """Refuse a hook without its marker, which pluggy would ignore, and one that would never run as intended.

    Raises:
        PluginError: with the name of the function.
    """
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        options = getattr(function, f"{PROJECT}_impl", None)
        if name in HOOKS and callable(function) and options is None:
            raise PluginError(f"the function {name} lacks the decorator @ganrun.hookimpl")
        if isinstance(options, dict) and (fault := never_called(function, options) or _order(options)):
            raise PluginError(f"the function {name} {fault}")


def _order(options: Mapping[str, Any]) -> str | None:
    option = next((name for name in ("tryfirst", "trylast") if options.get(name)), None)
    return option and f"says {option}, but the order of plugins has no effect; drop {option}=True"


def _load(manager: pluggy.PluginManager, entry: EntryPoint, name: str) -> str | None:
    """Register one plugin; returns why that failed, or None."""
    try:
        with guarded(name):
            plugin = entry.load()
            check_hooks(plugin)
            manager.register(plugin, name)
            manager.check_pending()
    except BaseException as error:
        if passes(error):
            raise
        if manager.has_plugin(name):
            manager.unregister(name=name)
        return _moved(error, entry) or describe_error(error)
    return None


def _moved(error: BaseException, entry: EntryPoint) -> str | None:
    """The remedy if a package is installed, but its own module is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name == entry.module.partition(".")[0]:
        what = f"its module {error.name} is missing, as after the folder of an editable install has moved"
        return f"{what}; install its package again, or run: pip uninstall {entry.dist.name if entry.dist else '…'}"
    return None
