"""What all components have in common: a class with nested `Settings`, built from a recipe's table."""

from __future__ import annotations

from typing import ClassVar

from ganrun.contracts import settings as base


class Component:
    """What every component has: settings of its own, and a summary taken from its docstring."""

    Settings: ClassVar[type[base.Settings]] = base.Settings

    @classmethod
    def class_fault(cls) -> str | None:
        """What is wrong with the class itself, as the tail of a message, or None: asked when a plugin offers it."""
        if not (isinstance(cls.Settings, type) and issubclass(cls.Settings, base.Settings)):
            return "whose Settings are no subclass of ganrun.Settings"
        return None

    @classmethod
    def summary(cls) -> str:
        """The docstring's first line."""
        return (cls.__doc__ or "").strip().partition("\n")[0]
