"""StyleGAN2 and StyleGAN: style-based generators, their discriminator and losses (arXiv:1912.04958, 1812.04948)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Discriminator, Generator, Loss


@hookimpl
def ganrun_generators() -> Mapping[str, type[Generator]]:
    """The generators `stylegan` and `stylegan2`."""
    from ganrun_stylegan2.generator import StyleGan2Generator
    from ganrun_stylegan2.stylegan import StyleGanGenerator

    return {"stylegan": StyleGanGenerator, "stylegan2": StyleGan2Generator}


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
