"""Fidelity: how close generated pictures are to real ones, by FID and the Inception Score.

Both read their features from Inception, as published scores do, or from a small classifier of the data's own labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Checkup, Metric


@hookimpl
def ganrun_metrics() -> Mapping[str, type[Metric]]:
    from ganrun_fidelity.codes import CodeAccuracy
    from ganrun_fidelity.metrics import FrechetInceptionDistance, InceptionScore

    return {"fid": FrechetInceptionDistance, "inception-score": InceptionScore, "code-accuracy": CodeAccuracy}


@hookimpl
def ganrun_checkups() -> Mapping[str, Callable[[], Checkup]]:
    from ganrun_fidelity.inception import weights_checkup

    return {"inception weights": weights_checkup}
