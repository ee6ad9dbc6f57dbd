"""A generator whose latents are a learned mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Generator


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `mixture`."""
    # Imported here so that `ganrun plugins`, which loads this module, does not import torch.
    from ganrun_mixture.generator import MixtureGenerator

    return {"mixture": MixtureGenerator}
