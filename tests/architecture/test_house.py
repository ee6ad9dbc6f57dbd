"""What every hook, public name and function here must have."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import ganrun
import ganrun.testing
from ganrun.contracts import hookspecs
from ganrun.discovery.kinds import KINDS
from ganrun.training.lifecycle import RunEvents

ROOT = Path(__file__).parents[2]
LONGEST_FUNCTION, LONGEST_MODULE = 50, 400
"""In lines."""

HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("ganrun_")}
EVENTS = {name: value for name, value in vars(RunEvents).items() if not name.startswith("_")}
SPECS = HOOKS | EVENTS


def squeezed(text: str) -> str:
    """Without what a line break changes: white space, and a comma before a closing bracket."""
    return re.sub(r",(?=\))", "", "".join(text.split()))


REFERENCE = squeezed((ROOT / "docs/reference/hooks.md").read_text(encoding="utf-8"))
THIS = Path(__file__)
TESTS = {file: file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py") if file != THIS}


def test_the_hooks_are_those_that_the_registry_calls() -> None:
    assert set(HOOKS) == {
        *(kind.hook for kind in KINDS.values()),
        "ganrun_health_checks",
        "ganrun_commands",
        "ganrun_trackers",
    }


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_is_documented_where_it_is_specified(name: str) -> None:
    text = inspect.getdoc(SPECS[name]) or ""
    assert len(text.split()) >= 5
    arguments = [each for each in inspect.signature(SPECS[name]).parameters if each not in ("self", "run")]
    for argument in arguments:
        assert f"{argument}:" in text or argument in ("step", "images_seen"), f"{argument} is not explained"


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_stands_in_the_reference_with_its_exact_signature(name: str) -> None:
    signature = str(inspect.signature(SPECS[name])).replace("'", "")
    assert squeezed(f"def {name}{signature}") in REFERENCE


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_is_named_in_a_test(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", text) for text in TESTS.values())


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


FILES = [file for folder in ("core", "plugins", "docs/examples") for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_a_function_fits_on_a_screen(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [((node.end_lineno or 0) - node.lineno + 1, node.name) for node in functions]
    assert [each for each in lengths if each[0] > LONGEST_FUNCTION] == []


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_a_module_is_not_too_long(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_a_module_says_what_it_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)) or (file.name == "__init__.py" and not text), "or a room's empty door"
