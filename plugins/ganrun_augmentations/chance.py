"""Random parameters of transforms: for each image by itself, and neutral where the image is not chosen."""

from __future__ import annotations

import torch
from torch import Tensor


class Chance:
    """Draws from torch's global stream for the images of one batch.

    Args:
        count: Images.
        p: Probability of a transform of strength 1, a scalar ≥ 0; from 1 on, every image is chosen.
    """

    def __init__(self, count: int, p: Tensor, device: torch.device) -> None:
        self._count = count
        self._p = p
        self._device = device

    def picked(self, strength: float, neutral: float, *values: Tensor) -> tuple[Tensor, ...]:
        """The values, and `neutral` in the place of all of them with probability 1 − p·strength."""
        return self.picked_at(self._p * strength, neutral, *values)

    def picked_at(self, probability: Tensor, neutral: float, *values: Tensor) -> tuple[Tensor, ...]:
        """As `picked`, for a probability."""
        chosen = self.uniform(0, 1) < probability
        return tuple(torch.where(chosen, value, neutral) for value in values)

    def halved(self, strength: float) -> Tensor:
        """The probability of each of two independent events, at least one of which happens with probability
        p·strength."""
        return 1 - (1 - self._p * strength).clamp(min=0).sqrt()

    def uniform(self, low: float, high: float) -> Tensor:
        """U(low, high): `(count,)`, as all that follow."""
        return torch.rand(self._count, device=self._device) * (high - low) + low

    def whole(self, count: int) -> Tensor:
        """One of 0…count − 1, as float32."""
        return torch.randint(count, (self._count,), device=self._device).float()

    def normal(self, deviation: float) -> Tensor:
        """N(0, deviation²)."""
        return torch.randn(self._count, device=self._device) * deviation

    def lognormal(self, deviation: float) -> Tensor:
        """2^N(0, deviation²)."""
        return torch.exp2(self.normal(deviation))
