"""FID and the Inception Score: the maths against torch-fidelity's, and what is told when something is missing."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from ganrun import Data, Evaluation, Metric, MisfitError, PreflightError, Problem, Score, Split, no_such_split
from ganrun.evaluation import RealImages
from ganrun.settings import parse_settings
from ganrun.testing import assert_conforms
from ganrun_fidelity import ganrun_checkups, ganrun_metrics
from ganrun_fidelity.distances import Gaussian, frechet_distance, inception_score
from ganrun_fidelity.metrics import FrechetInceptionDistance, InceptionScore

CPU = torch.device("cpu")
METRICS = {"fid": FrechetInceptionDistance, "inception-score": InceptionScore}


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache and a torch hub of the test's own, and one thread."""
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Arrays(Data):
    """Pictures given as arrays, with a training split alone."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        super().__init__(None)
        self.train = Split(images, labels)

    def problem(self) -> Problem:
        labels = self.train.labels
        return Problem(self.train.images.shape[1:], 0 if labels is None else int(labels.max()) + 1)

    def prepare(self) -> None:
        return None

    def split(self, name: str) -> Split:
        if name != "train":
            raise no_such_split(name, ["train"])
        return self.train


def pictures(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def evaluation(data: Data, generated: np.ndarray, real: RealImages | None = None) -> Evaluation:
    """An evaluation whose generator repeats given pictures."""
    samples = torch.from_numpy(generated).float() / 127.5 - 1

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, 1), samples.repeat(math.ceil(count / len(samples)), 1, 1, 1)[:count]

    real = real or RealImages(data)
    return Evaluation(problem=data.problem(), device=CPU, step=1, seed=0, draw=draw, real=real)


def prepared(name: str, data: Data, **settings: object) -> Metric:
    metric = METRICS[name](parse_settings(METRICS[name].Settings, settings), data.problem())
    metric.prepare(data, CPU)
    return metric


def scored(name: str, data: Data, generated: np.ndarray, **settings: object) -> Score:
    (score,) = prepared(name, data, **settings).measure(evaluation(data, generated))
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
    ours = frechet_distance(Gaussian.fitted(one), Gaussian.fitted(other))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert frechet_distance(Gaussian.fitted(one), Gaussian.fitted(one)) == pytest.approx(0, abs=1e-6)


def test_inception_score_is_torch_fidelitys_with_parts_of_unequal_size() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 5 * torch.randn(1003, 20, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits, splits=7)["inception_score_mean"]
    assert inception_score(logits, 7) == pytest.approx(theirs, rel=1e-9)


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    assert inception_score(torch.zeros(30, 5), 3) == pytest.approx(1)
    assert inception_score(1e4 * torch.eye(5).repeat(60, 1), 1) == pytest.approx(5)


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


def test_scores_on_inception_are_those_of_torch_fidelitys_calculate_metrics(random_weights: Path) -> None:
    from torch_fidelity import calculate_metrics

    data = Arrays(pictures(10, 1, 28, 28))
    generated = pictures(8, 1, 2, 2, seed=1).repeat(14, axis=2).repeat(14, axis=3)
    moment = evaluation(data, generated)
    ours = [
        score
        for metric in (
            prepared("fid", data, samples=8, weights=str(random_weights)),
            prepared("inception-score", data, samples=8, splits=3, weights=str(random_weights)),
        )
        for score in metric.measure(moment)
    ]
    theirs = calculate_metrics(
        input1=Colour(generated),
        input2=Colour(data.train.images),
        fid=True,
        isc=True,
        isc_splits=3,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(random_weights),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    assert [score.name for score in ours] == ["fid", "inception_score"]
    assert ours[0].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours[1].value == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    assert theirs["inception_score_mean"] > 1.01
    protocol = ours[0].protocol
    assert (protocol["generated"], protocol["real"], protocol["split"]) == (8, 10, "train")
    assert protocol["extractor"] == "inception-v3-compat" and "grey repeated" in str(protocol["channels"])


class Colour(torch.utils.data.Dataset[Tensor]):
    """Grey pictures as torch-fidelity takes them."""

    def __init__(self, grey: np.ndarray) -> None:
        self.images = torch.from_numpy(grey).repeat(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_absent_weights_are_told_before_training_with_the_steps_that_mend_it(tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as fault:
        prepared("fid", Arrays(pictures(4, 3, 8, 8)))
    message = fault.value.message
    assert "https://github.com/toshas/torch-fidelity/releases/download/" in message
    assert str(tmp_path / "torch/hub/checkpoints") in message
    assert 'features = "classifier"' in message and "weights = " in message
    checkup = ganrun_checkups()["inception weights"]()
    assert not checkup.ok and checkup.text == message


def test_another_file_by_the_published_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "torch/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>")
    with pytest.raises(PreflightError, match="not the published file"):
        prepared("inception-score", Arrays(pictures(4, 3, 8, 8)))
    assert not ganrun_checkups()["inception weights"]().ok


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
        prepared("fid", Arrays(pictures(4, 3, 8, 8)), weights="weights.pth")
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


def test_the_classifier_reads_digits_and_its_scores_tell_good_samples_from_bad() -> None:
    data = digits(32)
    chosen = data.train.images[np.random.default_rng(0).permutation(1797)[:900]]
    good = scored("fid", data, chosen, features="classifier", samples=900)
    assert float(good.protocol["classifier_accuracy"]) > 0.97
    noisy = np.clip(chosen + np.random.default_rng(0).normal(0, 60, (900, 1, 32, 32)), 0, 255)
    bad = scored("fid", data, noisy.astype(np.uint8), features="classifier", samples=900)
    assert good.name == "fid_classifier" and not good.higher_is_better
    assert 0 < 5 * good.value < bad.value
    varied = scored("inception-score", data, chosen, features="classifier", samples=900)
    ones = data.train.images[data.train.labels == 1]
    collapsed = scored("inception-score", data, ones, features="classifier", samples=900)
    assert varied.name == "inception_score_classifier" and varied.higher_is_better
    assert collapsed.value < 2 < 8 < varied.value < 10
    assert varied.protocol["weights"] == good.protocol["weights"]


def test_the_classifier_is_trained_once_repeatably_and_apart_from_the_random_stream(tmp_path: Path) -> None:
    data = digits(8)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = prepared("fid", data, features="classifier")
    assert torch.equal(torch.rand(3), expected)
    (stored,) = (tmp_path / "cache/classifiers").iterdir()
    written = stored.stat().st_mtime_ns
    assert prepared("inception-score", data, features="classifier").extractor.key == first.extractor.key
    assert stored.stat().st_mtime_ns == written

    damaged = bytearray(stored.read_bytes())
    damaged[-5] ^= 64
    stored.write_bytes(damaged)
    again = prepared("fid", data, features="classifier")
    assert again.extractor.key == first.extractor.key
    assert again.extractor.protocol == first.extractor.protocol
    assert stored.stat().st_mtime_ns != written

    others = Arrays(data.train.images, (data.train.labels + 1) % 10)
    assert prepared("fid", others, features="classifier").extractor.key != first.extractor.key


def test_real_statistics_are_cached_by_the_pictures_themselves() -> None:
    data = digits(8)
    metric = prepared("fid", data, features="classifier", samples=300)
    (fresh,) = metric.measure(evaluation(data, data.train.images[:300]))
    later = prepared("fid", data, features="classifier", samples=300)
    real = RealImages(data)
    (recalled,) = later.measure(evaluation(data, data.train.images[:300], real))
    assert recalled == fresh and not real.features
    subset = prepared("fid", data, features="classifier", samples=300, real_samples=500)
    (other,) = subset.measure(evaluation(data, data.train.images[:300]))
    assert other.value != fresh.value and other.protocol["real"] == 500


# ── What cannot be scored ─────────────────────────────────────────────────────────────────────────────────


def test_what_the_data_cannot_give_is_told_before_training() -> None:
    images, labels = pictures(40, 1, 8, 8), np.arange(40) % 2
    with pytest.raises(PreflightError, match="labels"):
        prepared("inception-score", Arrays(images), features="classifier")
    with pytest.raises(PreflightError, match=r"real_samples = 50, but .* has 40 images"):
        prepared("fid", Arrays(images, labels), features="classifier", real_samples=50)
    with pytest.raises(PreflightError, match="at least 2 real images"):
        prepared("fid", Arrays(images[:1]))
    with pytest.raises(PreflightError, match="too few"):
        prepared("inception-score", Arrays(images[1:2], labels[1:2]), features="classifier")


def test_shapes_that_inception_cannot_see_are_told_without_any_data() -> None:
    for shape in ((2,), (4, 8, 8)):
        with pytest.raises(MisfitError):
            FrechetInceptionDistance(FrechetInceptionDistance.Settings(), Problem(shape))


@pytest.mark.parametrize(
    ("name", "table", "reason"),
    [
        ("inception-score", {"samples": 9}, "cannot be parted into 10"),
        ("fid", {"features": "classifier", "weights": "w.pth"}, "leave one of them out"),
        ("fid", {"samples": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(name: str, table: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        parse_settings(ganrun_metrics()[name].Settings, table)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_conform(name: str) -> None:
    assert_conforms("metric", METRICS[name], {"features": "classifier", "samples": 64})
