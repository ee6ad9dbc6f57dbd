"""Real runs of small recipes, for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import tomli_w

from ganrun.discovery.plugins import DISABLE_VARIABLE, Plugin, Plugins, check_hooks, discover
from ganrun.discovery.registry import Registry
from ganrun.recipe.reader import load_recipe
from ganrun.training.builder import build_run
from ganrun.training.run import Run
from ganrun.training.runner import execute


def registry_with(*plugins: object, installed: bool = True) -> Registry:
    """A registry of the installed plugins and of these objects, each with `hookimpl` functions or methods.

    Args:
        plugins: Modules or objects; each is known by its `__name__` or its class's name, if several share a name, the
            second is `Name-2`.
        installed: Whether the installed plugins are there too.

    Raises:
        PluginError: if a hook would never be called.
    """
    found = discover()
    if not installed:
        found = Plugins(discover([plugin.name for plugin in found.found]).manager, ())
    extra = []
    for plugin in plugins:
        if found.manager.is_registered(plugin):
            continue
        name = _free_name(found, getattr(plugin, "__name__", type(plugin).__name__))
        check_hooks(plugin)
        found.manager.register(plugin, name)
        found.manager.check_pending()
        extra.append(Plugin(name, name, "0"))
    return Registry(Plugins(found.manager, (*found.found, *extra)))


def _free_name(plugins: Plugins, name: str) -> str:
    """The name; with a number where a plugin has it already."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if not plugins.manager.has_plugin(each))


@cache
def _registry_of(environment: tuple[str, ...], *plugins: object) -> Registry:
    """As `registry_with`, made once for the same plugins in the same environment."""
    return registry_with(*plugins)


def _environment() -> tuple[str, ...]:
    """Where plugins are searched for, and which are left out."""
    return os.environ.get(DISABLE_VARIABLE, ""), *sys.path


def build(tables: Mapping[str, Any], output: Path, *plugins: object, resume: bool = False) -> Run:
    """Build the run of a recipe given as tables, ready for `ganrun.training.runner.execute`.

    Args:
        tables: The recipe.
        output: The run directory; the recipe is written beside it, as `<name>.toml`.
        plugins: As in `registry_with`.
        resume: Whether to continue what `output` holds.

    Raises:
        RequestError: as the command line would report it.
    """
    path = output.with_name(f"{output.name}.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(dict(tables)), encoding="utf-8")
    return build_run(load_recipe(path, _registry_of(_environment(), *plugins)), output, resume=resume)


def train(tables: Mapping[str, Any], output: Path, *plugins: object, resume: bool = False) -> Run:
    """`build` and run to the end; the finished run."""
    run = build(tables, output, *plugins, resume=resume)
    execute(run)
    return run
