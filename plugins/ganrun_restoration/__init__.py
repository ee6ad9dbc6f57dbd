"""Restoration: images from noisy, blurred, small, grey or incomplete ones, by regression and by a context encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Loss, Network


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `restoration` and `context-encoder`."""
    from ganrun_restoration.losses import ContextEncoder, Restoration

    return {"restoration": Restoration, "context-encoder": ContextEncoder}


@hookimpl
def ganrun_networks() -> Mapping[str, type[Network]]:
    """`dncnn`, which removes noise, and `context-encoder`, which fills in what is missing."""
    from ganrun_restoration.networks import ContextEncoderNetwork, DnCnn

    return {"dncnn": DnCnn, "context-encoder": ContextEncoderNetwork}
