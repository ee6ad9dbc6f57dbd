"""DiffAugment and ADA: every transform against torch or SciPy composed another way; draws; and p in a run."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ganrun import Augmentation, DataSpec, IncompatibleError, Run, checkpoints_in, load_registry, step_of
from ganrun.base.randomness import derived_seed, set_random_stream
from ganrun.contracts.settings import parse_settings
from ganrun.recipe.reader import load_recipe
from ganrun.testing import assert_conforms, build, train
from ganrun.training.assembly import check_recipe
from ganrun.training.drawing import Drawing
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step
from ganrun_augmentations import diffaugment, matrices
from ganrun_augmentations.ada import COLOURS, GEOMETRY, Ada, AdaSettings, blits, colours, warps
from ganrun_augmentations.chance import Chance
from ganrun_augmentations.diffaugment import DiffAugment
from ganrun_augmentations.pixels import cut_out, mirrored
from ganrun_augmentations.resampling import SYM6, Resampler, by_pixels, enlarging, reducing

MANY = 4000
"""Images whose draws are counted."""

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def ada(shape: tuple[int, ...] = (3, 16, 16), **settings: Any) -> Ada:
    return Ada(parse_settings(AdaSettings, settings), DataSpec(shape))


def only(*names: str, **strengths: float) -> dict[str, float]:
    """Strengths of the transforms; 0 for all others."""
    return {**dict.fromkeys((*GEOMETRY, *COLOURS), 0.0), **dict.fromkeys(names, 1.0), **strengths}


def chance(p: float = 1.0, count: int = MANY) -> Chance:
    return Chance(count, torch.tensor(p), CPU)


def inverses(*matrices: Tensor) -> Tensor:
    """One image's matrix of each."""
    return torch.stack([each.inverse() for each in matrices])


def affine(rows: list[list[float]]) -> Tensor:
    return torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)


# ── The filter ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_filter_is_the_least_asymmetric_orthonormal_one_with_six_vanishing_moments() -> None:
    taps = np.array(SYM6)
    lags = [taps[2 * lag :] @ taps[: len(taps) - 2 * lag] for lag in range(6)]
    assert lags == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-11)
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-11)
    moments = [((-1.0) ** np.arange(12) * np.arange(12) ** order @ taps) / 11**order for order in range(6)]
    assert moments == pytest.approx([0] * 6, abs=1e-11)
    assert asymmetry(taps) == pytest.approx(min(asymmetry(each) for each in daubechies(6)), rel=1e-6)


def daubechies(moments: int) -> list[np.ndarray]:
    """All real orthonormal filters with these vanishing moments: the spectral factors of Daubechies' polynomial."""
    binomials = [math.comb(moments - 1 + k, k) for k in range(moments)]
    outer = [root for y in np.roots(binomials[::-1]) for root in np.roots([1, 4 * y - 2, 1])]  # y = (2 − z − 1/z)/4
    upper = [root for root in outer if abs(root) < 1 and root.imag >= -1e-9]
    found = []
    for choice in range(2 ** len(upper)):
        roots = []
        for number, root in enumerate(upper):
            chosen = 1 / root if choice >> number & 1 else root
            roots += [chosen.real] if abs(root.imag) < 1e-9 else [chosen, chosen.conjugate()]
        taps = np.real(np.poly([-1] * moments + roots))
        found.append(taps * math.sqrt(2) / taps.sum())
    return found


def asymmetry(taps: np.ndarray) -> float:
    """How far the phase is from a straight line, over the frequencies that the filter passes."""
    frequencies = np.linspace(0, math.pi / 2, 200)
    response = np.exp(-1j * np.outer(frequencies, np.arange(len(taps)))) @ taps
    phase = np.unwrap(np.angle(response))
    return float(np.abs(phase - np.polyval(np.polyfit(frequencies, phase, 1), frequencies)).max())


# ── Geometry ──────────────────────────────────────────────────────────────────────────────────────────────


