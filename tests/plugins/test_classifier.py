"""The classifier is the same everywhere: with other threads, other kernels and odd data."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from ganrun import Data, DataSpec, Extractor, ModelSpec, PreflightError, Split, unknown_split
from ganrun.contracts.settings import parse_settings
from ganrun.inference.evaluation import measured
from ganrun.testing import evaluation_on
from ganrun_fidelity import ganrun_extractors, ganrun_metrics
from ganrun_fidelity.classifier import Classifier, examples_seen
from ganrun_fidelity.repeatable import (
    GRADIENT_GRID,
    STATE_GRID,
    RepeatableAdam,
    initialise,
    on_grid,
    permutation,
    random_bits,
    settle,
)
from ganrun_fidelity.stored import digest_of

CPU = torch.device("cpu")


class Pictures(Data):
    """Labelled pictures without a test split."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__(None)
        self.train = Split(images, labels)

    def spec(self) -> DataSpec:
        return DataSpec(self.train.images.shape[1:], int(self.train.labels.max()) + 1)

    def prepare(self) -> None:
        return None

    def split(self, name: str) -> Split:
        if name != "train":
            raise unknown_split(name, ["train"])
        return self.train


def digits() -> Pictures:
    from sklearn.datasets import load_digits

    found = load_digits()
    return Pictures((found.images[:, None] * 15.9).astype(np.uint8), found.target.astype(np.int64))


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def learned(data: Data) -> Extractor:
    extractor = ganrun_extractors()["classifier"](None, data.spec())
    extractor.prepare(data, CPU)
    return extractor


# ── Two machines ──────────────────────────────────────────────────────────────────────────────────────────

MACHINES = [
    {"OMP_NUM_THREADS": "1"},
    {
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
]
"""Circumstances that change the order of sums, as another machine does: threads and vector instructions."""


def test_two_machines_learn_the_same_weights_and_agree_on_scores(tmp_path: Path) -> None:
    one, other = (report_from(circumstances, tmp_path / str(place)) for place, circumstances in enumerate(MACHINES))
    assert one.pop("gradient") != other.pop("gradient"), "the circumstances change no sum here"
    assert other.pop("scores") == pytest.approx(one.pop("scores"), rel=1e-6)
    assert one == other


def report_from(circumstances: dict[str, str], cache: Path) -> dict[str, object]:
    environment = os.environ | circumstances | {"GANRUN_CACHE": str(cache)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def report() -> dict[str, object]:
    """Weights and accuracy for several sets of data, scores on one, and a gradient's digest without any rounding."""
    found = {name: learned(data) for name, data in {"digits": digits(), **odd_data()}.items()}
    known = {name: dict(extractor.protocol) for name, extractor in found.items()}
    return {"gradient": digest_of(gradients()), "scores": scores_with(found["digits"]), **known}


def odd_data() -> dict[str, Data]:
    """Data on which rounding errors could decide: constant inputs of norms, copies, fewer images than a batch."""
    halves = np.arange(8) % 2
    return {
        "blank, not square": Pictures(np.zeros((8, 3, 5, 7), np.uint8), halves),
        "copies": Pictures(np.repeat(noise(2, 1, 6, 6), 4, 0), halves),
        "floats": Pictures((noise(8, 1, 4, 4) / 127.5 - 1).astype(np.float32), halves),
        "three pixels": Pictures(noise(3, 1, 1, 1), halves[:3]),
    }


def gradients() -> dict[str, Tensor]:
    network = Classifier(ModelSpec((1, 8, 8), classes=10)).double()
    initialise(network, random_bits(0))
    images, labels = digits().train.images, digits().train.labels
    nn.functional.cross_entropy(network(torch.from_numpy(images)), torch.from_numpy(labels)).backward()
    return {name: each.grad for name, each in network.named_parameters()}


def scores_with(extractor: Extractor) -> dict[str, float]:
    data = digits()
    samples = torch.from_numpy(data.train.images[:600] // 2).float() / 127.5 - 1
    places = itertools.count()

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, 1), samples[[next(places) % 600 for _ in range(count)]]

    kinds = [ganrun_metrics()[name] for name in ("fid", "inception-score")]
    metrics = [kind(parse_settings(kind.Settings, {"samples": 600}), data.spec(), extractor) for kind in kinds]
    for metric in metrics:
        metric.prepare(data, CPU)
    return {score.name: score.value for score in measured(metrics, evaluation_on(data, draw))}


# ── Its parts ─────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_its_optimiser_is_adam_and_forgets_rounding_errors(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(3, 4, generator=random, dtype=torch.float64)
    ours, disturbed, theirs = (nn.Parameter(start.clone()) for _ in range(3))
    reference = torch.optim.Adam([theirs], lr=0.01)
    optimizers = {parameter: RepeatableAdam([parameter]) for parameter in (ours, disturbed)}
    for _ in range(20):
        gradient = torch.randn(3, 4, generator=random, dtype=torch.float64)
        theirs.grad = ours.grad = on_grid(gradient, GRADIENT_GRID)
        disturbed.grad = ours.grad + 1e-12 * torch.randn(3, 4, generator=random, dtype=torch.float64)
        reference.step()
        for optimizer in optimizers.values():
            optimizer.step(0.01)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert ours.detach().numpy().tobytes() == disturbed.detach().numpy().tobytes()


def test_a_grid_keeps_no_sign_of_zero_and_settled_networks_are_exact_in_float32() -> None:
    assert not torch.signbit(on_grid(torch.tensor([-1e-18, -0.0, 1e-18]), 2.0**-20)).any()
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    expected = {name: on_grid(each, STATE_GRID) for name, each in network.state_dict().items() if each.dim()}
    settle(network)
    for name, value in expected.items():
        assert network.state_dict()[name].dtype == torch.float32
        assert torch.equal(network.state_dict()[name].double(), value), name


def test_random_numbers_are_the_published_stream() -> None:
    """Philox4x64-10 of counter 1 and key 0 by its definition (Salmon et al. 2011)."""
    assert random_bits(0).random_raw(2).tolist() == [0x02F4BA6408E4D89B, 0x3DD62B0B9CA8C5B2]
    assert sorted(permutation(100, random_bits(1))) == list(range(100))
    assert list(permutation(100, random_bits(1))) != list(permutation(100, random_bits(2)))


def test_large_images_bound_the_work() -> None:
    def multiplications(size: int) -> int:
        network = Classifier(ModelSpec((3, size, size), classes=2))
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        sides = [-(-size // 2 ** (stage + 1)) for stage in range(len(layers))]
        of_one = sum(side**2 * layer.weight.numel() for side, layer in zip(sides, layers, strict=True))
        return of_one * examples_seen(10**6, (10**6, 3, size, size))

    assert examples_seen(60_000, (60_000, 1, 28, 28)) == 80_000
    assert examples_seen(1_797, (1_797, 1, 28, 28)) == 12_000
    assert max(multiplications(size) for size in (96, 128, 256)) < 2 * multiplications(64)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path))
    images = np.zeros((20, 1, 4, 4), np.float32)
    images[7, 0, 1, 2] = value
    with pytest.raises(PreflightError, match=r"values that are not finite.*all training images are finite"):
        learned(Pictures(images, np.arange(20) % 2))
    assert not list(tmp_path.rglob("*.safetensors"))


if __name__ == "__main__":
    print(json.dumps(report()))
