"""The markers for hooks and events. This module imports nothing of ganrun, so every other one can import it."""

from __future__ import annotations

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
