"""`ganrun list`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import click

from ganrun.base.errors import PluginError
from ganrun.base.frames import called
from ganrun.base.spinner import spinner
from ganrun.commands.options import no_plugin
from ganrun.commands.output import print_line, table
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.registry import RegisteredComponent, Registry, load_registry
from ganrun.recipe.shipped import shipped_recipes


@click.command("list")
@click.argument("kind", required=False, type=click.Choice([*KINDS, "recipes"]))
@no_plugin
def command(kind: str | None, blocked: tuple[str, ...]) -> None:
    """List the components that recipes can use, of one KIND or all; or the recipes that are part of ganrun."""
    if kind == "recipes":
        click.echo(_recipe_table())
        return
    with spinner("loading PyTorch"):
        text = _component_table(load_registry(blocked), [kind] if kind else KINDS)
    print_line(text)


def _component_table(registry: Registry, kinds: Iterable[str]) -> str:
    """Every component of these kinds with its plugin and summary; broken plugins below."""
    rows = [("kind", "name", "plugin", "summary")]
    for kind in kinds:
        for registered in registry.components(kind):
            rows.append((kind, registered.name, str(registered.plugin), _summary(registered)))
    broken = [f'\nthe plugin "{name}" is broken: {reason}' for name, reason in registry.broken().items()]
    return "\n".join([table(rows) + "".join(broken), *registry.plugins.faults])


def _summary(registered: RegisteredComponent) -> str:
    try:
        with called(f"{registered.kind} {registered}", "summary", error=PluginError):
            return str(registered.cls.summary())
    except PluginError as error:
        return str(error)


def _recipe_table() -> str:
    """The recipes that are part of ganrun: model, data, and the published score that they reproduce."""
    rows = [("recipe", "loss", "networks", "data", "target")]
    for path in sorted(shipped_recipes().glob("*.toml")):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        data = f"{tables['data']['use']} {tables['data'].get('size', '')}".rstrip()
        rows.append((path.name, tables["loss"]["use"], _networks(tables), data, _target(tables.get("target"))))
    return table(rows)


def _networks(tables: Mapping[str, Any]) -> str:
    """The networks: the tables that say `use`, except those that every recipe has."""
    names = [name for name in tables if name not in ("data", "loss", "optimizer")]
    return " + ".join(tables[name]["use"] for name in names if isinstance(tables[name], dict) and "use" in tables[name])


def _target(target: Mapping[str, Any] | None) -> str:
    if target is None:
        return "none published"
    tolerance = f" ± {target['tolerance']:g}" if "tolerance" in target else ""
    return f"{target['metric']} {target['value']:g}{tolerance}"
