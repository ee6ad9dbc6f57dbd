"""Common settings of these networks: widths, the map that attention follows, and weight initialisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from ganrun import IncompatibleError
from ganrun_sagan.attention import SelfAttention

_Width = Annotated[int, Field(ge=1)]

Widths = Annotated[tuple[_Width, ...], Field(min_length=1)]

MapWidths = Annotated[tuple[_Width, ...], Field(min_length=2)]
"""For a generator: channels of the first map, and of at least one block, whose norms take the class."""

AttentionSize = Annotated[
    int,
    Field(
        ge=0,
        description="Height in pixels of the map that self-attention acts on, after the block that makes it; 0 for no "
        "attention.",
    ),
]

Initialisation = Annotated[
    Literal["glorot", "orthogonal", "normal"],
    Field(
        description="The first weights: glorot is uniform by fan-in and fan-out, orthogonal has orthonormal rows or "
        "columns, as in BigGAN, and normal is N(0, 0.02)."
    ),
]


def attentions(size: int, maps: list[tuple[int, int, int]]) -> nn.ModuleList:
    """For each map (channels, height, width) a module: attention where the height is `size`, else the identity.

    Raises:
        IncompatibleError: if no map has this height, or its sides or channels do not suit.
    """
    heights = [height for _, height, _ in maps]
    if size and size not in heights:
        known = ", ".join(map(str, heights))
        raise IncompatibleError(f"attention_size is {size}, but its maps are {known} high; take one of these, or 0")
    place = heights.index(size) if size else None
    return nn.ModuleList(SelfAttention(each) if index == place else nn.Identity() for index, each in enumerate(maps))
