"""StyleGAN2: a style-based generator, its discriminator, and their losses (arXiv:1912.04958, arXiv:2006.06676)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generator `stylegan2`."""
    from ganrun_stylegan2.generator import StyleGan2Generator

    return {"stylegan2": StyleGan2Generator}


@hookimpl
def ganrun_discriminators() -> Mapping[str, type[Discriminator]]:
    """The discriminator `stylegan2`."""
    from ganrun_stylegan2.discriminator import StyleGan2Discriminator

    return {"stylegan2": StyleGan2Discriminator}


@hookimpl
def ganrun_losses() -> Mapping[str, type[Loss]]:
    """The losses `stylegan2` and `conditional-stylegan2`."""
    from ganrun_stylegan2.losses import ConditionalStyleGan2, StyleGan2

    return {"stylegan2": StyleGan2, "conditional-stylegan2": ConditionalStyleGan2}
