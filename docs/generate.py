"""Writes docs/reference from the code, so that it cannot differ from it.

python docs/generate.py           write the pages
python docs/generate.py --check   exit with status 1, naming the pages that are stale
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any

import click

import ganrun
from ganrun.cli import main
from ganrun.contracts import hookspecs
from ganrun.contracts.settings import Settings, settings_help
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.plugins import HOOKS
from ganrun.discovery.registry import RegisteredComponent, load_registry
from ganrun.recipe.engine import EmaSettings, StageSettings, TrainSettings
from ganrun.recipe.recipe import sampling_of
from ganrun.training.lifecycle import RunEvents

FOLDER = Path(__file__).resolve().parent / "reference"
NOTICE = "<!-- Written by docs/generate.py from the code. Change the code's docstrings, not this page. -->"
WIDTH = 100
"""Longest line of a signature or a command's help."""


def pages() -> dict[str, str]:
    """Every page of the reference by file name."""
    contents = {
        "api.md": _api(),
        "commands.md": _commands(),
        "components.md": _components(),
        "hooks.md": _hooks(),
        "recipe.md": _recipe(),
    }
    return {name: _with_notice(text.strip()) for name, text in contents.items()}


def stale_pages() -> list[str]:
    """Names of the pages that differ from the code, are missing, or belong to nothing."""
    fresh = pages()
    present = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    return sorted(name for name in {*fresh, *present} if fresh.get(name) != present.get(name))


