"""Scores of pictures: against torch-fidelity's and their definitions, and the messages when something is missing."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

import ganrun
from ganrun import (
    Buffer,
    Data,
    DataSpec,
    Evaluation,
    Extractor,
    Factor,
    FeatureMetric,
    IncompatibleError,
    Interrupted,
    ModelSpec,
    NonFiniteError,
    Part,
    PreflightError,
    Run,
    Score,
    Split,
    hookimpl,
    unknown_split,
)
from ganrun.contracts.settings import parse_settings
from ganrun.inference.evaluation import measured
from ganrun.testing import assert_conforms, evaluation_on, train
from ganrun_fidelity import ganrun_extractors, ganrun_health_checks, ganrun_metrics
from ganrun_fidelity.frechet import Gaussian, Moments, frechet_distance
from ganrun_fidelity.inception import WEIGHTS
from ganrun_fidelity.inception_score import ClassShares
from ganrun_fidelity.neighbours import coverage, density, radii, share_farther, share_within
from ganrun_fidelity.reconstruction import Reconstruction
from ganrun_fidelity.resizing import resize
from ganrun_fidelity.structural import ssim

CPU = torch.device("cpu")
METRICS = ganrun_metrics()
EXTRACTORS = ganrun_extractors()


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache and torch hub for each test, and one thread."""
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Arrays(Data):
    """Pictures given as arrays."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None, test: np.ndarray | None = None) -> None:
        super().__init__(None)
        self.train = Split(images, labels)
        self.splits = {"train": self.train} | ({} if test is None else {"test": Split(test)})

    def spec(self) -> DataSpec:
        labels = self.train.labels
        return DataSpec(self.train.images.shape[1:], 0 if labels is None else int(labels.max()) + 1)

    def prepare(self) -> None:
        return None

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise unknown_split(name, self.splits)
        return self.splits[name]


def pictures(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def evaluation(data: Data, generated: np.ndarray) -> Evaluation:
    """An evaluation whose generator returns these pictures, over and over."""
    samples = torch.from_numpy(generated).float() / 127.5 - 1
    numbers = itertools.count()

    def draw(count: int) -> tuple[Tensor, Tensor]:
        rows = [next(numbers) % len(samples) for _ in range(count)]
        return torch.zeros(count, 1), samples[rows]

    return evaluation_on(data, draw, step=1)


def extractor(use: str, data: Data, **settings: object) -> Extractor:
    component = EXTRACTORS[use]
    found = component(parse_settings(component.Settings, settings), data.spec())
    found.prepare(data, CPU)
    return found


def prepared(
    name: str, data: Data, features: str | Extractor = "classifier", weights: str | None = None, **settings: object
) -> FeatureMetric:
    if isinstance(features, str):
        features = extractor(features, data, **({"weights": weights} if weights else {}))
    metric = METRICS[name](parse_settings(METRICS[name].Settings, settings), data.spec(), features)
    metric.prepare(data, CPU)
    return metric


def scored(name: str, data: Data, generated: np.ndarray, features: str = "classifier", **settings: object) -> Score:
    (score,) = measured([prepared(name, data, features, **settings)], evaluation(data, generated))
    return score


# ── The maths ─────────────────────────────────────────────────────────────────────────────────────────────

variances = st.lists(st.floats(0, 100), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(variances, variances, st.lists(st.floats(-10, 10), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
def test_frechet_distance_has_the_closed_form_where_covariances_commute(
    first: list[float], second: list[float], shift: list[float], seed: int
) -> None:
    axes, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    a, b, m = (torch.tensor(each, dtype=torch.float64) for each in (first, second, shift))
    one = Gaussian(torch.zeros_like(m), axes @ a.diag() @ axes.T)
    other = Gaussian(m, axes @ b.diag() @ axes.T)
    expected = float(m.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6, abs=1e-4)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_frechet_distance_of_features_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    torch.manual_seed(0)
    one = torch.randn(9000, 48) @ torch.randn(48, 48)
    other = torch.randn(700, 48).relu() @ torch.randn(48, 48) + 1
    theirs = fid_statistics_to_metric(fid_features_to_statistics(one), fid_features_to_statistics(other), False)
    ours = frechet_distance(fitted(one), fitted(other))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert frechet_distance(fitted(one), fitted(one)) == pytest.approx(0, abs=1e-6)


def fitted(features: Tensor, batch: int = 256) -> Gaussian:
    moments = Moments()
    for part in torch.split(features, batch):
        moments.add(part)
    return Gaussian(**moments.state())


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 41), st.floats(-1e6, 1e6), st.integers(0, 2**32 - 1))
def test_moments_are_those_of_all_features_however_they_come(count: int, batch: int, mean: float, seed: int) -> None:
    features = mean + torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = fitted(features, batch)
    torch.testing.assert_close(found.mean, features.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.covariance, features.T.cov().reshape(3, 3), rtol=1e-7, atol=1e-9)


def test_inception_score_is_torch_fidelitys_with_parts_of_unequal_size() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 5 * torch.randn(1003, 20, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits, splits=7)["inception_score_mean"]
    assert float(class_shares(logits, 7).mean()) == pytest.approx(theirs, rel=1e-9)


def class_shares(logits: Tensor, parts: int) -> Tensor:
    shares = ClassShares(len(logits), parts)
    for part in torch.split(logits, 256):
        shares.add(part)
    return shares.scores()


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    assert class_shares(torch.zeros(30, 5), 3).tolist() == pytest.approx([1, 1, 1])
    assert class_shares(1e4 * torch.eye(5).repeat(60, 1), 1).tolist() == pytest.approx([5])


# ── Inception ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the format of the published file."""
    import io

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: object) -> None:
            return None

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Untrained("inception-v3-compat", ["2048"], nothing)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    network.fc.weight.mul_(3)
    torch.save(network.state_dict(), path)
    return path


