"""Schedules: what the learning rate is multiplied by at each share of a run."""

from __future__ import annotations

import math
from abc import abstractmethod

from pydantic import Field

import ganrun
from ganrun import Schedule


class Constant(Schedule):
    """The learning rate stays as it is."""

    @property
    def varies(self) -> bool:
        """It does not."""
        return False

    def factor(self, progress: float) -> float:
        """1."""
        return 1.0


class _Falling(Schedule):
    """A learning rate that falls from lr, and then stays."""

    class Settings(ganrun.Settings):
        end: float = Field(0.0, ge=0, le=1)
        """What the learning rate comes to, as a share of lr."""

        until: float = Field(1.0, gt=0, le=1)
        """Share of the run's steps, after the warm-up, at which it has come to that."""

    settings: Settings

    def factor(self, progress: float) -> float:
        """From 1 to `end`."""
        end = self.settings.end
        return end + (1 - end) * self.remaining(min(1.0, progress / self.settings.until))

    @abstractmethod
    def remaining(self, done: float) -> float:
        """Share of the way that remains, from 1 to 0 as `done` goes from 0 to 1."""


class Linear(_Falling):
    """The learning rate falls in a straight line over the run's steps: to 0, unless the settings say otherwise."""

    def remaining(self, done: float) -> float:
        """1 − t."""
        return 1 - done


class Cosine(_Falling):
    """The learning rate falls along half a cosine over the run's steps: to 0, unless the settings say otherwise.

    Loshchilov and Hutter 2016 (arXiv:1608.03983), equation 5, without restarts; η_min = end · lr.
    """

    def remaining(self, done: float) -> float:
        """½ (1 + cos πt)."""
        return (1 + math.cos(math.pi * done)) / 2
