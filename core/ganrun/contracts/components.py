"""The base of all components: a class with nested `Settings`, built from a recipe's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ganrun.contracts import settings as base

Part = str | dict[str, Any]
"""The type of a setting that names another component: its name, or a table of its settings that says `use`."""


class Component:
    """Base of every component: it has settings, and a summary from its docstring.

    **Functions of the step.** A network, loss, augmentation or regulariser may have settings of type `Scheduled`. Their
    present values are the float32 scalars `self.now[name]`, on the run's device, which the engine fills in place.

    It may also define `begin(step, steps)`, for what else is a function of the step, such as the resolution that a
    progressive GAN has reached:

        def begin(self, step, steps):
            self.stage = min(2 * step // steps, 1)           # how much of the network is used
            self.fade.fill_(min(4 * step / steps % 2, 1.0))  # a number, in a tensor
            return self.stage

    The engine calls it with the steps done, 0 to `steps`, before every step, on networks and on their averages, and on
    models that are loaded. What it sets is never saved, so it must depend on the arguments alone. Shapes of inputs,
    outputs and weights must not change. Numbers are written into tensors in place, under no_grad. The return value,
    hashable or None, names the structure: while it is the same, the same operations run on the same tensors.
    """

    Settings: ClassVar[type[base.Settings]] = base.Settings

    parts: ClassVar[Mapping[str, str]] = {}
    """Settings that name other components, each of type `ganrun.Part`, with the kind that each names."""

    moved: ClassVar[Mapping[str, str]] = {}
    """Settings of earlier versions, each with its new place in the recipe, such as `{"n_critic":
    "train.repeat.discriminator"}`. Recipes and runs that use an old setting are read with a warning."""

    @classmethod
    def class_fault(cls) -> str | None:
        """The fault of the class itself, as the end of a message, or None; checked when a plugin offers it."""
        if not (isinstance(cls.Settings, type) and issubclass(cls.Settings, base.Settings)):
            return "whose Settings are not a subclass of ganrun.Settings"
        lacking = [name for name in cls.parts if name not in cls.Settings.model_fields]
        if lacking:
            return f"whose Settings have no field {lacking[0]}"
        kept = [name for name in cls.moved if name in base.setting_names(cls.Settings)]
        if kept:
            return f"whose setting {kept[0]} is among those that have moved"
        vague = [place for place in cls.moved.values() if "." not in place]
        return f'whose settings have moved to "{vague[0]}", which names no key of a table' if vague else None

    @classmethod
    def summary(cls) -> str:
        """The docstring's first line."""
        return (cls.__doc__ or "").strip().partition("\n")[0]
