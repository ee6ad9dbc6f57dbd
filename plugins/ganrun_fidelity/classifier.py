"""Features of a small classifier, trained once on the data's own labels: for data unlike Inception's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ganrun import (
    Data,
    Extractor,
    IncompatibleError,
    ModelSpec,
    PreflightError,
    isolated_random,
    to_unit_range,
)
from ganrun_fidelity.precision import exact_convolutions
from ganrun_fidelity.real_images import count_of
from ganrun_fidelity.repeatable import RepeatableAdam, initialise, permutation, random_bits, settle, triangle
from ganrun_fidelity.stored import digest_of, digest_of_text, load_stored, store

VERSION = 2
"""Part of the cache key: raise it with each change to the training."""

WEIGHTS, ORDER, HELD_OUT = range(3)
"""Streams of random numbers. They are the same for all runs, so that one classifier scores all replicates."""

FEATURES = 64
BATCH_SIZE = 64
PEAK_LR = 3e-3
ADVICE = 'say features = "inception", or leave the metric out'
LEAST_EXAMPLES, MOST_EXAMPLES = 12_000, 80_000
"""Bounds of the number of training examples; between them, two passes over the data."""

LARGE = 64 * 64
"""Pixels of an image; the largest number of examples is lower in proportion for images with more."""


class ClassifierFeatures(Extractor):
    """Features of a small classifier, trained once on the data's own labels: no download, no published scores.

    `features` are the 64 of the layer before the last; `logits` has one entry for each class. The classifier is trained
    on the training split, to the same weights on every machine, and stored in ganrun's cache. It suits data unlike
    Inception's training data, such as digits.
    """

    outputs = ("features", "logits")
    takes_floats = True
    suffix = "classifier"

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        _ = spec.image_shape
        if spec.classes < 2:
            raise IncompatibleError(f"it learns from labels of at least 2 classes, and this data has none; {ADVICE}")

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the classifier, or train it.

        Raises:
            PreflightError: if there are too few images to learn from, or values that are not finite.
        """
        train, held_out = _examples(data)
        with isolated_random(torch.device("cpu"), seed=0):
            self._network = Classifier(self.spec)
        prints = [data.fingerprint(name) for name in ("train", "test") if count_of(data, name)]
        key = digest_of_text(VERSION, self.spec.sample_shape, str(self._network), prints)
        accuracy = _load(self._network, key)
        if accuracy is None:
            accuracy = _train(self._network, train, held_out)
            store("classifiers", key, self._network.state_dict(), {"accuracy": accuracy})
        self._network.eval().requires_grad_(False).to(device)
        self._accuracy = accuracy
        self._weights = digest_of(self._network.state_dict())

    @property
    def key(self) -> str:
        """Version and weights."""
        return f"ganrun-classifier-{VERSION}/{self._weights}"

    @property
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """Version, hash of the weights, and accuracy on held-out images."""
        return {
            "extractor": f"ganrun-classifier-{VERSION}",
            "weights": self._weights,
            "classifier_accuracy": self._accuracy,
            "resize": "none",
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """`features` `(batch, 64)` and `logits` `(batch, classes)` of uint8 images, or of images in [-1, 1]."""
        with exact_convolutions():
            features = self._network.features(images)
            return {"features": features, "logits": self._network.head(features)}


class Classifier(nn.Module):
    """Strided convolutions down to at most 4×4, a dense layer of 64 features, and a logit for each class."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels, height, width = spec.image_shape
        stages: list[nn.Module] = []
        for maps in _widths(max(height, width)):
            stages += [nn.Conv2d(channels, maps, 3, 2, 1, bias=False), nn.BatchNorm2d(maps), nn.ReLU()]
            channels, height, width = maps, math.ceil(height / 2), math.ceil(width / 2)
        # The last norm gives features unit variance on real images, which sets the scale of distances.
        dense = nn.Linear(channels * height * width, FEATURES, bias=False)
        self.trunk = nn.Sequential(*stages, nn.Flatten(), dense, nn.BatchNorm1d(FEATURES, affine=False))
        self.head = nn.Linear(FEATURES, spec.classes)

    def features(self, images: Tensor) -> Tensor:
        """`(batch, 64)` of uint8 images, or of images in [-1, 1]."""
        features: Tensor = self.trunk(to_unit_range(images).to(self.head.weight.dtype))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """`(batch, classes)`"""
        logits: Tensor = self.head(self.features(images))
        return logits


def _widths(size: int) -> list[int]:
    """Feature maps of each stage: from 16 up to 128, and fewer where large images would make a stage slow."""
    stages = ((size - 1) // 4).bit_length()
    return [max(min(16 << stage, 128 >> (stages - 1 - stage)), 8) for stage in range(stages)]


# ── Examples ──────────────────────────────────────────────────────────────────────────────────────────────


class _Examples(NamedTuple):
    """Some images of a split, with their labels."""

    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    """Indices into both."""

    def batch(self, places: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The images and labels of `rows[places]`."""
        rows = self.rows[places]
        images = torch.from_numpy(np.ascontiguousarray(self.images[rows]))
        return images, torch.from_numpy(np.asarray(self.labels[rows])).long()


def _examples(data: Data) -> tuple[_Examples, _Examples]:
    """The examples to learn from, and those held out: the test split, or else a tenth of the training split."""
    train = data.split("train")
    if len(train) < 2:
        raise PreflightError(f"the training split has {len(train)} images: too few to train a classifier; {ADVICE}")
    if train.labels is None:
        raise PreflightError(f"the training split has no labels to train a classifier on; {ADVICE}")
    whole = _Examples(train.images, train.labels, np.arange(len(train)))
    if count_of(data, "test"):
        test = data.split("test")
        if test.labels is not None:
            return whole, _Examples(test.images, test.labels, np.arange(len(test)))
    order = permutation(len(train), random_bits(HELD_OUT))
    held_out = math.ceil(len(train) / 10)
    return whole._replace(rows=order[held_out:]), whole._replace(rows=order[:held_out])


# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────


def _load(network: Classifier, key: str) -> float | None:
    """Load the cached weights and return their held-out accuracy; None if there are none."""
    stored = load_stored("classifiers", key)
    if stored is None:
        return None
    network.load_state_dict(stored.tensors)
    return float(stored.facts["accuracy"])


def _train(network: Classifier, train: _Examples, held_out: _Examples) -> float:
    """Train from scratch, in float64 on the CPU, and return the held-out accuracy, in [0, 1]."""
    network.double()
    initialise(network, random_bits(WEIGHTS))
    try:
        with torch.enable_grad():
            _fit(network.train(), train)
    except FloatingPointError:
        reason = "training the classifier gives values that are not finite"
        raise PreflightError(f"{reason}: check that all training images are finite, or {ADVICE}") from None
    settle(network)
    accuracy = _accuracy(network.double().eval(), held_out)
    network.float()
    return accuracy


def _fit(network: Classifier, train: _Examples) -> None:
    optimizer = RepeatableAdam(network.parameters())
    steps = examples_seen(len(train.rows), train.images.shape) // BATCH_SIZE
    for step, places in enumerate(_shuffled(len(train.rows), steps)):
        images, labels = train.batch(places)
        network.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(images), labels))
        optimizer.step(PEAK_LR * triangle(step, steps))


def examples_seen(count: int, shape: tuple[int, ...]) -> int:
    """Training examples, repeated ones included, given the number of images and the shape of their array."""
    most = MOST_EXAMPLES * LARGE // max(math.prod(shape[-2:]), LARGE)
    return min(max(2 * count, LEAST_EXAMPLES), max(most, LEAST_EXAMPLES))


def _shuffled(count: int, batches: int) -> Iterator[npt.NDArray[np.int64]]:
    """Batches of places, in a new order in each pass over the data."""
    bits = random_bits(ORDER)
    passes = math.ceil(batches * BATCH_SIZE / count)
    order = np.concatenate([permutation(count, bits) for _ in range(passes)])
    return (order[low : low + BATCH_SIZE] for low in range(0, batches * BATCH_SIZE, BATCH_SIZE))


@torch.no_grad()
def _accuracy(network: Classifier, held_out: _Examples) -> float:
    count, right = len(held_out.rows), 0.0
    for places in np.array_split(np.arange(count), math.ceil(count / 256)):
        images, labels = held_out.batch(places)
        right += float((network(images).argmax(1) == labels).sum())
    return round(right / count, 4)
