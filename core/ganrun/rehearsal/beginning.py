"""`begin`, called while a component is tried."""

from __future__ import annotations

from typing import Any

import torch

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.base.frames import method
from ganrun.contracts.beginning import begin


def try_begin(component: Any, step: int, steps: int, device: torch.device) -> None:
    """Set what of a component is a function of the step, as `begin` does.

    Raises:
        IncompatibleError: if its `begin` returns no hashable value.
        PluginError: if its `begin` fails.
    """
    try:
        with method("begin"):
            begin(component, step, steps, device)
    except ContractError as error:
        raise IncompatibleError(error.message) from error
