"""Pictures in files: an .npz of samples, and published statistics in place of real images."""

from __future__ import annotations

import dataclasses
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from torch import Tensor

from ganrun import Extractor, RequestError, RunDirectory, Score, hookimpl, npz_headers, read_npz
from ganrun.cli import main
from ganrun.discovery.registry import load_registry
from ganrun.testing import registry_with, train
from ganrun.trained.scoring import Request, score
from ganrun_fidelity.frechet import Gaussian, frechet_distance
from ganrun_fidelity.statistics import read_statistics

FEATURES = 12


class Projection(Extractor):
    """Fixed random projections of the pixels: features of any picture, without weights."""

    suffix = "projection"
    key = "projection/1"
    protocol: ClassVar = {"extractor": "projection", "resize": "none"}

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        pixels = images.double().flatten(1) / 255
        return {"features": torch.tanh(pixels @ torch.randn(pixels.shape[1], FEATURES, generator=seeded()).double())}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class ProjectionPlugin:
    @hookimpl
    def ganrun_extractors(self) -> Mapping[str, type[Extractor]]:
        return {"projection": Projection}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))


def scored(path: Path, *overrides: str, against: str | Path | None, metrics: tuple[str, ...] = ()) -> Score:
    """The one score of `ganrun eval PATH --against …`, with features that need no weights."""
    request = Request(path, None if against is None else str(against), metrics, overrides, "cpu")
    (found,) = score(request, registry_with(ProjectionPlugin()))
    return found


def fault_of(*arguments: Any, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        scored(*arguments, **options)
    return str(caught.value)


FID = ("metric.0.features=projection", "metric.0.samples=200")
DIGITS = ("data.size=8", *FID)


def images_of(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def features_of(images: np.ndarray) -> np.ndarray:
    return Projection(None, None)(torch.from_numpy(images))["features"].numpy()


def saved_statistics(path: Path, images: np.ndarray, **more: Any) -> Path:
    features = features_of(images)
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False), **more)
    return path


# ── An .npz of samples ────────────────────────────────────────────────────────────────────────────────────


def test_an_npz_is_scored_as_the_same_pictures_in_a_folder_whatever_its_layout(tmp_path: Path, caplog: Any) -> None:
    images = images_of(260, 1, 8, 8)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / f"folder/{number:03}.png")
    np.savez(tmp_path / "first.npz", samples=images)
    np.savez(tmp_path / "last.npz", images.transpose(0, 2, 3, 1), np.zeros(260, np.int64))
    np.savez_compressed(tmp_path / "packed.npz", images=np.asfortranarray(images.transpose(0, 2, 3, 1)))
    expected = scored(tmp_path / "folder", *DIGITS, against="digits", metrics=("fid",))
    for name in ("first", "last", "packed"):
        assert scored(tmp_path / f"{name}.npz", *DIGITS, against="digits", metrics=("fid",)) == expected
    (note,) = [message for message in caplog.messages if "ignored" in message]
    assert note.endswith("last.npz: read images from arr_0, ignored arr_1")


def test_an_npz_is_in_memory_once(tmp_path: Path) -> None:
    images = np.zeros((40_000, 16, 16, 3), np.uint8)
    for name, save in {"plain": np.savez, "packed": np.savez_compressed}.items():
        save(tmp_path / f"{name}.npz", images)
        tracemalloc.start()
        read_npz(tmp_path / f"{name}.npz", "arr_0")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.2 * images.nbytes


def npz_of(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def with_header(path: Path, header: str, content: bytes = b"\0" * 64) -> Path:
    """An .npz whose array's header says something else than what follows."""
    text = header.encode().ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", member)
    return path


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 1)}"
PICKLED = "{'descr': '|O', 'fortran_order': False, 'shape': (5, 8, 8, 1)}"

UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "floats": (lambda path: npz_of(path, arr_0=np.zeros((5, 8, 8, 1), np.float32)), "images are uint8 from 0 to 255"),
    "flat": (lambda path: npz_of(path, arr_0=np.zeros((5, 64), np.uint8)), "images are (count, height, width"),
    "none": (lambda path: npz_of(path, arr_0=np.zeros((0, 8, 8, 1), np.uint8)), "images are (count, height, width"),
    "large": (lambda path: npz_of(path, arr_0=np.zeros((5, 9, 8, 1), np.uint8)), "compared with has 1×8×8; fit it by"),
    "several": (
        lambda path: npz_of(path, arr_0=images_of(5, 8, 8, 1), samples=images_of(5, 8, 8, 1)),
        "several arrays",
    ),
    "other names": (
        lambda path: npz_of(path, x=images_of(5, 8, 8, 1)),
        "no array named arr_0, images, samples; it has x",
    ),
    "statistics": (lambda path: npz_of(path, mu=np.zeros(3), sigma=np.eye(3)), "statistics (mu, sigma) and no images"),
    "objects": (lambda path: npz_of(path, arr_0=np.array([None, 1])), "images are uint8"),
    "bomb": (
        lambda path: with_header(path, HUGE),
        "damaged: arr_0 is said to be uint8 (1000000000000, 8, 8, 1), and has 64",
    ),
    "pickle": (lambda path: with_header(path, PICKLED), "images are uint8"),
    "name": (lambda path: npz_of(path, **{"\x1b[2J": images_of(5, 8, 8, 1)}), "whose name holds control characters"),
    "no header": (lambda path: with_header(path, "{'descr': "), "damaged or not an .npz file"),
    "no zip": (lambda path: path.write_bytes(b"PK\x03\x04 and nothing"), "damaged or not an .npz file"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or not an .npz file"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_npz_of_images_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, reason = UNFIT[kind]
    make(tmp_path / "samples.npz")
    fault = fault_of(tmp_path / "samples.npz", *DIGITS, against="digits", metrics=("fid",))
    assert reason in fault and str(tmp_path / "samples.npz") in fault


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(compressed=st.booleans(), data=st.data())
def test_a_file_that_was_cut_or_changed_is_refused_or_holds_what_it_held(
    compressed: bool, data: st.DataObject, tmp_path: Path
) -> None:
    images, buffer = images_of(6, 8, 8, 1), io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, arr_0=images)
    content = bytearray(buffer.getvalue())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "changed.npz"
    path.write_bytes(content)
    try:
        found = {name: read_npz(path, name) for name in npz_headers(path)}
    except RequestError:
        return
    assert all(np.array_equal(array, images) for array in found.values())


def test_what_a_small_file_expands_to_must_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "samples.npz", np.zeros((1000, 8, 8, 1), np.uint8))
    monkeypatch.setattr("os.sysconf", lambda name: 200)
    fault = fault_of(tmp_path / "samples.npz", *DIGITS, against="digits", metrics=("fid",))
    assert "samples.npz: arr_0 takes" in fault and "and this machine has" in fault


def test_channels_that_may_be_first_or_last_are_not_guessed(tmp_path: Path) -> None:
    samples = npz_of(tmp_path / "samples.npz", arr_0=images_of(5, 3, 3, 3))
    statistics = saved_statistics(tmp_path / "statistics.npz", images_of(50, 3, 3, 3))
    assert "ambiguous whether its channels are first or last" in fault_of(samples, *FID, against=statistics)


# ── Published statistics ──────────────────────────────────────────────────────────────────────────────────


def test_the_distance_from_statistics_is_torch_fidelitys(tmp_path: Path) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    real, made = (torch.randn(400, 30, generator=seeded(), dtype=torch.float64) for _ in range(2))
    made = made * 1.3 + 0.2
    ours, theirs = (fid_features_to_statistics(each) for each in (real, made))
    np.savez(tmp_path / "real.npz", **ours)
    found = read_statistics(tmp_path / "real.npz")
    distance = frechet_distance(
        Gaussian(found.mean, found.covariance), Gaussian(*(torch.from_numpy(theirs[name]) for name in ("mu", "sigma")))
    )
    assert distance == pytest.approx(fid_statistics_to_metric(ours, theirs, False)["frechet_inception_distance"])


