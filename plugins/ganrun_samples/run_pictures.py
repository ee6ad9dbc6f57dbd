"""Pictures of a run, from fixed latents, so that the pictures of several runs can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt

from torch import Tensor

from ganrun import Run
from ganrun_samples import pictures
from ganrun_samples.grid import image_grid, shown
from ganrun_samples.latents import chosen_traversals, code_traversals, is_interpolated, most_active
from ganrun_samples.pictures import Picture, real_samples
from ganrun_samples.rows import row_by_row
from ganrun_samples.scatter import scatter
from ganrun_samples.sheets import sheet

POINTS = 2_000
"""Real and generated points, each, in a picture of the plane."""

PAIRED_ROWS = 4
"""Rows of real images in a picture of reconstructions."""

ROWS = 8
"""Rows of neighbours, interpolations and traversals."""

STEPS = 10
"""Columns of interpolations and traversals; a code of ten values fills a row."""


# ── During training ───────────────────────────────────────────────────────────────────────────────────────


def sample_grid(run: Run, count: int, columns: int) -> Picture:
    """`count` samples; if the model has a categorical code, a row of `columns` samples for each of its values."""
    latents = run.model.fixed_latents(max(count, columns))
    rows = row_by_row(latents, run.model.spec.factors, columns)
    return image_grid(shown(run.model.decode(latents[:count] if rows is None else rows)), columns).numpy()


def record_sheet(run: Run, count: int) -> Picture:
    """The first records, at most eight, each with its sample."""
    given = run.model.given
    assert given is not None, "samples are made of records"
    return sheet(run.model, _samples(run, min(ROWS, count, given.count)), across=1)


def reconstruction_pairs(run: Run, columns: int) -> Picture:
    """Rows of real images, each above its reconstructions."""
    real = real_samples(run.data, PAIRED_ROWS * columns)
    return pictures.pairs(real, pictures.reconstructed(run.model, real), columns)


def point_cloud(run: Run) -> Picture:
    """Generated points in the plane over real ones."""
    return scatter(real_samples(run.data, POINTS), _samples(run, POINTS).cpu())


# ── At the end, of models of images ───────────────────────────────────────────────────────────────────────


def real_and_generated(run: Run, count: int) -> Picture:
    """Real images beside samples, together about `count`, each in a square; if samples are made of records, those of
    these records, in the same order."""
    given = run.model.given
    side = max(1, isqrt(min(count // 2, given.count) if given else count // 2))
    real = given.rows("images", 0, side * side) if given else real_samples(run.data, side * side)
    return pictures.real_and_generated(real, _samples(run, side * side), side)


def neighbours(run: Run, count: int) -> Picture:
    """At most `count` samples, each with its nearest training images."""
    training, mirrored = run.training_split, run.recipe.train.horizontal_flip
    return pictures.beside_nearest(_samples(run, min(ROWS, count)), training, mirrored=mirrored)


def interpolation(run: Run, _: int) -> Picture | None:
    """Interpolations between pairs of samples, one per row; None if latents hold only records, which never blend."""
    if not is_interpolated(run.model.spec):
        return None
    rows = pictures.interpolations(run.model, run.model.fixed_latents(2 * ROWS), STEPS)
    return pictures.strip(rows, "from one sample to another")


def traversal(run: Run, _: int) -> Picture | None:
    """Traversals of the model's codes, or of a VAE's most active latents; None for other models."""
    found = code_traversals(run.model, STEPS)[:ROWS]
    if not found and "reconstructions" in run.model.spec.readings:
        found = chosen_traversals(run.model, most_active(run.model, ROWS), STEPS)
    if not found:
        return None
    rows, names = pictures.traversals(run.model, run.model.fixed_latents(max(1, ROWS // len(found))), found)
    return pictures.strip(rows, "one latent at a time", names)


AT_END: Mapping[str, Callable[[Run, int], Picture | None]] = {
    "real-and-generated": real_and_generated,
    "neighbours": neighbours,
    "interpolation": interpolation,
    "traversal": traversal,
}
"""By name, from the run and the setting `count`."""


def _samples(run: Run, count: int) -> Tensor:
    return run.model.decode(run.model.fixed_latents(count))
