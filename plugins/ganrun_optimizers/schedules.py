"""Schedules: the factor of the learning rate at each share of a run."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Self

from pydantic import Field, model_validator

import ganrun
from ganrun import Schedule


class Constant(Schedule):
    """A constant learning rate."""

    @property
    def varies(self) -> bool:
        """It does not."""
        return False

    def factor(self, progress: float) -> float:
        """1."""
        return 1.0


class _Falling(Schedule):
    """A learning rate that stays at lr, falls, and then stays again."""

    class Settings(ganrun.Settings):
        after: float = Field(0.0, ge=0, lt=1)
        """Share of the run's steps, after the warm-up, during which the learning rate stays at lr before it falls: 0.5
        for the second half of the run."""

        end: float = Field(0.0, ge=0, le=1)
        """The final learning rate, as a share of lr."""

        until: float = Field(1.0, gt=0, le=1)
        """Share of the run's steps, after the warm-up, at which it reaches that."""

        @model_validator(mode="after")
        def _check_order(self) -> Self:
            if self.after >= self.until:
                raise ValueError(f"it falls between after = {self.after:g} and until = {self.until:g}; after is less")
            return self

    settings: Settings

    def factor(self, progress: float) -> float:
        """From 1 to `end`."""
        after, until, end = self.settings.after, self.settings.until, self.settings.end
        done = (progress - after) / (until - after)
        return end + (1 - end) * self.remaining(min(1.0, max(0.0, done)))

    @abstractmethod
    def remaining(self, done: float) -> float:
        """Share of the way that remains, from 1 to 0 as `done` goes from 0 to 1."""


class Linear(_Falling):
    """The learning rate falls in a straight line over the run's steps: to 0, unless the settings say otherwise.

    `{ use = "linear", after = 0.5 }` is the rule of pix2pix and CycleGAN: constant for half of the run, then to 0.
    """

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
