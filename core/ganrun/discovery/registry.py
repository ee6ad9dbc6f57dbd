"""The installed components by kind and name, each with the plugin that offers it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganrun.base.errors import PluginError, RequestError
from ganrun.base.suggestions import did_you_mean
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.plugins import Plugin, Plugins, describe_error, discover

if TYPE_CHECKING:
    import click

    from ganrun.contracts.components import Component
    from ganrun.contracts.health import HealthCheck
    from ganrun.contracts.trackers import Tracker

NAME = "[a-z0-9]+(-[a-z0-9]+)*"


@dataclass(frozen=True)
class RegisteredComponent:
    """One component, and the plugin that offers it."""

    kind: str
    name: str
    cls: Any
    """Its class, a subclass of the contract of its kind."""
    plugin: Plugin

    def __str__(self) -> str:
        return f"{self.name} ({self.plugin})"

    @property
    def full_name(self) -> str:
        """`plugin:name`, which means this component whatever else is installed."""
        return f"{self.plugin.name}:{self.name}"


class Registry:
    """Everything that the plugins offer. Each hook is called when it is first needed, and no other with it.

    Args:
        plugins: The result of `discover`.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.faults: dict[str, str] = {}
        """Plugins whose hooks raised or offered something invalid, with the reason."""
        self._components: dict[str, list[RegisteredComponent]] = {}

    def components(self, kind: str) -> list[RegisteredComponent]:
        """Every component of a kind, sorted by name."""
        if kind not in self._components:
            self._components[kind] = sorted(self._collect(kind), key=lambda each: (each.name, each.plugin.name))
        return self._components[kind]

    def names(self, kind: str) -> list[str]:
        """The names of a kind, without duplicates."""
        return sorted({registered.name for registered in self.components(kind)})

    def find(self, kind: str, name: str, preferred: Sequence[str] = ()) -> RegisteredComponent:
        """The component called `name`, or `plugin:name` where several plugins offer that name.

        Args:
            kind: Its kind.
            name: Its name; the part before a colon is a plugin's name, or else a package's.
            preferred: Plugins or packages whose component a name alone means, the first first, where several offer it.

        Raises:
            PluginError: if no plugin offers it, or several do.
        """
        qualifier, _, bare = name.rpartition(":")
        same_name = [registered for registered in self.components(kind) if registered.name == bare]
        exact = [registered for registered in same_name if registered.plugin.name == qualifier]
        matches = exact or [registered for registered in same_name if registered.plugin.is_called(qualifier)]
        own = [each for wanted in preferred for each in matches if not qualifier and each.plugin.is_called(wanted)]
        if len(matches) == 1 or own:
            return (own or matches)[0]
        raise PluginError(_collision(name, matches) if matches else self._unknown(kind, name))

    def is_automatic(self, name: str) -> bool:
        """Whether an observer of that name takes part in every run by default."""
        return any(registered.name == name and registered.cls.automatic for registered in self.components("observer"))

    def broken(self) -> dict[str, str]:
        """Plugins that could not be loaded or have a fault in a hook called so far, with the reason."""
        return {plugin.name: plugin.error for plugin in self.plugins.found if plugin.error} | self.faults

    def health_checks(self) -> dict[str, Callable[[], HealthCheck]]:
        """The checks that plugins add to `ganrun doctor`, by `plugin: name`."""
        return dict(self._qualified("ganrun_health_checks"))

    def trackers(self) -> dict[str, Tracker]:
        """The trackers, by `plugin: name`."""
        return dict(self._qualified("ganrun_trackers"))

    def commands(self, taken: Collection[str] = ()) -> dict[str, click.Command]:
        """The commands that plugins add, by name.

        Args:
            taken: Names of other commands. A command with such a name is left out, as is one that is no click command,
                and its plugin counts as broken.
        """
        found: dict[str, click.Command] = {}
        for plugin, offered in self._call("ganrun_commands"):
            for name, command in offered.items():
                fault = _command_fault(name, command, {*taken, *found})
                if fault:
                    self.faults[plugin.name] = f"ganrun_commands offers {fault}"
                else:
                    found[name] = command
        return found

    def _collect(self, kind: str) -> Iterator[RegisteredComponent]:
        """The valid components of a kind; invalid ones count as faults of their plugins."""
        for plugin, offered in self._call(KINDS[kind].hook):
            for name, component in offered.items():
                fault = _component_fault(kind, name, component)
                if fault:
                    self.faults[plugin.name] = f"{KINDS[kind].hook} offers {fault}"
                else:
                    yield RegisteredComponent(kind, name, component, plugin)

    def _qualified(self, hook: str) -> Iterator[tuple[str, Any]]:
        for plugin, offered in self._call(hook):
            for name, value in offered.items():
                yield f"{plugin.name}: {name}", value

    def _call(self, hook: str) -> Iterator[tuple[Plugin, dict[Any, Any]]]:
        """The result of each plugin's implementation; one that raises counts as a fault of its plugin."""
        implementations = getattr(self.plugins.manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda each: str(each.plugin_name)):
            try:
                offered = dict(implementation.function())
            except (Exception, SystemExit) as error:
                self.faults[implementation.plugin_name] = describe_error(error)
            else:
                yield self.plugins.named(implementation.plugin_name), offered

    def _unknown(self, kind: str, name: str) -> str:
        what = "data set" if kind == "data" else kind
        text = f'no {what} is called "{name}"' + (did_you_mean(name, self.names(kind)) or f"; see: ganrun list {kind}")
        for broken, reason in self.broken().items():
            text += f'\n  the plugin "{broken}" might offer it, but is broken: {reason}'
        for plugin in self.plugins.found:
            if plugin.blocked:
                text += f'\n  the plugin "{plugin.name}" might offer it, but is blocked'
        return text


