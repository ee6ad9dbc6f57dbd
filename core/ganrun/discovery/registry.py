"""What the plugins offer: kind + name → component, with where it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganrun.base.errors import PluginError, RequestError
from ganrun.base.suggestions import did_you_mean
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.plugins import Plugin, Plugins, describe_fault, discover

if TYPE_CHECKING:
    import click

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


class Registry:
    """All components of this environment. A kind is collected when it is first asked for.

    Args:
        plugins: As `discover` found them.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.faults: dict[str, str] = {}
        """Plugins whose hooks raised, with the reason."""
        self._components: dict[str, list[RegisteredComponent]] = {}

    def components(self, kind: str) -> list[RegisteredComponent]:
        """Every component of a kind, by name."""
        if kind not in self._components:
            self._components[kind] = sorted(
                self._collect(kind), key=lambda registered: (registered.name, registered.plugin.name)
            )
        return self._components[kind]

    def names(self, kind: str) -> list[str]:
        """The names of a kind, each once."""
        return sorted({registered.name for registered in self.components(kind)})

    def find(self, kind: str, name: str) -> RegisteredComponent:
        """The component called `name`, or `plugin:name` where several plugins offer it.

        Raises:
            PluginError: if nobody offers it, or several do.
        """
        qualifier, _, bare = name.rpartition(":")
        matches = [
            registered
            for registered in self.components(kind)
            if registered.name == bare and registered.plugin.is_called(qualifier)
        ]
        if len(matches) == 1:
            return matches[0]
        raise PluginError(self._collision(name, matches) if matches else self._unknown(kind, name))

    def is_automatic(self, name: str) -> bool:
        """Whether an observer of that name takes part unasked."""
        return any(registered.name == name and registered.cls.automatic for registered in self.components("observer"))

    def broken(self) -> dict[str, str]:
        """Plugins that could not be loaded or whose hooks raised, with the reason."""
        return {plugin.name: plugin.error for plugin in self.plugins.found if plugin.error} | self.faults

    def health_checks(self) -> dict[str, Callable[[], HealthCheck]]:
        """The questions of `ganrun doctor`, by name."""
        found: dict[str, Callable[[], HealthCheck]] = {}
        for plugin, offered in self._call("ganrun_health_checks"):
            found.update({f"{plugin.name}: {name}": check for name, check in offered.items()})
        return found

    def commands(self, taken: Collection[str] = ()) -> dict[str, click.Command]:
        """The commands that plugins add, by name. A plugin that offers a name which is `taken`, or another's, is told
        to be at fault, and that command of it is left out."""
        found: dict[str, click.Command] = {}
        for plugin, offered in self._call("ganrun_commands"):
            for name, command in offered.items():
                if name in taken or name in found:
                    self.faults[plugin.name] = f'ganrun_commands offers "{name}", which is a command already'
                else:
                    found[name] = command
        return found

    def trackers(self) -> dict[str, Tracker]:
        """The places that know runs by names of their own, by plugin and name."""
        found: dict[str, Tracker] = {}
        for plugin, offered in self._call("ganrun_trackers"):
            found.update({f"{plugin.name}: {name}": tracker for name, tracker in offered.items()})
        return found

    def _collect(self, kind: str) -> list[RegisteredComponent]:
        found = []
        for plugin, offered in self._call(KINDS[kind].hook):
            for name, component in offered.items():
                fault = _fault_of(kind, name, component)
                if fault:
                    self.faults[plugin.name] = fault
                else:
                    found.append(RegisteredComponent(kind, name, component, plugin))
        return found

    def _call(self, hook: str) -> list[tuple[Plugin, dict[str, Any]]]:
        """Call each plugin's implementation on its own, so that a fault and a component carry the plugin's name."""
        results = []
        implementations = getattr(self.plugins.manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda each: str(each.plugin_name)):
            try:
                offered = dict(implementation.function())
            except (Exception, SystemExit) as error:
                self.faults[implementation.plugin_name] = describe_fault(error)
                continue
            results.append((self.plugins.named(implementation.plugin_name), offered))
        return results

    def _collision(self, name: str, matches: list[RegisteredComponent]) -> str:
        origins = " and ".join(str(registered.plugin) for registered in matches)
        choices = " or ".join(f'use = "{registered.plugin.name}:{registered.name}"' for registered in matches)
        return f'"{name}" is offered by {origins}; say {choices}'

    def _unknown(self, kind: str, name: str) -> str:
        what = "data set" if kind == "data" else kind
        text = f'no {what} is called "{name}"' + (did_you_mean(name, self.names(kind)) or f"; see: ganrun list {kind}")
        for broken, reason in self.broken().items():
            text += f'\n  the plugin "{broken}" might offer it, but is broken: {reason}'
        for plugin in self.plugins.found:
            if plugin.blocked:
                text += f'\n  the plugin "{plugin.name}" might offer it, but is blocked'
        return text


def load_registry(blocked: tuple[str, ...] = ()) -> Registry:
    """The registry of this environment, without the plugins in `blocked`."""
    return Registry(discover(blocked))


def locate(what: str | Path, registry: Registry) -> Path:
    """A place that is there: of that name, or of the run that a tracker knows by it.

    Raises:
        RequestError: if there is none.
    """
    path = Path(what)
    try:
        if path.exists():
            return path
    except OSError as error:  # a name too long, a folder that may not be read
        raise RequestError(f"cannot read {what}: {error.strerror}") from error
    for tracker in registry.trackers().values():
        found = tracker.find(str(what))
        if found is not None:
            return found
    raise RequestError(f"there is no {what}, and no tracker knows a run by that name")


def _fault_of(kind: str, name: Any, component: Any) -> str | None:
    """What is wrong with a component that a hook offers, or None."""
    from ganrun.contracts.components import Component

    hook, contract = KINDS[kind].hook, KINDS[kind].contract
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        return f"{hook} offers the name {name!r}; a name is lower-case letters and digits, with hyphens"
    if not (isinstance(component, type) and issubclass(component, contract) and issubclass(component, Component)):
        return f'{hook} offers "{name}", which is no subclass of ganrun.{contract.__name__}'
    if isabstract(component):
        lacking = ", ".join(sorted(getattr(component, "__abstractmethods__", ())))
        return f'{hook} offers "{name}", whose class does not define {lacking}'
    fault = component.class_fault()
    return fault and f'{hook} offers "{name}", {fault}'
