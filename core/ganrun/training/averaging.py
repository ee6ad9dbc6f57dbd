"""The exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ganrun.base.modules import copied
from ganrun.contracts.scheduled import Scheduled

STATISTICS = ("running_mean", "running_var")


class Average:
    """A copy of a network, in evaluation mode, that follows the original by kind of tensor.

    Parameters, and the running statistics of torch's batch and instance norms, are averaged. After step t = 1, 2, …:

        w̄ ← d w̄ + (1 − d) w,  d = min(decay, t / (t + 9)),

    so that the first weights do not dominate; or, of a half-life of h steps, d = 2^(−1/h) from the first step on. The
    statistics then fit the averaged network rather than the newest. Every other buffer, persistent or not, is copied,
    and so is extra state: averaging counters, code books, masks or unit vectors makes no sense. (Averaged vectors of
    spectral norm's power iteration are too short, so dividing by their σ makes the network explode.) A tied weight is
    averaged once.

    Args:
        module: The network to follow.
        decay: d in [0, 1), or a schedule of it.
        steps: Steps of the whole run, for a schedule.
        half_life: h ≥ 0 in steps, instead of the decay.
    """

    def __init__(
        self, module: nn.Module, decay: float | Scheduled, steps: int = 1, half_life: Scheduled | None = None
    ) -> None:
        self._decay = decay if isinstance(decay, Scheduled) else Scheduled(start=decay)
        self._half_life = half_life
        self._steps = steps
        self.module = copied(module).requires_grad_(False).eval()
        sources, targets = averaged_tensors(module), averaged_tensors(self.module)
        self._sources, self._targets = list(sources.values()), list(targets.values())
        layers = list(zip(module.modules(), self.module.modules(), strict=True))
        averaged = {id(each) for each in self._sources}
        self._copied = [
            (source, target, name)
            for source, target in layers
            for name, value in (*source.named_parameters(recurse=False), *source.named_buffers(recurse=False))
            if id(value) not in averaged
        ]
        self._extra = [pair for pair in layers if type(pair[0]).get_extra_state is not nn.Module.get_extra_state]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the network's weights as they are after step `step`, counted from 1."""
        torch._foreach_lerp_(self._targets, self._sources, 1 - self._surviving(step))
        for source, target, name in self._copied:  # by name: a network may assign a new tensor to its buffer
            getattr(target, name).copy_(getattr(source, name))
        for source, target in self._extra:
            target.set_extra_state(copy.deepcopy(source.get_extra_state()))

    def _surviving(self, step: int) -> float:
        if self._half_life is None:
            return min(self._decay.at(step - 1, self._steps), step / (step + 9))
        steps = self._half_life.at(step - 1, self._steps)
        return 0.5 ** (1 / steps) if steps > 0 else 0.0


def averaged_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that an average averages, each once: weights, and the statistics of its norms."""
    found: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if _has_mean(p)}
    norms = {f"{name}." if name else "": each for name, each in module.named_modules() if isinstance(each, _NormBase)}
    statistics = {prefix + name: getattr(norm, name) for prefix, norm in norms.items() for name in STATISTICS}
    known = {id(each) for each in found.values()}
    for name, value in statistics.items():
        if value is not None and id(value) not in known:
            found[name] = value
            known.add(id(value))
    return found


def _has_mean(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
