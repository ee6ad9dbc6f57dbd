"""Digits that float32 would lose, against the formula in float64 or exact; and DINOv2's pictures against Pillow's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import Tensor, nn

from ganrun import ModelSpec
from ganrun_fidelity import dinov2
from ganrun_fidelity.dinov2 import Shape
from ganrun_fidelity.kernel import squared_mmd
from ganrun_fidelity.neighbours import coverage, nearest_distance, radii
from ganrun_fidelity.resizing import resize_as_pillow

MEANS = [0.0, 1.0, 20.0, 1000.0]


def features(count: int, size: int, mean: float, spread: float, seed: int) -> Tensor:
    """Float32 features, as extractors give them."""
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(count, size, generator=random, dtype=torch.float64) * spread + mean).float()


@pytest.mark.parametrize("mean", MEANS)
def test_kid_is_its_formula_whatever_the_mean_of_the_features(mean: float) -> None:
    one, other = features(150, 512, mean, 1.0, 0), features(150, 512, mean, 1.05, 1)
    x, y = (each.double().numpy() for each in (one, other))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a[:, None] * b[None]).sum(2) / 512 + 1) ** 3

    different = ~np.eye(150, dtype=bool)
    expected = kernel(x, x)[different].mean() + kernel(y, y)[different].mean() - 2 * kernel(x, y).mean()
    assert squared_mmd(one, other) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mean", MEANS)
def test_distances_are_those_of_float64(mean: float) -> None:
    """Of two clusters as well, whose common mean is far from each."""
    real = torch.cat([features(60, 64, mean, 1.0, 0), features(60, 64, -mean, 1.0, 1)])
    exact = (real.double()[:, None] - real.double()[None]).square().sum(2).sqrt()
    torch.testing.assert_close(radii(real, 3).double(), exact.kthvalue(4).values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mean", MEANS)
def test_copies_lie_where_the_original_is(mean: float) -> None:
    real = features(200, 64, mean, 1.0, 0)
    assert float(nearest_distance(real, real).max()) < 1e-5 * max(mean, 1)
    assert coverage(real, real, radii(real, 1)) == 1


def by_pillow(picture: Image.Image, side: int) -> Image.Image:
    """In two calls, so that every version of Pillow resizes widths first."""
    return picture.resize((side, picture.height), Image.Resampling.BICUBIC).resize(
        (side, side), Image.Resampling.BICUBIC
    )


@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 7, 33, 64, 224]), st.integers(0, 2**32 - 1))
def test_pictures_are_resized_as_pillow_does(height: int, width: int, side: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.asarray(by_pillow(Image.fromarray(picture), side))
    found = resize_as_pillow(torch.from_numpy(picture).permute(2, 0, 1)[None], side)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)


class Seen(nn.Module):
    """Stands for the transformer: gives what it is shown."""

    def __init__(self, _: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_dinov2_is_shown_what_dgm_eval_shows_it(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2, "Transformer", Seen)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pth")
    component = dinov2.extractors()["dinov2-vit-s-14"]
    extractor = component(component.Settings(weights=str(tmp_path / "weights.pth")), ModelSpec((channels, 300, 40)))
    extractor.prepare(None, torch.device("cpu"))  # type: ignore[arg-type]
    picture = np.random.default_rng(0).integers(0, 256, (300, 40, channels), dtype=np.uint8)
    whole = Image.fromarray(picture if channels == 3 else picture[..., 0]).convert("RGB")
    shown = np.asarray(by_pillow(whole, 224)) / 255
    expected = ((shown - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    found = extractor(torch.from_numpy(picture).permute(2, 0, 1)[None])["features"].reshape(3, 224, 224)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert "Pillow" in str(extractor.protocol["resize"]) and "Pillow" in extractor.key
