"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Optimizer, Schedule


@hookimpl
def ganrun_optimizers() -> Mapping[str, type[Optimizer]]:
    """Adam, AdamW, RMSprop and SGD."""
    from ganrun_optimizers.optimizers import SGD, Adam, AdamW, RMSprop

    return {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}


@hookimpl
def ganrun_schedules() -> Mapping[str, type[Schedule]]:
    """Constant, linear and cosine."""
    from ganrun_optimizers.schedules import Constant, Cosine, Linear

    return {"constant": Constant, "linear": Linear, "cosine": Cosine}
