"""Restoration: distances and masks against other compositions, networks by their counts, and what does not fit."""

from __future__ import annotations

from math import log, log1p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor, nn
from torch.nn import functional

from ganrun import Batch, DataSpec, IncompatibleError, Nets, Network, NetworkSpec, RequestError, View
from ganrun.testing import assert_conforms, build
from ganrun_restoration.losses import ContextEncoder, Restoration, masked_error
from ganrun_restoration.networks import ContextEncoderNetwork, DnCnn

PAIRED = DataSpec((3, 8, 8), fields={"source": (3, 8, 8)})
MASKED = DataSpec((3, 8, 8), fields={"source": (3, 8, 8), "mask": (1, 8, 8)})


DIGITS = {"use": "digits", "size": 8}
DEGRADED = {"use": "degraded", "of": DIGITS}
TABLES: dict[str, Any] = {
    "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
    "data": DEGRADED | {"noise": 25.0},
    "loss": {"use": "restoration"},
    "generator": {"use": "dncnn", "layers": 3, "feature_maps": 4},
    **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
}
FILLED: dict[str, Any] = {
    **TABLES,
    "data": DEGRADED | {"mask": "centre"},
    "loss": {"use": "context-encoder", "overlap": 1},
    "generator": {"use": "context-encoder", "feature_maps": 2, "bottleneck": 5},
    "discriminator": {"use": "mlp", "hidden": [8]},
}


# ── Objectives ────────────────────────────────────────────────────────────────────────────────────────────


class Shifted(nn.Module):
    """The source, and a quarter."""

    def forward(self, sources: Tensor) -> Tensor:
        return sources[:, :3] + 0.25


