"""The installed components by kind and name, each with the plugin that offers it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganrun.base.errors import ContractError, PluginError, RequestError
from ganrun.base.frames import passes
from ganrun.base.suggestions import did_you_mean
from ganrun.discovery.guard import guarded
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.named import NamedTracker
from ganrun.discovery.offers import Fault, check_fault, command_fault, component_fault, tracker_fault
from ganrun.discovery.plugins import Plugin, Plugins, describe_error, discover

if TYPE_CHECKING:
    import click

    from ganrun.contracts.health import HealthCheck
    from ganrun.contracts.trackers import Tracker


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
        """`plugin:name`, which identifies this component even if others of its name are installed."""
        return f"{self.plugin.name}:{self.name}"


class Registry:
    """Everything that the plugins offer. Each hook is called separately, when it is first needed.

    Args:
        plugins: The result of `discover`.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.faults: dict[str, str] = {}
        """Plugins whose hooks raised or offered something invalid, with the reason."""
        self._components: dict[str, list[RegisteredComponent]] = {}
        self._command_plugins: dict[str, Plugin] = {}

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
            preferred: Plugins or packages, by precedence, that an unqualified name refers to if several offer it.

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
        return {
            f"{plugin.name}: {name}": check for plugin, name, check in self._offers("ganrun_health_checks", check_fault)
        }

    def trackers(self) -> dict[str, Tracker]:
        """The trackers, by `plugin: name`; each call of one is framed with its name."""
        return {
            f"{plugin.name}: {name}": NamedTracker(f"the tracker {name} ({plugin})", tracker)
            for plugin, name, tracker in self._offers("ganrun_trackers", tracker_fault)
        }

    def commands(self, taken: Collection[str] = ()) -> dict[str, click.Command]:
        """The commands that plugins add, by name.

        Args:
            taken: Names of other commands. A command with such a name, or one that is not a click command, is left out,
                and its plugin counts as broken.
        """
        found: dict[str, click.Command] = {}

        def fault(name: object, command: object) -> str | None:
            return command_fault(name, command, {*taken, *found})

        for plugin, name, command in self._offers("ganrun_commands", fault):
            found[name] = command
            self._command_plugins[name] = plugin
        return found

    def plugin_of_command(self, name: str) -> Plugin | None:
        """The plugin that offers a command; None for a command of ganrun."""
        return self._command_plugins.get(name)

    def leave_out(self, registered: RegisteredComponent, reason: str) -> None:
        """Drop a component that turned out to be unusable; its plugin counts as broken."""
        self.components(registered.kind).remove(registered)
        self.faults[registered.plugin.name] = f'{KINDS[registered.kind].hook} offers "{registered.name}", {reason}'

    def _collect(self, kind: str) -> Iterator[RegisteredComponent]:
        """The valid components of a kind; invalid ones count as faults of their plugins."""
        for plugin, name, component in self._offers(KINDS[kind].hook, partial(component_fault, kind)):
            yield RegisteredComponent(kind, name, component, plugin)

    def _offers(self, hook: str, fault_of: Fault) -> Iterator[tuple[Plugin, str, Any]]:
        """The valid offers of all plugins for a hook; an invalid one counts as a fault of its plugin."""
        for plugin, offered in self._call(hook):
            for name, value in offered.items():
                fault = fault_of(name, value)
                if fault:
                    self.faults[plugin.name] = f"{hook} offers {fault}"
                else:
                    yield plugin, name, value

    def _call(self, hook: str) -> Iterator[tuple[Plugin, dict[Any, Any]]]:
        """The result of each plugin's implementation; one that raises counts as a fault of its plugin."""
        implementations = getattr(self.plugins.manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda each: str(each.plugin_name)):
            try:
                with guarded(implementation.plugin_name):
                    offered = _mapping(hook, implementation.function())
            except BaseException as error:
                if passes(error):
                    raise
                self.faults[implementation.plugin_name] = describe_error(error)
            else:
                yield self.plugins.named(implementation.plugin_name), offered

    def _unknown(self, kind: str, name: str) -> str:
        what = "data set" if kind == "data" else kind
        text = f'no {what} is called "{name}"' + (did_you_mean(name, self.names(kind)) or f"; see: ganrun list {kind}")
        return text + self.lacking("offer it")

    def lacking(self, doing: str) -> str:
        """The end of a message that nothing was found: a line for each plugin that might help but is broken or blocked;
        empty if there is none.

        Args:
            doing: Verb phrase for what such a plugin might do, such as `offer it`.
        """
        lines = [f'the plugin "{name}" might {doing}, but is broken: {why}' for name, why in self.broken().items()]
        blocked = (plugin.name for plugin in self.plugins.found if plugin.blocked)
        lines += [f'the plugin "{name}" might {doing}, but is blocked' for name in blocked]
        return "".join(f"\n  {line}" for line in (*lines, *self.plugins.faults))


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
    faults = ""
    for tracker in registry.trackers().values():
        try:
            found = tracker.find(str(what))
        except ContractError as error:  # a broken tracker must not hide another's result
            faults += f"\n  {error}"
        else:
            if found is not None:
                return found
    raise RequestError(
        f"there is no {what}, and no tracker knows a run by that name{faults}{registry.lacking('know it')}"
    )


def _mapping(hook: str, offered: object) -> dict[Any, Any]:
    if not isinstance(offered, Mapping):
        given = "nothing" if offered is None else repr(offered)
        raise PluginError(f"{hook} returns {given}; it must return a mapping of names to what it offers")
    return dict(offered)


def _collision(name: str, matches: list[RegisteredComponent]) -> str:
    origins = " and ".join(str(registered.plugin) for registered in matches)
    choices = " or ".join(f'use = "{registered.plugin.name}:{registered.name}"' for registered in matches)
    return f'"{name}" is offered by {origins}; say {choices}'
