"""Penalties beside any adversarial loss: on gradients, on weights, on features, on consistency of outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Regularizer


@hookimpl
def ganrun_regularizers() -> Mapping[str, type[Regularizer]]:
    """`r1`, `r2`, `gradient-penalty`, `dragan`, `consistency`, `lecam`, `orthogonal`, `path-length`, `feature-matching`
    and `historical-averaging`."""
    from ganrun_regularizers.discriminators import Consistency, LeCam
    from ganrun_regularizers.gradients import R1, R2, Dragan, GradientPenalty
    from ganrun_regularizers.networks import Orthogonal, PathLength
    from ganrun_regularizers.techniques import FeatureMatching, HistoricalAveraging

    return {
        "r1": R1,
        "r2": R2,
        "gradient-penalty": GradientPenalty,
        "dragan": Dragan,
        "consistency": Consistency,
        "lecam": LeCam,
        "orthogonal": Orthogonal,
        "path-length": PathLength,
        "feature-matching": FeatureMatching,
        "historical-averaging": HistoricalAveraging,
    }
