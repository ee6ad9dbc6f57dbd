"""LAPGAN (Denton et al. 2015, arXiv:1506.05751): a pyramid of GANs, each of which adds the details of one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `lapgan`, which adds details to an image."""
    from ganrun_lapgan.networks import DetailGenerator

    return {"lapgan": DetailGenerator}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The loss `lapgan`."""
    from ganrun_lapgan.losses import LapGan

    return {"lapgan": LapGan}
