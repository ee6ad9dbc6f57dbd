"""Log-likelihood: how probable held-out records are under a model, by importance sampling.

For every loss that has one of the readings `binary_log_weights` and `density_log_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Metric


@hookimpl
def ganrun_metrics() -> Mapping[str, type[Metric]]:
    """The metric `log-likelihood`."""
    from ganrun_likelihood.metric import LogLikelihood

    return {"log-likelihood": LogLikelihood}
