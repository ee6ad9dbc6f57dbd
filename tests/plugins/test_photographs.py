"""Crops of scikit-learn's photographs: from separate halves, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_sample_image

from ganrun import DataError
from ganrun.testing import assert_conforms
from ganrun_datasets import photographs, scikit_learn
from ganrun_datasets.photographs import Photographs


def made(**chosen) -> Photographs:
    data = Photographs(Photographs.Settings(**chosen))
    data.prepare()
    return data


def places(crop: np.ndarray, photograph: np.ndarray) -> np.ndarray:
    """The left edges of all places at which a photograph `(height, width, 3)` has a crop `(3, size, size)`."""
    size = crop.shape[1]
    corners = np.argwhere((photograph[: 1 - size, : 1 - size] == crop[:, 0, 0]).all(axis=2))
    same = [(photograph[y : y + size, x : x + size] == crop.transpose(1, 2, 0)).all() for y, x in corners]
    return corners[same, 1]


@pytest.mark.parametrize("size", [8, 32, 256])
def test_train_crops_are_of_the_left_halves_and_test_crops_of_the_right(size):
    data = made(size=size, count=20)
    for name, begin, end in (("train", 0, 320), ("test", 320, 640)):
        split = data.split(name)
        assert split.images.shape == (20, 3, size, size)
        assert np.bincount(split.labels).tolist() == [10, 10]
        for image, label in zip(split.images, split.labels, strict=True):
            found = places(image, load_sample_image(f"{photographs.NAMES[label]}.jpg"))
            assert ((begin <= found) & (found <= end - size)).any()


def corners(count: int, seed: int = 0) -> np.ndarray:
    """Row and column `(2, count)` of each crop of 32 pixels, from a half whose pixels say where they are."""
    rows, columns = np.indices((427, 320))
    half = np.stack([rows % 256, columns % 256, 2 * (rows // 256) + columns // 256]).astype(np.uint8)
    data = Photographs(Photographs.Settings(count=count, seed=seed))
    red, green, blue = data._crops([half, half], 0).images[:, :, 0, 0].T.astype(int)
    return np.stack([red + 256 * (blue // 2), green + 256 * (blue % 2)])


def test_crops_are_uniformly_spread_over_a_half():
    """The means are those of uniform draws within five standard errors."""
    count, largest = 8_000, np.array([427 - 32, 320 - 32])
    found = corners(count)
    assert (found.min(axis=1) >= 0).all() and (found.max(axis=1) <= largest).all()
    assert (np.abs(found.mean(axis=1) - largest / 2) < 5 * largest / np.sqrt(12 * count)).all()
    assert abs(np.corrcoef(found)[0, 1]) < 5 / np.sqrt(count)


def test_places_are_the_same_everywhere_and_others_for_another_seed():
    assert corners(4).T.tolist() == [[83, 5], [181, 48], [104, 66], [53, 110]]
    assert not np.array_equal(corners(4), corners(4, seed=1))
    assert made(count=4).fingerprint() != made(count=4, seed=1).fingerprint()


def test_a_release_that_keeps_the_files_elsewhere_gives_the_same(monkeypatch):
    expected = made(count=10).fingerprint()
    monkeypatch.setattr(scikit_learn, "find_spec", lambda name: None)
    assert made(count=10).fingerprint() == expected


def test_a_damaged_file_and_too_many_crops_are_refused(tmp_path, monkeypatch):
    (tmp_path / "china.jpg").write_bytes(b"<html>")
    monkeypatch.setattr(photographs, "installed_file", lambda name: tmp_path / "china.jpg")
    with pytest.raises(DataError, match=r"china\.jpg cannot be read: it is a web page; reinstall scikit-learn"):
        made()
    with pytest.raises(ValidationError, match="take more than 4 GiB; say fewer"):
        Photographs.Settings(size=256, count=100_000)


def test_it_keeps_its_contract():
    assert_conforms("data", Photographs, {"size": 16, "count": 50})
