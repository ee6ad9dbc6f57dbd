"""Features of a small classifier, trained once on the data's own labels: for data that Inception does not know."""

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
    DataError,
    Extractor,
    IncompatibleError,
    ModelSpec,
    PreflightError,
    Split,
    isolated_random,
    to_unit_range,
)
from ganrun_fidelity.precision import exact_convolutions
from ganrun_fidelity.real_images import count_of
from ganrun_fidelity.stored import digest_of, digest_of_text, load_stored, store

VERSION = 1
"""Raised whenever the training changes: older classifiers are then trained anew."""

SEED = 0
"""One for all runs, so that replicates of a run are scored by the same classifier."""

FEATURES = 64
BATCH_SIZE = 64
PEAK_LR = 3e-3
ADVICE = 'say features = "inception", or leave the metric out'
LEAST_EXAMPLES, MOST_EXAMPLES = 12_000, 80_000
"""Bounds of the examples shown in training; between them, two passes over the data."""


class ClassifierFeatures(Extractor):
    """Features of a small classifier, trained once on the data's own labels: no download, no published scores.

    `features` are the 64 of the layer before the last, `logits` one for each class. It is loaded from ganrun's cache,
    or trained on the training split and stored there. Suits data that Inception has never seen, such as digits.
    """

    outputs = ("features", "logits")
    suffix = "classifier"

    def __init__(self, settings: Any, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        _ = spec.image_shape
        if spec.classes < 2:
            raise IncompatibleError(f"it learns from labels of at least 2 classes, and this data has none; {ADVICE}")

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the classifier, or train it.

        Raises:
            PreflightError: if there are too few images or classes to learn from.
        """
        train, held_out = _parts(data)
        with isolated_random(torch.device("cpu"), SEED):
            self._network = Classifier(self.spec).to(device)
        prints = [data.fingerprint(name) for name in ("train", "test") if count_of(data, name)]
        key = digest_of_text(VERSION, SEED, self.spec.sample_shape, str(self._network), prints)
        accuracy = _restored(self._network, key)
        if accuracy is None:
            accuracy = _trained(self._network, train, held_out, device)
            store("classifiers", key, self._network.state_dict(), {"accuracy": accuracy})
        self._network.eval().requires_grad_(False)
        self._accuracy = accuracy
        self._weights = digest_of(self._network.state_dict())

    @property
    def key(self) -> str:
        """Version and weights."""
        return f"ganrun-classifier-{VERSION}/{self._weights}"

    @property
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """Version, weights, and how often it is right on held-out images."""
        return {
            "extractor": f"ganrun-classifier-{VERSION}",
            "weights": self._weights,
            "classifier_accuracy": self._accuracy,
            "resize": "none",
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """`features` `(batch, 64)` and `logits` `(batch, classes)` of uint8 images."""
        with exact_convolutions():
            features = self._network.features(images)
        return {"features": features, "logits": self._network.head(features)}


class Classifier(nn.Module):
    """Strided convolutions down to 4×4 or less, a dense layer of 64 features, a logit per class."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels, height, width = spec.image_shape
        stages: list[nn.Module] = []
        maps = 16
        while max(height, width) > 4:
            stages += [nn.Conv2d(channels, maps, 3, 2, 1, bias=False), nn.BatchNorm2d(maps), nn.ReLU()]
            channels, maps, height, width = maps, min(2 * maps, 128), math.ceil(height / 2), math.ceil(width / 2)
        # The last norm gives features unit variance on real images, and with it distances a scale.
        dense = nn.Linear(channels * height * width, FEATURES, bias=False)
        self.trunk = nn.Sequential(*stages, nn.Flatten(), dense, nn.BatchNorm1d(FEATURES, affine=False))
        self.head = nn.Linear(FEATURES, spec.classes)

    def features(self, images: Tensor) -> Tensor:
        """`(batch, 64)` of uint8 images, or of images in [-1, 1]."""
        features: Tensor = self.trunk(to_unit_range(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


# ── Examples ──────────────────────────────────────────────────────────────────────────────────────────────


class Part(NamedTuple):
    """Some rows of a split, read as they are needed."""

    split: Split
    rows: npt.NDArray[np.int64]

    def batch(self, places: npt.NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels at these places among the rows."""
        rows = self.rows[places]
        labels = np.zeros(0) if self.split.labels is None else self.split.labels[rows]
        images = torch.from_numpy(np.ascontiguousarray(self.split.images[rows]))
        return images.to(device), torch.from_numpy(np.asarray(labels)).long().to(device)


def _parts(data: Data) -> tuple[Part, Part]:
    """What to learn from and what to hold out: the test split, or a tenth of the training split where there is none."""
    train = data.split("train")
    if len(train) < 2:
        raise PreflightError(f"the training split has {len(train)} images: too few to train a classifier; {ADVICE}")
    try:
        test = data.split("test")
    except DataError:
        test = None
    if test is not None and test.labels is not None and len(test):
        return Part(train, np.arange(len(train))), Part(test, np.arange(len(test)))
    order = np.random.default_rng(SEED).permutation(len(train))
    held_out = math.ceil(len(train) / 10)
    return Part(train, order[held_out:]), Part(train, order[:held_out])


# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────


def _restored(network: Classifier, key: str) -> float | None:
    """Load the weights stored under `key`; their held-out accuracy, or None where there are none."""
    stored = load_stored("classifiers", key)
    if stored is None:
        return None
    network.load_state_dict(stored.tensors)
    return float(stored.facts["accuracy"])


def _trained(network: Classifier, train: Part, held_out: Part, device: torch.device) -> float:
    """Train from scratch; the accuracy on what was held out, in [0, 1]."""
    with exact_convolutions():
        with isolated_random(device, SEED), torch.enable_grad():
            _fit(network.train(), train, device)
        return _accuracy(network.eval(), held_out, device)


def _fit(network: Classifier, train: Part, device: torch.device) -> None:
    examples = min(max(2 * len(train.rows), LEAST_EXAMPLES), MOST_EXAMPLES)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=examples // BATCH_SIZE)
    for places in _shuffled(len(train.rows), examples // BATCH_SIZE):
        images, labels = train.batch(places, device)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(images), labels))
        optimizer.step()
        schedule.step()


def _shuffled(count: int, batches: int) -> Iterator[npt.NDArray[np.int64]]:
    """Places in batches, pass after pass in a new order."""
    random = np.random.default_rng(SEED)
    passes = math.ceil(batches * BATCH_SIZE / count)
    order = np.concatenate([random.permutation(count) for _ in range(passes)])
    return (order[low : low + BATCH_SIZE] for low in range(0, batches * BATCH_SIZE, BATCH_SIZE))


@torch.no_grad()
def _accuracy(network: Classifier, part: Part, device: torch.device) -> float:
    right = 0
    for places in np.array_split(np.arange(len(part.rows)), math.ceil(len(part.rows) / 256)):
        images, labels = part.batch(places, device)
        right += int((network(images).argmax(1) == labels).sum())
    return round(right / len(part.rows), 4)
