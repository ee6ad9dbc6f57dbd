"""A discriminator's first output, under a batch's conditions, for these penalties."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ganrun import View


def logits(view: View, conditions: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """D(·): samples `(batch, …)` to `(batch, 1, …)`, under fixed conditions.

    If there are several outputs, the first is the realness of a sample; others belong to a classifier or a code.
    """
    return lambda samples: view(samples, **conditions)[:, :1]
