"""Scores: numbers with the protocol by which they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True)
class Score:
    """One number of an evaluation, with its protocol. Only scores of the same protocol may be compared."""

    name: str
    """Its name in files, tables and MLflow. `fid` is on Inception's features; on others it is `fid_<features>`."""

    value: float

    higher_is_better: bool

    protocol: Mapping[str, str | int | float | bool]
    """Everything that the value depends on: extractor, hash of its weights, numbers of images, split, resizing."""

    error: float | None = None
    """Standard error over draws of samples from the same weights. None if unknown."""

    floor: float | None = None
    """The score of equally many held-out real images, by the same protocol: about what a perfect model would get. None
    if unknown.
    """

    def improves_on(self, best: Score | None) -> bool:
        """Whether it is better than `best`, or the first score by its protocol. NaN never is."""
        if best is None or best.protocol != self.protocol:
            return not isnan(self.value)
        return self.value > best.value if self.higher_is_better else self.value < best.value

    def __str__(self) -> str:
        """`fid 12.31 (real images 3.15)`, `inception_score 8.21 ± 0.06 (real images 11.2)`, `fid not a number`."""
        value = "not a number" if isnan(self.value) else f"{self.value:.4g}"
        error = "" if self.error is None or isnan(self.error) else f" ± {self.error:.2g}"
        floor = "" if self.floor is None or isnan(self.floor) else f" (real images {self.floor:.3g})"
        return f"{self.name} {value}{error}{floor}"
