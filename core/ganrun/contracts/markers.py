"""The markers that plugin authors put on their functions. A leaf: anyone may import it at no cost."""

from __future__ import annotations

import pluggy

PROJECT = "ganrun"
"""Name of the pluggy project, and of the entry point group that plugins register in."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's module-level function that offers components: see `ganrun.contracts.hookspecs`."""

EVENTS = "ganrun-events"
"""Name of the pluggy project of one run's life-cycle events."""

eventspec = pluggy.HookspecMarker(EVENTS)
observes = pluggy.HookimplMarker(EVENTS)
"""Marks an observer's method that hears a run's event: see `ganrun.training.lifecycle.RunEvents`."""
