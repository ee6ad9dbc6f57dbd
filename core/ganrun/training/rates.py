"""Learning rates on the device, for steps that are captured as graphs and read them there."""

from __future__ import annotations

from typing import Any

import torch


def can_be_captured(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its step can be captured with a learning rate on the device: torch's optimisers say so by the entry
    `capturable`, and those that are fused read it there."""
    return all("capturable" in group or group.get("fused") for group in optimizer.param_groups)


class DeviceRates:
    """The learning rates of an optimiser, as tensors on the device.

    Checkpoints hold them as plain numbers, independent of how the run is executed. So they work on every device, with
    captured steps or without.

    Args:
        optimizer: Whose groups get the tensors, and are made capturable.
        device: The run's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._device = device
        # On CUDA, fused steps read a rate as float32. Elsewhere they take a number, which float64 holds exactly.
        kind = torch.float32 if device.type == "cuda" else torch.float64
        groups = optimizer.param_groups
        self._flags = [group.get("capturable") for group in groups]
        self._tensors = [torch.zeros((), dtype=kind, device=device) for _ in groups]
        self.take_up()

    def take_up(self) -> None:
        """Take over the rates of the groups, as built or loaded."""
        groups = self._optimizer.param_groups
        self._numbers = [float(group["lr"]) for group in groups]
        for group, number, tensor in zip(groups, self._numbers, self._tensors, strict=True):
            group["lr"] = tensor.fill_(number)
            if "capturable" in group:
                group["capturable"] = True
        for state in self._optimizer.state.values():  # torch keeps step counts on the host unless they are captured
            state |= {name: each.to(self._device) for name, each in state.items() if isinstance(each, torch.Tensor)}

    def set(self, lr: float) -> None:
        """Set the rate of every group, without waiting for the device."""
        for place, tensor in enumerate(self._tensors):
            if self._numbers[place] != lr:
                self._numbers[place] = lr
                tensor.fill_(lr)

    def first(self) -> float:
        """The rate of the first group."""
        return self._numbers[0]

    def portable(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of the optimiser with rates as plain numbers."""
        for group, number, flag in zip(state["param_groups"], self._numbers, self._flags, strict=True):
            group["lr"] = number
            if flag is not None:
                group["capturable"] = flag
        return state
