"""Schedules: what the learning rate is multiplied by at each share of a run."""

from __future__ import annotations

import math

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


class Linear(Schedule):
    """The learning rate falls to 0 in a straight line over the run's steps."""

    def factor(self, progress: float) -> float:
        """1 − t."""
        return 1 - progress


class Cosine(Schedule):
    """The learning rate falls to 0 along half a cosine over the run's steps.

    Loshchilov and Hutter 2016 (arXiv:1608.03983), equation 5, without restarts and with a minimum of 0.
    """

    def factor(self, progress: float) -> float:
        """½ (1 + cos πt)."""
        return (1 + math.cos(math.pi * progress)) / 2
