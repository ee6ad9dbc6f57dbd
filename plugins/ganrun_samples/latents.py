"""Latent-space interpolations and traversals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ganrun import Factor, IncompatibleError, Model, ModelSpec, interpolated_latents
from ganrun_samples.rows import MAX_ROWS

NOISE_RANGE = 3.0
"""A traversed latent of N(0, 1) goes from -3 to 3."""

CODE_RANGE = 2.0
"""A traversed continuous code goes from -2 to 2, as in the InfoGAN paper's figure 2, although training draws codes in
(-1, 1): extrapolation makes the effect of a code more visible."""

PROBED_VALUES = 512
"""Approximate number of pairs of samples, over all latents, for finding active latents."""

DRAWS = 4096
"""Latents drawn to find the distribution of noise."""


# ── Interpolations ────────────────────────────────────────────────────────────────────────────────────────


def is_interpolated(spec: ModelSpec) -> bool:
    """Whether latents can be interpolated: records of the data cannot."""
    return len(spec.given) < len(spec.factors) or not spec.factors


def interpolated(model: Model, starts: Tensor, ends: Tensor, steps: int) -> Tensor:
    """Latents between pairs, as `ganrun.interpolated_latents`: `(count, steps, latent_size)`, from start to end.

    Args:
        model: Decodes the latents.
        starts: `(count, latent_size)`, on the CPU.
        ends: Likewise.
        steps: At least 2.
    """
    shares = torch.linspace(0, 1, steps)[:, None]
    return interpolated_latents(starts[:, None], ends[:, None], shares, model.spec, model.fixed_latents(DRAWS).cpu())


# ── Traversals ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Traversal:
    """A code or a latent that varies while the others are fixed."""

    name: str
    """Such as `code_1: 0 to 9` or `latent 5: -3 to 3`."""

    place: slice
    """Its place in a latent vector."""

    values: Tensor
    """Its values, column by column: `(columns, size)`."""

    def applied_to(self, latents: Tensor) -> Tensor:
        """Latents `(count, latent_size)`, each with all values: `(count, columns, latent_size)`."""
        varied = latents[:, None].repeat(1, len(self.values), 1)
        varied[:, :, self.place] = self.values.to(latents)
        return varied


def code_traversals(model: Model, columns: int) -> list[Traversal]:
    """One for each categorical code, over its values, and for each continuous code; empty for a model without codes."""
    codes = [factor for factor in model.spec.factors if factor.kind not in ("noise", "given")]
    return [traversal for factor in codes for traversal in _traversals(model, factor, columns)]


def chosen_traversals(model: Model, dimensions: Sequence[int], columns: int) -> list[Traversal]:
    """The traversals of the latents at these places, counted from 0; a place in a categorical code selects the code.

    Raises:
        IncompatibleError: if a latent vector is shorter, or has a given record in that place.
    """
    factors = [factor for factor in model.spec.factors if factor.kind != "given"]
    found = [traversal for factor in factors for traversal in _traversals(model, factor, columns)]
    by_place = {place: each for each in found for place in range(each.place.start, each.place.stop)}
    size = model.spec.latent_size
    for dimension in dimensions:
        if dimension in range(size) and dimension not in by_place:
            raise IncompatibleError(f"latent {dimension} is part of a record of the data, and cannot be traversed")
        if dimension not in by_place:
            raise IncompatibleError(f"there is no latent {dimension}; the model has {size}, counted from 0")
    return list(dict.fromkeys(by_place[dimension] for dimension in dimensions))


def most_active(model: Model, count: int) -> list[int]:
    """Places of the latents that change samples most as they go from -1 to 1, in descending order; no given ones.

    In a VAE, the decoder ignores the latents whose posterior has collapsed, so that these come last.
    """
    size, factors = model.spec.latent_size, [each for each in model.spec.factors if each.kind != "given"]
    probes = model.fixed_latents(max(1, PROBED_VALUES // size))
    places = [place for each in factors for place in range(size)[model.spec.place(each)]]
    changes = []
    for place in places:
        low, high = probes.clone(), probes.clone()
        low[:, place], high[:, place] = -1, 1
        made = model.decode(torch.cat([low, high])).chunk(2)
        changes.append((made[0] - made[1]).square().mean())
    order: list[int] = torch.tensor(changes).argsort(descending=True, stable=True).tolist()
    return [places[each] for each in order[:count]]


def _traversals(model: Model, factor: Factor, columns: int) -> Iterator[Traversal]:
    place = model.spec.place(factor)
    if factor.kind == "categorical":
        values = one_hot(torch.arange(min(factor.size, MAX_ROWS)), factor.size)
        yield Traversal(f"{factor.name}: 0 to {len(values) - 1}", place, values)
        return
    limit = CODE_RANGE if factor.kind == "continuous" else _noise_limit(model, place)
    for index in range(place.start, place.stop):
        name = f"latent {index}" if factor.kind == "noise" else f"{factor.name} {index - place.start + 1}"
        values = torch.linspace(-limit, limit, columns)[:, None]
        yield Traversal(f"{name}: {-limit:.2g} to {limit:.2g}", slice(index, index + 1), values)


def _noise_limit(model: Model, place: slice) -> float:
    """3 for N(0, 1); 1 for noise that is uniform on (-1, 1)."""
    return min(NOISE_RANGE, float(model.fixed_latents(DRAWS)[:, place].abs().max()))
