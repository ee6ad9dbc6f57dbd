"""Style rules for every public name, module and function: a docstring, and a readable size."""

from __future__ import annotations

import ast
import inspect
import statistics
from pathlib import Path
from typing import Any

import pytest

import ganrun
import ganrun.testing

ROOT = Path(__file__).parents[2]

LONGEST_MODULE = 400
LONGEST_FUNCTION = 50
MEDIAN_FUNCTION = 6
NINETIETH_PERCENTILE_FUNCTION = 15
"""Sizes are in lines, with docstrings; of a function, without its decorators."""

# ── Public names ──────────────────────────────────────────────────────────────────────────────────────────

PUBLIC = [(ganrun, name) for name in ganrun.__all__] + [(ganrun.testing, name) for name in ganrun.testing.__all__]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_a_public_name_is_there_and_documented(module: Any, name: str) -> None:
    thing = getattr(module, name)
    assert name in dir(module)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), "a dataclass without a docstring of its own"
    if inspect.isclass(thing):
        methods = [value for key, value in vars(thing).items() if not key.startswith("_") and inspect.isfunction(value)]
        assert [method.__name__ for method in methods if not inspect.getdoc(method)] == []


def test_the_list_of_public_names_says_where_each_is_defined() -> None:
    tree = ast.parse((ROOT / "core/ganrun/__init__.pyi").read_text(encoding="utf-8"))
    homes = {
        each.name: f"ganrun.{node.module}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    assert sorted(homes) == sorted(ganrun.__all__)
    things = {name: getattr(ganrun, name) for name in ganrun.__all__}
    classes = {name: thing.__module__ for name, thing in things.items() if inspect.isclass(thing)}
    assert classes == {name: homes[name] for name in classes}


# ── Modules and functions ─────────────────────────────────────────────────────────────────────────────────

FILES = [file for folder in ("core", "plugins", "docs/examples") for file in sorted((ROOT / folder).rglob("*.py"))]
by_file = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])


@by_file
def test_a_module_says_what_it_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)) or (file.name == "__init__.py" and not text)


@by_file
def test_a_module_can_be_read_at_one_go(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE


@by_file
def test_a_function_fits_on_a_screen(file: Path) -> None:
    assert {place: size for place, size in function_sizes(file).items() if size > LONGEST_FUNCTION} == {}


def test_most_functions_are_a_few_lines_long() -> None:
    sizes = [size for file in FILES for size in function_sizes(file).values()]
    assert statistics.median(sizes) <= MEDIAN_FUNCTION
    assert statistics.quantiles(sizes, n=10, method="inclusive")[8] <= NINETIETH_PERCENTILE_FUNCTION


def function_sizes(file: Path) -> dict[str, int]:
    """Lines of every function and method, by its place and name."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1 for node in functions}
