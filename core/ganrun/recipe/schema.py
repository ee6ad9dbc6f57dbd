"""A JSON Schema of recipes, with the settings of every installed component: completion and checks in an editor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ganrun.base.errors import PluginError, RequestError
from ganrun.base.files import write_text
from ganrun.base.frames import in_one_line
from ganrun.contracts.settings import Settings
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.registry import RegisteredComponent, Registry
from ganrun.recipe.engine import EmaSettings, StageSettings, TrainSettings
from ganrun.recipe.recipe import DEFAULT_OPTIMIZER, sampling_of

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"

START = "A run, a checkpoint or an exported folder, from whose weights in this slot the network starts."

NOTHING: Mapping[str, Schema] = MappingProxyType({})

BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""pydantic's words for bounds where a type is neither number nor table, and the schema's."""


def write_schema(registry: Registry, path: Path) -> None:
    """Write the schema to a file, atomically.

    Raises:
        RequestError: if the file cannot be written, or is not named `.json`.
    """
    if path.suffix.lower() != ".json":
        raise RequestError(f"{path}: a schema is JSON; say --output NAME.json")
    _leave_out_unusable(registry)
    text = json.dumps(recipe_schema(registry), indent=2, ensure_ascii=False)
    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error


def _leave_out_unusable(registry: Registry) -> None:
    """Leave out components whose settings have no JSON Schema: the others still have theirs."""
    for kind in KINDS:
        for registered in tuple(registry.components(kind)):
            try:
                json.dumps(registered.cls.Settings.model_json_schema())
                cleandoc(registered.cls.__doc__ or "")
            except Exception as error:
                registry.leave_out(registered, f"whose settings have no schema: {in_one_line(error)}")


def recipe_schema(registry: Registry) -> Schema:
    """The schema (draft 2020-12) of the recipes that these plugins can run.

    It checks each key and value by itself; `ganrun check` also checks that the components fit together.
    """
    definitions: dict[str, Schema] = {}
    slots = _slots(registry)
    properties = {
        **_engine_tables(definitions),
        "data": _component(registry, "data", definitions),
        "loss": _component(registry, "loss", definitions),
        **{slot: _any_of(_network(registry, kind, definitions) for kind in kinds) for slot, kinds in slots.items()},
        "augmentation": _component(registry, "augmentation", definitions),
        "regularizer": {"type": "array", "items": _component(registry, "regularizer", definitions)},
        "sampling": _sampling(registry, definitions),
        "optimizer": _optimizers(registry, slots, definitions),
        "metric": {"type": "array", "items": _component(registry, "metric", definitions)},
        **{name: _observer(registry, name, definitions) for name in registry.names("observer") if name not in slots},
    }
    top = _object(properties, required=["train", "data", "loss"], description="A recipe: one experiment of ganrun.")
    return {"$schema": DRAFT, "title": "ganrun recipe", **top, "$defs": dict(sorted(definitions.items()))}


# ── The engine's own tables ───────────────────────────────────────────────────────────────────────────────


def _engine_tables(definitions: dict[str, Schema]) -> dict[str, Schema]:
    requirements = 'Packages that the recipe needs, such as "ganrun-stylegan>=0.3".'
    return {
        "name": {"type": "string", "pattern": r"\S", "description": "Names the run; the file's name unless given."},
        "requires": {"type": "array", "items": {"type": "string"}, "description": requirements},
        "train": _define("train", TrainSettings, definitions),
        "stage": {"type": "array", "items": _define("stage", StageSettings, definitions)},
        "ema": _any_of([_define("ema", EmaSettings, definitions), {"const": False}]),
    }


# ── Components ────────────────────────────────────────────────────────────────────────────────────────────


def _network(registry: Registry, kind: str, definitions: dict[str, Schema]) -> Schema:
    """The table of a slot, which may also say `from`."""
    return _component(registry, kind, definitions, {"from": {"type": "string", "pattern": r"\S", "description": START}})


