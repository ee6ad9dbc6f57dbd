"""What `ganrun list`, `show` and `plugins` print, as plain text that also reads well in a pipe."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from textwrap import fill, indent
from typing import TYPE_CHECKING, Any

from ganrun.base.errors import RequestError
from ganrun.contracts.settings import Settings, settings_help
from ganrun.recipe.shipped import shipped_recipes

if TYPE_CHECKING:
    from ganrun.contracts.losses import Loss
    from ganrun.discovery.plugins import Plugins
    from ganrun.discovery.registry import Registry

WIDTH = 100

ENGINE_TABLES = ("train", "ema")
"""Tables of a recipe that are the engine's own."""

_NO_NETWORKS = ("data", "loss", "optimizer")
"""Tables of a recipe that say `use` and are no slots."""


def plugin_table(plugins: Plugins) -> str:
    """Every plugin with package, version and status; the reason for a broken one stands below it."""
    rows = [("plugin", "package", "version", "status")]
    for plugin in plugins.found:
        status = f"{plugin.status}: {plugin.error}" if plugin.error else plugin.status
        rows.append((plugin.name, plugin.package, plugin.version, status))
    return table(rows)


def component_table(registry: Registry, kinds: Iterable[str]) -> str:
    """Every component of these kinds with its summary and its plugin; broken plugins below."""
    rows = [("kind", "name", "plugin", "what it is")]
    for kind in kinds:
        for registered in registry.components(kind):
            rows.append((kind, registered.name, str(registered.plugin), registered.cls.summary()))
    broken = [f'\nthe plugin "{name}" is broken: {reason}' for name, reason in registry.broken().items()]
    return table(rows) + "".join(broken)


def recipe_table() -> str:
    """The recipes that travel with ganrun: model, data, and the published score that they aim at."""
    rows = [("recipe", "loss", "networks", "data", "target")]
    for path in sorted(shipped_recipes().glob("*.toml")):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        networks = [each["use"] for name, each in tables.items() if name not in _NO_NETWORKS and _is_component(each)]
        size = tables["data"].get("size", "")
        data = f"{tables['data']['use']} {size}".rstrip()
        rows.append((path.name, tables["loss"]["use"], " + ".join(networks), data, _target_text(tables.get("target"))))
    return table(rows)


def _is_component(table: Any) -> bool:
    return isinstance(table, dict) and "use" in table


def _target_text(target: Mapping[str, Any] | None) -> str:
    if target is None:
        return "none published"
    tolerance = f" ± {target['tolerance']:g}" if "tolerance" in target else ""
    return f"{target['metric']} {target['value']:g}{tolerance}"


def describe(registry: Registry, kind: str, name: str | None) -> str:
    """One component, or one of the engine's own tables, with every setting.

    Raises:
        RequestError: if there is no such name.
    """
    if kind in ENGINE_TABLES:
        return _describe_engine(kind)
    if name is None:
        names = ", ".join(registry.names(kind))
        raise RequestError(f"say which {kind}: ganrun show {kind} NAME; there are {names}")
    registered = registry.find(kind, name)
    doc = cleandoc(registered.cls.__doc__ or "")
    slots = [_slots_text(registered.cls)] if kind == "loss" else []
    return "\n\n".join([f"{kind} {registered}", doc, *slots, settings_text(registered.cls.Settings)])


def _slots_text(loss: type[Loss]) -> str:
    """The tables that a recipe with this loss has, and what fills each."""
    return "slots\n" + "\n".join(f"  [{name}]   a {slot.kind}" for name, slot in loss.slots.items())


def settings_text(settings: type[Settings]) -> str:
    """Every setting: name, type, default, bounds and, below, what it means."""
    parts = []
    for each in settings_help(settings):
        default = "required" if each.default == "required" else f"default {each.default}"
        head = "   ".join(filter(None, (f"  {each.name}", each.type, default, each.bounds)))
        parts.append(head + ("\n" + indent(fill(each.help, WIDTH - 6), "      ") if each.help else ""))
    return "settings\n" + "\n".join(parts) if parts else "no settings"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns; the last column runs free."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _describe_engine(kind: str) -> str:
    from ganrun.recipe.recipe import EmaSettings, TrainSettings

    settings: type[Settings] = TrainSettings if kind == "train" else EmaSettings
    return "\n\n".join([f"[{kind}]", cleandoc(settings.__doc__ or ""), settings_text(settings)])