def load_registry(blocked: Collection[str] = ()) -> Registry:
    """The registry of this environment, without the plugins in `blocked`.

    Raises:
        RequestError: if `blocked` names a plugin that is not installed.
    """
    return Registry(discover(blocked))


def locate(what: str | Path, registry: Registry) -> Path:
    """An existing path: `what` itself, or the directory of the run that a tracker knows by that id.

    Raises:
        RequestError: if there is neither.
    """
    path = Path(what)
    try:
        if path.exists():
            return path
    except OSError as error:  # a name that is too long, or a folder without read permission
        raise RequestError(f"cannot read {what}: {error.strerror}") from error
    for tracker in registry.trackers().values():
        found = tracker.find(str(what))
        if found is not None:
            return found
    raise RequestError(f"there is no {what}, and no tracker knows a run by that name")


def _collision(name: str, matches: list[RegisteredComponent]) -> str:
    origins = " and ".join(str(registered.plugin) for registered in matches)
    choices = " or ".join(f'use = "{registered.plugin.name}:{registered.name}"' for registered in matches)
    return f'"{name}" is offered by {origins}; say {choices}'


def _component_fault(kind: str, name: Any, component: Any) -> str | None:
    """The fault of a component that a plugin offers, or None."""
    contract = KINDS[kind].contract
    if not _is_name(name):
        return _bad_name(name)
    if not (isinstance(component, type) and issubclass(component, contract)):
        return f'"{name}", which is no subclass of ganrun.{contract.__name__}'
    if isabstract(component):
        missing = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
        return f'"{name}", whose class does not define {missing}'
    fault = component.class_fault() or _settings_fault(component)
    return fault and f'"{name}", {fault}'


def _settings_fault(component: type[Component]) -> str | None:
    from ganrun.discovery.defaults import settings_fault  # pydantic, which `ganrun --help` does without

    return settings_fault(component.Settings)


def _command_fault(name: Any, command: Any, taken: Collection[str]) -> str | None:
    """The fault of a command that a plugin offers, or None."""
    import click

    if not _is_name(name):
        return _bad_name(name)
    if not isinstance(command, click.Command):
        return f'"{name}", which is no click command'
    return f'"{name}", which is a command already' if name in taken else None


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(NAME, name) is not None


def _bad_name(name: Any) -> str:
    return f"the name {name!r}; a name is lower-case letters and digits, with hyphens"
