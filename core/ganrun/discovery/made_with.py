"""The plugins that a run was made with: its recipe refers to their components, even if others were installed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ganrun.base.errors import PluginError
from ganrun.contracts.markers import PROJECT
from ganrun.discovery.plugins import Plugin
from ganrun.discovery.registry import RegisteredComponent, Registry


class Origin(NamedTuple):
    """A package, in the version that made a run."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    @classmethod
    def parse(cls, text: str) -> Origin:
        """From what `str(plugin)` writes: `ganrun-stylegan 0.3`, or `package:plugin 0.3`."""
        name, _, version = text.rpartition(" ")
        return cls(name.partition(":")[0], version)


@dataclass(frozen=True)
class MadeWith:
    """The plugins of a run, by name, each as `str(plugin)`; empty for a recipe that does not belong to a run."""

    plugins: Mapping[str, str] = field(default_factory=dict)

    def find(self, registry: Registry, kind: str, use: str) -> RegisteredComponent:
        """The component that a run's recipe calls `use`.

        A qualified name refers to the package that the run was made with, even if the component has moved to another of
        its plugins. If several plugins offer an unqualified name, as ganrun 0.1.0 wrote it, it refers to the run's own
        plugin; among several of those, to the built-in one.

        Raises:
            PluginError: if there is none; says which package made the run, if that is missing or of another version.
        """
        qualifier, _, name = use.rpartition(":")
        origin = self._origin(qualifier)
        offered = [each for each in registry.components(kind) if each.name == name]
        own = [each for each in offered if origin and each.plugin.package == origin.package]
        exact = [each for each in own if each.plugin.name in (qualifier, f"{each.plugin.package}.{qualifier}")]
        if exact or own:
            return (exact or own)[0]
        absent = self.missing(registry, qualifier)
        if origin and absent:
            raise PluginError(absent)
        try:
            found = registry.find(kind, use, self._preferred())
        except PluginError as error:
            raise PluginError(error.message + (f"\n  {absent}" if absent else self._hint(registry, origin))) from None
        if origin and found.plugin.package != origin.package:
            raise PluginError(f'{origin.package} no longer offers the {kind} "{name}"{self._hint(registry, origin)}')
        return found

    def means(self, use: object, registered: RegisteredComponent) -> bool:
        """Whether `use` in a run's recipe can refer to this component, by the rules of `find`."""
        qualifier, _, name = str(use).rpartition(":")
        plugin = registered.plugin
        if name != registered.name:
            return False
        if qualifier:
            origin = self._origin(qualifier)
            return plugin.is_called(qualifier) if origin is None else origin.package == plugin.package
        return not self.plugins or plugin.package == PROJECT or plugin.name in self.plugins

    def missing(self, registry: Registry, qualifier: str = "") -> str | None:
        """The packages that made the run and are not installed; of all its plugins unless one is named."""
        installed = {plugin.package for plugin in registry.plugins.found}
        origins = [Origin.parse(text) for name, text in self.plugins.items() if qualifier in ("", name)]
        absent = [origin for origin in dict.fromkeys(origins) if origin.package not in {*installed, "?"}]
        if not absent:
            return None
        packages = " and ".join(map(str, absent))
        wanted = " ".join(f'"{origin.package}=={origin.version}"' for origin in absent)
        is_or_are = "is" if len(absent) == 1 else "are"
        return f"the run was made with {packages}, which {is_or_are} not installed; say: pip install {wanted}"

    def other_version(self, plugin: Plugin) -> str | None:
        """A warning, if another version of a plugin's package made the run; ganrun itself reads its old runs."""
        for origin in map(Origin.parse, self.plugins.values()):
            if origin.package == plugin.package != PROJECT and origin.version != plugin.version:
                return f"the run was made with {origin}, and {plugin.version} is installed"
        return None

    def _origin(self, qualifier: str) -> Origin | None:
        recorded = self.plugins.get(qualifier)
        origin = Origin.parse(recorded) if recorded else None
        return origin if origin and origin.package not in ("", "?") else None

    def _preferred(self) -> list[str]:
        """The plugins that an unqualified name can refer to, by precedence."""
        own = [name for name, text in self.plugins.items() if Origin.parse(text).package == PROJECT]
        return [*own, *(name for name in self.plugins if name not in own), PROJECT] if self.plugins else []

    def _hint(self, registry: Registry, origin: Origin | None) -> str:
        """A hint if a component's absence may be due to its package's version."""
        own = [plugin for plugin in registry.plugins.found if origin and plugin.package == origin.package]
        other = next(filter(None, map(self.other_version, own)), None)
        return f'\n  {other}; say: pip install "{"==".join(origin or ())}"' if other else ""
