"""Import rules between packages, checked on the source without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ganrun
import ganrun.testing
from ganrun.commands.group import COMMANDS

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core/ganrun"
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.name.startswith("ganrun_"))

ROOMS = (
    "base",  # errors, files, console, signals, randomness, devices, networks as wholes
    "contracts",  # what components are, and the hooks that offer them
    "toolkit",  # parts that many plugins need
    "discovery",  # entry points → components
    "recipe",  # text → a validated recipe
    "inference",  # a model in use, and its evaluation
    "rundir",  # what a run leaves on disk
    "rehearsal",  # what is tried before a run
    "training",  # a recipe → a run → a trained model
    "trained",  # loading and scoring what was trained
    "commands",  # the command line
)
"""The engine from the ground up: a room imports from those above it in this list, and from itself."""

DOORS = ("cli", "__main__", "testing")
"""What stands beside the rooms: the entry point, by both of its names, and the kit, which imports no command."""

WITHOUT_TORCH = ("cli", *(f"commands.{name}" for name in COMMANDS), "discovery.plugins", "rundir.directory")
"""What `ganrun --help` and `ganrun plugins` load, with everything that it imports."""

HEAVY = {"torch", "torchvision", "numpy", "mlflow", "sklearn", "torch_fidelity", "scipy", "PIL"}
NOT_IN_CORE = {"torchvision", "mlflow", "sklearn", "torch_fidelity", "scipy", "PIL", *PLUGINS}
READER_OF_PICTURES = "toolkit.pictures"
"""A part for plugins, and the one module of the engine that needs Pillow."""


class Import(NamedTuple):
    """One imported name, such as `ganrun.base.errors` `RunError`."""

    module: str
    name: str
    for_types: bool
    in_function: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def imports(file: Path) -> list[Import]:
    return list(_imports(ast.parse(file.read_text(encoding="utf-8")), False, False))


def _imports(node: ast.AST, for_types: bool, in_function: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", for_types, in_function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute here"
            yield from (Import(child.module or "", alias.name, for_types, in_function) for alias in child.names)
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _imports(child, for_types or typing_only, in_function or function)


def core_modules() -> dict[str, list[Import]]:
    """Every module of the engine but its public face, by name within `ganrun`."""
    found = {}
    for file in sorted(CORE.rglob("*.py")):
        name = ".".join(file.relative_to(CORE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = imports(file)
    return found


MODULES = core_modules()


def room_of(module: str) -> int:
    """The place of a module's room; those that are no room's stand above all."""
    room = module.partition(".")[0]
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def test_the_rooms_are_folders_and_each_module_is_in_one() -> None:
    folders = {path.parent.name for path in CORE.glob("*/*.py")}
    assert folders == {*ROOMS, "testing"}
    assert {name for name in MODULES if "." not in name} - folders == {"cli", "__main__"}
    assert [name for name in ROOMS if (CORE / name / "__init__.py").read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_lower_rooms_only(name: str) -> None:
    """Annotations count: a module must be readable without any higher one."""
    assert [other for other in ours(name) if room_of(other) > room_of(name)] == []
    assert name.startswith(DOORS) or not [other for other in ours(name) if other.startswith(DOORS)]
    assert not name.startswith("testing") or not [other for other in ours(name) if other.startswith("commands")]


def test_no_circle_of_imports_not_even_by_annotation() -> None:
    left = {name: set(ours(name)) & set(MODULES) for name in MODULES}
    while free := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert left == {}


def ours(name: str) -> list[str]:
    """The modules of the engine that a module imports."""
    return sorted({_ours(each) for each in MODULES[name] if each.package == "ganrun"})


@pytest.mark.parametrize("name", MODULES)
def test_the_engine_knows_no_plugin_and_no_library_of_theirs(name: str) -> None:
    assert {each.package for each in MODULES[name]} & NOT_IN_CORE == ({"PIL"} if name == READER_OF_PICTURES else set())


@pytest.mark.parametrize("name", ["contracts.hookspecs", "training.lifecycle"])
def test_the_hook_specifications_import_only_markers_at_run_time(name: str) -> None:
    at_run_time = {each.module for each in MODULES[name] if each.package == "ganrun" and not each.for_types}
    assert at_run_time == {"ganrun.contracts.markers"}


def test_what_answers_without_torch_imports_it_nowhere() -> None:
    """Not even by way of another module, except inside functions, which run later."""
    seen: set[str] = set()
    waiting = {*WITHOUT_TORCH}
    while waiting:
        name = waiting.pop()
        at_once = [each for each in MODULES[name] if not each.for_types and not each.in_function]
        assert {each.package for each in at_once} & HEAVY == set(), name
        seen.add(name)
        waiting |= {_ours(each) for each in at_once if each.package == "ganrun"} - seen


PLUGIN_FILES = [file for name in PLUGINS for file in sorted((ROOT / "plugins" / name).rglob("*.py"))]
PLUGIN_FILES += sorted((ROOT / "docs/examples").glob("*/ganrun_*/**/*.py"))
IDS = [str(file.relative_to(ROOT)) for file in PLUGIN_FILES]


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=IDS)
def test_a_plugin_imports_public_names_and_no_other_plugin(file: Path) -> None:
    for each in imports(file):
        if each.package == "ganrun":
            assert each.module in ("ganrun", "ganrun.testing"), f"{each.module} is not public"
            assert each.name in ("", *ganrun.__all__, *ganrun.testing.__all__), f"{each.name} is not public"
        elif each.package.startswith("ganrun_"):
            assert each.package in file.parts, f"{each.package} is another plugin"


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=IDS)
def test_a_plugin_uses_public_attributes_only(file: Path) -> None:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    imported = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names = {alias.asname or alias.name for alias in imported if alias.name == "ganrun"}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if ast.unparse(node.value) in names}
    assert used - {*ganrun.__all__, "testing"} == set()


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugins_front_door_is_light(name: str) -> None:
    at_once = [
        each
        for each in imports(ROOT / "plugins" / name / "__init__.py")
        if not each.for_types and not each.in_function and each.package not in ("__future__", "collections", "typing")
    ]
    assert {(each.module, each.name) for each in at_once} == {("ganrun", "hookimpl")}


def _ours(each: Import) -> str:
    """The module within `ganrun` that an import loads: `from ganrun.contracts import settings` loads the settings."""
    inner = each.module.removeprefix("ganrun").removeprefix(".")
    within = f"{inner}.{each.name}".strip(".")
    return within if (CORE / within.replace(".", "/")).with_suffix(".py").is_file() else inner
