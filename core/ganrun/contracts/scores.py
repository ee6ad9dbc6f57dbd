"""Scores: numbers that know how they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True)
class Score:
    """One number of an evaluation, with how it was made: scores of unlike protocol must not be ranked together."""

    name: str
    """As it appears everywhere: `fid` is Inception's alone; on other features it is `fid_<features>`."""

    value: float

    higher_is_better: bool

    protocol: Mapping[str, str | int | float | bool]
    """Extractor, weights hash, numbers of samples, split, resizer: whatever the value depends on."""

    error: float | None = None
    """Standard error of the value for these very weights: what other samples would make of it. None if unknown."""

    floor: float | None = None
    """What as many held-out real images score on the same terms: about what a perfect model would. None if unknown."""

    def improves_on(self, best: Score | None) -> bool:
        """Whether it is better than the best one of its name so far, or the first on its terms; NaN never is."""
        if best is None or best.protocol != self.protocol:
            return not isnan(self.value)
        return self.value > best.value if self.higher_is_better else self.value < best.value

    def __str__(self) -> str:
        """`fid 12.31 (real images 3.15)`, `inception_score 8.21 ± 0.06 (real images 11.2)`."""
        error = "" if self.error is None else f" ± {self.error:.2g}"
        floor = "" if self.floor is None else f" (real images {self.floor:.3g})"
        return f"{self.name} {self.value:.4g}{error}{floor}"
