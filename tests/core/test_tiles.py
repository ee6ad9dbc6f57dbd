"""Pictures of any size, tile by tile."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from ganrun.inference.tiles import OVERLAP, starts, tiled


@given(st.integers(1, 64), st.integers(0, 500))
def test_tiles_cover_all_and_overlap(tile: int, more: int) -> None:
    found = starts(tile + more, tile)
    assert (found[0], found[-1]) == (0, more)
    steps = [after - before for before, after in pairwise(found)]
    assert all(0 < step <= max(1, tile - tile // OVERLAP) for step in steps)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 16), st.integers(1, 16)),
    st.integers(1, 3),
)
def test_what_looks_at_single_pixels_makes_the_same_of_tiles(
    size: tuple[int, int], side: tuple[int, int], scale: int
) -> None:
    def make(tiles: Tensor) -> Tensor:
        assert tiles.shape[2:] == side
        return interpolate(1 - 2 * tiles[:, :2], scale_factor=float(scale))

    pictures = torch.rand(2, 3, *size)
    torch.testing.assert_close(tiled(make, pictures, side, scale), interpolate(1 - 2 * pictures[:, :2], None, scale))


def test_a_filter_shows_no_seams_where_tiles_overlap_by_more_than_it_reaches() -> None:
    """With a filter of 3×3 pixels, results are wrong at the edges of tiles alone, where their weight is low."""
    pictures = torch.rand(1, 1, 50, 70)

    def blurred(images: Tensor) -> Tensor:
        return avg_pool2d(pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)

    whole, found = blurred(pictures), tiled(blurred, pictures, (16, 16), 1)
    wrong = (found - whole).abs()
    assert wrong.mean() < 0.1 * (blurred(torch.rand_like(pictures)) - whole).abs().mean()
    assert torch.equal(tiled(blurred, pictures[:, :, :16, :16], (16, 16), 1), blurred(pictures[:, :, :16, :16]))