def test_where_nothing_moves_the_two_filters_undo_each_other() -> None:
    images = noise(2, 3, 11, 8)
    resampler = precise(11, 8)
    found = resampler.resampled(images, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
    torch.testing.assert_close(found, images, rtol=0, atol=1e-6)


def precise(height: int, width: int) -> Resampler:
    """A resampler with filters in float64."""
    resampler = Resampler(height, width)
    for name, side in (("rows", height), ("columns", width)):
        setattr(resampler, f"enlarge_{name}", enlarging(side))
        setattr(resampler, f"reduce_{name}", reducing(side))
    return resampler


TURNED = affine([[math.cos(0.7), -math.sin(0.7), 0], [math.sin(0.7), math.cos(0.7), 0]])
STRETCHED = affine([[1.3, 0, 0.4], [0, 0.8, -1.7]])
SHRUNK = affine([[0.4, 0.1, 2], [0, 0.3, 0]])


@pytest.mark.parametrize(
    "matrix", [TURNED, STRETCHED, SHRUNK, TURNED @ STRETCHED], ids=["turn", "stretch", "shrink", "both"]
)
def test_resampling_is_what_torch_makes_of_a_large_mirrored_picture(matrix: Tensor) -> None:
    """Padded with mirror images, enlarged by a transposed convolution, looked up by grid_sample, reduced by another."""
    images = noise(2, 2, 9, 12)
    found = precise(9, 12).resampled(images, inverses(matrix, matrix))
    torch.testing.assert_close(found, reference(images, matrix), rtol=0, atol=1e-6)


def reference(images: Tensor, matrix: Tensor, around: int = 40) -> Tensor:
    channels, height, width = images.shape[1:]
    taps = torch.tensor(SYM6, dtype=torch.float64)
    kernel = torch.outer(taps, taps).expand(channels, 1, 12, 12)
    large = torch.from_numpy(np.pad(images, ((0, 0), (0, 0), (around, around), (around, around)), mode="reflect"))
    enlarged = F.conv_transpose2d(large, kernel * 2, stride=2, groups=channels)  # index 2i + tap
    mean_tap = float((taps * torch.arange(12)).sum() / taps.sum())
    rows, columns = (torch.arange(2 * side + 10, dtype=torch.float64) for side in (height, width))
    y, x = torch.meshgrid((rows - mean_tap) / 2, (columns - mean_tap) / 2, indexing="ij")  # in pixels of the result
    centred = torch.stack([x - (width - 1) / 2, y - (height - 1) / 2, torch.ones_like(x)])
    sources = torch.einsum("ab,bij->aij", torch.linalg.inv(matrix), centred)
    sides = torch.tensor([enlarged.shape[3], enlarged.shape[2]])[:, None, None]
    centres = torch.tensor([(width - 1) / 2, (height - 1) / 2])[:, None, None]
    index = 2 * (sources[:2] + centres + around) + mean_tap
    grid = (2 * index / (sides - 1) - 1).permute(1, 2, 0).expand(len(images), -1, -1, -1)
    looked_up = F.grid_sample(enlarged, grid, mode="bilinear", align_corners=True)
    return F.conv2d(looked_up, kernel / 2, stride=2, groups=channels)


def test_a_rotation_of_a_smooth_picture_is_the_picture_of_the_rotated_places() -> None:
    y, x = torch.meshgrid(*2 * [torch.arange(32.0, dtype=torch.float64) - 15.5], indexing="ij")
    picture = lambda x, y: torch.sin(0.4 * x + 0.3) * torch.cos(0.25 * y)  # noqa: E731
    found = precise(32, 32).resampled(picture(x, y)[None, None], inverses(TURNED))[0, 0]
    sine, cosine = math.sin(0.7), math.cos(0.7)
    wanted = picture(cosine * x + sine * y, cosine * y - sine * x)
    inside = x.square() + y.square() < 13**2
    assert (found - wanted)[inside].abs().max() < 0.02


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (6, 8), (5, 9)])
def test_pixels_move_as_wholes(size: tuple[int, int]) -> None:
    height, width = size
    images = noise(3, 2, height, width)
    flip, shift = affine([[-1, 0, 0], [0, 1, 0]]), affine([[1, 0, 2], [0, 1, -3]])
    assert torch.equal(by_pixels(images, inverses(flip, flip, flip)), images.flip(3))
    padded = np.pad(images, ((0, 0), (0, 0), (3, 3), (3, 3)), mode="reflect")
    shifted = padded[:, :, 6:, 1 : 1 + width]
    assert np.array_equal(by_pixels(images, inverses(shift, shift, shift)), shifted)
    quarter = affine([[0, -1, 0], [1, 0, 0]])
    turned = by_pixels(images, inverses(quarter, quarter @ quarter, quarter @ quarter @ quarter))
    assert torch.equal(turned[1], images[1].rot90(2, (1, 2)))
    for number, turns in ((0, -1), (2, 1)):
        assert torch.equal(turned[number], cropped(np.rot90(images[number], turns, (1, 2)), height, width))


