"""The markers for hooks and events. This module imports nothing of ganrun, so every other one can import it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pluggy

PROJECT = "ganrun"
"""Name of the pluggy project, and of the entry-point group of plugins."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook; `ganrun.contracts.hookspecs` lists the hooks."""

EVENTS = "ganrun-events"
"""Name of the pluggy project of a run's events."""

eventspec = pluggy.HookspecMarker(EVENTS)
observes = pluggy.HookimplMarker(EVENTS)
"""Marks an observer's method that handles an event; `ganrun.training.lifecycle.RunEvents` lists the events."""


def never_called(function: Any, options: Mapping[str, Any]) -> str | None:
    """Why a marked function would never run as its author means, as the end of a sentence; None if it would.

    Args:
        function: The function or method.
        options: Those of its marker.
    """
    if options.get("wrapper") or options.get("hookwrapper"):
        return "is marked as a wrapper, and ganrun calls no wrappers; drop wrapper=True"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "is a generator, whose code would never run; drop the yield"
    return "is async, so its code would never run; drop the async" if inspect.iscoroutinefunction(function) else None
