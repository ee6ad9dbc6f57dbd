"""`ganrun data`: lists data sets, and locates, checks and fetches their files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganrun.base.errors import GanrunError, PluginError, RequestError
from ganrun.base.frames import called
from ganrun.base.spinner import spinner
from ganrun.commands.options import no_plugin, set_option
from ganrun.commands.output import print_line, table
from ganrun.discovery.registry import RegisteredComponent, Registry, load_registry

if TYPE_CHECKING:
    from ganrun.contracts.data import Data
    from ganrun.contracts.specs import DataSpec
    from ganrun.recipe.recipe import ComponentConfig


LISTED = 20
"""Maximum entries of a mapping that `ganrun data check` prints: there may be one for each class."""


@click.group("data")
def command() -> None:
    """List, check and fetch data sets."""


def _data_options(function: Callable[..., None]) -> Callable[..., None]:
    """The data set's name, and the options that change it."""
    argument = click.argument("name", metavar="NAME|RECIPE.toml")
    return argument(set_option("A setting: --set size=64.")(no_plugin(function)))


@command.command("list")
@no_plugin
def list_data(blocked: tuple[str, ...]) -> None:
    """List the data sets, and where their files are."""
    with spinner("loading PyTorch"):
        rows = [("data", "sample", "classes", "where")]
        registry = load_registry(blocked)
        rows += [(registered.name, *_row(registered, registry)) for registered in registry.components("data")]
    click.echo(table(rows))


@command.command("check", no_args_is_help=True)
@click.option("--full", is_flag=True, help="Compare every byte of its files, and of ganrun's cache, with checksums.")
@_data_options
def check_data(name: str, full: bool, overrides: Sequence[str], blocked: tuple[str, ...]) -> None:
    """Read a whole data set as a run does: decode it, check it, and describe its content."""
    with spinner(f"reading data {name}"), _opened(name, load_registry(blocked), overrides, "prepare") as data:
        from ganrun.rehearsal.data import check_data as tried

        checked = data.check_files() if full else None
        data.prepare()
        manifest = tried(data, paired=False)
        text = _manifest_text(data.spec(), manifest if checked is None else {**manifest, "checked": checked or "all"})
    print_line(text)


@command.command("fetch", no_args_is_help=True)
@_data_options
def fetch_data(name: str, overrides: Sequence[str], blocked: tuple[str, ...]) -> None:
    """Download a data set unless it is present. If its licence requires a manual download, print the steps."""
    with _opened(name, load_registry(blocked), overrides, "fetch") as data:
        data.fetch()
        click.echo(data.locate() or f"{name} needs no files")


@command.command("path", no_args_is_help=True)
@_data_options
def data_path(name: str, overrides: Sequence[str], blocked: tuple[str, ...]) -> None:
    """Print where a data set's files are."""
    with _opened(name, load_registry(blocked), overrides, "locate") as data:
        path = data.locate()
    if path is None:
        raise RequestError(f"data {name} has no path: it needs no files")
    click.echo(os.fsencode(path.absolute()))  # as it is, for $(ganrun data path …)


# ── One data set ──────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _opened(name: str, registry: Registry, overrides: Sequence[str], doing: str) -> Iterator[Data]:
    """A block with a data set; errors within the block get its name.

    Args:
        name: Such as `celeba`, which has its defaults; or a recipe, such as `recipes/wgan_celeba.toml`.
        registry: The installed components.
        overrides: `size=64` for a data set, `data.size=64` for a recipe.
        doing: The method that the block calls.

    Raises:
        RequestError: if there is no such data set or recipe.
    """
    config = _config(name, registry, overrides)
    with called(f"data {config.use}", doing, error=PluginError):
        yield config.build_with_parts()


def _config(name: str, registry: Registry, overrides: Sequence[str]) -> ComponentConfig:
    from ganrun.recipe.reader import load_component_config, load_recipe
    from ganrun.recipe.shipped import find_recipe
    from ganrun.rundir.stored import made_with

    if name.endswith(".toml"):
        path = find_recipe(Path(name))
        return load_recipe(path, registry, overrides, made_with(path)).data
    return load_component_config("data", name, registry, overrides)


def _manifest_text(spec: DataSpec, manifest: Mapping[str, Any]) -> str:
    """The manifest, one line for each entry."""
    facts = {"sample": _shape_text(spec.sample_shape), "classes": spec.classes, **manifest}
    if spec.fields:
        facts["fields"] = {name: _shape_text(shape) for name, shape in spec.fields.items()}
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {_value_text(value, width + 2)}" for name, value in facts.items())


def _value_text(value: Any, indent: int) -> str:
    """A mapping has one line for each entry, up to `LISTED`; lists and plain values are written as JSON."""
    if isinstance(value, dict):
        lines = [f"{name}: {_value_text(each, indent + 2)}" for name, each in islice(value.items(), LISTED)]
        rest = [f"and {len(value) - LISTED:,} more"] if len(value) > LISTED else []
        return ("\n" + " " * indent).join([*lines, *rest]) or "none"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else json.dumps(value)


def _shape_text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


# ── All data sets ─────────────────────────────────────────────────────────────────────────────────────────


def _row(registered: RegisteredComponent, registry: Registry) -> tuple[str, str, str]:
    """Sample shape, classes and location; the first two are empty if unknown. If the plugin fails, the last is the
    error."""
    try:
        known, where = whereabouts(registered, registry)
        spec = None if known is None else _spec(registered, registry)
    except PluginError as error:
        return "", "", str(error)
    return ("", "", where) if spec is None else (_shape_text(spec.sample_shape), str(spec.classes or ""), where)


def _spec(registered: RegisteredComponent, registry: Registry) -> DataSpec | None:
    """The spec under the default settings; None if it depends on files that are absent."""
    with called(f"data {registered}", "spec", error=PluginError):
        try:
            spec = _by_default(registered, registry).spec()
        except GanrunError:
            return None
        _shape_text(spec.sample_shape)
        return spec


def _by_default(registered: RegisteredComponent, registry: Registry) -> Data:
    """A data set under its default settings; every setting must have a default."""
    if not registered.cls.parts:
        data: Data = registered.cls(registered.cls.Settings())
        return data
    return _config(registered.full_name, registry, ()).build_with_parts()  # type: ignore[no-any-return]


def whereabouts(registered: RegisteredComponent, registry: Registry) -> tuple[bool | None, str]:
    """Whether a data set is present under its default settings, and where; None if a setting has no default.

    Raises:
        PluginError: if the plugin fails, instead of reporting absent data.
    """
    required = [name for name, field in registered.cls.Settings.model_fields.items() if field.is_required()]
    if required:
        return None, f"set by {' and '.join(required)}"
    with called(f"data {registered}", "locate", error=PluginError):
        try:
            path = _by_default(registered, registry).locate()
        except GanrunError as error:
            return False, f"{str(error).splitlines()[0].rstrip(':')}; see: ganrun data path {registered.name}"
        return True, "needs no files" if path is None else str(path.absolute())
