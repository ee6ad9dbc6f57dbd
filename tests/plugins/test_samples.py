"""The pictures of a run: rows of a class, points in the plane, reconstructions, and the pictures at its end."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from packaging.version import Version
from PIL import Image

from ganrun import (
    Data,
    DataSpec,
    Factor,
    IncompatibleError,
    Interrupted,
    Observer,
    Record,
    RequestError,
    RunDirectory,
    Score,
    Settings,
    Split,
    hookimpl,
    observes,
    real_images,
    slerp,
    to_uint8,
    to_unit_range,
)
from ganrun.testing import build, train
from ganrun_samples import neighbours
from ganrun_samples.captions import BAND, Grid, captioned
from ganrun_samples.curves import curves
from ganrun_samples.grid import LARGEST_SIDE, MARGIN as GAP, image_grid
from ganrun_samples.latents import chosen_traversals, code_traversals, interpolated, most_active
from ganrun_samples.pictures import beside_nearest
from ganrun_samples.rows import row_by_row
from ganrun_samples.scatter import LIMIT, MARGIN, SIDE, scatter
from ganrun_samples.timelapse import frames, gif

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
def test_without_a_suitable_code_there_are_no_rows(factor):
    assert row_by_row(torch.randn(4, factor.size), (factor,), 2) is None


def test_a_conditional_runs_grid_has_a_row_for_each_class(tmp_path):
    run = train({**ADVERSARIAL, "loss": {"use": "cgan", "noise_size": 4}}, tmp_path / "run")
    rows = row_by_row(run.model.fixed_latents(64), run.model.spec.factors, 3)
    expected = image_grid(to_uint8(run.model.decode(rows)), 3).numpy()
    assert np.array_equal(picture(run, "samples"), expected)
    factor = expected.shape[1] // (3 * (8 + GAP) + GAP)
    assert expected.shape[0] == factor * (10 * (8 + GAP) + GAP), "ten rows of eight pixels"


# ── Points ────────────────────────────────────────────────────────────────────────────────────────────────


def test_points_are_at_their_coordinates_and_generated_ones_are_coloured():
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
    real = real_images(run.data, 2000, "test")
    assert np.array_equal(picture(run, "samples"), scatter(real, run.model.decode(run.model.fixed_latents(2000))))


# ── Other images ──────────────────────────────────────────────────────────────────────────────────────────


class Bands(Data):
    """Images with any number of channels."""

    class Settings(Settings):
        channels: int
        """Of each."""

    def spec(self):
        return DataSpec((self.settings.channels, 8, 8))

    def prepare(self):
        pass

    def split(self, name):
        return Split(np.zeros((20, self.settings.channels, 8, 8), np.uint8))


class Orbiting:
    @hookimpl
    def ganrun_data(self):
        return {"bands": Bands}


@pytest.mark.parametrize("channels", [2, 4])
def test_images_that_are_neither_grey_nor_colour_have_only_curves(tmp_path, caplog, channels):
    data = {"use": "bands", "channels": channels}
    run = train({**ADVERSARIAL, "data": data, "loss": {"use": "gan", "latent_size": 2}}, tmp_path / "run", Orbiting())
    assert pictures_of(run.directory) == {"curves.png"} and not caplog.records


# ── Reconstructions ───────────────────────────────────────────────────────────────────────────────────────


def test_reconstructions_are_below_their_images(tmp_path):
    tables = {**SMALL, "loss": {"use": "vae", "latent_size": 2}, "encoder": {"use": "mlp", "hidden": [8]}}
    run = train(tables, tmp_path / "run")
    real = real_images(run.data, 12, "test")
    made = to_uint8(run.model.reconstruct(to_unit_range(real)))
    rows = [part for pair in zip(real.split(3), made.split(3), strict=True) for part in pair]
    assert np.array_equal(picture(run, "reconstructions"), image_grid(torch.cat(rows), 3).numpy())


def test_a_gan_reconstructs_nothing(tmp_path):
    run = train({**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 2}}, tmp_path / "run")
    assert not (run.directory / "reconstructions").exists()


# ── Grids ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("count", "channels", "side", "columns"),
    [(1, 1, 8, 8), (5, 3, 8, 9), (7, 1, 28, 3), (13, 3, 128, 4), (64, 1, 8, 64), (2, 1, 128, 1)],
)
def test_a_grid_of_any_size_is_enlarged_and_contains_every_image(count, channels, side, columns):
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8)
    drawn = image_grid(images, columns)
    across = min(count, columns)
    factor = drawn.shape[1] // (across * (side + GAP) + GAP)
    assert drawn.shape[1] == factor * (across * (side + GAP) + GAP), "no column is empty from top to bottom"
    assert factor == 1 or max(drawn.shape) <= LARGEST_SIDE
    assert min(drawn.shape[:2]) >= 512 or max(drawn.shape) > LARGEST_SIDE / 2
    small = drawn[::factor, ::factor]
    for index, image in enumerate(images):
        top, left = (GAP + place * (side + GAP) for place in divmod(index, across))
        shown = small[top : top + side, left : left + side].permute(2, 0, 1)
        assert torch.equal(shown, image.expand(3, side, side))


# ── Interpolations and traversals ─────────────────────────────────────────────────────────────────────────

coordinates = st.floats(-5, 5, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
vectors = st.lists(coordinates, min_size=3, max_size=3).map(torch.tensor)
shares = st.floats(0, 1)


def angle_between(first: torch.Tensor, second: torch.Tensor) -> float:
    cosine = torch.dot(first.double(), second.double()) / (first.double().norm() * second.double().norm())
    return math.acos(max(-1.0, min(1.0, float(cosine))))


@given(shares)
def test_between_perpendicular_vectors_slerp_is_a_quarter_of_a_circle(share):
    x, y = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    expected = [3 * math.cos(share * math.pi / 2), 3 * math.sin(share * math.pi / 2)]
    assert slerp(x, y, share).tolist() == pytest.approx(expected, abs=1e-6)


@given(vectors, vectors, shares)
def test_slerp_has_constant_speed_exact_ends_and_is_symmetric(start, end, share):
    assert torch.equal(slerp(start, end, 0.0), start) and torch.equal(slerp(start, end, 1.0), end)
    between = slerp(start, end, share)
    assert torch.allclose(between, slerp(end, start, 1 - share), atol=1e-5)
    if start.norm() == 0 or end.norm() == 0 or math.sin(angle := angle_between(start, end)) < 1e-3:
        assert between.isfinite().all()
        return
    assert float(between.norm()) == pytest.approx(float(torch.lerp(start.norm(), end.norm(), share)), rel=1e-4)
    assert angle_between(start, between) == pytest.approx(share * angle, abs=1e-3)
    assert angle_between(between, end) == pytest.approx((1 - share) * angle, abs=1e-3)


@pytest.mark.parametrize("end", [[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0], [1.0, 2.0]])
def test_without_a_unique_great_circle_slerp_is_straight(end):
    start = torch.tensor([1.0, 2.0])
    for share in (0.0, 0.25, 0.5, 1.0):
        expected = torch.lerp(start, torch.tensor(end), share)
        assert torch.allclose(slerp(start, torch.tensor(end), share), expected)


def test_an_interpolation_turns_the_noise_and_keeps_the_class(tmp_path):
    model = build({**ADVERSARIAL, "loss": {"use": "cgan", "noise_size": 4}}, tmp_path / "run").model
    starts, ends = model.fixed_latents(10).chunk(2)
    found = interpolated(model, starts, ends, 4)
    assert found.shape == (5, 4, 14)
    for step in range(4):
        assert torch.allclose(found[:, step, :4], slerp(starts[:, :4], ends[:, :4], step / 3), atol=1e-6)
        assert torch.equal(found[:, step, 4:], starts[:, 4:])
    assert torch.equal(found[:, -1, :4], ends[:, :4])


INFOGAN = {**ADVERSARIAL, "loss": {"use": "infogan", "noise_size": 5, "categorical": [3, 4], "continuous": 2}}


def test_an_interpolation_of_uniform_noise_and_codes_is_linear_and_within_the_trained_range(tmp_path):
    model = build(INFOGAN, tmp_path / "run").model
    starts, ends = model.fixed_latents(128).chunk(2)
    found = interpolated(model, starts, ends, 5)
    assert found.abs().max() <= 1
    straight = torch.stack([torch.lerp(starts, ends, step / 4) for step in range(5)], 1)
    straight[:, :, 5:12] = starts[:, None, 5:12]
    assert torch.allclose(found, straight, atol=1e-6)


def test_a_row_of_a_traversal_changes_only_the_code_that_it_names(tmp_path):
    model = train(INFOGAN, tmp_path / "run").model
    traversals = code_traversals(model, 6)
    assert [traversal.name for traversal in traversals] == [
        "code_1: 0 to 2", "code_2: 0 to 3", "continuous 1: -2 to 2", "continuous 2: -2 to 2",
    ]  # fmt: skip
    latents = model.fixed_latents(2)
    values = [torch.eye(3), torch.eye(4), torch.linspace(-2, 2, 6)[:, None], torch.linspace(-2, 2, 6)[:, None]]
    starts = [5, 8, 12, 13]
    for traversal, start, expected in zip(traversals, starts, values, strict=True):
        varied, here = traversal.applied_to(latents), slice(start, start + expected.shape[1])
        assert torch.equal(varied[:, :, here], expected.expand(2, *expected.shape))
        others = [place for place in range(14) if not here.start <= place < here.stop]
        assert torch.equal(varied[:, :, others], latents[:, None, others].expand(2, len(expected), len(others)))
    named = [each.name for each in chosen_traversals(model, [13, 9, 1, 8], 5)]
    assert named == ["continuous 2: -2 to 2", "code_2: 0 to 3", "latent 1: -1 to 1"], "its noise is uniform on (-1, 1)"


def test_the_most_active_latents_are_found_without_data(tmp_path):
    run = train({**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 6}}, tmp_path / "run")
    weights = next(layer for layer in run.model.networks["generator"].modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        weights.weight[:] = torch.tensor([0.0, 3.0, 0.0, 9.0, 0.1, 1.0]).mul(weights.weight.sign())
    assert most_active(run.model, 3) == [3, 1, 5]
    assert [each.name for each in chosen_traversals(run.model, [3, 0], 5)] == ["latent 3: -3 to 3", "latent 0: -3 to 3"]
    with pytest.raises(IncompatibleError, match="there is no latent 6; the model has 6, counted from 0"):
        chosen_traversals(run.model, [0, 6], 5)


# ── Neighbours ────────────────────────────────────────────────────────────────────────────────────────────


def test_neighbours_equal_those_of_an_exhaustive_search(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "VALUES_PER_CHUNK", 192 * 50)  # parts of fifty, and a last one of thirty
    numbers = np.random.default_rng(0)
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (230, 3, 8, 8))
    images[:] = numbers.integers(0, 256, images.shape)
    samples = torch.from_numpy(numbers.uniform(-1, 1, (9, 3, 8, 8)).astype(np.float32))
    samples[4] = to_unit_range(torch.from_numpy(images[217]))
    found = neighbours.nearest(samples, images, 6)
    every = np.linalg.norm(
        to_uint8(samples.clone()).numpy().reshape(9, 1, -1).astype(float) - images.reshape(230, -1), axis=2
    )
    assert np.array_equal(found.numpy(), every.argsort(1)[:, :6])
    assert found[4, 0] == 217 and every[4, 217] == 0
    as_floats = to_unit_range(torch.from_numpy(np.asarray(images))).numpy()
    assert torch.equal(neighbours.nearest(samples, as_floats, 6), found)
    samples[7] = to_unit_range(torch.from_numpy(images[99, :, :, ::-1].copy()))
    mirror = to_uint8(samples.clone()).numpy()[..., ::-1].reshape(9, 1, -1).astype(float)
    either = np.minimum(
        np.linalg.norm(
            to_uint8(samples.clone()).numpy().reshape(9, 1, -1).astype(float) - images.reshape(230, -1), axis=2
        ),
        np.linalg.norm(mirror - images.reshape(230, -1), axis=2),
    )
    both = neighbours.nearest(samples, images, 6, mirrored=True)
    assert np.array_equal(both.numpy(), either.argsort(1)[:, :6])
    assert both[7, 0] == 99 and both[4, 0] == 217


# ── Curves ────────────────────────────────────────────────────────────────────────────────────────────────


def record(step: int, values: dict[str, float], *scores: Score, rescored: bool = False) -> Record:
    return Record(step, 8 * step, 0.1 * step, 0.0, values, scores, rescored)


def test_curves_show_losses_and_scores_of_training_and_need_no_display():
    width = 1020 if Version(version("matplotlib")) >= Version("3.11") else 1019  # which rounds down
    script = "from ganrun import Record; from ganrun_samples.curves import curves; "
    script += "print(curves([Record(1, 8, 0.1, 0.0, {'loss/a': 2.0})]).shape)"
    without = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**without, "MPLBACKEND": "tkagg"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str((278, width, 3))
    assert curves([]) is None and curves([record(1, {"perf/images_per_second": 3.0})]) is None
    losses = [record(step, {"loss/critic": 1 / step, "loss/critic.penalty": step / 9.0}) for step in (1, 2, 3)]
    score = Score("fid", float("nan"), False, {}, floor=2.0)
    alone, scored = curves(losses), curves([*losses, record(3, {}, score)])
    assert alone is not None and scored is not None and not np.array_equal(alone, scored)
    without_floor = curves([*losses, record(3, {}, dataclasses.replace(score, floor=None))])
    assert not np.array_equal(without_floor, scored), "real images have a line"
    assert np.array_equal(curves([*losses, record(3, {}, score, rescored=True)]), alone)
    many = [record(1, {f"loss/phase_{number}.{'long' * 9}_{number}": 1.0 for number in range(7)})]
    assert curves(many).shape == (834, width, 3), "three rows, the last of one"


@pytest.mark.filterwarnings("error")
def test_curves_of_any_numbers_are_drawn():
    for first, second in itertools.product((1.7e308, -1.7e308, 5e-324, 0.0), repeat=2):
        score = Score("fid", second, False, {}, floor=first)
        drawn = curves([record(1, {"loss/a": first}), record(2**62, {"loss/a": second}, score)])
        assert drawn.min() < 128, (first, second)


def test_panels_of_curves_are_not_cut_off():
    lines = {f"loss/phase_{number}.{term}": -123456.0 for number in range(5) for term in ("", "a", "b" * 20, "c" * 20)}
    drawn = curves([record(100_000, lines), record(200_000, dict.fromkeys(lines, -123457.0))]).min(2)
    border = np.concatenate([drawn[:2].ravel(), drawn[-2:].ravel(), drawn[:, :2].ravel(), drawn[:, -2:].ravel()])
    assert border.min() == 255, "nothing is cut off"
    height, width = drawn.shape[0] // 2, drawn.shape[1] // 3
    inked = [drawn[row * height :][:height, column * width :][:, :width].min() for row in (0, 1) for column in range(3)]
    assert [ink < 128 for ink in inked] == [True] * 5 + [False]


def test_names_are_drawn_as_they_are_whatever_they_hold(recwarn):
    plain, names = ({"a": "xx", "b": "y"}, {"a": "$\\frac$ x", "b": "_hidden"})
    drawn = [
        curves([record(1, {f"loss/g.{each['a']}": 1.0, f"loss/g.{each['b']}": 2.0}, Score(each["a"], 1.0, True, {}))])
        for each in (plain, names)
    ]
    assert drawn[0].shape[1] == drawn[1].shape[1] and not np.array_equal(*drawn)
    without = curves([record(1, {"loss/g.x": 1.0, "loss/g._": 2.0})]), curves([record(1, {"loss/g.x": 1.0})])
    assert without[0].shape[0] != without[1].shape[0] or not np.array_equal(*without)
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    shown = captioned([Grid("a\nb\x1b", images, 1)], ["c\nd", ""])
    assert np.array_equal(shown, captioned([Grid("a\\nb\\x1b", images, 1)], ["c\\nd", ""]))
    assert [str(each.message) for each in recwarn if "label" in str(each.message).lower()] == []


# ── Steps ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_are_frequent_at_first_then_regular_and_at_the_last_step(tmp_path):
    tables = {**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 4}, "samples": {"every_steps": 12, "at_end": []}}
    run = train({**tables, "train": {**SMALL["train"], "steps": 25}}, tmp_path / "run")
    steps = sorted(int(path.stem.removeprefix("step_")) for path in (run.directory / "samples").iterdir())
    assert steps == [1, 2, 5, 10, 12, 24, 25]


# ── Time-lapse ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_time_lapse_has_at_most_sixty_frames_of_one_size_and_a_long_last_one(tmp_path):
    written = []
    for step in range(1, 151):
        side = 40 if step == 1 else 700  # a setting was changed after the first
        path = tmp_path / f"step_{step:08d}.png"
        Image.new("RGB", (side, side), (step, 0, 0) if step % 2 else (step,) * 3).save(path)
        written.append(path)
    found = frames(written)
    assert len(found) == 59, "sixty but for the one of another size"
    (tmp_path / "time-lapse.gif").write_bytes(gif(found))
    with Image.open(tmp_path / "time-lapse.gif") as moving:
        assert moving.format == "GIF" and moving.n_frames == 59 and max(moving.size) <= 680
        moving.seek(58)
        assert moving.info["duration"] == 2500 and moving.convert("RGB").getpixel((300, 300)) == (150, 150, 150)
        moving.seek(57)
        assert moving.info["duration"] == 250
        red, green, blue = moving.convert("RGB").getpixel((300, 300))
        assert red > 130 and green == blue < 20
    assert frames([]) == []


def test_a_damaged_picture_is_left_out_of_a_time_lapse(tmp_path, caplog):
    paths = [tmp_path / f"step_{step:08d}.png" for step in (1, 2, 3)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    assert len(frames(paths)) == 2 and f"{paths[1]} is left out of the time-lapse" in caplog.text


# ── At the end ────────────────────────────────────────────────────────────────────────────────────────────

ALWAYS = {"samples", "curves.png", "time-lapse.gif"}
IMAGES = {*ALWAYS, "real-and-generated", "neighbours", "interpolation"}
LOSSES = {
    "gan": ({"use": "gan", "latent_size": 4}, IMAGES),
    "infogan": (INFOGAN["loss"], {*IMAGES, "traversal"}),
    "vae": ({"use": "vae", "latent_size": 2}, {*IMAGES, "traversal", "reconstructions"}),
}


def pictures_of(directory) -> set[str]:
    found = directory.path.iterdir()
    return {path.name for path in found if path.suffix in (".gif", ".png") or list(path.glob("*.png"))}


@pytest.mark.parametrize("name", LOSSES)
def test_a_finished_run_has_the_pictures_that_its_model_allows(tmp_path, name):
    loss, expected = LOSSES[name]
    second = {"encoder" if name == "vae" else "discriminator": {"use": "mlp", "hidden": [8]}}
    run = train({**SMALL, "loss": loss, **second}, tmp_path / "run")
    assert pictures_of(run.directory) == expected
    assert {*run.last_files} >= {name.partition(".")[0] for name in expected}, "all were announced"
    for role in expected - {"time-lapse.gif", "curves.png"}:
        drawn = picture(run, role)
        assert drawn.ndim == 3 and min(drawn.shape[:2]) > 250 and drawn.std() > 10


def test_points_have_curves_and_a_time_lapse(tmp_path):
    tables = {**ADVERSARIAL, "data": {"use": "gaussians", "count": 300}, "loss": {"use": "gan", "latent_size": 2}}
    assert pictures_of(train(tables, tmp_path / "run").directory) == ALWAYS


def test_the_pictures_at_the_end_are_chosen_and_an_unknown_one_is_refused(tmp_path):
    chosen = {**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 4}, "samples": {"at_end": ["neighbours"]}}
    assert pictures_of(train(chosen, tmp_path / "run").directory) == {"samples", "neighbours"}
    with pytest.raises(RequestError, match=r"at_end.*neighbours"):
        train({**chosen, "samples": {"at_end": ["neighbors"]}}, tmp_path / "other")


class Breaker(Observer):
    """Stops a run in its third step."""

    essential = True

    @observes
    def step_ended(self, step):
        if step == 3:
            raise Interrupted(2)


class Breaking:
    @hookimpl
    def ganrun_observers(self):
        return {"breaker": Breaker}


def test_an_interrupted_run_has_curves_and_a_time_lapse_and_all_pictures_once_finished(tmp_path):
    tables = {**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 4}, "checkpoints": {"every_steps": 1}}
    tables["train"] = {**SMALL["train"], "steps": 4, "log_every_steps": 1}
    stopped = {**tables, "breaker": {}}
    with pytest.raises(Interrupted):
        train(stopped, tmp_path / "run", Breaking())
    directory = RunDirectory(tmp_path / "run")
    assert pictures_of(directory) == ALWAYS
    run = train(tables, tmp_path / "run", resume=True)
    assert pictures_of(directory) == IMAGES
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.[pg][ni][gf]")}
    again = train(tables, tmp_path / "run", resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.[pg][ni][gf]")} == before
    assert run.last_files["curves"] == again.last_files["curves"] == "curves.png"


def test_curves_have_what_was_recorded_after_a_run_was_stopped_at_its_last_step(tmp_path):
    tables = {**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 4}}
    tables["train"] = {**SMALL["train"], "steps": 3, "log_every_steps": 1}
    with pytest.raises(Interrupted):
        train({**tables, "breaker": {}}, tmp_path / "run", Breaking())
    before = (tmp_path / "run/curves.png").read_bytes()
    RunDirectory(tmp_path / "run").append_record(record(3, {}, Score("fid", 2.0, False, {})))
    train(tables, tmp_path / "run", resume=True)
    assert (tmp_path / "run/curves.png").read_bytes() != before


class Alarm(Observer):
    """Ctrl-C in the first step, before the pictures of that step are drawn."""

    @observes
    def step_ended(self):
        signal.raise_signal(signal.SIGINT)


class Alarming:
    @hookimpl
    def ganrun_observers(self):
        return {"alarm": Alarm}


def test_ctrl_c_interrupts_no_picture_and_the_curves_are_drawn(tmp_path, caplog):
    tables = {**SMALL, "loss": {"use": "vae", "latent_size": 2}, "encoder": {"use": "mlp", "hidden": [8]}, "alarm": {}}
    tables["train"] = {**SMALL["train"], "log_every_steps": 1}
    with pytest.raises(Interrupted):
        train(tables, tmp_path / "run", Alarming())
    assert (tmp_path / "run/reconstructions/step_00000001.png").is_file() and (tmp_path / "run/curves.png").is_file()
    assert not caplog.records


def test_other_files_in_the_folder_are_not_frames(tmp_path):
    tables = {**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 4}, "samples": {"at_end": ["time-lapse"]}}
    (tmp_path / "run/samples").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "run/samples/step_00000001 copy.png")
    run = train(tables, tmp_path / "run")
    with Image.open(run.directory / "time-lapse.gif") as moving:
        assert moving.n_frames == 2


class Stopper(Observer):
    """Ends training in the third step, as early stopping does."""

    @observes
    def step_ended(self, run, step):
        if step == 3:
            run.stop("enough")


class Stopping:
    @hookimpl
    def ganrun_observers(self):
        return {"stopper": Stopper}


def test_a_run_that_stops_early_has_a_grid_of_its_last_step(tmp_path):
    tables = {**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 4}, "stopper": {}}
    tables["train"] = {**SMALL["train"], "steps": 9}
    run = train(tables, tmp_path / "run", Stopping())
    assert (run.directory / "samples/step_00000003.png").is_file(), "no cadence asks for a picture of step 3"
    assert (run.directory / "neighbours/step_00000003.png").is_file()


def test_the_neighbours_picture_shows_samples_and_their_nearest_images(tmp_path):
    run = train({**ADVERSARIAL, "loss": {"use": "gan", "latent_size": 4}, "samples": {"count": 8}}, tmp_path / "run")
    made = to_uint8(run.model.decode(run.model.fixed_latents(8)))
    beside = picture(run, "neighbours")
    training = run.data.split("train").images
    nearest = np.square(made[:, None].numpy().astype(float) - training).sum((2, 3, 4)).argsort(1)[:, 0]

    def shown(left: int, row: int, image: np.ndarray) -> bool:
        """Whether an image is in a row, `left` pixels from the left, enlarged sevenfold."""
        size, factor = 8, (beside.shape[0] - BAND) // (8 * (8 + GAP) + GAP)
        top = BAND + factor * (GAP + row * (size + GAP))
        part = beside[top : top + factor * size : factor, left : left + factor * size : factor, 0]
        return np.array_equal(part, image[0])

    lefts = [
        left for left in range(beside.shape[1] - 60) if all(shown(left, row, made[row].numpy()) for row in range(8))
    ]
    rights = [
        left
        for left in range(beside.shape[1] - 60)
        if all(shown(left, row, training[nearest[row]]) for row in range(8))
    ]
    assert lefts and rights and max(lefts) < min(rights)


def test_mirror_images_are_neighbours_if_training_mirrors_images(tmp_path):
    mirroring = {**ADVERSARIAL["train"], "horizontal_flip": True}
    tables = {**ADVERSARIAL, "train": mirroring, "loss": {"use": "gan", "latent_size": 4}, "samples": {"count": 8}}
    mirrored = train(tables, tmp_path / "mirrored")
    drawn = mirrored.model.decode(mirrored.model.fixed_latents(8))
    assert np.array_equal(
        picture(mirrored, "neighbours"), beside_nearest(drawn, mirrored.data.split("train"), mirrored=True)
    )
    assert not np.array_equal(
        picture(mirrored, "neighbours"), beside_nearest(drawn, mirrored.data.split("train"), mirrored=False)
    )