PUBLISHED = WEIGHTS.usual_path
"""The published weights, where they are installed; the tests themselves run with an empty torch hub."""


@pytest.mark.parametrize("weights", ["random", *(["published"] if PUBLISHED.is_file() else [])])
def test_scores_on_inception_are_those_of_torch_fidelitys_calculate_metrics(weights: str, random_weights: Path) -> None:
    path = PUBLISHED if weights == "published" else random_weights
    from torch_fidelity import calculate_metrics

    data = Arrays(pictures(12, 1, 28, 28))
    generated = pictures(10, 1, 2, 2, seed=1).repeat(14, axis=2).repeat(14, axis=3)
    inception = extractor("inception", data, weights=str(path))
    counted = Counted(inception)
    ours = {
        score.name: score
        for score in measured(
            [
                prepared("fid", data, counted, samples=10),
                prepared("inception-score", data, counted, samples=10, splits=3),
                prepared("kid", data, counted, samples=10, subsets=7, subset_size=5),
                prepared("precision-recall", data, counted, samples=10, real_samples=12),
            ],
            evaluation(data, generated),
        )
    }
    assert counted.seen == 10 + 12, "one pass for all four"
    theirs = calculate_metrics(
        input1=Colour(generated),
        input2=Colour(data.train.images),
        **dict.fromkeys(("fid", "isc", "kid", "prc"), True),
        isc_splits=3,
        kid_subsets=7,
        kid_subset_size=5,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(path),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    values = {name: score.value for name, score in ours.items()}
    assert values == {name: pytest.approx(theirs[key], rel=1e-4) for name, key in THEIR_NAMES.items()}
    assert theirs["inception_score_mean"] > 1.01
    protocol = ours["fid"].protocol
    assert (protocol["generated"], protocol["real"], protocol["split"]) == (10, 12, "train")
    assert protocol["extractor"] == "inception-v3-compat" and "grey repeated" in str(protocol["channels"])
    assert ours["kid"].error == pytest.approx(theirs["kernel_inception_distance_std"] * (7 / 6) ** 0.5, rel=1e-3)
    assert ours["inception_score"].error == pytest.approx(theirs["inception_score_std"] / 2**0.5, rel=1e-4)


THEIR_NAMES = {
    "fid": "frechet_inception_distance",
    "inception_score": "inception_score_mean",
    "kid": "kernel_inception_distance_mean",
    "precision": "precision",
    "recall": "recall",
}


class Counted(Extractor):
    """Wraps an extractor and counts its pictures."""

    def __init__(self, inner: Extractor) -> None:
        super().__init__(None, inner.spec)
        self.inner, self.outputs, self.suffix, self.seen = inner, inner.outputs, inner.suffix, 0
        self.key, self.protocol = inner.key, inner.protocol

    key = protocol = None

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        self.seen += len(images)
        return self.inner(images)


def test_scores_on_a_custom_extractor_are_torch_fidelitys_on_the_same() -> None:
    """At the sizes of real evaluations: KID's subsets of 1,000, a thousand neighbours and more."""
    from torch_fidelity import calculate_metrics, register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Theirs(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)
            torch.manual_seed(3)
            self.layer = nn.Linear(3 * 8 * 8, 24)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            features = self.layer(images.flatten(1).float() / 255).relu()
            return tuple(features for _ in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

    class Ours(Extractor):
        outputs = ("features", "logits")
        suffix, key = "small", "small"
        protocol: ClassVar = {"extractor": "small"}
        network = Theirs("small", ["features"])

        @torch.no_grad()
        def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
            (features,) = self.network(images.expand(-1, 3, -1, -1))
            return {"features": features, "logits": features}

    register_feature_extractor("small", Theirs)
    data = Arrays(pictures(1500, 1, 8, 8))
    generated = (pictures(1200, 1, 8, 8, seed=1) * 0.6 + 50).astype(np.uint8)
    small = Ours(None, data.spec())
    names = {"fid": {}, "inception-score": {}, "kid": {"subsets": 20}, "precision-recall": {"real_samples": 1500}}
    metrics = [prepared(name, data, small, samples=1200, **more) for name, more in names.items()]
    ours = {score.name: score for score in measured(metrics, evaluation(data, generated))}
    theirs = calculate_metrics(
        input1=Colour(generated),
        input2=Colour(data.train.images),
        **dict.fromkeys(("fid", "isc", "kid", "prc"), True),
        kid_subsets=20,
        feature_extractor="small",
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    for name, key in THEIR_NAMES.items():
        assert ours[f"{name}_small"].value == pytest.approx(theirs[key], rel=1e-4), name
    assert 0.1 < theirs["precision"] < 1 and 0.1 < theirs["recall"] < 1


class Colour(torch.utils.data.Dataset[Tensor]):
    """Grey pictures as torch-fidelity takes them."""

    def __init__(self, grey: np.ndarray) -> None:
        self.images = torch.from_numpy(grey).repeat(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 60))
def test_resizing_by_matrices_is_torch_fidelitys_resizing(height: int, width: int, side: int) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = torch.from_numpy(pictures(2, 3, height, width)).float()
    theirs = interpolate_bilinear_2d_like_tensorflow1x(images, size=(side, side), align_corners=False)
    torch.testing.assert_close(resize(images, side), theirs, rtol=0, atol=2e-4)


def test_missing_weights_are_reported_before_training_with_the_steps_that_fix_it(tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as fault:
        extractor("inception", Arrays(pictures(4, 3, 8, 8)))
    message = fault.value.message
    assert "https://github.com/toshas/torch-fidelity/releases/download/" in message
    assert str(tmp_path / "torch/hub/checkpoints") in message
    assert 'features = "classifier"' in message and "weights = " in message
    health_check = ganrun_health_checks()["inception weights"]()
    assert not health_check.ok and health_check.text == message


def test_another_file_by_the_published_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "torch/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>")
    with pytest.raises(PreflightError, match="not the published file"):
        extractor("inception", Arrays(pictures(4, 3, 8, 8)))
    assert not ganrun_health_checks()["inception weights"]().ok


class Trap:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("sprung", "w")


@pytest.mark.parametrize("content", ["truncated", "network", "list", "text", "trap", "empty", "folder"])
def test_files_that_are_not_inceptions_weights_are_refused_and_never_run(
    content: str, random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if content == "truncated":
        path.write_bytes(random_weights.read_bytes()[:1_000_000])
    elif content == "network":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    elif content == "list":
        torch.save([torch.zeros(2)], path)
    elif content == "folder":
        path.mkdir()
    else:
        path.write_bytes({"text": b"hello", "trap": pickle.dumps(Trap(), protocol=2), "empty": b""}[content])
    with pytest.raises(PreflightError) as fault:
        extractor("inception", Arrays(pictures(4, 3, 8, 8)), weights="weights.pth")
    assert "weights.pth" in fault.value.message and len(fault.value.message) < 900
    assert not Path("sprung").exists()


# ── The classifier ────────────────────────────────────────────────────────────────────────────────────────


def digits(side: int) -> Arrays:
    """scikit-learn's 1,797 handwritten digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images)[:, None] / 16 * 255
    resized = nn.functional.interpolate(images, size=side, mode="bicubic").round().clamp(0, 255)
    return Arrays(resized.to(torch.uint8).numpy(), found.target.astype(np.int64))


def test_the_classifier_reads_digits_and_its_scores_separate_good_samples_from_bad() -> None:
    data = digits(32)
    chosen = data.train.images[np.random.default_rng(0).permutation(1797)[:900]]
    good = scored("fid", data, chosen, samples=900)
    assert float(good.protocol["classifier_accuracy"]) > 0.97
    noisy = np.clip(chosen + np.random.default_rng(0).normal(0, 60, (900, 1, 32, 32)), 0, 255)
    bad = scored("fid", data, noisy.astype(np.uint8), samples=900)
    assert good.name == "fid_classifier" and not good.higher_is_better
    assert 0 < 5 * good.value < bad.value
    varied = scored("inception-score", data, chosen, samples=900)
    ones = data.train.images[data.train.labels == 1]
    collapsed = scored("inception-score", data, ones, samples=900)
    assert varied.name == "inception_score_classifier" and varied.higher_is_better
    assert collapsed.value < 2 < 8 < varied.value < 10
    assert varied.protocol["weights"] == good.protocol["weights"]


def test_the_classifier_is_trained_once_repeatably_and_apart_from_the_random_stream(tmp_path: Path) -> None:
    data = digits(8)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = prepared("fid", data)
    assert torch.equal(torch.rand(3), expected)
    (stored,) = (tmp_path / "cache/classifiers").glob("*.safetensors")
    written = stored.stat().st_ino
    assert prepared("inception-score", data).extractor.key == first.extractor.key
    assert stored.stat().st_ino == written

    damaged = bytearray(stored.read_bytes())
    damaged[-5] ^= 64
    stored.write_bytes(damaged)
    again = prepared("fid", data)
    assert again.extractor.key == first.extractor.key
    assert again.extractor.protocol == first.extractor.protocol
    assert stored.stat().st_mtime_ns != written

    others = Arrays(data.train.images, (data.train.labels + 1) % 10)
    assert prepared("fid", others).extractor.key != first.extractor.key


def test_statistics_of_real_images_are_computed_once_for_everything_they_depend_on(tmp_path: Path) -> None:
    data = digits(8)
    classifier = extractor("classifier", data)

    def looked_at(data: Data, **settings: object) -> tuple[Score, int]:
        counted = Counted(classifier)
        (score,) = measured([prepared("fid", data, counted, samples=256, **settings)], evaluation(data, shown))
        return score, counted.seen - 256

    shown = data.train.images[:256]
    fresh, seen = looked_at(data)
    assert seen == 1797
    assert looked_at(data) == (fresh, 0)
    other, seen = looked_at(data, real_samples=500)
    assert seen == 500 and other.value != fresh.value and other.protocol["real"] == 500
    assert looked_at(Arrays(data.train.images[::-1].copy(), data.train.labels))[1] == 1797, "other data"

    files = list((tmp_path / "cache/statistics").glob("*.safetensors"))
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    assert looked_at(data) == (fresh, 1797), "intact statistics under another key are not used"

    for file in (tmp_path / "cache/statistics").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-3])
    assert looked_at(data) == (fresh, 1797), "a damaged cache is computed again"
    assert looked_at(data) == (fresh, 0)


class MeanColour(Extractor):
    """Two features of a picture; counts its pictures."""

    suffix = "colour"
    key = "mean-colour/1"
    protocol: ClassVar = {"extractor": "mean-colour"}
    shown: ClassVar[list[int]] = []

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        self.shown.append(len(images))
        pixels = images.float().flatten(1)
        return {"features": torch.stack([pixels.mean(1), pixels.std(1)], dim=1)}


class Spread(FeatureMetric):
    """The standard deviation of the features."""

    class Settings(ganrun.Settings):
        features: Part = "mean-colour"

    def watch(self, evaluation: Evaluation) -> None:
        self.seen = evaluation.collect(Buffer(), "features", count=300, extractor=self.extractor)

    def measure(self, evaluation: Evaluation) -> list[Score]:
        return [Score("spread", float(self.seen.tensors()[0].std()), True, {"generated": 300})]


class ColourPlugin:
    """Another package's plugin."""

    @hookimpl
    def ganrun_metrics(self) -> Mapping[str, type[FeatureMetric]]:
        return {"spread": Spread}

    @hookimpl
    def ganrun_extractors(self) -> Mapping[str, type[Extractor]]:
        return {"mean-colour": MeanColour}


def test_metrics_and_extractors_of_other_plugins_share_the_pass_and_runs_share_statistics(tmp_path: Path) -> None:
    def run(name: str, **fid: object) -> tuple[Run, int]:
        MeanColour.shown.clear()
        tables = {
            "train": {"steps": 1, "batch_size": 8, "device": "cpu"},
            "data": {"use": "digits", "size": 8},
            "loss": {"use": "gan", "latent_size": 4},
            "generator": {"use": "mlp", "hidden": [8]},
            "discriminator": {"use": "mlp", "hidden": [8]},
            "metric": [{"use": "fid", "features": "mean-colour", "samples": 300, **fid}, {"use": "spread"}],
            **dict.fromkeys(("mlflow", "samples", "progress", "checkpoints"), False),
        }
        return train(tables, tmp_path / name, ColourPlugin()), sum(MeanColour.shown)

    first, shown = run("first")
    assert shown == 300 + 1437 + 300, "samples, real images, held-out ones for the floor: each once"
    assert set(first.scores) == {"fid_colour", "spread"} and first.scores["fid_colour"].floor is not None
    second, shown = run("second")
    assert shown == 300 and second.scores["fid_colour"] == first.scores["fid_colour"]
    other, shown = run("other", real_samples=1000)
    assert shown == 300 + 1000 + 300 and other.scores["fid_colour"].value != first.scores["fid_colour"].value
    assert other.scores["spread"] == first.scores["spread"]


@pytest.mark.parametrize("cache", ["cache", "no cache"])
def test_a_run_computes_its_statistics_once_for_all_its_evaluations(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digits(8).train
    data = Arrays(whole.images[:1400], whole.labels[:1400], whole.images[1400:])
    counted = Counted(extractor("classifier", data))
    if cache == "no cache":
        monkeypatch.setattr("ganrun_fidelity.stored.cache_path", lambda folder, name: tmp_path / "nowhere" / name)
    names = ("fid", "precision-recall", "inception-score", "nearest-neighbours")
    metrics = [prepared(name, data, counted, samples=256) for name in names]
    first, second = (measured(metrics, evaluation(data, data.train.images[:256])) for _ in range(2))
    assert first == second
    assert counted.seen == 256 + 1400 + 397 + 256, "samples, training images, held-out ones; then samples alone"


def test_an_interrupted_evaluation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digits(8).train
    data = Arrays(whole.images[:400], whole.labels[:400], whole.images[400:800])
    classifier = extractor("classifier", data)
    fresh, interrupted = (
        [prepared(name, data, classifier, samples=300) for name in ("fid", "nearest-neighbours")] for _ in range(2)
    )
    expected = measured(fresh, evaluation(data, whole.images[:300]))

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "train images":
            raise Interrupted(2)

    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "empty"))
    moment = evaluation(data, whole.images[:300])
    moment.on_progress = interrupt
    with pytest.raises(Interrupted):
        measured(interrupted, moment)
    assert measured(interrupted, evaluation(data, whole.images[:300])) == expected


def test_the_floor_is_the_score_of_held_out_images_by_the_same_protocol() -> None:
    whole = digits(8).train
    data = Arrays(whole.images[:1400], whole.labels[:1400], whole.images[1400:])
    classifier = extractor("classifier", data)
    held_out = data.splits["test"].images
    names = ("fid", "inception-score", "precision-recall", "density-coverage")
    bad = pictures(397, 1, 8, 8)
    scores = measured([prepared(name, data, classifier, samples=397) for name in names], evaluation(data, bad))
    perfect = measured([prepared(name, data, classifier, samples=397) for name in names], evaluation(data, held_out))
    assert len(scores) == 6
    for score, best in zip(scores, perfect, strict=True):
        assert score.floor == pytest.approx(best.value) == best.floor, score.name
        assert score.protocol["floor_split"] == "test" and score.protocol["generated"] == 397
        assert score.protocol["floor_digest"] == data.fingerprint("test")
        assert (score.value < score.floor) == score.higher_is_better
    (score,) = measured([prepared("fid", data, classifier, samples=398)], evaluation(data, bad))
    assert score.floor is None and "floor_split" not in score.protocol, "397 images are not as many as 398"


# ── Neighbours ────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_neighbourhoods_are_counted_as_the_papers_define_them(reals: int, fakes: int, k: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(count, 2, generator=random) for count in (reals, fakes))

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().sum().sqrt())

    ball = [sorted(distance(a, b) for j, b in enumerate(real) if j != i)[k - 1] for i, a in enumerate(real)]
    inside = [[distance(f, r) <= ball[i] for i, r in enumerate(real)] for f in fake]
    radius = radii(real, k)
    assert radius.tolist() == pytest.approx(ball, rel=1e-4)
    assert share_within(fake, real, radius) == pytest.approx(sum(any(each) for each in inside) / fakes)
    assert density(fake, real, radius, k) == pytest.approx(sum(map(sum, inside)) / (k * fakes))
    assert coverage(fake, real, radius) == pytest.approx(sum(any(each) for each in zip(*inside, strict=True)) / reals)


@pytest.mark.parametrize("held_out", [599, 100])
def test_copies_of_training_images_count_as_memorised_and_unseen_images_do_not(held_out: int) -> None:
    whole = digits(8).train
    order = np.random.default_rng(0).permutation(1797)
    train, test, fresh = (
        whole.images[order[low:high]] for low, high in ((0, 599), (599, 599 + held_out), (1198, 1797))
    )
    data = Arrays(train, whole.labels[order[:599]], test)
    classifier = extractor("classifier", data)

    def found(generated: np.ndarray) -> dict[str, Score]:
        metric = prepared("nearest-neighbours", data, classifier, samples=599)
        return {score.name: score for score in measured([metric], evaluation(data, generated))}

    copied, new = found(train), found(fresh)
    half = found(np.concatenate([train[:300], fresh[:299]]))
    assert copied["memorised_classifier"].value > 0.99 and copied["nearest_distance_classifier"].value < 0.02
    for name, low, high in (("memorised_classifier", 0.4, 0.6), ("nearest_distance_classifier", 0.85, 1.15)):
        assert low < new[name].value < high
        middle = (copied[name].value + new[name].value) / 2
        assert half[name].value == pytest.approx(middle, abs=0.05), "half of them copied"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_shares_that_are_farther_are_those_of_all_pairs(values: list[int], others: list[int]) -> None:
    expected = [sum((b > a) + (b == a) / 2 for b in others) / len(others) for a in values]
    found = share_farther(torch.tensor(values, dtype=torch.float64), torch.tensor(others, dtype=torch.float64))
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("name", "of"), [("precision-recall", "precision"), ("inception-score", "inception_score")])
def test_an_error_is_the_spread_over_other_samples(name: str, of: str) -> None:
    data = digits(8)
    classifier, random = extractor("classifier", data), np.random.default_rng(0)
    metric = prepared(name, data, classifier, samples=400)
    noise = random.normal(0, 40, (12_000, 1, 8, 8))
    pool = (data.train.images[random.integers(0, 1797, 12_000)] + noise).clip(0, 255).astype(np.uint8)
    scores = [
        next(score for score in measured([metric], evaluation(data, part)) if score.name == f"{of}_classifier")
        for part in np.split(pool, 30)
    ]
    spread = np.std([score.value for score in scores], ddof=1)
    assert np.mean([score.error for score in scores]) == pytest.approx(spread, rel=0.4)


