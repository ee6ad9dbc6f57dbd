"""`begin`, called while a component is tried."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.base.frames import method
from ganrun.contracts.beginning import begin


def try_begin(component: Any, step: int, steps: int, device: torch.device) -> Hashable:
    """Set everything in a component that is a function of the step, as `begin` does, and return its result.

    Raises:
        IncompatibleError: if its `begin` returns a value that is not hashable.
        PluginError: if its `begin` fails.
    """
    try:
        with method("begin"):
            return begin(component, step, steps, device)
    except ContractError as error:
        raise IncompatibleError(error.message) from error
