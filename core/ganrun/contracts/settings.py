"""The base of every settings class: what a recipe's table may hold, checked strictly and documented in place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Settings(BaseModel):
    """Base of every settings class.

    Frozen; unknown keys, wrong types, NaN and infinity are refused; a docstring under a field is its help text:

        class Settings(ganrun.Settings):
            penalty_weight: float = Field(10.0, ge=0)
            \"""λ, the weight of the gradient penalty.\"""
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


S = TypeVar("S", bound=Settings)


class SettingHelp(NamedTuple):
    """One setting as `ganrun show` prints it."""

    name: str
    type: str
    default: str
    bounds: str
    help: str


def parse_settings(settings: type[S], table: Mapping[str, Any]) -> S:
    """Validate a TOML table. Goes through JSON, where a list may stand for a tuple and nothing else is coerced.

    Raises:
        pydantic.ValidationError: with one entry per fault, each with its path in the table.
    """
    return settings.model_validate_json(json.dumps(table), strict=True)


def dump_settings(settings: Settings) -> dict[str, Any]:
    """Settings as a TOML table; settings that are off are left out, because TOML has no null."""
    return settings.model_dump(mode="json", by_alias=True, exclude_none=True)


def setting_names(settings: type[Settings]) -> list[str]:
    """The keys that a table may hold, in order of definition."""
    return [_key(name, field) for name, field in settings.model_fields.items()]


def settings_help(settings: type[Settings]) -> Iterator[SettingHelp]:
    """Every setting of a class with type, default, bounds and docstring, in order of definition."""
    schema = settings.model_json_schema()
    for attribute, field in settings.model_fields.items():
        name = _key(attribute, field)
        yield SettingHelp(
            name=name,
            type=_type_text(schema["properties"][name], schema),
            default="required" if field.is_required() else _default_text(field),
            bounds=" ".join(_bounds(field)),
            help=" ".join((field.description or "").split()),
        )


def _key(attribute: str, field: FieldInfo) -> str:
    """A setting as a recipe writes it: its alias, where its name is a word of Python's, such as `from`."""
    return field.alias or attribute


def _default_text(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "off" if value is None else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else str(value)


def _type_text(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """A JSON schema's type in a recipe author's words."""
    if "$ref" in schema:
        return _type_text(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if "enum" in schema:
        return " | ".join(json.dumps(choice) for choice in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type_text(each, root) for each in schema["anyOf"] if each.get("type") != "null")
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items") or {}]
        return f"list of {_type_text(items[0], root)}"
    if "properties" in schema:
        return f"{{ {', '.join(schema['properties'])} }}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"table of {_type_text(schema['additionalProperties'], root)}"
    return str(schema.get("type", "any"))


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of", "min_length": "at least"}


def _bounds(field: FieldInfo) -> Iterator[str]:
    for constraint in field.metadata:
        for attribute, sign in _SIGNS.items():
            bound = getattr(constraint, attribute, None)
            if bound is not None:
                yield f"{sign} {bound}"
