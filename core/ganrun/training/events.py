"""Delivery of a run's events, one observer at a time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import pluggy

from ganrun.base.errors import GanrunError, PluginError, RunError
from ganrun.base.faults import Kind, kind_of
from ganrun.base.frames import failure, passes
from ganrun.base.signals import Terminated
from ganrun.base.suggestions import did_you_mean
from ganrun.contracts.markers import EVENTS, never_called
from ganrun.contracts.observers import Observer
from ganrun.training.lifecycle import RunEvents

if TYPE_CHECKING:
    from ganrun.training.run import Run

EVENT_NAMES = tuple(event for event in vars(RunEvents) if not event.startswith("_"))

STARTS = ("run_starting", "run_started")
"""Events that later ones rely on: an observer that fails at one is always left out."""

ENDS = ("run_failed", "run_ended")
"""Events that reach every observer, even if another one fails."""

NOBODY: Mapping[str, str] = MappingProxyType({})


class Events:
    """The observers of one run.

    Args:
        observers: By name. Essential ones come first, then the others by name, subject to the
            `tryfirst` and `trylast` of their methods.
        owners: How messages name them, if not just by name.

    Raises:
        PluginError: if an observer implements an event that does not exist or in a way that is never called, or takes
            an argument that the event lacks.
    """

    def __init__(self, observers: Mapping[str, Observer], owners: Mapping[str, str] = NOBODY) -> None:
        self._manager = pluggy.PluginManager(EVENTS)
        self._manager.add_hookspecs(RunEvents)
        self._observers = dict(observers)
        self._owners = {name: owners.get(name, f'the observer "{name}"') for name in observers}
        # pluggy calls the last registered first.
        for name in sorted(observers, key=lambda name: (not observers[name].essential, name), reverse=True):
            self._register(name, observers[name])
        self._calls = {event: self._calls_of(event) for event in EVENT_NAMES}

    def emit(self, event: str, **arguments: Any) -> None:
        """Call every observer that implements `event`, in order. Errors of non-essential observers are recorded in the
        run's `faults`. The last two events reach every observer, even if another one fails.

        Raises:
            RunError: naming an essential observer that fails; ganrun's own errors are raised unchanged.
        """
        first: Exception | None = None
        for name, implementation in tuple(self._calls[event]):
            try:
                self._deliver(name, event, implementation, arguments)
            except Exception as error:
                if event not in ENDS:
                    raise
                first = first or error
        if first is not None:
            raise first

    def _deliver(self, name: str, event: str, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> None:
        try:
            implementation.function(*[arguments[argument] for argument in implementation.argnames])
        except BaseException as error:
            if self._observers[name].essential:
                self._fail(name, event, error)
            if isinstance(error, Terminated | KeyboardInterrupt):
                raise
            if kind_of(error) is not Kind.RUN:  # the loop notices by itself that it must stop
                self._go_on(name, event, error, arguments["run"])

    def names(self) -> tuple[str, ...]:
        """All events."""
        return tuple(self._calls)

    def has_listeners(self, event: str) -> bool:
        """Whether any observer implements `event`."""
        return bool(self._calls[event])

    def _register(self, name: str, observer: Observer) -> None:
        try:
            _check_methods(observer)
            self._manager.register(observer, name)
            self._manager.check_pending()
        except (PluginError, pluggy.PluginValidationError) as error:
            raise PluginError(f"does not fit the events of a run: {_reason(error)}").owned(
                self._owners[name]
            ) from error

    def _calls_of(self, event: str) -> list[tuple[str, pluggy.HookImpl]]:
        hook = getattr(self._manager.hook, event)
        return [(each.plugin_name, each) for each in reversed(hook.get_hookimpls())]

    def _fail(self, name: str, event: str, error: BaseException) -> NoReturn:
        if isinstance(error, GanrunError) or passes(error):
            raise error
        raise failure(self._owners[name], event, error, RunError) from error

    def _go_on(self, name: str, event: str, error: BaseException, run: Run) -> None:
        """Record a fault. Unless it is transient, the observer then receives only the end of the run."""
        stays = kind_of(error) is Kind.MOMENT and event not in STARTS
        then = "continues, as the run does" if stays else "is left out from here on; the run continues"
        run.faults.note(f'observer "{name}"', event, error, run.step, then=then)
        if not stays:
            for calls in (calls for event, calls in self._calls.items() if event != "run_ended"):
                calls[:] = [call for call in calls if call[0] != name]


def _check_methods(observer: Observer) -> None:
    """Refuse methods that would never be called.

    Raises:
        PluginError: naming the method.
    """
    for name in dir(type(observer)):
        method = getattr(type(observer), name)
        options = getattr(method, f"{EVENTS}_impl", None)
        if options is None and name in EVENT_NAMES and callable(method):
            raise PluginError(f"its method {name} lacks the decorator @ganrun.observes")
        if options is not None and (fault := never_called(method, options) or _argument_fault(name, method)):
            raise PluginError(f"its method {name} {fault}")


def _argument_fault(event: str, method: Any) -> str | None:
    """The fault of a method that takes an argument without a default that its event does not have."""
    if event not in EVENT_NAMES:
        return None
    known = [name for name in inspect.signature(getattr(RunEvents, event)).parameters if name != "self"]
    needed = [each.name for each in inspect.signature(method).parameters.values() if each.default is each.empty]
    unknown = next((name for name in needed[1:] if name not in known), None)
    return unknown and f'takes "{unknown}", and the event has {", ".join(known)}{did_you_mean(unknown, known)}'


def _reason(error: Exception) -> str:
    unknown = re.match(r"unknown hook '(\w+)'", str(error))
    if unknown:
        return f'there is no event "{unknown[1]}"{did_you_mean(unknown[1], EVENT_NAMES)}'
    return error.message if isinstance(error, PluginError) else str(error)
