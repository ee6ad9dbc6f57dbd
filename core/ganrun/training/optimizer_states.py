"""Checks that an optimiser state from a checkpoint belongs to this optimiser: torch loads almost any, and then computes
with it, fails in the first step, or crashes the process when a kernel reads out of bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

OF_OTHER_SHAPES = {"Adafactor", "LBFGS", "Muon"}
"""Optimisers of torch whose state has other shapes than the parameters."""

NUMBERS = ("step", "mu_product", "eta", "mu")
"""State entries of torch's optimisers that are one number per parameter."""

AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "grad_avg", "momentum_buffer")
SUMS = ("sum", "acc_delta", "prev", "step_size", "ax")
KNOWN = {*NUMBERS, *AVERAGES, *SUMS}
"""All their state entries; the rest have the shape of their parameter. Entries added by derived optimisers are
unknown."""

SWITCHES = {"amsgrad", "nesterov", "maximize", "centered", "decoupled_weight_decay"}
"""Entries of torch's groups that are true or false, and decide a step's result; others decide how it is executed."""


def checked_state(optimizer: torch.optim.Optimizer, state: Any) -> dict[str, Any]:
    """A state for `optimizer` to load. Entries that groups of torch's optimisers lack, as in another version of torch,
    are the optimiser's own.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: if it belongs to another optimiser, or is damaged.
    """
    groups, kept = state["param_groups"], state["state"]
    numbers = list(chain.from_iterable(group["params"] for group in groups))
    if len(set(numbers)) < len(numbers) or not set(kept) <= set(numbers):
        raise ValueError("the optimiser's state does not match its parameters")
    for own, stored in zip(optimizer.param_groups, groups, strict=True):
        _check_entries(own, stored)
        if _is_of_torch(optimizer):
            _check_switches(own, stored)
            _check_kept(own["params"], [kept.get(number, {}) for number in stored["params"]])
    if not _is_of_torch(optimizer):
        return dict(state)
    completed = [
        {**{name: own[name] for name in optimizer.defaults if name in own}, **stored}
        for own, stored in zip(optimizer.param_groups, groups, strict=True)
    ]
    return {**state, "param_groups": completed}


def _is_of_torch(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is, or extends, an optimiser of torch that keeps tensors of its parameters' shapes."""
    bases = {base.__name__ for base in type(optimizer).__mro__ if base.__module__.startswith("torch.optim.")}
    return bool(bases - {"Optimizer"}) and not bases & OF_OTHER_SHAPES


def _check_entries(own: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Entries missing from a group may be missing in another version of torch, except the learning rate."""
    entries = {**own, **stored, **({"lr": stored.get("lr")} if "lr" in own else {})}
    odd = [name for name in own if name != "params" and not _fits(own[name], entries[name])]
    if odd:
        raise ValueError(f"the optimiser's {odd[0]} is {entries[odd[0]]!r:.100}")


def _check_switches(own: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """torch's optimisers never change a switch such as `amsgrad`, which decides what they keep."""
    odd = [name for name in sorted(SWITCHES & own.keys() & stored.keys()) if stored[name] is not own[name]]
    if odd:
        raise ValueError(f"the optimiser's {odd[0]} is {stored[odd[0]]!r:.100}, not {own[odd[0]]}")


def _fits(own: Any, stored: Any) -> bool:
    """Whether a stored entry of a group is a number where the optimiser has one, and as many where it has several."""
    if isinstance(own, list | tuple):
        same = isinstance(stored, list | tuple) and len(stored) == len(own)
        return same and all(map(_fits, own, stored))
    if isinstance(own, bool | None):
        return isinstance(stored, bool | None)
    return not _is_number(own) or _is_number(stored)


def _check_kept(parameters: Sequence[Tensor], kept: Sequence[Mapping[str, Any]]) -> None:
    """torch's optimisers keep the same entries for every parameter: numbers, and tensors of its shape."""
    known = [{name: value for name, value in each.items() if name in KNOWN} for each in kept]
    kinds = {frozenset((name, type(value)) for name, value in each.items()) for each in known if each}
    if len(kinds) > 1:
        raise ValueError("the optimiser has not kept the same entries for all parameters")
    for parameter, each in zip(parameters, known, strict=True):
        for name, value in each.items():
            if not (_is_number(value) if name in NUMBERS else _is_like(value, parameter)):
                raise ValueError(f"the optimiser's {name} is {_shown(value)}, for weights {_shown(parameter)}")


def _is_like(value: Any, parameter: Tensor) -> bool:
    if value is None:  # SGD's momentum_buffer, without momentum
        return True
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and value.is_floating_point() and math.isfinite(value.item())
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.100}"