def test_a_data_sets_statistics_give_the_score_against_the_data_set(tmp_path: Path) -> None:
    samples = npz_of(tmp_path / "samples.npz", arr_0=images_of(200, 8, 8, 1))
    against_data = scored(samples, *DIGITS, against="digits", metrics=("fid",))
    digits = load_registry().find("data", "digits").cls
    data = digits(digits.Settings(size=8))
    data.prepare()
    statistics = saved_statistics(tmp_path / "statistics.npz", data.split("train").images, n=1437)
    against_statistics = scored(samples, *FID, against=statistics)
    assert against_statistics.value == pytest.approx(against_data.value, rel=1e-9)
    assert against_statistics.name == "fid_projection" and against_statistics.floor is None
    protocol = against_statistics.protocol
    assert protocol["real"] == 1437 and protocol["real_features"] == FEATURES and protocol["generated"] == 200
    assert protocol["real_statistics"] == read_statistics(statistics).digest
    assert not {"split", "real_digest", "floor_split"} & protocol.keys()
    again = scored(samples, *DIGITS, f"metric.0.statistics={statistics}", against="digits", metrics=("fid",))
    assert again == against_statistics, "a setting of the metric is the same as --against"


def test_scores_against_other_files_are_not_ranked_together(tmp_path: Path) -> None:
    samples = npz_of(tmp_path / "samples.npz", arr_0=images_of(200, 8, 8, 1))
    one = saved_statistics(tmp_path / "one.npz", images_of(300, 1, 8, 8, seed=1))
    two = saved_statistics(tmp_path / "two.npz", images_of(300, 1, 8, 8, seed=2))
    first, second = (scored(samples, *FID, against=path) for path in (one, two))
    assert first.protocol["real"] == "not stated" and first.protocol != second.protocol
    assert {name for name in first.protocol if first.protocol[name] != second.protocol[name]} == {"real_statistics"}


def test_a_folder_is_compared_with_statistics_without_any_data(tmp_path: Path) -> None:
    images = images_of(200, 8, 8, 3)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"folder/{number:03}.png")
    statistics = saved_statistics(tmp_path / "statistics.npz", images_of(300, 3, 8, 8, seed=1))
    samples = npz_of(tmp_path / "samples.npz", arr_0=images)
    folder = scored(tmp_path / "folder", *FID, "data.size=8", against=statistics)
    assert folder == scored(samples, *FID, against=statistics)


RUN = {
    "train": {"steps": 1, "batch_size": 8, "device": "cpu"},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    **dict.fromkeys(("mlflow", "samples", "progress"), False),
}


def test_a_run_is_scored_against_statistics_while_it_trains_and_afterwards(tmp_path: Path) -> None:
    statistics = saved_statistics(tmp_path / "statistics.npz", images_of(300, 1, 8, 8))
    fid = {"use": "fid", "features": "projection", "samples": 200, "statistics": str(statistics)}
    run = train({**RUN, "metric": [fid]}, tmp_path / "run", ProjectionPlugin())
    (trained,) = run.scores.values()
    assert trained.protocol["real_statistics"] == read_statistics(statistics).digest
    named = dataclasses.replace(trained, name="fid_projection@statistics")
    assert scored(tmp_path / "run", *FID, against=statistics) == named, "it does not pass for the run's own"
    assert scored(tmp_path / "run", against=None) == trained
    fault = fault_of(tmp_path / "run", "data.classes=10", "data.channels=1", against="synthetic")
    assert "compares with published statistics, and not with synthetic; to measure it on real images" in fault
    records = RunDirectory(tmp_path / "run").records()
    assert [record.rescored for record in records if record.evaluation] == [False, True, True]
    assert json.loads((tmp_path / "run/summary.json").read_text())["floors"] == {}


