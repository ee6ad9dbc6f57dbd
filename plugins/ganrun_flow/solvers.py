"""Solvers of ordinary differential equations with a fixed step: dx/dt = v(x, t)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""v(x, t), of the shape of x; one t for the whole batch."""

Solver = Literal["euler", "midpoint", "heun"]


def integrate(velocity: Velocity, state: Tensor, times: tuple[float, float], steps: int, solver: Solver) -> Tensor:
    """x at the end of `times`, for x = `state` at their start; time may run backwards.

    Args:
        velocity: v(x, t).
        state: `(batch, …)`.
        times: Start and end.
        steps: Steps of equal length.
        solver: euler has an error of the order of the step, and one evaluation of v in each; midpoint and heun of its
            square, and two evaluations.
    """
    start, end = times
    length = (end - start) / steps
    advanced = _SOLVERS[solver]
    for number in range(steps):
        state = advanced(velocity, state, start + number * length, length)
    return state


def _euler(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    return x + h * v(x, t)


def _midpoint(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    return x + h * v(x + h / 2 * v(x, t), t + h / 2)


def _heun(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    slope = v(x, t)
    return x + h / 2 * (slope + v(x + h * slope, t + h))


_SOLVERS: Mapping[str, Callable[[Velocity, Tensor, float, float], Tensor]] = {
    "euler": _euler,
    "midpoint": _midpoint,
    "heun": _heun,
}
