"""A run's recipe as it is handed out with the trained model: without what belongs to the machine that trained it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from ganrun.base.places import without_local_paths
from ganrun.base.secrets import without_secrets
from ganrun.contracts.networks import Network
from ganrun.contracts.outside import Address, local_paths, marked
from ganrun.discovery.made_with import MadeWith
from ganrun.discovery.registry import Registry
from ganrun.recipe.components import ComponentReader
from ganrun.recipe.reader import named_tables
from ganrun.recipe.source import Key, read_source
from ganrun.recipe.tables import Tables


def handed_out(path: Path, registry: Registry, made_with: MadeWith) -> str:
    """The text of a run's own recipe without the paths of that machine, the addresses of its services, and `from`.

    The recipe's comment stays, which is its author's text. Nothing holds a password or token, as a recipe of ganrun
    0.1.0 may.

    Args:
        path: The recipe.
        registry: The installed components, whose settings say which of them are paths and addresses.
        made_with: The plugins of the run.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: if it is no TOML.
    """
    source = read_source(path)
    reader = ComponentReader(Tables(source), registry, made_with)
    for key, kind, use in named_tables(reader):
        _strip(reader, _at(source.tables, key), kind, use)
    name = {"name": source.tables["name"]} if "name" in source.tables else {}  # which may look like a path
    tables = _without_secrets({**name, **without_local_paths(source.tables)})
    return f"{without_secrets(source.preamble)}\n{tomli_w.dumps(tables)}".lstrip()


def _strip(reader: ComponentReader, table: dict[str, Any], kind: str, use: object) -> None:
    """Remove from a component's table what the types of its settings mark, in its parts too."""
    found = reader.named(kind, use)
    if found is None:
        return
    addresses = [name for name, _ in marked(found.cls.Settings, Address)]
    start = ["from"] if issubclass(found.cls, Network) else []
    for name in (*local_paths(found.cls.Settings), *addresses, *start):
        table.pop(name, None)
    for name, part in found.cls.parts.items():
        if isinstance(table.get(name), dict):
            _strip(reader, table[name], part, table[name].get("use"))


def _at(tables: Any, key: Key) -> Any:
    for part in key:
        tables = tables[part]
    return tables


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(each) for key, each in value.items()}
    if isinstance(value, list):
        return list(map(_without_secrets, value))
    return without_secrets(value) if isinstance(value, str) else value