def test_metrics_and_features_that_need_real_images_say_so(tmp_path: Path) -> None:
    samples = npz_of(tmp_path / "samples.npz", arr_0=images_of(200, 8, 8, 1))
    statistics = saved_statistics(tmp_path / "statistics.npz", images_of(300, 1, 8, 8))
    fault = fault_of(samples, against=statistics, metrics=("fid", "kid"))
    assert "metric kid needs real images" in fault and "fid compares with them" in fault
    fault = fault_of(samples, "metric.0.features=classifier", against=statistics)
    assert "it learns from labels of at least 2 classes" in fault
    real = [*DIGITS, f"metric.0.statistics={statistics}"]
    for more in ("metric.0.real_samples=100", "metric.0.split=test"):
        fault = fault_of(samples, *real, more, against="digits", metrics=("fid",))
        assert "statistics take the place of real images; leave out real_samples and split" in fault


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no sigma": ({"mu": np.zeros(12)}, "it has no sigma; statistics have mu and sigma, it has mu"),
    "images": ({"arr_0": images_of(3, 8, 8, 1)}, "it has no mu"),
    "shape": ({"mu": np.zeros(12), "sigma": np.eye(11)}, "sigma is (11, 11), and mu has 12 features"),
    "vector": ({"mu": np.zeros((12, 1)), "sigma": np.eye(12)}, "mu is float64 (12, 1), not 1-dimensional"),
    "integers": ({"mu": np.zeros(12, int), "sigma": np.eye(12)}, "mu is int64 (12,), not 1-dimensional real"),
    "objects": ({"mu": np.array([None] * 12), "sigma": np.eye(12)}, "mu is object (12,), not 1-dimensional real"),
    "nan": ({"mu": np.full(12, np.nan), "sigma": np.eye(12)}, "mu holds NaN or infinity"),
    "infinite": ({"mu": np.zeros(12), "sigma": np.full((12, 12), np.inf)}, "sigma holds NaN or infinity"),
    "asymmetric": ({"mu": np.zeros(12), "sigma": np.eye(12) + np.eye(12, k=1)}, "sigma is not symmetric"),
    "negative": ({"mu": np.zeros(12), "sigma": np.diag([-1.0, *[1] * 11])}, "it has the negative eigenvalue -1"),
    "other network": ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, "have 2,048 features, and its extractor gives 12"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_are_no_statistics_of_the_network_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    samples = npz_of(tmp_path / "samples.npz", arr_0=images_of(200, 8, 8, 1))
    arrays, reason = WRONG[kind]
    path = npz_of(tmp_path / "statistics.npz", **arrays)
    fault = fault_of(samples, *FID, against=path)
    assert reason in fault and "fid (ganrun" in fault and str(path) in fault


def test_statistics_in_single_precision_and_of_few_images_are_read(tmp_path: Path) -> None:
    features = np.random.default_rng(0).gamma(1.0, size=(40, 200)).astype(np.float32)
    sigma = np.cov(features, rowvar=False).astype(np.float32)
    path = npz_of(tmp_path / "statistics.npz", mu=features.mean(0), sigma=sigma)
    found = read_statistics(path)
    assert found.covariance.dtype == torch.float64 and found.images is None


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    samples = npz_of(tmp_path / "samples.npz", arr_0=images_of(200, 8, 8, 1))
    (tmp_path / "statistics.pkl").write_bytes(b"cposix\nsystem\n")
    real = [*DIGITS, f"metric.0.statistics={tmp_path}/statistics.pkl"]
    assert "nothing is unpickled" in fault_of(samples, *real, against="digits", metrics=("fid",))


def test_the_command_reports_without_a_traceback(tmp_path: Path) -> None:
    samples = npz_of(tmp_path / "samples.npz", arr_0=images_of(200, 8, 8, 1))
    statistics = npz_of(tmp_path / "statistics.npz", mu=np.zeros(3))
    for against in (statistics, tmp_path / "absent.npz"):
        arguments = ["eval", samples, "--against", against, "--set", "metric.0.features=classifier"]
        result = CliRunner().invoke(main, [str(each) for each in arguments])
        assert result.exit_code == 2 and "Traceback" not in result.output
