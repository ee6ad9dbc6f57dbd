"""Ways through the latents: from one to another, and along each code or dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ganrun import Factor, IncompatibleError, Model
from ganrun_samples.rows import MOST_ROWS

SMALLEST_SINE = 1e-7
"""Below it two directions count as parallel or opposite."""

FARTHEST = 3.0
"""A traversed latent of N(0, 1) goes from -3 to 3."""

CODE_FARTHEST = 2.0
"""A traversed continuous code goes from -2 to 2, as in the InfoGAN paper's figure 2, though none beyond ±1 was ever
trained on: what a code does is seen better where it is overdone."""

PROBES = 512
"""About as many pairs of samples tell which latents matter."""

DRAWS = 4096
"""So many latents tell how noise is distributed."""


# ── From one to another ───────────────────────────────────────────────────────────────────────────────────


def slerp(start: Tensor, end: Tensor, share: Tensor | float) -> Tensor:
    """Spherical interpolation (Shoemake 1985): the direction moves along the great circle at an even speed.

        [sin((1 - t) Ω) u + sin(t Ω) v] / sin Ω,   Ω the angle between the directions u and v,

    times a length that goes evenly from that of `start` to that of `end`. So what lies between two draws from N(0, I)
    is as long as they are, where a straight path would lead through lengths that are never drawn. Where no great circle
    is the only one, for parallel, opposite and zero vectors, the path is straight.

    Args:
        start: `(…, n)`, on the CPU.
        end: Likewise.
        share: t, in [0, 1]: 0 gives `start`, 1 gives `end`, both exactly. A tensor `(…, 1)` for several.
    """
    first, last = start.double(), end.double()
    length, last_length = first.norm(dim=-1, keepdim=True), last.norm(dim=-1, keepdim=True)
    u, v = first / length, last / last_length
    # Two arc tangents' worth of digits more than the arc cosine of a product that is nearly 1.
    angle = 2 * torch.atan2((u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True))
    share = torch.as_tensor(share, dtype=torch.float64)
    direction = (((1 - share) * angle).sin() * u + (share * angle).sin() * v) / angle.sin()
    arc = torch.lerp(length, last_length, share) * direction
    return torch.where(angle.sin() > SMALLEST_SINE, arc, torch.lerp(first, last, share)).to(start.dtype)


def paths(model: Model, starts: Tensor, ends: Tensor, steps: int) -> Tensor:
    """Latents between pairs of them: `(count, steps, latent_size)`, the first step at the start, the last at the end.

    Noise moves by `slerp`. What is uniform moves straight, noise and continuous codes alike: between two points of a
    cube each is as likely as they are, and a great circle would leave the cube. Categorical codes stay what they are
    at the start: between two values there is nothing that was trained.

    Args:
        model: Whose latents they are.
        starts: `(count, latent_size)`, on the CPU.
        ends: Likewise.
        steps: At least 2.
    """
    shares = torch.linspace(0, 1, steps)[:, None]
    parts = []
    for factor in model.spec.factors:
        place = model.spec.place(factor)
        parts.append(_way(model, factor)(starts[:, None, place], ends[:, None, place], shares))
    return torch.cat(parts, -1)


def _way(model: Model, factor: Factor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if factor.kind == "categorical":
        return _held
    return torch.lerp if factor.kind == "continuous" or _is_uniform(model, factor) else slerp


def _held(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    return start.expand(-1, len(share), -1)


def _is_uniform(model: Model, factor: Factor) -> bool:
    """Whether none lies beyond two standard deviations: of uniform numbers all lie within √3, of normal ones 95 %."""
    drawn = model.fixed_latents(DRAWS)[:, model.spec.place(factor)]
    return bool(drawn.abs().max() < 2 * drawn.std())


# ── Along each ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Line:
    """What one row of a traversal varies."""

    name: str
    """Such as `code_1: 0 to 9` or `latent 5: -3 to 3`."""

    place: slice
    """Where it stands in a latent vector."""

    values: Tensor
    """What stands there, column by column: `(columns, size)`."""

    def of(self, latents: Tensor) -> Tensor:
        """These latents, each with all values: `(count, columns, latent_size)`."""
        varied = latents[:, None].repeat(1, len(self.values), 1)
        varied[:, :, self.place] = self.values.to(latents)
        return varied


def code_lines(model: Model, columns: int) -> list[Line]:
    """One for each categorical code, over its values, and one for each continuous code; none without codes."""
    codes = [factor for factor in model.spec.factors if factor.kind != "noise"]
    return [line for factor in codes for line in _lines(model, factor, columns)]


def chosen_lines(model: Model, dimensions: Sequence[int], columns: int) -> list[Line]:
    """Those of the latents at these places, counted from 0; of a categorical code all of it.

    Raises:
        IncompatibleError: if a latent vector is not that long.
    """
    lines = [line for factor in model.spec.factors for line in _lines(model, factor, columns)]
    line_at = {place: line for line in lines for place in range(line.place.start, line.place.stop)}
    for dimension in dimensions:
        if dimension not in line_at:
            raise IncompatibleError(f"there is no latent {dimension}; the model has {len(line_at)}, counted from 0")
    chosen = [line_at[dimension] for dimension in dimensions]
    return [line for index, line in enumerate(chosen) if line not in chosen[:index]]


def most_active(model: Model, count: int) -> list[int]:
    """Places of the latents that matter most, that first: those that change samples most as they go from -1 to 1.

    Needs no data. In a VAE a latent that the encoder has given up, whose mean is the same for all images, is one that
    the decoder no longer heeds; so these are the active ones there too.
    """
    size = model.spec.latent_size
    probes = model.fixed_latents(max(1, PROBES // size))
    changes = []
    for place in range(size):
        low, high = probes.clone(), probes.clone()
        low[:, place], high[:, place] = -1, 1
        made = model.decode(torch.cat([low, high])).chunk(2)
        changes.append((made[0] - made[1]).square().mean())
    order: list[int] = torch.stack(changes).argsort(descending=True, stable=True).tolist()
    return order[:count]


def _lines(model: Model, factor: Factor, columns: int) -> Iterator[Line]:
    place = model.spec.place(factor)
    if factor.kind == "categorical":
        values = one_hot(torch.arange(min(factor.size, MOST_ROWS)), factor.size)
        yield Line(f"{factor.name}: 0 to {len(values) - 1}", place, values)
        return
    reach = CODE_FARTHEST if factor.kind == "continuous" else _reach(model, place)
    for index in range(place.start, place.stop):
        name = f"latent {index}" if factor.kind == "noise" else f"{factor.name} {index - place.start + 1}"
        values = torch.linspace(-reach, reach, columns)[:, None]
        yield Line(f"{name}: {-reach:.2g} to {reach:.2g}", slice(index, index + 1), values)


def _reach(model: Model, place: slice) -> float:
    """How far noise goes: 3 for N(0, 1), 1 where it is uniform on (-1, 1)."""
    return min(FARTHEST, float(model.fixed_latents(DRAWS)[:, place].abs().max()))