def test_the_error_of_kid_is_no_less_than_the_spread_over_other_samples() -> None:
    data = digits(8)
    classifier, random = extractor("classifier", data), np.random.default_rng(0)
    metric = prepared("kid", data, classifier, samples=400, subsets=20, subset_size=100)
    pool = random.integers(0, 1797, (40, 400))
    for shown, largest in ((255 - data.train.images, 2), (data.train.images, 6)):
        scores = [measured([metric], evaluation(data, shown[rows]))[0] for rows in pool]
        spread = np.std([score.value for score in scores], ddof=1)
        assert 0.8 * spread < np.mean([score.error for score in scores]) < largest * spread
    all_of_them = prepared("kid", data, classifier, samples=100, subsets=20, subset_size=100)
    assert measured([all_of_them], evaluation(data, data.train.images))[0].error is None


def test_the_protocol_holds_everything_that_a_score_depends_on() -> None:
    images, labels = pictures(300, 1, 8, 8), np.arange(300) % 2
    one, other = (Arrays(images, labels, pictures(100, 1, 8, 8, seed=seed)) for seed in (1, 2))
    classifier = extractor("classifier", one)
    for name in ("nearest-neighbours", "fid", "inception-score"):
        first, second = (
            measured([prepared(name, data, classifier, samples=100)], evaluation(data, images[:100]))[0].protocol
            for data in (one, other)
        )
        assert first != second, f"{name}: other held-out images"
        assert first["generated"] == 100 and first["sample_shape"] == "1×8×8" and first["precision"] == "f32"
        assert first["torch"] == torch.__version__ and first["weights"]


