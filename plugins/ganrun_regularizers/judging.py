"""A discriminator as these penalties see it: its first output, under a batch's conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ganrun import View


def logits(view: View, conditions: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """D(·): samples `(batch, …)` to `(batch, 1, …)`, under fixed conditions.

    Of several outputs the first one says how real a sample is; others are a classifier's or a code's.
    """
    return lambda samples: view(samples, **conditions)[:, :1]
