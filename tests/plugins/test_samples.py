"""The pictures that show more than samples: rows of a class, points in the plane, reconstructions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ganrun import Factor, to_uint8, to_unit_range
from ganrun.testing import train
from ganrun_samples.grid import MARGIN as GAP
from ganrun_samples.grid import image_grid
from ganrun_samples.rows import row_by_row
from ganrun_samples.scatter import LIMIT, MARGIN, SIDE, scatter

SMALL = {
    "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
    "data": {"use": "digits", "size": 8},
    "generator": {"use": "mlp", "hidden": [8]},
    "mlflow": False,
    "progress": False,
    "samples": {"columns": 3},
}
ADVERSARIAL = {**SMALL, "discriminator": {"use": "mlp", "hidden": [8]}}


def picture(run, role: str) -> np.ndarray:
    return np.asarray(Image.open(run.directory / role / "step_00000002.png"))


# ── Rows of a class ───────────────────────────────────────────────────────────────────────────────────────


def test_each_row_is_one_value_and_each_column_one_noise():
    factors = (Factor("noise", 4, "noise"), Factor("code_1", 3, "categorical"), Factor("code_2", 2, "categorical"))
    latents = torch.randn(10, 9)
    rows = row_by_row(latents, factors, 5)
    assert rows.shape == (15, 9)
    for row in range(3):
        part = rows[5 * row : 5 * row + 5]
        assert torch.equal(part[:, :4], latents[:5, :4]) and torch.equal(part[:, 7:], latents[:5, 7:])
        assert torch.equal(part[:, 4:7], torch.eye(3)[row].expand(5, 3))


@pytest.mark.parametrize(
    "factor", [Factor("noise", 3, "noise"), Factor("c", 3, "continuous"), Factor("word", 33, "categorical")]
)
def test_without_a_code_that_fits_there_are_no_rows(factor):
    assert row_by_row(torch.randn(4, factor.size), (factor,), 2) is None


def test_a_conditional_runs_grid_has_a_row_for_each_class(tmp_path):
    run = train({**ADVERSARIAL, "loss": {"use": "cgan", "noise_size": 4}}, tmp_path / "run")
    rows = row_by_row(run.model.fixed_latents(64), run.problem.factors, 3)
    expected = image_grid(to_uint8(run.model.decode(rows)), 3).numpy()
    assert np.array_equal(picture(run, "samples"), expected)
    factor = expected.shape[1] // (3 * (8 + GAP) + GAP)
    assert expected.shape[0] == factor * (10 * (8 + GAP) + GAP), "ten rows of eight pixels"


# ── Points ────────────────────────────────────────────────────────────────────────────────────────────────


def test_points_lie_where_they_should_and_generated_ones_are_coloured():
    drawn = scatter(torch.tensor([[0.5, 0.5]]), torch.tensor([[-1.0, 0.25], [7.0, -9.0]])).astype(int)

    def colour(x: float, y: float) -> np.ndarray:
        scale = (SIDE - 2 * MARGIN) / (2 * LIMIT)
        return drawn[round(MARGIN + (LIMIT - y) * scale), round(MARGIN + (x + LIMIT) * scale)]

    red, green, blue = colour(-1.0, 0.25)
    assert red > green + 60 and red > blue + 60
    grey = colour(0.5, 0.5)
    assert grey.max() - grey.min() < 6 and grey.max() < 230
    assert colour(-0.75, 0.75).min() > 240, "nothing is there"
    assert colour(LIMIT - 0.005, -LIMIT + 0.005)[0] > colour(LIMIT - 0.005, -LIMIT + 0.005)[1], (
        "the farthest, at the frame"
    )


def test_a_run_on_points_draws_them_over_real_ones(tmp_path):
    tables = {**ADVERSARIAL, "data": {"use": "gaussians", "count": 300}, "loss": {"use": "gan", "latent_size": 2}}
    run = train(tables, tmp_path / "run")
    real = run.evaluation().real(2000, "test")
    assert np.array_equal(picture(run, "samples"), scatter(real, run.model.decode(run.model.fixed_latents(2000))))


# ── Reconstructions ───────────────────────────────────────────────────────────────────────────────────────


def test_reconstructions_stand_below_their_images(tmp_path):
    tables = {**SMALL, "loss": {"use": "vae", "latent_size": 2}, "encoder": {"use": "mlp", "hidden": [8]}}
    run = train(tables, tmp_path / "run")
    real = run.evaluation().real(12, "test")
    made = to_uint8(run.model.reconstruct(to_unit_range(real)))
    rows = [part for pair in zip(real.split(3), made.split(3), strict=True) for part in pair]
    assert np.array_equal(picture(run, "reconstructions"), image_grid(torch.cat(rows), 3).numpy())


def test_a_gan_reconstructs_nothing(tmp_path):
    run = train({**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 2}}, tmp_path / "run")
    assert not (run.directory / "reconstructions").exists()
