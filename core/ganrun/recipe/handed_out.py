"""A run's recipe in the form that is shared with the trained model: without anything specific to the training
machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tomli_w

from ganrun.base.places import is_local_path, without_local_paths
from ganrun.base.secrets import without_secrets
from ganrun.contracts.losses import Loss
from ganrun.contracts.networks import Network
from ganrun.contracts.outside import Address, local_paths, marked
from ganrun.contracts.settings import Settings
from ganrun.discovery.made_with import MadeWith
from ganrun.discovery.registry import Registry
from ganrun.recipe.components import ComponentReader
from ganrun.recipe.lines import Key
from ganrun.recipe.reader import named_tables
from ganrun.recipe.source import read_source
from ganrun.recipe.tables import Tables


def handed_out(path: Path, registry: Registry, made_with: MadeWith) -> str:
    """The text of a run's own recipe without the paths of that machine, the addresses of its services, and `from`.

    If the loss or a network requires a path, its last component is kept. Loading a model does not read that file: its
    weights are in the folder.

    The recipe's leading comment, its author's text, is kept. Passwords and tokens, which a recipe of ganrun 0.1.0 may
    contain, are removed.

    Args:
        path: The recipe.
        registry: The installed components, whose settings say which of them are paths and addresses.
        made_with: The plugins of the run.

    Raises:
        RequestError: if the file cannot be read.
        RecipeError: if it is not TOML.
    """
    source = read_source(path)
    reader = ComponentReader(Tables(source), registry, made_with)
    for key, kind, use in named_tables(reader):
        _strip(reader, _at(source.tables, key), kind, use)
    name = {"name": source.tables["name"]} if "name" in source.tables else {}  # it may look like a path
    tables = _without_secrets({**name, **without_local_paths(source.tables)})
    return f"{without_secrets(source.preamble)}\n{tomli_w.dumps(tables)}".lstrip()


def _strip(reader: ComponentReader, table: dict[str, Any], kind: str, use: object) -> None:
    """Remove settings of marked types from a component's table, and from its parts."""
    found = reader.named(kind, use)
    if found is None:
        return
    settings, is_model = found.cls.Settings, issubclass(found.cls, Network | Loss)
    addresses = [name for name, _ in marked(settings, Address)]
    paths = [name for name, value in table.items() if isinstance(value, str) and is_local_path(value)]
    for name in (*addresses, *(["from"] if is_model else [])):
        table.pop(name, None)
    for name in {*paths, *local_paths(settings)} & table.keys():
        if is_model and _is_required(settings, name):
            table[name] = re.split(r"[/\\]", table[name])[-1]
        else:
            del table[name]
    for name, part in found.cls.parts.items():
        if isinstance(table.get(name), dict):
            _strip(reader, table[name], part, table[name].get("use"))


def _is_required(settings: type[Settings], key: str) -> bool:
    return any(field.is_required() and (field.alias or name) == key for name, field in settings.model_fields.items())


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
