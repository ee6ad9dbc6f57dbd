"""What `ganrun data` does: which data sets there are, where their files lie, and whether those are sound."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganrun.base.errors import GanrunError
from ganrun.commands.descriptions import table
from ganrun.contracts.data import Data
from ganrun.discovery.registry import RegisteredComponent, Registry
from ganrun.recipe.reader import load_component_config, load_recipe
from ganrun.recipe.recipe import ComponentConfig
from ganrun.recipe.shipped import find_recipe


def data_table(registry: Registry) -> str:
    """Every data set with its samples' shape, its classes, and where its files are."""
    rows = [("data", "sample", "classes", "where")]
    rows += [(registered.name, *_row(registered)) for registered in registry.components("data")]
    return table(rows)


def whereabouts(registered: RegisteredComponent) -> tuple[bool | None, str]:
    """Whether a data set can be used as its defaults say, and where it is; None where it has no defaults."""
    required = [name for name, field in registered.cls.Settings.model_fields.items() if field.is_required()]
    if required:
        return None, f"wherever {' and '.join(required)} says"
    try:
        path = registered.cls(registered.cls.Settings()).locate()
    except GanrunError as error:
        return False, f"{str(error).splitlines()[0].rstrip(':')}; see: ganrun data path {registered.name}"
    return True, "needs no files" if path is None else str(path.absolute())


@contextmanager
def opened(name: str, registry: Registry, overrides: Sequence[str]) -> Iterator[Data]:
    """A data set by its name with its defaults, or a recipe's by the path of the recipe, for the length of a block.

    Args:
        name: Such as `celeba`, or `recipes/wgan_celeba.toml`.
        registry: Where to look for it.
        overrides: `size=64` for a data set, `data.size=64` for a recipe.

    Raises:
        RequestError: if there is no such thing. Errors of the block get the data set's name.
    """
    choice = _chosen(name, registry, overrides)
    try:
        yield choice.build()
    except GanrunError as error:
        error.message = f"data {choice.use}: {error.message}"
        raise


def manifest_text(data: Data) -> str:
    """The manifest, one line for each entry."""
    spec = data.spec()
    facts = {"sample": _shape(spec.sample_shape), "classes": spec.classes, **data.manifest()}
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {_value_text(value, width + 2)}" for name, value in facts.items())


def _chosen(name: str, registry: Registry, overrides: Sequence[str]) -> ComponentConfig:
    if name.endswith(".toml"):
        return load_recipe(find_recipe(Path(name)), registry, overrides).data
    return load_component_config("data", name, registry, overrides)


def _row(registered: RegisteredComponent) -> tuple[str, str, str]:
    known, where = whereabouts(registered)
    if known is None:
        return "", "", where
    try:
        spec = registered.cls(registered.cls.Settings()).spec()
    except GanrunError:
        return "", "", where
    return _shape(spec.sample_shape), str(spec.classes or ""), where


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _value_text(value: Any, indent: int) -> str:
    """A mapping as lines of its own; lists and plain values as they are."""
    if isinstance(value, dict):
        return ("\n" + " " * indent).join(f"{name}: {_value_text(each, indent + 2)}" for name, each in value.items())
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else json.dumps(value)
