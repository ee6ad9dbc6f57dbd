"""One evaluation: every metric gets what it requested, and nothing is computed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from ganrun import Buffer, Data, DataSpec, Extractor, IncompatibleError, ModelSpec, Split, to_uint8
from ganrun.inference.evaluation import SharedEvaluation
from ganrun.testing import evaluation_on

CPU = torch.device("cpu")
PROBLEM = ModelSpec((1, 2, 2), classes=7)


class Numbered(Data):
    """700 images for training and 300 for tests; image i of a split holds the number i in its first two pixels."""

    def spec(self) -> DataSpec:
        return PROBLEM

    def prepare(self) -> None:
        return None

    def split(self, name: str) -> Split:
        count = {"train": 700, "test": 300}[name]
        images = np.zeros((count, 1, 2, 2), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(count), 256)
        return Split(images, np.arange(count) % 7)


class Numbers(Extractor):
    """The number that a picture holds; counts the pictures that it is shown."""

    suffix = "numbers"
    protocol = None

    def __init__(self, key: str = "numbers") -> None:
        super().__init__(None, PROBLEM)
        self.key, self.shown, self.largest = key, 0, 0

    key = None

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self.shown += len(images)
        self.largest = max(self.largest, len(images))
        return {"features": number_of(images)[:, None].float()}


def number_of(images: Tensor) -> Tensor:
    return images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1]


def evaluation(seed: int = 0) -> SharedEvaluation:
    """Sample i is drawn at random; its latent is its mean brightness."""

    def draw(count: int) -> tuple[Tensor, Tensor]:
        samples = torch.rand(count, 1, 2, 2) * 2 - 1
        return samples.flatten(1).mean(1, keepdim=True), samples

    return evaluation_on(
        Numbered(None),
        draw,
        step=3,
        seed=seed,
        readings={
            "encodings": lambda images: images.flatten(1)[:, :1],
            "reconstructions": lambda images: -images,
        },
    )


counts = st.lists(st.integers(1, 900), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(counts)
def test_all_get_the_same_first_samples_in_one_pass(asked: list[int]) -> None:
    moment, extractor = evaluation(), Numbers()
    kept = [
        moment.collect(Buffer(), "samples", "latents", "features", count=count, extractor=extractor) for count in asked
    ]
    moment.run()
    expected = evaluation().generated(max(asked))
    for count, each in zip(asked, kept, strict=True):
        samples, latents, features = each.tensors()
        assert torch.equal(samples, expected[:count])
        assert latents.shape == (count, 1) and torch.equal(features[:, 0].long(), number_of(samples))
        assert (to_uint8(latents)[:, 0].float() - samples.float().mean((1, 2, 3))).abs().max() <= 1
    assert extractor.shown == max(asked) and extractor.largest <= 256


@settings(max_examples=25, deadline=None)
@given(counts, st.sampled_from(["train", "test"]))
def test_all_get_the_same_real_images_in_one_pass(asked: list[int], split: str) -> None:
    moment, extractor = evaluation(), Numbers()
    outputs = ("images", "labels", "encodings", "reconstructions", "features")
    kept = [moment.collect_real(Buffer(), *outputs, count=count, split=split, extractor=extractor) for count in asked]
    moment.run()
    available = len(Numbered(None).split(split))
    found = [set(number_of(each.tensors()[0]).tolist()) for each in kept]
    assert [len(each) for each in found] == [min(count, available) for count in asked]
    for smaller, larger in ((a, b) for a in found for b in found if len(a) < len(b)):
        assert smaller < larger, "fewer images are some of the more"
    for each in kept:
        images, labels, encodings, mirrored, features = each.tensors()
        assert torch.equal(labels, number_of(images) % 7) and torch.equal(features[:, 0].long(), number_of(images))
        assert torch.equal(mirrored, 255 - images) and (encodings[:, 0] + 1).mul(127.5).round().long().equal(
            images[:, 0, 0, 0].long()
        )
    assert extractor.shown == min(max(asked), available)
    again = evaluation().real(asked[0], split)
    assert torch.equal(again, kept[0].tensors()[0]), "and they are the same in every run"


def test_extractors_with_one_key_are_one_and_what_is_left_out_is_not_made() -> None:
    moment = evaluation()
    first, twin, other = Numbers(), Numbers(), Numbers("other")
    for extractor, count in ((first, 10), (twin, 300), (other, 20)):
        moment.collect(Buffer(), "features", count=count, extractor=extractor)
    moment.run()
    assert first.shown + twin.shown == 300 and other.shown == 20
    moment.run()
    assert first.shown + twin.shown == 300, "what was given is not asked for any more"


def test_another_seed_gives_other_samples() -> None:
    assert not torch.equal(evaluation(0).generated(20), evaluation(1).generated(20))


def test_what_is_not_there_cannot_be_asked_for() -> None:
    with pytest.raises(IncompatibleError, match=r'"logits" of the samples, .* only features, latents, samples$'):
        evaluation().collect(Buffer(), "logits", count=3, extractor=Numbers())
    with pytest.raises(IncompatibleError, match='"latents" of the train images'):
        evaluation().collect_real(Buffer(), "latents")
    blind = evaluation_on(Numbered(None), lambda _: ())
    with pytest.raises(IncompatibleError, match=r'"encodings" of the train images, and there are only images, labels$'):
        blind.collect_real(Buffer(), "encodings")