def _sampling(registry: Registry, definitions: dict[str, Schema]) -> Schema:
    """The settings of `[sampling]`, which depend on the loss."""
    losses = [loss for loss in registry.components("loss") if sampling_of(loss).model_fields]
    tables = [_define(f"{_key(loss)}.sampling", sampling_of(loss), definitions) for loss in losses]
    return {**_any_of([*tables, _object({})]), "description": "How samples are made: settings of the loss."}


def _component(
    registry: Registry, kind: str, definitions: dict[str, Schema], more: Mapping[str, Schema] = NOTHING
) -> Schema:
    """A table that names a component of this kind by `use` and holds that component's settings, and keys of `more`."""
    if kind not in definitions:
        definitions[kind] = {}  # a component may name others of the same kind
        found = registry.components(kind)
        for registered in found:
            own, names = _own_settings(registry, registered, definitions), _spellings(registry, registered)
            description = cleandoc(registered.cls.__doc__ or "")
            own = {**own, "properties": {**more, **own.get("properties", {})}}
            definitions[_key(registered)] = {**_with_use(own, names, required=True), "description": description}
        use = {"enum": _all_spellings(registry, kind), "description": f"Which {kind}."}
        table = {"type": "object", "properties": {"use": use}, "required": ["use"]}
        definitions[kind] = {**table, "oneOf": [_reference(_key(each)) for each in found]} if found else table
    return _reference(kind)


def _own_settings(registry: Registry, registered: RegisteredComponent, definitions: dict[str, Schema]) -> Schema:
    """A component's settings; one that names another component is a name, or a table that says `use`."""
    own = _settings_schema(_key(registered), registered.cls.Settings, definitions)
    properties = dict(own.get("properties", {}))
    for name, kind in registered.cls.parts.items():
        options = [{"enum": _all_spellings(registry, kind)}, _component(registry, kind, definitions)]
        kept = {key: properties[name][key] for key in ("description", "default") if key in properties[name]}
        properties[name] = {"anyOf": options, **kept}
    return {**own, "properties": properties}


def _all_spellings(registry: Registry, kind: str) -> list[str]:
    return [name for registered in registry.components(kind) for name in _spellings(registry, registered)]


def _optimizers(registry: Registry, slots: Iterable[str], definitions: dict[str, Schema]) -> Schema:
    """One branch for each optimiser that `[optimizer]` may name, since a slot's table inherits from that one."""
    found = registry.components("optimizer")
    for registered in found:
        own, names = _own_settings(registry, registered, definitions), _spellings(registry, registered)
        definitions[_key(registered)] = _with_use(own, names, required=True)
        definitions[f"{_key(registered)}.inherited"] = _with_use(own, names, required=False)
    branches = [_shared_optimizer(registry, registered, slots, definitions) for registered in found]
    return {"oneOf": branches} if branches else {"type": "object"}


def _shared_optimizer(
    registry: Registry, registered: RegisteredComponent, slots: Iterable[str], definitions: Mapping[str, Schema]
) -> Schema:
    key = _key(registered)
    others = [_reference(_key(other)) for other in registry.components("optimizer") if other != registered]
    table = {"oneOf": [_reference(f"{key}.inherited"), *others]}
    is_default = DEFAULT_OPTIMIZER in _spellings(registry, registered)
    shared = definitions[f"{key}.inherited" if is_default else key]
    return {**shared, "properties": {**shared["properties"], **dict.fromkeys(slots, table)}}


def _spellings(registry: Registry, registered: RegisteredComponent) -> list[str]:
    """The values of `use` that mean a component: its name if only one plugin offers it, and the qualified forms."""
    qualified = [f"{qualifier}:{registered.name}" for qualifier in (registered.plugin.name, registered.plugin.package)]
    return [name for name in dict.fromkeys([registered.name, *qualified]) if _means(registry, name, registered)]


def _means(registry: Registry, name: str, registered: RegisteredComponent) -> bool:
    try:
        return registry.find(registered.kind, name) == registered
    except PluginError:
        return False


