"""Gaussians in the plane and the count of their modes, against values computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from ganrun import ModelSpec, PreflightError
from ganrun.inference.evaluation import measured
from ganrun.testing import assert_conforms, evaluation_on, train
from ganrun_datasets.digits import Digits
from ganrun_datasets.gaussians import Gaussians, ModesCovered, divergence_from_equal, near_counts

CPU = torch.device("cpu")
MODES = {"ring": 8, "grid": 25}


def gaussians(layout: str, **settings) -> Gaussians:
    return Gaussians(Gaussians.Settings(layout=layout, **settings))


def scores(data: Gaussians, samples: Tensor) -> dict[str, float]:
    """The metric's scores of a generator that returns these samples one after the other."""
    metric = ModesCovered(ModesCovered.Settings(samples=len(samples)), data.spec())
    metric.prepare(data, CPU)
    rows = iter(torch.split(torch.cat([samples, samples[:256]]), 256))
    evaluation = evaluation_on(data, lambda count: (torch.zeros(count, 1), next(rows)))
    return {score.name: score.value for score in measured([metric], evaluation)}


# ── The points ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", ["ring", "grid"])
def test_it_conforms(layout):
    assert_conforms("data", Gaussians, {"layout": layout, "count": 500})


@pytest.mark.parametrize(
    ("layout", "spacing_in_sigmas"), [("ring", 4 * math.sin(math.pi / 8) / 0.02), ("grid", 2 / 0.05)]
)
def test_the_points_are_those_of_the_papers_in_units_that_a_generator_reaches(layout, spacing_in_sigmas):
    data = gaussians(layout)
    split = data.split("train")
    assert split.images.dtype == np.float32 and np.abs(split.images).max() < 1
    distances = torch.cdist(torch.from_numpy(data.centres), torch.from_numpy(data.centres))
    nearest = distances.fill_diagonal_(9).min()
    assert nearest.item() / data.sigma == pytest.approx(spacing_in_sigmas, rel=1e-5)
    for mode in range(MODES[layout]):
        own = split.images[split.labels == mode].astype(float)
        errors = 5 * data.sigma / math.sqrt(len(own))
        assert np.abs(own.mean(0) - data.centres[mode]).max() < errors
        assert np.abs(own.std(0) / data.sigma - 1).max() < 5 / math.sqrt(2 * len(own))
        assert abs(len(own) - 50_000 / MODES[layout]) < 5 * math.sqrt(50_000 / MODES[layout])


def test_the_splits_are_drawn_independently_and_reproducibly():
    data, twin = gaussians("ring", count=100, test_count=100), gaussians("ring", count=100, test_count=100)
    assert not np.array_equal(data.split("train").images, data.split("test").images)
    assert np.array_equal(data.split("train").images, twin.split("train").images)


# ── The count ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", ["ring", "grid"])
def test_real_points_cover_everything_and_lie_within_three_sigmas_as_often_as_theory_says(layout):
    data = gaussians(layout)
    found = scores(data, torch.from_numpy(data.split("test").images))
    assert found["modes_covered"] == MODES[layout]
    share = 1 - math.exp(-4.5)  # the Rayleigh distribution's at 3σ
    assert found["high_quality"] == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 10_000))
    assert found["mode_kl"] < MODES[layout] / 10_000, "half the modes, less one, over n, in expectation"


@pytest.mark.parametrize("layout", ["ring", "grid"])
def test_a_collapsed_generator_covers_one_mode(layout):
    data = gaussians(layout)
    found = scores(data, torch.from_numpy(data.centres[3]).expand(2500, 2))
    expected = {"modes_covered": 1.0, "high_quality": 1.0, "mode_kl": pytest.approx(math.log(MODES[layout]))}
    assert found == expected


def test_points_between_the_modes_cover_nothing():
    data = gaussians("ring")
    assert scores(data, torch.zeros(2500, 2)) == {
        "modes_covered": 0.0,
        "high_quality": 0.0,
        "mode_kl": pytest.approx(math.log(8)),
    }


def test_three_sigmas_are_the_border():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    samples = torch.tensor([[2.999, 0.0], [0.0, 3.001], [10.0, -2.999], [10.0, 0.0], [5.0, 0.0]])
    assert near_counts(samples, centres, 3.0).tolist() == [1, 2]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=25))
def test_the_divergence_is_that_of_the_histogram_from_a_flat_one(counts):
    total = sum(counts)
    flat = 1 / len(counts)
    expected = sum(n / total * math.log(n / total / flat) for n in counts if n) if total else math.log(len(counts))
    assert divergence_from_equal(torch.tensor(counts)) == pytest.approx(expected, abs=1e-9)


def test_other_data_has_no_modes_to_count():
    with pytest.raises(PreflightError, match='counts the modes of data "gaussians"'):
        ModesCovered(ModesCovered.Settings(), ModelSpec((1, 8, 8))).prepare(Digits(Digits.Settings(size=8)), CPU)


def test_a_run_is_scored_and_drawn(tmp_path):
    tables = {
        "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
        "data": {"use": "gaussians", "layout": "grid", "count": 500},
        "loss": {"use": "gan", "latent_size": 2},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        "metric": [{"use": "modes-covered", "samples": 300}],
        "mlflow": False,
        "progress": False,
    }
    run = train(tables, tmp_path / "run")
    summary = json.loads((run.directory / "summary.json").read_text())
    assert set(summary["scores"]) == {"modes_covered", "high_quality", "mode_kl"}
    assert summary["protocols"]["modes_covered"]["layout"] == "grid"
