"""The engine's small parts against closed forms: averages, measurements, batches, random streams,
files."""

from __future__ import annotations

import math
import os
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from ganrun.base.errors import ContractError
from ganrun.base.files import atomic_folder, atomic_path
from ganrun.base.randomness import derived_seed, isolated_random, set_random_stream
from ganrun.contracts.data import Split, to_uint8, to_unit_range
from ganrun.contracts.scheduled import Scheduled
from ganrun.training.averaging import Average
from ganrun.training.batches import RealBatches, Shuffle
from ganrun.training.measurements import Measurements

CPU = torch.device("cpu")


# ── Averaging ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_average_follows_its_formula():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = Average(module, decay=0.7)
    expected = 0.0
    for step in range(1, 40):
        nn.init.constant_(module.weight, float(step))
        average.update(step)
        decay = min(0.7, step / (step + 9))
        expected = decay * expected + (1 - decay) * step
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_half_of_the_average_survives_its_half_life():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    average = Average(module, decay=0.7, half_life=Scheduled(start=5.0))
    nn.init.constant_(module.weight, 0.0)
    for step in range(1, 11):
        average.update(step)
    assert average.module.weight.item() == pytest.approx(1 / 4), "two half-lives, without a gradual start"


def test_a_half_life_from_0_starts_with_the_newest_weights():
    module = nn.Linear(1, 1, bias=False)
    average = Average(module, 0.9, steps=100, half_life=Scheduled(schedule="linear", start=0.0, end=8.0, steps=4))
    expected = 0.0
    for step in range(1, 9):
        nn.init.constant_(module.weight, float(step))
        average.update(step)
        half_life = min(2.0 * (step - 1), 8.0)
        decay = 2 ** (-1 / half_life) if half_life else 0.0
        expected = decay * expected + (1 - decay) * step
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_the_average_tracks_batch_norms_statistics_and_shares_no_memory():
    module = nn.BatchNorm1d(2)
    average = Average(module, decay=0.5)
    module(torch.randn(16, 2) * 3 + 5)
    module.weight.data.fill_(4.0)
    average.update(100)
    torch.testing.assert_close(average.module.running_mean, module.running_mean / 2)
    torch.testing.assert_close(average.module.weight, torch.full((2,), 2.5))
    assert average.module.num_batches_tracked.item() == 1
    assert not average.module.training and not any(p.requires_grad for p in average.module.parameters())


# ── Measurements ──────────────────────────────────────────────────────────────────────────────────────────


def test_measurements_are_means_since_the_last_read():
    measurements = Measurements()
    for value in (1.0, 2.0, 6.0):
        terms = {"real": torch.tensor(value, requires_grad=True), "fake": torch.tensor(10.0)}
        measurements.add("loss/critic", terms, {"gap": torch.tensor(-value)})
    measurements.add("loss/generator", {"fake": torch.tensor(8.0)})
    measurements.count("loss/critic", 3)
    measurements.count("loss/generator")
    assert measurements.read() == pytest.approx(
        {
            "loss/critic": 13.0,
            "loss/critic.real": 3.0,
            "loss/critic.fake": 10.0,
            "loss/critic.gap": -3.0,
            "loss/generator": 8.0,
        }
    )
    assert measurements.read() == {}
    measurements.add("loss/generator", {"fake": torch.tensor(2.0)})
    measurements.count("loss/generator")
    assert measurements.read() == pytest.approx({"loss/generator": 2.0})


def test_what_is_read_as_it_is_now_joins_the_one_read_of_the_device(monkeypatch):
    reads, original = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(self) or original(self))
    measurements = Measurements()
    for value in (1.0, 2.0):
        measurements.add("loss/generator", {"only": torch.tensor(value)})
        measurements.count("loss/generator")
    present = {"p": torch.tensor(0.5), "count": torch.tensor(2**24 + 1), "half": torch.tensor(0.25).half()}
    assert measurements.read(present) == {"loss/generator": 1.5, "p": 0.5, "count": 2**24 + 1, "half": 0.25}
    present["p"].fill_(0.75)
    assert measurements.read(present) == {"p": 0.75, "count": 2**24 + 1, "half": 0.25}, "and no mean with what was"
    assert len(reads) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_among_many_is_found(bad):
    measurements = Measurements()
    for value in (1.0, bad, 1.0):
        measurements.add("critic", {"loss": torch.tensor(1.0)}, {"norm": torch.tensor(value)})
    measurements.count("critic", 3)
    values = measurements.read()
    assert values["critic"] == 1.0 and not math.isfinite(values["critic.norm"])
    assert measurements.reported() == {"critic.norm"}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize("role", ["term", "report"])
def test_a_mean_is_right_whatever_the_type_of_its_values(kind, role):
    measurements = Measurements()
    for number in range(3000):
        value = torch.tensor(number % 2 if number < 2000 else 1).to(kind)
        other = {"loss": torch.tensor(0.5)}
        measurements.add(
            "a", {**other, "x": value} if role == "term" else other, {} if role == "term" else {"x": value}
        )
        measurements.count("a")
    values = measurements.read()
    assert values["a.x"] == pytest.approx(2 / 3, rel=1e-7)
    assert values["a"] == pytest.approx(0.5 + (2 / 3 if role == "term" else 0), rel=1e-7)


