"""Delivery of a run's events, one observer at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pluggy

from ganrun.base.errors import GanrunError, Interrupted, PluginError
from ganrun.contracts.markers import EVENTS
from ganrun.contracts.observers import Observer
from ganrun.training.lifecycle import RunEvents

log = logging.getLogger("ganrun")


class Events:
    """The observers of one run.

    Args:
        observers: By name. Essential ones come first, then the others by name, subject to the
            `tryfirst` and `trylast` of their methods.

    Raises:
        PluginError: if an observer implements an event that does not exist, or takes an argument that the event lacks.
    """

    def __init__(self, observers: Mapping[str, Observer]) -> None:
        self._manager = pluggy.PluginManager(EVENTS)
        self._manager.add_hookspecs(RunEvents)
        self._observers = dict(observers)
        # pluggy calls the last registered first.
        for name in sorted(observers, key=lambda name: (not observers[name].essential, name), reverse=True):
            self._register(name, observers[name])
        self._calls = {event: self._calls_of(event) for event in vars(RunEvents) if not event.startswith("_")}

    def emit(self, event: str, **arguments: Any) -> None:
        """Call every observer that implements `event`, in order."""
        for name, implementation in tuple(self._calls[event]):
            try:
                implementation.function(*[arguments[argument] for argument in implementation.argnames])
            except Exception as error:
                if self._observers[name].essential:
                    raise
                if not isinstance(error, Interrupted):  # the loop handles it itself
                    self._silence(name, event, error)

    def names(self) -> tuple[str, ...]:
        """Every event there is."""
        return tuple(self._calls)

    def has_listeners(self, event: str) -> bool:
        """Whether any observer implements `event`."""
        return bool(self._calls[event])

    def _register(self, name: str, observer: Observer) -> None:
        try:
            self._manager.register(observer, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f'the observer "{name}" does not fit the events of a run: {error}') from error

    def _calls_of(self, event: str) -> list[tuple[str, pluggy.HookImpl]]:
        hook = getattr(self._manager.hook, event)
        return [(each.plugin_name, each) for each in reversed(hook.get_hookimpls())]

    def _silence(self, name: str, event: str, error: Exception) -> None:
        """Leave a faulty observer out of the rest of the run. A fault that is not ganrun's own keeps its traceback."""
        for calls in self._calls.values():
            calls[:] = [call for call in calls if call[0] != name]
        traceback = None if isinstance(error, GanrunError) else error
        message = 'observer "%s" failed at %s and is left out from here on; the run continues: %s'
        log.warning(message, name, event, error, exc_info=traceback)