def test_samples_that_are_not_finite_are_never_scored() -> None:
    data = digits(8)
    nothing = torch.full((256, 1, 8, 8), math.nan)
    moment = evaluation_on(data, lambda count: (torch.zeros(count, 1), nothing[:count]), step=3)
    with pytest.raises(NonFiniteError, match=r"^samples at step 3 are not finite, so they cannot be scored$"):
        measured([prepared("fid", data, samples=20)], moment)


# ── Reconstructions ───────────────────────────────────────────────────────────────────────────────────────


def test_reconstructions_are_measured_as_their_definitions_say() -> None:
    images = pictures(3, 2, 13, 12).astype(float) / 255
    made = np.clip(images + np.random.default_rng(1).normal(0, 0.2, images.shape), 0, 1)
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    window /= window.sum()
    expected = []
    for x, y in zip(images, made, strict=True):
        values = []
        for channel, row, column in np.ndindex(2, 3, 2):
            a, b = (each[channel, row : row + 11, column : column + 11] for each in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                ((2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4))
                / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
            )
        expected.append(np.mean(values))
    assert ssim(torch.from_numpy(images), torch.from_numpy(made)).tolist() == pytest.approx(expected, rel=1e-9)


def test_reconstruction_is_scored_on_held_out_images() -> None:
    images = pictures(600, 1, 12, 12)
    data = Arrays(images[:300], None, images[300:])
    spec = ModelSpec(data.spec().sample_shape, readings=("reconstructions",))
    metric = Reconstruction(Reconstruction.Settings(), spec)
    metric.prepare(data, CPU)

    def of(change: Callable[[Tensor], Tensor]) -> dict[str, Score]:
        moment = evaluation_on(data, lambda _: (), spec=spec, step=1, readings={"reconstructions": change})
        return {score.name: score for score in measured([metric], moment)}

    perfect, darker = of(lambda images: images), of(lambda images: images - 2 * 51 / 255)
    assert perfect["mse"].value == 0 and perfect["ssim"].value == pytest.approx(1)
    assert perfect["psnr"].value == pytest.approx(10 * math.log10(255**2 * 144))
    lost = np.minimum(images[300:].astype(int), 51) / 255
    assert darker["mse"].value == pytest.approx((lost**2).mean(), rel=1e-6)
    assert darker["psnr"].value == pytest.approx(np.mean(-10 * np.log10((lost**2).mean((1, 2, 3)))), rel=1e-6)
    of_data = {"real": 300, "split": "test", "real_digest": data.fingerprint("test")}
    assert darker["mse"].protocol.items() >= of_data.items()


