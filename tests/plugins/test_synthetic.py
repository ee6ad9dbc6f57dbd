"""Drawn shapes: reproducible, balanced, and different enough to be classified."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ganrun import DataSpec
from ganrun.testing import assert_conforms
from ganrun_datasets.synthetic import SHAPES, Synthetic


def synthetic(**settings) -> Synthetic:
    return Synthetic(Synthetic.Settings(**settings))


@pytest.mark.parametrize(
    "settings", [{}, {"size": 8, "channels": 1}, {"size": 48, "classes": 12, "count": 40}, {"classes": 1}]
)
def test_it_conforms(settings):
    assert_conforms("data", Synthetic, {"count": 100, "test_count": 40, **settings})


def test_its_pixels_are_the_same_everywhere():
    """Compares a digest from one machine, which a change of any pixel on another would change."""
    images = synthetic(size=24, count=48, test_count=12).split("train").images
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "a31ae7aaf56b4cac"


def test_the_spec_is_known_without_drawing():
    assert synthetic(size=512, channels=1, classes=3, count=10**9).spec() == DataSpec((1, 512, 512), classes=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_are_balanced_named_and_can_be_learned(channels):
    data = synthetic(classes=12, channels=channels, count=1200, test_count=600)
    train, test = data.split("train"), data.split("test")
    assert np.bincount(train.labels).tolist() == [100] * 12
    assert data.class_names() == tuple(SHAPES)
    assert not np.array_equal(train.images[:500], test.images[:500])

    def brightness_around_the_middle(images):
        """Each picture's shape, moved to the middle and scaled to one size, at 12×12."""
        found = []
        for image in images.astype(float).mean(1):
            mask = image > (image.min() + image.max()) / 2
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
            top, left = (rows[0] + rows[-1] + 1 - side) / 2, (columns[0] + columns[-1] + 1 - side) / 2
            grid = (np.arange(12) + 0.5) * side / 12
            at_rows = np.clip((top + grid).astype(int), 0, 31)
            at_columns = np.clip((left + grid).astype(int), 0, 31)
            found.append(mask[np.ix_(at_rows, at_columns)].ravel())
        return np.array(found)

    model = LogisticRegression(max_iter=300).fit(brightness_around_the_middle(train.images), train.labels)
    assert model.score(brightness_around_the_middle(test.images), test.labels) > 0.9


def test_shapes_stay_inside_and_stand_out():
    images = synthetic(classes=12, count=600, size=40).split("train").images
    edge = np.concatenate([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], axis=2)
    assert (edge == edge[..., :1]).all(), "the edge is background, in one colour"
    lightest, background = images.reshape(600, 3, -1).max(2), images[..., 0, 0]
    assert (lightest.astype(int) - background > 40).all(), "the shape is lighter in every channel"
