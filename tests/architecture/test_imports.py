"""Who may import whom, read from the source: no rule here needs an import to be tried."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ganrun
import ganrun.testing

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core/ganrun"
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.name.startswith("ganrun_"))

LAYERS = """
    errors
    suggestions markers settings files caches console checkups trackers randomness averaging recipes
    components interruption measurements devices directory optimizers hookspecs source
    losses evaluation conditioning batches state events plugins
    networks phases registry checkpoints model
    recipe
    reader environment descriptions schema run
    datasets
    builder runner doctor
    scoring replicates loading
    testing.conformance testing.runs
    testing cli
"""
"""The engine from the ground up: a module imports only from the lines above its own."""

WITHOUT_TORCH = "cli errors suggestions markers settings files directory checkups hookspecs plugins descriptions"
"""What `ganrun --help` and `ganrun plugins` load."""

HEAVY = {"torch", "torchvision", "numpy", "mlflow", "sklearn", "torch_fidelity", "scipy", "PIL"}
NOT_IN_CORE = {"torchvision", "mlflow", "sklearn", "torch_fidelity", "scipy", "PIL", *PLUGINS}


class Import(NamedTuple):
    """One imported name, such as `ganrun.errors` `RunError`."""

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
LAYER_OF = {name: number for number, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def test_every_module_has_its_layer() -> None:
    assert set(LAYER_OF) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_the_layers_above_its_own(name: str) -> None:
    used = {_ours(each) for each in MODULES[name] if each.package == "ganrun" and not each.for_types}
    assert [other for other in used if LAYER_OF[other] >= LAYER_OF[name]] == []


@pytest.mark.parametrize("name", MODULES)
def test_the_engine_knows_no_plugin_and_no_library_of_theirs(name: str) -> None:
    assert {each.package for each in MODULES[name]} & NOT_IN_CORE == set()


def test_the_hook_specifications_import_only_markers_at_run_time() -> None:
    ours = {each.module for each in MODULES["hookspecs"] if each.package == "ganrun" and not each.for_types}
    assert ours == {"ganrun.markers"}


def test_what_answers_without_torch_imports_it_nowhere() -> None:
    """Not even by way of another module, except inside functions, which run later."""
    seen: set[str] = set()
    waiting = WITHOUT_TORCH.split()
    while waiting:
        name = waiting.pop()
        at_once = [each for each in MODULES[name] if not each.for_types and not each.in_function]
        assert {each.package for each in at_once} & HEAVY == set(), name
        seen.add(name)
        waiting += {_ours(each) for each in at_once if each.package == "ganrun"} - seen


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
    tree = ast.parse(file.read_text(encoding="utf-8"))
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if ast.unparse(node.value) == "ganrun"}
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
    """The module within `ganrun` that an import loads: `from ganrun import settings` loads `settings`."""
    inner = each.module.removeprefix("ganrun").removeprefix(".")
    return inner or each.name