def _slots(registry: Registry) -> dict[str, list[str]]:
    """Every slot of every installed loss, with the kinds that fill it."""
    found: dict[str, list[str]] = {}
    for registered in registry.components("loss"):
        for name, slot in registered.cls.slots.items():
            kinds = found.setdefault(name, [])
            if slot.kind not in kinds:
                kinds.append(slot.kind)
    return found


def _observer(registry: Registry, name: str, definitions: dict[str, Schema]) -> Schema:
    """An observer's table, or true or false."""
    found = [registered for registered in registry.components("observer") if registered.name == name]
    tables = [_observer_table(registry, registered, definitions) for registered in found]
    switch = {"type": "boolean", "description": "Whether it takes part, with its default settings."}
    return {**_any_of([*tables, switch]), "description": cleandoc(found[0].cls.__doc__ or "")}


def _observer_table(registry: Registry, registered: RegisteredComponent, definitions: dict[str, Schema]) -> Schema:
    key = _key(registered)
    own = _own_settings(registry, registered, definitions)
    definitions[key] = _with_use(own, _spellings(registry, registered), required=False)
    return _reference(key)


def _key(registered: RegisteredComponent) -> str:
    return f"{registered.kind}.{registered.plugin.name}.{registered.name}"


# ── Pieces of schemas ─────────────────────────────────────────────────────────────────────────────────────


def _define(key: str, settings: type[Settings], definitions: dict[str, Schema]) -> Schema:
    if key not in definitions:
        definitions[key] = _settings_schema(key, settings, definitions)
    return _reference(key)


def _settings_schema(key: str, settings: type[Settings], definitions: dict[str, Schema]) -> Schema:
    """pydantic's schema of a settings class; its own definitions are moved to `definitions`, below `key`."""
    schema = settings.model_json_schema()
    for name, inner in schema.pop("$defs", {}).items():
        definitions[f"{key}.{name}"] = _for_toml(inner, key)
    own: Schema = _for_toml(schema, key)
    return own


def _for_toml(schema: Any, key: str) -> Any:
    """A schema whose references lead to `key`'s definitions, without titles, and without nulls, which TOML lacks."""
    if not isinstance(schema, dict):
        return schema
    found = {
        keyword: _keyword(keyword, value, key) for keyword, value in schema.items() if not _is_noise(keyword, value)
    }
    bounds = {BOUNDS.get(keyword, keyword): found.pop(keyword) for keyword in {*BOUNDS, *BOUNDS.values()} & {*found}}
    if "$ref" in found and bounds:  # a schedule, whose ends have the bounds of its field
        bounds = {**bounds, "properties": {"start": bounds, "end": bounds}}
    found |= bounds
    options = found.get("anyOf", [])
    if {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        del found["anyOf"]
        found = {**rest[0], **found} if len(rest) == 1 else {**found, "anyOf": rest}
    return found


def _keyword(keyword: str, value: Any, key: str) -> Any:
    if keyword == "$ref":
        return f"#/$defs/{key}.{value.removeprefix('#/$defs/')}"
    if keyword in ("properties", "patternProperties"):
        return {name: _for_toml(each, key) for name, each in value.items()}
    if keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        return [_for_toml(each, key) for each in value]
    if keyword in ("items", "additionalProperties", "propertyNames", "not", "contains"):
        return _for_toml(value, key)
    return value


def _is_noise(keyword: str, value: Any) -> bool:
    return keyword in ("title", "discriminator") or (keyword == "default" and value is None)


def _with_use(schema: Schema, names: Sequence[str], *, required: bool) -> Schema:
    """A settings table that also holds `use`, one of `names`."""
    use: Schema = {"const": names[0]} if len(names) == 1 else {"enum": list(names)}
    needed = [*(["use"] if required else []), *schema.get("required", [])]
    return {**schema, "properties": {"use": use, **schema.get("properties", {})}, "required": needed}


def _object(properties: Mapping[str, Schema], **more: Any) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


def _any_of(schemas: Iterable[Schema]) -> Schema:
    options = list(schemas)
    return options[0] if len(options) == 1 else {"anyOf": options}


def _reference(key: str) -> Schema:
    return {"$ref": f"#/$defs/{key}"}