class Sum(nn.Module):
    """A logit: the sum of the first channel, shrunk."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1].sum((1, 2, 3))[:, None] / 10


def records(missing: Tensor) -> Batch:
    images = torch.rand(len(missing), 3, 8, 8) * 2 - 1
    source = torch.where(missing, 0.0, images)
    mask = missing * 2.0 - 1
    latents = torch.cat([source.flatten(1), mask.flatten(1)], 1)
    return Batch(latents, images, None, {"source": source, "mask": mask})


def test_distances_are_means_over_pixels() -> None:
    source, images = (torch.rand(4, 3, 8, 8) * 2 - 1 for _ in range(2))
    batch, nets = Batch(source.flatten(1), images, None, {"source": source}), Nets({"generator": View(Shifted())})
    made, target = (source + 0.25).double(), images.double()
    expected = {
        "l1": functional.l1_loss(made, target),
        "l2": functional.mse_loss(made, target),
        "charbonnier": torch.hypot(made - target, torch.tensor(0.3).double()).mean(),
    }
    for kind, value in expected.items():
        loss = Restoration(Restoration.Settings(distance=kind, epsilon=0.3), PAIRED)
        found = loss.generator(nets, batch).minimise["distance"]
        assert found.item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize(("overlap", "weight"), [(0, 10.0), (1, 10.0), (2, 0.5)])
def test_errors_count_where_pixels_are_missing_and_in_a_band_around(overlap: int, weight: float) -> None:
    differences, missing = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.rand(5, 1, 8, 8) < 0.1
    missing[3] = False
    means = []
    for errors, holes in zip(differences.square().mean(1).numpy(), missing[:, 0].numpy(), strict=True):
        inside = [error for error, hole in zip(errors.flat, holes.flat, strict=True) if hole]
        reach = np.ones((2 * overlap + 1,) * 2)
        band = errors[binary_dilation(holes, reach) & ~holes]
        means.append((sum(inside) + weight * band.sum()) / max(len(inside) + len(band), 1))
    found = masked_error(differences, missing, overlap, weight)
    assert found.item() == pytest.approx(np.mean(means), rel=1e-12)


def test_known_pixels_stay_and_missing_ones_are_made() -> None:
    missing = torch.rand(6, 1, 8, 8) < 0.4
    batch, nets = records(missing), Nets({"generator": View(Shifted())})
    loss = ContextEncoder(ContextEncoder.Settings(), MASKED)
    made = loss.made(nets, batch)
    everywhere = missing.expand_as(made)
    assert torch.equal(made[~everywhere], batch["source"][~everywhere])
    assert (made[everywhere] == 0.25).all()
    assert torch.equal(loss.generate(nets, batch.latents, loss.Sampling()), made)


@pytest.mark.parametrize("judged", ["region", "image"])
def test_a_context_encoder_is_near_the_image_and_taken_for_real(judged: str) -> None:
    missing = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    missing[:, :, 2:4, 2:6] = True
    batch, nets = records(missing), Nets({"generator": View(Shifted()), "discriminator": View(Sum())})
    loss = ContextEncoder(ContextEncoder.Settings(judged=judged, overlap=0), MASKED)
    images, hole = batch.images.double(), (slice(None), 0, slice(2, 4), slice(2, 6))
    outside = images[:, 0].sum((1, 2)) - images[hole].sum((1, 2)) if judged == "image" else torch.zeros(2)
    real, fake = (outside + images[hole].sum((1, 2))) / 10, (outside + 8 * 0.25) / 10
    sigmoid = [[1 / (1 + np.exp(-value)) for value in logits.tolist()] for logits in (real, fake)]
    found = loss.discriminator(nets, batch).minimise
    assert found["real"].item() == pytest.approx(-np.mean([log(each) for each in sigmoid[0]]), rel=1e-5)
    assert found["fake"].item() == pytest.approx(-np.mean([log1p(-each) for each in sigmoid[1]]), rel=1e-5)
    found = loss.generator(nets, batch).minimise
    error = (images[:, :, 2:4, 2:6] - 0.25).square().mean().item()
    assert found["reconstruction"].item() == pytest.approx(0.999 * error, rel=1e-5)
    assert found["adversarial"].item() == pytest.approx(-0.001 * np.mean([log(each) for each in sigmoid[1]]), rel=1e-5)
    shown = loss.real_inputs("discriminator", batch).inputs
    assert torch.equal(shown, batch.images * missing if judged == "region" else batch.images)
    assert loss.generated_inputs("generator", nets, batch).inputs.shape == (2, 4, 8, 8)


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


def count_of(network: Network) -> int:
    return sum(each.numel() for each in network.parameters())


@pytest.mark.parametrize(("channels", "published"), [(1, 556_000), (3, 558_000)])
def test_dncnn_is_as_large_as_published(channels: int, published: int) -> None:
    network = DnCnn(DnCnn.Settings(), NetworkSpec((channels, 40, 40), (channels, 40, 40)))
    inner, ends = 15 * (64 * 64 * 9 + 2 * 64), 2 * 64 * channels * 9 + 64 + channels
    assert count_of(network) == inner + ends
    assert count_of(network) == pytest.approx(published, rel=2e-3)


def test_dncnn_subtracts_what_it_finds_from_the_source_and_not_from_the_mask() -> None:
    network = DnCnn(DnCnn.Settings(layers=3, feature_maps=4), NetworkSpec((4, 8, 8), (3, 8, 8)))
    sources = torch.randn(2, 4, 11, 7)
    assert torch.equal(network(sources), sources[:, :3]), "it starts from the source"
    nn.init.constant_(network.layers[-1].bias, 0.5)
    torch.testing.assert_close(network(sources), sources[:, :3] - 0.5)


def test_the_context_encoder_is_that_of_the_authors_code_at_128_pixels() -> None:
    with torch.device("meta"):
        network = ContextEncoderNetwork(ContextEncoderNetwork.Settings(), NetworkSpec((3, 128, 128), (3, 128, 128)))
    network.eval()
    convolutions = [each for each in network.encoder if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [64, 64, 128, 256, 512, 4000]
    back = [each for each in network.decoder if isinstance(each, nn.ConvTranspose2d)]
    assert [each.out_channels for each in back] == [512, 256, 128, 64, 64, 3]
    assert network(torch.empty(1, 3, 128, 128, device="meta")).shape == (1, 3, 128, 128)


@pytest.mark.parametrize("spec", [NetworkSpec((4, 12, 8), (3, 12, 8)), NetworkSpec((1, 20, 28), (3, 20, 28))])
def test_it_takes_any_sides_that_halve(spec: NetworkSpec) -> None:
    network = ContextEncoderNetwork(ContextEncoderNetwork.Settings(feature_maps=2, bottleneck=3), spec)
    assert network(torch.randn(2, *spec.inputs)).shape == (2, *spec.outputs)


# ── Contract and recipes ──────────────────────────────────────────────────────────────────────────────────


def test_the_components_keep_their_contracts() -> None:
    for kind in ("l1", "charbonnier"):
        assert_conforms("loss", Restoration, {"distance": kind}, PAIRED)
    assert_conforms("loss", ContextEncoder, {"overlap": 1}, MASKED)
    spec = NetworkSpec((4, 8, 8), (3, 8, 8))
    assert_conforms("network", DnCnn, {"layers": 3, "feature_maps": 4}, spec)
    assert_conforms("network", ContextEncoderNetwork, {"feature_maps": 2, "bottleneck": 5}, spec)


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        (TABLES | {"data": DIGITS}, r'toml:\d+: \[loss\] restoration .*a field "source" of the'),
        (TABLES | {"data": DEGRADED | {"downsample": 2}}, r"toml:\d+: \[generator\] dncnn .*one shape"),
        (FILLED | {"data": DEGRADED | {"noise": 5.0}}, r"toml:\d+: \[loss\] context-encoder .*a field \"mask\""),
        (
            FILLED | {"data": DEGRADED | {"mask": "centre", "downsample": 2}},
            r"\[loss\] context-encoder .*the source is \(1, 4, 4\), and the image \(1, 8, 8\)",
        ),
        (
            FILLED | {"data": {**DEGRADED, "of": DIGITS | {"size": 19}, "mask": "centre"}},
            r"\[generator\] .*sizes divisible by 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tables: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises((RequestError, IncompatibleError), match=fault):
        build(tables, tmp_path / "run")