def test_reconstructions_that_are_not_finite_are_never_scored() -> None:
    data = Arrays(pictures(20, 1, 12, 12), None, pictures(20, 1, 12, 12, seed=1))
    spec = ModelSpec(data.spec().sample_shape, readings=("reconstructions",))
    metric = Reconstruction(Reconstruction.Settings(), spec)
    metric.prepare(data, CPU)
    moment = evaluation_on(
        data, lambda _: (), spec=spec, step=7, readings={"reconstructions": lambda images: images / 0}
    )
    with pytest.raises(NonFiniteError, match=r"^reconstructions at step 7 are not finite"):
        measured([metric], moment)


# ── What cannot be scored ─────────────────────────────────────────────────────────────────────────────────


def test_what_the_data_cannot_provide_is_reported_before_training() -> None:
    images, labels = pictures(40, 1, 8, 8), np.arange(40) % 2
    data = Arrays(images, labels)
    with pytest.raises(IncompatibleError, match="labels"):
        extractor("classifier", Arrays(images))
    with pytest.raises(PreflightError, match="too few"):
        extractor("classifier", Arrays(images[1:2], labels[1:2]))
    small = extractor("classifier", data)
    refused = {
        "real_samples = 50, but .* has 40 images": ("fid", {"real_samples": 50}),
        "at least 1000 real images": ("kid", {}),
        'split "test" has 0': ("fid", {"split": "test"}),
        "no test split": ("nearest-neighbours", {}),
    }
    for reason, (name, chosen) in refused.items():
        with pytest.raises(PreflightError, match=reason):
            prepared(name, data, small, **chosen)


