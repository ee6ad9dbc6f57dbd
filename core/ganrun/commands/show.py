"""`ganrun show`."""

from __future__ import annotations

from inspect import cleandoc
from textwrap import fill, indent
from typing import TYPE_CHECKING

import click

from ganrun.base.errors import PluginError, RequestError
from ganrun.base.frames import called
from ganrun.base.spinner import spinner
from ganrun.commands.output import print_line
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.registry import RegisteredComponent, Registry, load_registry

if TYPE_CHECKING:
    from ganrun.contracts.losses import Loss
    from ganrun.contracts.settings import Settings

WIDTH = 100

ENGINE_TABLES = ("train", "stage", "ema")
"""Tables of a recipe that belong to the engine and not to a component."""


@click.command("show")
@click.argument("kind", type=click.Choice([*KINDS, *ENGINE_TABLES]))
@click.argument("name", required=False)
def command(kind: str, name: str | None) -> None:
    """Show one component: its description, its plugin, and every setting.

    \b
    ganrun show loss gan
    ganrun show train
    ganrun show optimizer adam
    """
    with spinner("loading PyTorch"):
        text = _engine_text(kind) if kind in ENGINE_TABLES else _component_text(load_registry(), kind, name)
    print_line(text)


def _component_text(registry: Registry, kind: str, name: str | None) -> str:
    if name is None:
        names = ", ".join(registry.names(kind))
        raise RequestError(f"say which {kind}: ganrun show {kind} NAME; available: {names}")
    registered = registry.find(kind, name)
    with called(f"{kind} {registered}", "its description", error=PluginError):
        slots = [_slots_text(registered.cls)] if kind == "loss" else []
        doc, settings = cleandoc(registered.cls.__doc__ or ""), _settings_text(registered.cls.Settings)
        sampling = _sampling_text(registered)
    return "\n\n".join([f"{kind} {registered}", doc, *slots, settings, *sampling])


def _engine_text(name: str) -> str:
    from ganrun.recipe.engine import EmaSettings, StageSettings, TrainSettings

    tables: dict[str, type[Settings]] = {"train": TrainSettings, "stage": StageSettings, "ema": EmaSettings}
    settings, head = tables[name], "[[stage]]" if name == "stage" else f"[{name}]"
    return "\n\n".join([head, cleandoc(settings.__doc__ or ""), _settings_text(settings)])


def _slots_text(loss: type[Loss]) -> str:
    """The tables of networks in a recipe with this loss, the kind of each, and how often it is updated."""
    return "slots\n" + "\n".join(
        f"  [{name}]   a {slot.kind}{_updates(loss, name)}" for name, slot in loss.slots.items()
    )


def _updates(loss: type[Loss], slot: str) -> str:
    if loss.slots[slot].frozen:
        return ", frozen"
    return f", updated {loss.repeat[slot]} times per step" if slot in loss.repeat else ""


def _sampling_text(registered: RegisteredComponent) -> list[str]:
    """The settings that a recipe with this loss accepts in `[sampling]`; empty if there are none."""
    from ganrun.recipe.recipe import sampling_of

    settings = sampling_of(registered)
    return [_settings_text(settings).replace("settings", "[sampling]", 1)] if settings.model_fields else []


def _settings_text(settings: type[Settings]) -> str:
    """Every setting: name, type, default and bounds, with its description below."""
    from ganrun.contracts.settings import settings_help

    parts = []
    for each in settings_help(settings):
        default = "required" if each.default == "required" else f"default {each.default}"
        head = "   ".join(filter(None, (f"  {each.name}", each.type, default, each.bounds)))
        parts.append(head + ("\n" + indent(fill(each.help, WIDTH - 6), "      ") if each.help else ""))
    return "settings\n" + "\n".join(parts) if parts else "no settings"