def cropped(image: np.ndarray, height: int, width: int) -> Tensor:
    """The middle of an image that goes on as its mirror image."""
    wide = np.pad(image, ((0, 0), (20, 20), (20, 20)), mode="reflect")
    top, left = (wide.shape[1] - height) // 2, (wide.shape[2] - width) // 2
    return torch.from_numpy(wide[:, top : top + height, left : left + width].copy())


def test_an_image_that_ends_outside_is_its_mirror_image_there() -> None:
    assert mirrored(torch.arange(-5, 9), 4).tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert mirrored(torch.arange(-2, 3), 1).tolist() == [0] * 5


# ── Colours ───────────────────────────────────────────────────────────────────────────────────────────────


def one(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: matrices.recoloured(images, matrix.expand(len(images), 4, 4))


def test_colours_change_by_the_formulas_for_a_pixel() -> None:
    images, value = noise(2, 3, 4, 5).float(), torch.tensor([0.7])
    grey = images.mean(1, keepdim=True)
    rotation = Rotation.from_rotvec(0.7 * np.ones(3) / math.sqrt(3)).as_matrix()
    wanted = {
        "brightness": images + 0.7,
        "contrast": images * 0.7,
        "luma_flip": images - 2 * grey * 0.7,
        "saturation": grey + 0.7 * (images - grey),
        "hue": torch.einsum("cd,ndij->ncij", torch.from_numpy(rotation).float(), images),
    }
    for name, each in wanted.items():
        torch.testing.assert_close(one(getattr(matrices, name)(value))(images), each, rtol=1e-5, atol=1e-6, msg=name)


def test_colours_follow_in_the_papers_order() -> None:
    images = noise(1, 3, 4, 5).float()
    drawn = [torch.tensor([each]) for each in (0.3, 1.6, 1.0, 0.7, 0.4)]
    order = (matrices.brightness, matrices.contrast, matrices.luma_flip, matrices.hue, matrices.saturation)
    wanted = images
    for transform, value in zip(order, drawn, strict=True):
        wanted = one(transform(value))(wanted)
    torch.testing.assert_close(one(colours(Scripted(drawn), AdaSettings()))(images), wanted, rtol=1e-4, atol=1e-5)


class Scripted(Chance):
    """Picks a given value."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__(len(values[0]), torch.ones(()), CPU)
        self._values = iter(values)

    def picked_at(self, probability: Tensor, neutral: float, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(next(self._values) for _ in values)


def test_geometry_follows_in_the_papers_order() -> None:
    flip, turns, x, y = (torch.tensor([each]) for each in (1.0, 1.0, 3.0, -2.0))
    found = torch.linalg.inv(blits(Scripted([flip, turns, x, y]), AdaSettings(), 8, 8))[0]
    mirror, quarter = affine([[-1, 0, 0], [0, 1, 0]]), affine([[0, -1, 0], [1, 0, 0]])
    torch.testing.assert_close(found.double(), affine([[1, 0, 3], [0, 1, -2]]) @ quarter.inverse() @ mirror)
    drawn = [torch.tensor([each]) for each in (1.5, 0.4, 0.7, -1.1, 2.5, -0.5)]
    found = torch.linalg.inv(warps(Scripted(drawn), AdaSettings(), 8, 8))[0]
    turned = [affine([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0]]) for a in (0.4, -1.1)]
    stretch = affine([[0.7, 0, 0], [0, 1 / 0.7, 0]])
    wanted = affine([[1, 0, 2.5], [0, 1, -0.5]]) @ turned[1] @ stretch @ turned[0] @ affine([[1.5, 0, 0], [0, 1.5, 0]])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_grey_image_is_recoloured_as_one_of_three_equal_channels() -> None:
    grey, drawn = noise(MANY, 1, 2, 2).float(), colours(chance(0.5), AdaSettings())
    three = matrices.recoloured(grey.expand(-1, 3, -1, -1), drawn)
    one_channel = matrices.recoloured(grey, drawn)
    torch.testing.assert_close(one_channel.expand_as(three), three, rtol=1e-4, atol=1e-4)
    colourful = matrices.recoloured(grey, colours(chance(), AdaSettings(**only("hue", "saturation"))))
    torch.testing.assert_close(colourful, grey, rtol=1e-4, atol=1e-5)


# ── Chance ────────────────────────────────────────────────────────────────────────────────────────────────

SEEN = {"xflip": 1 / 2, "rotate90": 3 / 4, "lumaflip": 1 / 2}
"""Share of the images chosen for a transform that it changes; all, or nearly all, of the others."""


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0, 1.4])
@pytest.mark.parametrize("name", [*GEOMETRY, *COLOURS])
def test_a_transform_is_done_with_its_probability(name: str, p: float) -> None:
    strengths = AdaSettings(**only(**{name: 0.6}))
    draw = colours if name in COLOURS else blits if name in GEOMETRY[:3] else warps
    sizes = () if name in COLOURS else (64, 64)
    changed = ~matrices.is_identity(draw(chance(p), strengths, *sizes))
    share = min(1.0, 0.6 * p) * SEEN.get(name, 1.0)
    assert changed.float().mean().item() == pytest.approx(share, abs=0.03)


def drawn(name: str, place: tuple[int, int], width: int = 1) -> np.ndarray:
    """An entry of the inverse matrices of a transform that every image gets."""
    strengths = AdaSettings(**only(name))
    found = colours(chance(), strengths) if name in COLOURS else warps(chance(), strengths, width, 2 * width)
    return found[:, place[0], place[1]].double().numpy()


@pytest.mark.parametrize(
    ("values", "deviation"),
    [
        (lambda: np.log2(drawn("scale", (0, 0))), 0.2),
        (lambda: np.log2(drawn("aniso", (1, 1))), 0.2),
        (lambda: drawn("xfrac", (0, 2), 40), 0.125 * 40),
        (lambda: drawn("xfrac", (1, 2), 40), 0.125 * 80),
        (lambda: drawn("brightness", (0, 3)), 0.2),
        (lambda: np.log2(drawn("contrast", (1, 1))), 0.5),
        (lambda: np.log2((drawn("saturation", (0, 0)) - 1 / 3) * 3 / 2), 1.0),
    ],
    ids=["scale", "aniso", "xfrac", "yfrac", "brightness", "contrast", "saturation"],
)
def test_strengths_are_normal_with_the_papers_deviation(values: Callable[[], np.ndarray], deviation: float) -> None:
    assert stats.kstest(values() / deviation, "norm").pvalue > 0.001


def test_angles_and_shifts_are_uniform() -> None:
    hue = colours(chance(), AdaSettings(**only("hue"))).double()
    cosine, sine = (hue[:, 0, 0] - 1 / 3) * 3 / 2, (hue[:, 1, 0] - hue[:, 2, 0]) * math.sqrt(3) / 2
    turned = warps(chance(), AdaSettings(**only("rotate")), 8, 8).double()
    for angle in (torch.atan2(sine, cosine), torch.atan2(turned[:, 1, 0], turned[:, 0, 0])):
        assert stats.kstest(angle.numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.001
    shifts = blits(chance(), AdaSettings(**only("xint")), 64, 32)
    for row, most in ((0, 8), (1, 4)):
        values = shifts[:, row, 2]
        assert torch.equal(values, values.round()) and (values.min(), values.max()) == (-most, most)


def test_noise_and_cutout() -> None:
    images = torch.ones(MANY // 4, 1, 8, 12)
    noisy = ada((1, 8, 12), p=0.5, noise=1.0, **only())(images) - 1
    deviations = noisy.flatten(1).std(1)
    assert (deviations > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    chosen = deviations[deviations > 0]
    assert chosen.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.1)
    cut = ada((1, 8, 12), p=0.5, cutout=1.0, **only())(images)
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    holes = (cut == 0).flatten(1).sum(1)
    assert (holes > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert holes.max().item() == 4 * 6
    middle = (cut == 0)[:, 0, 4, 6].float().mean().item()
    assert middle == pytest.approx(0.5 * 0.25, abs=0.03), "the centre is anywhere, so a place is cut with probability ¼"


def test_with_a_probability_of_0_an_image_stays_bit_for_bit() -> None:
    images = noise(5, 3, 9, 16).float()
    assert torch.equal(ada((3, 9, 16), p=0.0, noise=1.0, cutout=1.0)(images), images)
    adaptive = ada((3, 9, 16))
    assert torch.equal(adaptive(images), images)
    some = ada((3, 9, 16), p=0.05)(images.repeat(40, 1, 1, 1)) == images.repeat(40, 1, 1, 1)
    kept = some.flatten(1).all(1).float().mean().item()
    assert 0.4 < kept < 0.8, "those that no transform was drawn for stay beside others"


# ── DiffAugment ───────────────────────────────────────────────────────────────────────────────────────────


def test_diffaugment_draws_colours_from_its_ranges() -> None:
    images = noise(MANY, 3, 2, 2)
    state = torch.get_rng_state()
    found = diffaugment.recoloured(images)
    torch.set_rng_state(state)
    added, factor, spread = (torch.rand(MANY, dtype=torch.float64)[:, None, None, None] for _ in range(3))
    bright = images + (added - 0.5)
    grey = bright.sum(1, keepdim=True) / 3
    vivid = grey + 2 * factor * (bright - grey)
    mean = vivid.flatten(1).mean(1)[:, None, None, None]
    torch.testing.assert_close(found, mean + (spread + 0.5) * (vivid - mean))


def test_diffaugment_shifts_in_zeros_by_up_to_an_eighth() -> None:
    images = noise(600, 2, 8, 20).float()
    shifted = diffaugment.translated(images)
    down, right = 1, 3  # ⌊8/8 + ½⌋, ⌊20/8 + ½⌋
    padded = F.pad(images, (right, right, down, down))
    views = {(i, j): padded[:, :, i : i + 8, j : j + 20] for i in range(2 * down + 1) for j in range(2 * right + 1)}
    hits = {at: (view == shifted).flatten(1).all(1).sum().item() for at, view in views.items()}
    assert sum(hits.values()) == 600 and min(hits.values()) > 10, "every shift, and no other"


def test_diffaugment_cuts_a_rectangle_of_half_the_sides_around_any_pixel() -> None:
    cut = diffaugment.cut(torch.ones(MANY, 1, 5, 8)) == 0
    rows, columns = cut[:, 0].any(2), cut[:, 0].any(1)
    assert torch.equal(cut[:, 0], rows[:, :, None] & columns[:, None, :])
    count = lambda masks: {tuple(np.flatnonzero(mask)) for mask in masks.numpy()}  # noqa: E731
    assert count(rows) == {(0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4)}
    assert count(columns) == {tuple(range(max(0, centre - 2), min(8, centre + 2))) for centre in range(9)}


def test_a_policy_is_done_in_its_order_and_each_part_once() -> None:
    spec = DataSpec((1, 8, 8))
    images = torch.ones(200, 1, 8, 8)
    last = DiffAugment(parse_settings(DiffAugment.Settings, {"policy": ["color", "cutout"]}), spec)(images)
    first = DiffAugment(parse_settings(DiffAugment.Settings, {"policy": ["cutout", "color"]}), spec)(images)
    assert (last == 0).flatten(1).any(1).all() and not (first == 0).any()
    for policy in ([], ["color", "color"], ["colour"]):
        with pytest.raises(Exception, match="policy"):
            parse_settings(DiffAugment.Settings, {"policy": policy})


# ── Gradients, contract ───────────────────────────────────────────────────────────────────────────────────

FAMILY: list[tuple[type[Augmentation], dict[str, Any]]] = [
    (DiffAugment, {}),
    (Ada, {"p": 0.7, "cutout": 1.0, "noise": 1.0}),
]


@pytest.mark.parametrize(("component", "settings"), FAMILY, ids=["diffaugment", "ada"])
def test_gradients_of_both_orders_are_those_of_finite_differences(
    component: type[Augmentation], settings: dict[str, Any]
) -> None:
    augmentation = component(parse_settings(component.Settings, settings), DataSpec((3, 3, 4))).double()

    def augmented(images: Tensor) -> Tensor:
        torch.manual_seed(5)
        return augmentation(images.sin())  # not linear, so that there is a second derivative

    images = noise(3, 3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(augmented, (images,))
    assert torch.autograd.gradgradcheck(augmented, (images,), fast_mode=True)


@pytest.mark.parametrize(("component", "settings"), FAMILY, ids=["diffaugment", "ada"])
def test_an_image_is_changed_without_a_look_at_the_others(
    component: type[Augmentation], settings: dict[str, Any]
) -> None:
    augmentation = component(parse_settings(component.Settings, settings), DataSpec((3, 8, 8)))
    images = noise(5, 3, 8, 8, dtype=torch.float32)
    torch.manual_seed(5)
    alone = augmentation(images)
    torch.manual_seed(5)
    beside = augmentation(torch.cat([images[:1], 100 * images[1:]]))
    torch.testing.assert_close(alone[0], beside[0])


@pytest.mark.parametrize(
    ("component", "settings"),
    [
        *FAMILY,
        (DiffAugment, {"policy": ["translation"]}),
        (Ada, {}),
        (Ada, {"p": {"schedule": "cosine", "start": 0.0, "end": 0.55}}),
    ],
)
def test_they_conform(component: type[Augmentation], settings: dict[str, Any]) -> None:
    assert_conforms("augmentation", component, settings)
    assert_conforms("augmentation", component, settings, spec=DataSpec((1, 7, 10)))


# ── p ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_p_follows_the_mean_sign_passes_1_and_stays_above_0() -> None:
    augmentation = ada(target=0.6, images=1000)
    known, unknown = torch.tensor([[2.0], [5.0], [0.1], [3.0]]), torch.tensor([[1.0], [-4.0]])
    assert augmentation.every == 4
    for outputs, images, p in (
        (known, 256, 0.256),
        (unknown, 100, 0.156),
        (torch.tensor([[1.0]] * 8 + [[-1.0]] * 2), 50, 0.156),  # 0.6 is the target
        (known, 2000, 2.156),
        (-known, 9000, 0.0),
        (-known, 10, 0.0),
        (torch.ones(3, 1, 2, 2), 10, 0.01),
    ):
        augmentation.adjust(outputs, images)
        assert augmentation.p.item() == pytest.approx(p, abs=1e-6)


def test_a_p_that_is_set_is_no_state_and_follows_its_schedule(tmp_path: Path) -> None:
    schedule = {"schedule": "cosine", "start": 0.0, "end": 0.55}
    run = build(tables({"use": "ada", "p": schedule}), tmp_path / "run")
    augmentation = run.state.slots["discriminator"].augmentation
    assert isinstance(augmentation, Ada) and augmentation.every == 0 and not augmentation.state_dict()
    step, values = build_step(run, Measurements()), []
    for _ in range(8):
        values.append(augmentation.now["p"].item())
        step()
    wanted = [0.55 * (1 - math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert values == pytest.approx(wanted, abs=1e-6)


P, R_T = "augmentation/discriminator.p", "augmentation/discriminator.r_t"


def curves(run: Run) -> dict[str, list[float | None]]:
    """What the augmentation reported, by name."""
    lines = [json.loads(line) for line in (run.directory.path / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line if name.startswith("augmentation/")}
    return {name: [line[name] for line in lines if name in line] for name in names}


def test_p_and_the_mean_sign_are_logged_as_the_last_adjustment_left_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outputs: list[Tensor] = []

    def adjust(self: Ada, given: Tensor, images: int, original: Callable[..., None] = Ada.adjust) -> None:
        outputs.append(given)
        original(self, given, images)

    monkeypatch.setattr(Ada, "adjust", adjust)
    run = train(tables({"use": "ada", "target": 0.0, "images": 40}, train={"log_every_steps": 1}), tmp_path / "run")
    signs = [((each > 0).sum() - (each < 0).sum()).item() / 8 for each in outputs[-2:]]  # those before are rehearsals
    first = max(0.0, np.sign(signs[0]) * 4 * 8 / 40)
    second = max(0.0, first + np.sign(signs[1]) * 4 * 8 / 40)
    found = curves(run)
    assert found[P] == pytest.approx([0, 0, 0, first, first, first, first, second])
    assert found[R_T][:3] == [None] * 3, "not known before the first adjustment"
    assert found[R_T][3:] == pytest.approx([signs[0]] * 4 + [signs[1]])
    assert first or second, "the case says something"
    assert "r_t" not in caplog.text


@pytest.mark.parametrize(
    ("p", "wanted"),
    [
        ({"schedule": "linear", "start": 0.0, "end": 0.8}, [0.1 * step for step in range(1, 9)]),
        (0.3, None),
    ],
    ids=["schedule", "constant"],
)
def test_a_p_that_is_set_is_logged_where_it_changes(p: Any, wanted: list[float] | None, tmp_path: Path) -> None:
    found = curves(train(tables({"use": "ada", "p": p}, train={"log_every_steps": 1}), tmp_path / "run"))
    assert found == ({} if wanted is None else {P: pytest.approx(wanted)})


def tables(augmentation: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "train": {"steps": 8, "batch_size": 8, "device": "cpu", "seed": 3, **more.pop("train", {})},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "gan", "latent_size": 4},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        "augmentation": augmentation,
        "checkpoints": {"every_steps": 4, "keep": 5},
        **dict.fromkeys(("mlflow", "progress", "samples", "ema"), False),
        **more,
    }


MODES = [{}, {"precision": "bf16"}, {"accumulate": 2}]


@pytest.mark.parametrize("mode", MODES, ids=["f32", "bf16", "accumulated"])
@pytest.mark.parametrize(
    "augmentation", [{"use": "ada", "target": -1.0, "images": 40}, {"use": "diffaugment"}], ids=["ada", "diffaugment"]
)
def test_a_resumed_run_continues_exactly(augmentation: dict[str, Any], mode: dict[str, Any], tmp_path: Path) -> None:
    recipe = tables(augmentation, train=mode, regularizer=[{"use": "r1", "weight": 1.0, "every": 2}])
    recipe |= {"checkpoints": {"every_steps": 5, "keep": 5}, "train": recipe["train"] | {"log_every_steps": 1}}
    whole = train(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for later in [each for each in checkpoints_in(tmp_path / "broken") if step_of(each) > 5]:
        shutil.rmtree(later)
    again = train(recipe, tmp_path / "broken", resume=True)
    for name, weights in whole.state.weights().items():
        assert all(torch.equal(value, again.state.weights()[name][key]) for key, value in weights.items()), name
    assert curves(again) == curves(whole)
    if augmentation["use"] == "ada":
        assert whole.state.weights()["discriminator.augmentation"]["p"].item() == pytest.approx(whole.images_seen / 40)
        assert len(curves(whole)[P]) == len(curves(whole)[R_T]) == 8


# ── In a step ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "augmentation", [{"use": "ada", "p": 0.6, "cutout": 1.0}, {"use": "diffaugment"}], ids=["ada", "diffaugment"]
)
def test_a_step_is_that_of_a_loop_by_hand(augmentation: dict[str, Any], tmp_path: Path) -> None:
    """Real and generated images in both players' updates; R1 at the images before they are augmented."""
    recipe = tables(augmentation, regularizer=[{"use": "r1", "weight": 2.0}])
    recipe["optimizer"] = {"use": "adam", "lr": 0.01, "betas": [0.0, 0.9]}
    run, other = build(recipe, tmp_path / "run"), build(recipe, tmp_path / "other")
    wanted = by_hand(other)
    build_step(run, Measurements())()
    for name, module in wanted.items():
        for key, value in run.state.slots[name].module.state_dict().items():
            torch.testing.assert_close(value, module.state_dict()[key], rtol=1e-5, atol=1e-7)


def by_hand(run: Run) -> dict[str, torch.nn.Module]:
    """The first step's networks."""
    generator, critic = (copy.deepcopy(run.state.slots[name].module) for name in ("generator", "discriminator"))
    augment = run.state.slots["discriminator"].augmentation
    draw = Drawing(run)
    draw.steps_done.fill_(0)
    optimizers = [torch.optim.Adam(each.parameters(), 0.01, (0.0, 0.9)) for each in (generator, critic)]
    set_random_stream(CPU, derived_seed(run.seed, "step", 0, 0))
    batch = draw(run.phases[0])
    real, fake = critic(augment(batch.images)), critic(augment(generator(batch.latents).detach()))
    images = batch.images.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(augment(images)).sum(), images, create_graph=True)
    penalty = slope.square().flatten(1).sum(1).mean() / 2
    (F.softplus(-real).mean() + F.softplus(fake).mean() + 2 * penalty).backward()
    optimizers[1].step()
    batch = draw(run.phases[1])
    F.softplus(-critic(augment(generator(batch.latents)))).mean().backward()
    optimizers[0].step()
    return {"generator": generator, "discriminator": critic}


