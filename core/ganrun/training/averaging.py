"""The exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """A copy of a network, in evaluation mode, whose floating-point parameters and buffers follow the original's.

    After step t = 1, 2, …:  w̄ ← d w̄ + (1 − d) w,  d = min(decay, t / (t + 9)),

    so that the first weights do not dominate the average. Integer buffers are copied. Batch norm's running
    statistics are averaged like weights, so that they fit the averaged network rather than the newest.

    Args:
        module: The network to follow.
        decay: d in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        sources, targets = module.state_dict(keep_vars=True), self.module.state_dict(keep_vars=True)
        floats = [name for name, value in sources.items() if value.is_floating_point()]
        self._sources = [sources[name].detach() for name in floats]
        self._targets = [targets[name].detach() for name in floats]
        self._counters = [(targets[n], sources[n]) for n in sources if not sources[n].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the network's weights as they are after step `step`, counted from 1."""
        weight = 1 - min(self.decay, step / (step + 9))
        torch._foreach_lerp_(self._targets, self._sources, weight)
        for target, source in self._counters:
            target.copy_(source)
