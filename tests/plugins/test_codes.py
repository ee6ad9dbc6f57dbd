"""Agreement of codes and classes, on models whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from ganrun import Factor, IncompatibleError, ModelSpec, to_uint8
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.registry import load_registry
from ganrun.inference.evaluation import measured
from ganrun.testing import evaluation_on
from ganrun_fidelity.classifier import ClassifierFeatures
from ganrun_fidelity.codes import Agreements, CodeAccuracy, categorical_columns

CPU = torch.device("cpu")
CLASSES = Factor("class", 10, "categorical")
LEARNED = Factor("code_1", 10, "categorical")


@pytest.fixture(scope="module")
def digits():
    component = load_registry().find("data", "digits").cls
    data = component(component.Settings(size=8))
    data.prepare()
    return data


def scores(digits, factor: Factor, shown: list[int], read: list[int] | None) -> dict[str, float]:
    """The scores of a model that draws a real digit of class `shown[code]`, and encodes class `c` as `read[c]`."""
    factors = (Factor("noise", 3, "noise"), factor)
    shape, classes = digits.spec().sample_shape, digits.spec().classes
    readings = () if read is None else ("encodings",)
    spec = ModelSpec(shape, classes, latent_size=3 + factor.size, factors=factors, readings=readings)
    train, test = digits.split("train"), digits.split("test")
    pools = [torch.from_numpy(train.images[train.labels == each]).float() / 127.5 - 1 for each in range(10)]

    def draw(count: int) -> tuple[Tensor, Tensor]:
        codes = torch.randint(factor.size, (count,))
        pictures = [pools[shown[code]][torch.randint(len(pools[shown[code]]), ()).item()] for code in codes]
        return torch.cat([torch.randn(count, 3), one_hot(codes, factor.size)], dim=1), torch.stack(pictures)

    known = {image.tobytes(): label for image, label in zip(test.images, test.labels, strict=True)}

    def encode(images: Tensor) -> Tensor:
        seen = [known[image.tobytes()] for image in to_uint8(images).numpy()]
        codes = torch.tensor(read)[torch.tensor(seen)]
        return torch.cat([torch.zeros(len(images), 3), 0.6 * one_hot(codes, factor.size) + 0.04], dim=1)

    extractor = ClassifierFeatures(None, spec)
    metric = CodeAccuracy(parse_settings(CodeAccuracy.Settings, {"samples": 600}), spec, extractor)
    for part in (extractor, metric):
        part.prepare(digits, CPU)
    evaluation = evaluation_on(digits, draw, spec=spec, readings={} if read is None else {"encodings": encode})
    return {score.name: score.value for score in measured([metric], evaluation)}


IDENTITY = list(range(10))
ROLLED = [*range(1, 10), 0]


def test_a_model_that_draws_and_encodes_correctly_is_always_right(digits):
    found = scores(digits, CLASSES, IDENTITY, IDENTITY)
    assert found["sample_accuracy_class"] > 0.97, "as often as the classifier itself is right"
    assert found["code_accuracy_class"] == 1.0


def test_classes_are_taken_as_they_are_and_learned_codes_are_matched(digits):
    asked = scores(digits, CLASSES, ROLLED, ROLLED)
    assert asked["sample_accuracy_class"] < 0.03 and asked["code_accuracy_class"] == 0.0
    learned = scores(digits, LEARNED, ROLLED, ROLLED)
    assert learned["sample_accuracy_code_1"] > 0.97 and learned["code_accuracy_code_1"] == 1.0


def test_no_class_is_matched_with_two_values(digits):
    """Codes 0 and 1 both mean class 0, and nothing means class 1: a tenth is lost, since no class counts twice."""
    found = scores(digits, LEARNED, [0, 0, *range(2, 10)], None)
    assert set(found) == {"sample_accuracy_code_1"}, "a model without an encoder has no score for encodings"
    assert found["sample_accuracy_code_1"] == pytest.approx(0.9, abs=0.04)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=50))
def test_agreements_count_every_pair(pairs):
    codes, labels = torch.tensor(pairs).T
    factor = Factor("code", 4, "categorical")
    found = Agreements({factor: slice(1, 5)}, 3)
    found.add(torch.cat([torch.full((len(pairs), 1), 9), one_hot(codes, 4)], dim=1), labels)
    table = found.tables[factor]
    assert table.sum() == len(pairs)
    assert all(table[code, label] == pairs.count((code, label)) for code in range(4) for label in range(3))


def test_the_columns_of_each_code():
    factors = (
        Factor("noise", 5, "noise"),
        Factor("a", 3, "categorical"),
        Factor("b", 2, "continuous"),
        Factor("c", 4, "categorical"),
    )
    found = {factor.name: columns for factor, columns in categorical_columns(ModelSpec((2,), factors=factors)).items()}
    assert found == {"a": slice(5, 8), "c": slice(10, 14)}
    assert np.arange(14)[found["c"]].tolist() == [10, 11, 12, 13]


def test_a_loss_without_codes_is_refused():
    spec = ModelSpec((1, 8, 8), classes=10, factors=(Factor("noise", 9, "noise"),))
    with pytest.raises(IncompatibleError, match="no categorical code"):
        CodeAccuracy(CodeAccuracy.Settings(), spec, ClassifierFeatures(None, spec))
