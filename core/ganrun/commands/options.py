"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

no_plugin = click.option("--no-plugin", "blocked", multiple=True, metavar="NAME", help="Leave a plugin out.")


def set_option(meaning: str) -> Callable[[F], F]:
    """`--set KEY=VALUE`, any number of times; passed on as `overrides`."""
    return click.option("-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help=meaning)


def output_option(**attributes: Any) -> Callable[[F], F]:
    """`--output PATH`; `attributes` as in `click.option`."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), **attributes)


@dataclass(frozen=True)
class RecipeOptions:
    """The options that change what a recipe says."""

    set: tuple[str, ...]
    device: str | None
    seed: int | None
    blocked: tuple[str, ...]
    """Plugins to leave out."""

    @property
    def overrides(self) -> list[str]:
        """All of them, each as `KEY=VALUE`."""
        named = {"train.device": self.device, "train.seed": self.seed}
        return [*self.set, *(f"{key}={value}" for key, value in named.items() if value is not None)]


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--set`, `--device`, `--seed` and `--no-plugin`; passed on as one argument, `options`."""

    @wraps(command)
    def with_options(
        *, overrides: tuple[str, ...], device: str | None, seed: int | None, blocked: tuple[str, ...], **others: Any
    ) -> None:
        command(options=RecipeOptions(overrides, device, seed, blocked), **others)

    for option in (
        no_plugin,
        click.option("--seed", type=int, help="Same as --set train.seed=N."),
        click.option("--device", help="auto, cpu, cuda, cuda:1 or mps; same as --set train.device=…"),
        set_option("Override: --set train.steps=500."),
    ):
        with_options = option(with_options)
    return with_options
