"""Everything that is a function of the step: scheduled numbers, and what a component sets in `begin`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from ganrun.base.errors import ContractError
from ganrun.contracts.scheduled import Scheduled


def values_of(settings: Any) -> dict[str, Tensor]:
    """The values at step 0 of the settings of type `Scheduled`, by name: float32 scalars.

    A plain dictionary instead of buffers: they are never saved, and do not appear among the network's own layers.
    """
    return {
        name: torch.tensor(schedule.at(0, 1), dtype=torch.float32)
        for name, schedule in _schedules_among(settings).items()
    }


def begin(component: Any, step: int, steps: int, device: torch.device) -> Hashable:
    """Set everything in a component that is a function of the step: the values in its `now`, then what its `begin`
    sets.

    Args:
        component: A network, loss, augmentation or regulariser.
        step: Steps done, from 0 to `steps`.
        steps: Steps of the whole run.
        device: Device of its values.

    Returns:
        What `begin` returned, which names the structure of what is computed until it changes; None without `begin`.

    Raises:
        ContractError: if that is not hashable.
    """
    for name, schedule in _schedules(component).items():
        value = component.now[name] = component.now[name].to(device)  # the same tensor from the second call on
        value.fill_(schedule.at(step, steps))
    if not has_begin(type(component)):
        return None
    with torch.no_grad():
        return _checked(component.begin(step, steps))


def has_begin(cls: type) -> bool:
    """Whether a component class defines `begin`. A layer of that name does not count."""
    return callable(getattr(cls, "begin", None))


def depends_on_step(component: Any) -> bool:
    """Whether anything in a component is a function of the step."""
    return has_begin(type(component)) or bool(_schedules(component))


def _schedules(component: Any) -> dict[str, Scheduled]:
    return _schedules_among(getattr(component, "settings", None))


def _schedules_among(settings: Any) -> dict[str, Scheduled]:
    values = {name: getattr(settings, name) for name in getattr(type(settings), "model_fields", {})}
    return {name: value for name, value in values.items() if isinstance(value, Scheduled)}


def _checked(structure: Any) -> Hashable:
    try:
        hash(structure)
    except TypeError:
        is_name = False
    else:
        is_name = not isinstance(structure, Tensor)
    if not is_name:
        raise ContractError(
            f"its begin returns {type(structure).__name__}; return a number, a string or a tuple of them that names the"
            " structure, such as the resolution, or None"
        )
    return structure  # type: ignore[no-any-return]
