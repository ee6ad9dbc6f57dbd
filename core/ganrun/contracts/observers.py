"""Observers: components that receive the events of a run."""

from __future__ import annotations

from typing import Any, ClassVar

from ganrun.contracts.components import Component


class Observer(Component):
    """A component that receives the events of one run, in methods marked with `ganrun.observes`.

    `ganrun.training.lifecycle.RunEvents` lists the events; a method takes those arguments of the event that it needs.
    """

    essential: ClassVar[bool] = False
    """Whether an error of this observer stops the run. Otherwise it is reported, and the observer is left out."""

    automatic: ClassVar[bool] = False
    """Whether it takes part in every run unless the recipe says `name = false`."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