def test_what_cannot_be_scored_is_reported_without_any_data() -> None:
    for shape in ((2,), (4, 8, 8)):
        with pytest.raises(IncompatibleError):
            EXTRACTORS["inception"](None, ModelSpec(shape))
    with pytest.raises(IncompatibleError, match="no encoder"):
        Reconstruction(Reconstruction.Settings(), ModelSpec((1, 32, 32)))
    with pytest.raises(IncompatibleError, match="window is 11×11"):
        Reconstruction(Reconstruction.Settings(), ModelSpec((1, 8, 32), readings=("reconstructions",)))


@pytest.mark.parametrize(
    ("name", "table", "reason"),
    [
        ("inception-score", {"samples": 9}, "cannot be split into 10 parts"),
        ("kid", {"samples": 500}, "samples = 500 are fewer than a subset"),
        ("kid", {"real_samples": 999}, "real_samples = 999 are fewer than a subset"),
        ("fid", {"samples": 1}, "greater than or equal to 2"),
        (
            "precision-recall",
            {"samples": 3, "real_samples": 100},
            "3 samples have fewer than 3 neighbours each; raise samples",
        ),
        ("density-coverage", {"samples": 5}, "5 samples have fewer than 5 neighbours each"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(name: str, table: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        parse_settings(METRICS[name].Settings, table)


def test_listing_metrics_and_extractors_imports_no_slow_package() -> None:
    script = """
        import sys, ganrun_fidelity
        ganrun_fidelity.ganrun_metrics(), ganrun_fidelity.ganrun_extractors()
        print({"scipy", "sklearn", "torchvision", "torch_fidelity"} & set(sys.modules))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


FEW = {"sliced-wasserstein": 4}
"""Samples for metrics that take long."""


@pytest.mark.parametrize("name", sorted(METRICS))
def test_metrics_conform(name: str) -> None:
    fields = {"source": (3, 32, 32)}
    factors = (Factor("noise", 1, "noise"), Factor("class", 1, "categorical"))
    given = (Factor("source", 3072, "given"),) if name == "paired" else ()
    spec = ModelSpec((3, 32, 32), 4, fields, 2, (*factors, *given), readings=("reconstructions",))
    small = {"kid": {"subset_size": 20}, "reconstruction": {"split": "train"}}
    settings = small.get(name, {}) | ({} if name == "reconstruction" else {"samples": FEW.get(name, 64)})
    if name == "precision-recall" or name == "density-coverage":
        settings |= {"real_samples": 30}
    assert_conforms("metric", METRICS[name], settings, spec)


@pytest.mark.parametrize("name", ["classifier", "inception"])
def test_extractors_conform(name: str, random_weights: Path) -> None:
    weights = {"weights": str(random_weights)} if name == "inception" else {}
    assert_conforms("extractor", EXTRACTORS[name], weights)
