"""Whether the state of an optimiser, as a checkpoint holds it, is one of this optimiser: torch takes up almost anything,
and fails in the first step, or computes with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

OF_ITS_OWN_SHAPE = ("Adafactor", "LBFGS", "Muon")
"""Optimisers of torch whose state has other shapes than the parameters."""


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Check a state before `optimizer` takes it up.

    Raises:
        ValueError, TypeError, KeyError: if it is that of another optimiser, or damaged.
    """
    for own, stored in zip(optimizer.param_groups, state["param_groups"], strict=True):
        # What it lacks is what another version of torch did not have, except for a learning rate.
        entries = {**own, **stored, "lr": stored.get("lr")} if "lr" in own else {**own, **stored}
        odd = [name for name in own if name != "params" and not _fits(own[name], entries[name])]
        if odd:
            raise ValueError(f"the optimiser's {odd[0]} is {entries[odd[0]]!r:.100}")
        if type(optimizer).__module__.startswith("torch.optim") and type(optimizer).__name__ not in OF_ITS_OWN_SHAPE:
            kept = [state["state"].get(number, {}) for number in stored["params"]]
            _check_tensors(own["params"], kept)


def _check_tensors(parameters: Sequence[Tensor], kept: Sequence[Mapping[str, Any]]) -> None:
    """What torch's optimisers keep of each parameter: the same things, numbers or of the parameter's shape."""
    names = {frozenset(each) for each in kept if each}
    if len(names) > 1:
        raise ValueError("the optimiser has not the same of all parameters")
    for parameter, each in zip(parameters, kept, strict=True):
        for name, value in each.items():
            if not _is_number(value) and not (isinstance(value, Tensor) and value.shape == parameter.shape):
                what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise ValueError(f"the optimiser's {name} is {what}, for weights of shape {tuple(parameter.shape)}")


def _fits(own: Any, stored: Any) -> bool:
    """Whether a stored entry of a group is a number where the optimiser has one, and as many where it has several."""
    if isinstance(own, list | tuple):
        same = isinstance(stored, list | tuple) and len(stored) == len(own)
        return same and all(map(_fits, own, stored))
    return not _is_number(own) or _is_number(stored)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_complex() and math.isfinite(value.item())
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))