def test_a_mean_of_many_values_has_as_many_digits_as_each():
    measurements, value = Measurements(), torch.tensor(0.1)
    for _ in range(100_000):
        measurements.add("a", {"x": value})
        measurements.count("a")
    assert measurements.read()["a"] == pytest.approx(float(value), rel=1e-5)


@given(st.lists(st.tuples(st.text("a.", min_size=1), st.lists(st.text("bc.", min_size=1), unique=True, min_size=1))))
def test_two_curves_are_one_or_refused(phases):
    measurements, written = Measurements(), 0
    for phase, entries in dict(phases).items():
        terms = {entry: torch.tensor(1.0) for entry in entries}
        try:
            measurements.add(f"loss/{phase}", terms)
        except ContractError as error:
            assert f"loss/{phase}" in str(error) and "would share the curve" in str(error)
            return
        measurements.count(f"loss/{phase}")
        written += 1 + (len(terms) if len(terms) > 1 else 0)
    assert len(measurements.read()) == written


def test_terms_that_change_or_are_no_scalars_are_refused():
    measurements = Measurements()
    measurements.add("a", {"x": torch.tensor(1.0)})
    with pytest.raises(ContractError, match="terms changed"):
        measurements.add("a", {"x": torch.tensor(1.0), "y": torch.tensor(1.0)})
    for value in (torch.ones(2), torch.tensor(1j)):
        with pytest.raises(ContractError, match="scalars"):
            measurements.add("b", {"x": value})


# ── Batches ───────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 40), st.integers(0, 200), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_the_stream_of_images_does_not_depend_on_how_it_is_cut(count, start, sizes):
    whole = Shuffle(count, seed=5).indices(start, sum(sizes))
    parts, place, shuffle = [], start, Shuffle(count, seed=5)
    for size in sizes:
        parts.append(shuffle.indices(place, size))
        place += size
    assert torch.equal(torch.cat(parts), whole)


@given(st.integers(1, 50), st.integers(0, 3))
def test_every_image_comes_once_in_an_epoch(count, epoch):
    indices = Shuffle(count, seed=1).indices(epoch * count, count)
    assert sorted(indices.tolist()) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(Shuffle(100, seed).indices(epoch * 100, 100).tolist()) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_all_256_greys_survive_the_trip_to_the_networks_range_and_back():
    greys = torch.arange(256, dtype=torch.uint8)
    unit = to_unit_range(greys)
    assert unit[0] == -1 and unit[255] == 1 and unit.dtype == torch.float32
    assert torch.equal(to_uint8(unit), greys)
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_batches_hold_the_right_images_with_the_right_labels_channels_last():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    data = RealBatches(Split(images, np.arange(20)), CPU, seed=2)
    batch, labels, _ = data.take(7, 30)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(batch, torch.from_numpy(images[labels.numpy()]).float() / 127.5 - 1)
    points = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    batch, labels, _ = RealBatches(Split(points), CPU, seed=2).take(0, 20)
    assert labels is None and np.array_equal(np.sort(batch.numpy(), 0), np.sort(points, 0)), "floats pass as they are"


def test_half_of_the_images_are_mirrored_where_that_is_asked_for():
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    images[:, :, :, 0] = 255
    torch.manual_seed(0)
    batch, *_ = RealBatches(Split(images), CPU, seed=0, horizontal_flip=True).take(0, 4000)
    left, right = batch[:, 0, 0, 0] == 1, batch[:, 0, 0, 3] == 1
    assert torch.equal(left, ~right) and 0.46 < left.float().mean() < 0.54


# ── Random streams ────────────────────────────────────────────────────────────────────────────────────────


def test_an_isolated_block_repeats_and_leaves_the_stream_outside_alone():
    set_random_stream(CPU, 11)
    expected = torch.randn(4)
    set_random_stream(CPU, 11)
    draws = []
    for _ in range(2):
        with isolated_random(CPU, 5):
            draws.append(torch.randn(3))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.randn(4), expected)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["step", "epoch"]), st.integers(0, 9)), unique=True))
def test_each_purpose_has_a_seed_of_its_own(purposes):
    seeds = {derived_seed(seed, name, number) for seed, name, number in purposes}
    assert len(seeds) == len(purposes) and all(0 <= seed < 2**63 for seed in seeds)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyError), atomic_path(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]
    with atomic_path(path) as partial:
        partial.write_text("after")
    assert path.read_text() == "after" and [*tmp_path.iterdir()] == [path]


def test_what_is_no_file_keeps_its_place(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"), atomic_path(pipe):
        pytest.fail("nothing is to be made for nothing")
    assert pipe.is_fifo()


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "folder"
    for text in ("before", "half", "after"):
        with suppress(KeyError), atomic_folder(folder) as partial:
            for number in range(40):
                (partial / str(number)).write_text(text)
            if text == "half":
                raise KeyError
        assert {each.read_text() for each in folder.iterdir()} == {"before" if text == "half" else text}
        assert len([*folder.iterdir()]) == 40 and [*tmp_path.iterdir()] == [folder]