def test_a_rectangle_may_reach_over_the_edge() -> None:
    cut = cut_out(torch.ones(2, 1, 3, 3), torch.tensor([-1, 2]), torch.tensor([1, -5]), 2, 2)
    assert cut[0, 0].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 1]] and cut[1].min() == 1


# ── Bad input ─────────────────────────────────────────────────────────────────────────────────────────────

TOML = """\
train = {{ steps = 3, batch_size = 4, device = "cpu" }}
data = {{ {data} }}
loss = {{ use = "gan", latent_size = 2 }}
generator = {{ use = "mlp", hidden = [2] }}
discriminator = {{ use = "mlp", hidden = [2] }}
mlflow = false

[augmentation]
use = "{use}"
"""


@pytest.mark.parametrize("use", ["ada", "diffaugment"])
def test_points_are_refused_at_the_recipes_line(use: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(TOML.format(use=use, data='use = "gaussians"'))
    with pytest.raises(IncompatibleError, match=rf"r\.toml:\d: \[augmentation\] {use}.*works on images"):
        check_recipe(load_recipe(path, load_registry()))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (1, 2, 2), (3, 3, 40)])
def test_the_smallest_images_are_augmented(shape: tuple[int, ...]) -> None:
    images = noise(64, *shape).float()
    for augmentation in (
        ada(shape, p=5.0, cutout=1.0, noise=1.0),
        DiffAugment(parse_settings(DiffAugment.Settings, {}), DataSpec(shape)),
    ):
        augmented = augmentation(images)
        assert augmented.shape == images.shape and augmented.isfinite().all() and (augmented != images).any()


def test_colours_of_other_channels_are_refused_and_geometry_is_not() -> None:
    with pytest.raises(IncompatibleError, match=r"1 or 3 channels, not of 6; set brightness, .* to 0"):
        ada((6, 8, 8))
    images = noise(4, 6, 8, 8).float()
    assert ada((6, 8, 8), p=1.0, **only(*GEOMETRY))(images).shape == images.shape


@pytest.mark.parametrize("settings", [{"p": -0.1}, {"p": "high"}, {"hue": -1.0}, {"target": 2.0}, {"images": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(iter(settings))):
        parse_settings(AdaSettings, settings)