def write_pages() -> None:
    """Write every page, and remove those that belong to nothing."""
    FOLDER.mkdir(exist_ok=True)
    fresh = pages()
    for name in stale_pages():
        if name in fresh:
            (FOLDER / name).write_text(fresh[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()


def _with_notice(text: str) -> str:
    """The notice stands below the title: a site's menu shows the titles of pages that begin with one."""
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{NOTICE}\n{rest}\n"


# ── Pages ─────────────────────────────────────────────────────────────────────────────────────────────────


def _hooks() -> str:
    parts = ["# Hooks and events", _markdown(hookspecs), "## Hooks of a plugin"]
    for name in HOOKS:
        function = getattr(hookspecs, name)
        parts += [f"### {name}", _code(f"def {name}{_signature(function)}"), _markdown(function)]
    parts += ["## Events of a run", _markdown(RunEvents)]
    for name, function in _functions(RunEvents):
        parts += [f"### {name}", _code(f"def {name}{_signature(function)}"), _markdown(function)]
    return "\n\n".join(parts)


def _components() -> str:
    registry = load_registry()
    parts = [
        "# Built-in components",
        "Everything that ganrun brings itself. `ganrun list` also lists what other packages add; "
        "`ganrun show`, with a kind and a name, prints the same as this page.",
    ]
    for kind in KINDS:
        own = [registered for registered in registry.components(kind) if registered.plugin.package == "ganrun"]
        parts += [f"## {kind}"] if own else []
        for registered in own:
            parts += [f"### {kind} {registered.name}", _markdown(registered.cls), *_facts(registered)]
            parts.append(_settings_table(registered.cls.Settings))
            if kind == "loss" and sampling_of(registered).model_fields:
                parts += ["In `[sampling]`:", _settings_table(sampling_of(registered))]
    return "\n\n".join(parts)


def _facts(registered: RegisteredComponent) -> Iterator[str]:
    """What a component declares beside its settings."""
    component = registered.cls
    if registered.kind == "loss":
        slots = (
            f"`{name}` ({slot.kind}{', averaged' if slot.averaged else ''}{_updates(component, name)})"
            for name, slot in component.slots.items()
        )
        yield f"Slots: {', '.join(slots)}."
    if registered.kind == "observer":
        when = (
            "Takes part in every run" if component.automatic else f"Takes part where a recipe has `[{registered.name}]`"
        )
        fault = "stops the run" if component.essential else "is reported, and the run goes on"
        yield f"{when}. A fault in it {fault}."


def _updates(loss: type[ganrun.Loss], slot: str) -> str:
    return f", updated {loss.repeat[slot]} times per step" if slot in loss.repeat else ""


def _recipe() -> str:
    parts = [
        "# A recipe's tables",
        "The tables of the engine. The settings of `[data]`, `[loss]`, the networks, `[[metric]]` and the observers "
        "are their components': see [Built-in components](components.md). How the tables work together: "
        "[Write a recipe](../how-to/write-a-recipe.md).",
        "## name",
        "A text: the run's name, in its directory's name and in MLflow. Default: the file's name.",
        "## requires",
        'A list of texts such as `"ganrun-stylegan>=0.3"`: packages that must be installed, in the syntax of pip.',
    ]
    tables: dict[str, type[Settings]] = {"train": TrainSettings, "stage": StageSettings, "ema": EmaSettings}
    for name, settings in tables.items():
        parts += [f"## {name}", _markdown(settings), _settings_table(settings)]
    parts += [
        "## optimizer",
        'One optimizer per slot of the loss. `use` is "adam" unless given. `[optimizer.SLOT]` overrides `[optimizer]` '
        "for that slot: key by key where both use the same optimizer, as a whole where it names another. See "
        "[optimizers](components.md#optimizer) and [schedules](components.md#schedule).",
        "## from",
        "In the table of a network: a run, a checkpoint or an exported folder. The network starts from its weights in "
        "the same slot, the averaged ones where there are any. A relative path is relative to the working directory.",
        "## augmentation",
        'At most one: `[augmentation] use = "…"`, see `ganrun list augmentation`. It stands before every network that '
        "sees both real and generated images; a loss without such a network takes none.",
        "## regularizer",
        'Any number of `[[regularizer]] use = "…"`, see `ganrun list regularizer`. Each is a penalty on the network in '
        'one slot: `slot`, by default "discriminator".',
        "## sampling",
        "How samples are made of latents, as the loss defines it: `ganrun show loss`. It does not decide the weights, "
        "so it may change after training.",
    ]
    return "\n\n".join(parts)


def _commands() -> str:
    parts = ["# Commands", _code(_help(main, "ganrun"), "text")]
    for name, command in _all_commands(main, "ganrun"):
        parts += [f"## {name}", _code(_help(command, name), "text")]
    parts += [
        "## Exit status",
        "0: done. 1: the run failed. 2: the request was wrong, and nothing was written. 128 + the signal's number: "
        "interrupted (130 for Ctrl-C, 143 for SIGTERM).",
    ]
    return "\n\n".join(parts)


def _all_commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command of a group and of the groups in it, by its full name."""
    context = click.Context(group)
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        assert command
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _all_commands(command, f"{path} {name}")


def _help(command: click.Command, name: str) -> str:
    width: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, **width, **main.context_settings)
    return command.get_help(context)


def _api() -> str:
    parts = [
        "# Public names",
        "What a plugin may import: `from ganrun import …`. All else in the package may change at any time. "
        "The testing kit, `ganrun.testing`, stands at the end.",
    ]
    for name in ganrun.__all__:
        parts += [f"## {name}", *_described(name, getattr(ganrun, name))]
    from ganrun import testing

    parts += ["## ganrun.testing", _markdown(testing)]
    for name in testing.__all__:
        parts += [f"### testing.{name}", *_described(name, getattr(testing, name))]
    return "\n\n".join(parts)


# ── Classes and functions ─────────────────────────────────────────────────────────────────────────────────


def _described(name: str, thing: Any) -> Iterator[str]:
    """A public name: signature, docstring, and a class's fields and methods."""
    if inspect.isclass(thing):
        yield _code(_class_head(name, thing))
        yield _markdown(thing)
        yield from _members(thing)
    elif inspect.isroutine(thing):
        yield _code(f"def {name}{_signature(thing)}")
        yield _markdown(thing)
    else:
        yield _attribute_docs(_home(name).read_text(encoding="utf-8"))[name]


def _home(name: str) -> Path:
    """The module that defines a public name, as the stub of `ganrun` says."""
    package = Path(inspect.getfile(ganrun)).parent
    for node in ast.parse((package / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return (package / str(node.module).replace(".", "/")).with_suffix(".py")
    raise LookupError(name)


def _class_head(name: str, thing: type) -> str:
    bases = [base.__name__ for base in thing.__bases__ if base not in (object, BaseException)]
    head = f"class {name}" + (f"({', '.join(bases)})" if bases else "")
    own = "__init__" in vars(thing) and "Protocol" not in bases
    return (
        f"{head}\n\n{name}{_signature(vars(thing)['__init__'], bound=True).removesuffix(' -> None')}" if own else head
    )


def _members(thing: type) -> Iterator[str]:
    docs = _attribute_docs(inspect.getsource(thing))
    fields = [(name, text) for name, text in docs.items() if not name.startswith("_")]
    if dataclasses.is_dataclass(thing):
        fields = [(field.name, docs.get(field.name, "")) for field in dataclasses.fields(thing)]
    if fields:
        yield "\n".join(f"- `{name}`" + (f": {text}" if text else "") for name, text in fields)
    for name, function in _functions(thing):
        is_property = isinstance(vars(thing)[name], property)
        head = f"{name}: {_returned(function)}" if is_property else f"def {name}{_signature(function)}"
        yield _code(head) + "\n\n" + _markdown(function)


def _functions(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class defines itself, in order."""
    for name, value in vars(thing).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        is_public = not name.startswith("_") or name == "__call__"
        if is_public and isinstance(function, FunctionType) and function.__doc__:
            yield name, function


class _Bare(str):
    """A text that shows without quotes, as annotations should."""

    def __repr__(self) -> str:
        return str(self)


def _signature(function: Any, bound: bool = False) -> str:
    """`(run: Run, step: int) -> None`, one parameter per line where it is long."""
    signature = inspect.signature(function)
    parameters = [
        each.replace(annotation=_bare(each.annotation), default=_plain(each.default))
        for each in signature.parameters.values()
    ][1 if bound else 0 :]
    returned = _returned(function)
    text = str(inspect.Signature(parameters, return_annotation=returned))
    if len(text) <= WIDTH - 30:
        return text
    lines = [str(each) for each in parameters]
    if parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        lines.insert(0, "*")
    return "(\n    " + ",\n    ".join(lines) + f",\n) -> {returned}"


def _returned(function: Any) -> Any:
    return _bare(inspect.signature(function).return_annotation)


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _plain(default: Any) -> Any:
    """A default as it is shown: constants as they are, anything else as `…`."""
    is_shown = default is inspect.Parameter.empty or isinstance(default, str | int | float | None)
    return default if is_shown else _Bare("…")


def _attribute_docs(source: str) -> dict[str, str]:
    """The docstrings under assignments, at any depth of a module or class, by the name assigned to."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.cleandoc("\n" + source))):
        body = getattr(node, "body", None)
        for field, doc in pairwise(body) if isinstance(body, list) else ():
            target = getattr(field, "target", None) or next(iter(getattr(field, "targets", [])), None)
            if target is not None and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                found[ast.unparse(target).removeprefix("self.")] = " ".join(str(doc.value.value).split())
    return found


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────────────


def _markdown(thing: Any) -> str:
    """A docstring, with its `Args:` and `Raises:` as lists and its `Returns:` as a paragraph."""
    lines, section = [], ""
    for line in inspect.cleandoc(thing.__doc__ or "").splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            section = line.removesuffix(":")
            lines += [f"**{section}**", ""]
        elif section and line.startswith("    "):
            lines.append(line.strip() if section == "Returns" else _entry(line[4:]))
        else:
            section = "" if line else section
            lines.append(line)
    return "\n".join(lines)


def _entry(line: str) -> str:
    """A line of an `Args:` section: a parameter, or the continuation of one."""
    if line.startswith(" "):
        return f"  {line.strip()}"
    name, _, text = line.partition(": ")
    return f"- `{name}`: {text}"


def _settings_table(settings: type[Settings]) -> str:
    rows = [
        [f"`{each.name}`", each.type, _default(each.default), each.bounds, each.help]
        for each in settings_help(settings)
    ]
    return _table(["setting", "type", "default", "bounds", "meaning"], rows) if rows else "It has no settings."


def _default(text: str) -> str:
    return text if text in ("required", "off") else f"`{text}`"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _run(arguments: list[str]) -> int:
    if "--check" not in arguments:
        write_pages()
        return 0
    stale = stale_pages()
    for name in stale:
        print(f"docs/reference/{name} is stale; run: python docs/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1:]))
