"""How a class enters a network: what is added, what stays unchanged, and what is learned."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, strategies as st
from pydantic import ValidationError
from torch.nn.functional import one_hot

from ganrun import (
    ContractError,
    ImageConditioning,
    LabelledImages,
    LabelledLatents,
    LatentConditioning,
    NetworkSpec,
    Settings,
)
from ganrun.contracts.settings import settings_help

SHAPES = [(3, 5, 4), (1, 1, 1), (2,)]


def latents_spec(latent_size=6, classes=4):
    return NetworkSpec((latent_size,), (3, 5, 4), {"labels": ()}, classes)


def images_spec(shape=(3, 5, 4)):
    return NetworkSpec(shape, (1,), {"labels": ()}, 4)


# ── Concatenation: nothing is learned ─────────────────────────────────────────────────────────────────────


@given(classes=st.integers(2, 12), latent_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_one_hot_class_follows_the_unchanged_latents(classes, latent_size, seed):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(7, latent_size, generator=generator)
    labels = torch.randint(classes, (7,), generator=generator)
    module = LabelledLatents(latents_spec(latent_size, classes), "concatenation")
    outputs = module(latents, labels)
    assert outputs.shape == (7, module.features) == (7, latent_size + classes)
    assert torch.equal(outputs[:, :latent_size], latents)
    assert torch.equal(outputs[:, latent_size:], one_hot(labels, classes).float())
    assert not list(module.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_each_class_is_a_plane_of_ones_among_planes_of_zeros(shape):
    images, labels = torch.randn(5, *shape), torch.tensor([2, 0, 3, 2, 1])
    module = LabelledImages(images_spec(shape), "concatenation")
    outputs = module(images, labels)
    assert outputs.shape == (5, *module.shape) == (5, shape[0] + 4, *shape[1:])
    assert torch.equal(outputs[:, : shape[0]], images)
    for planes, label in zip(outputs[:, shape[0] :], labels, strict=True):
        assert [plane.unique().tolist() for plane in planes] == [[float(each == label)] for each in range(4)]
    assert not list(module.parameters())


def test_images_keep_their_precision():
    images = torch.randn(2, 3, 5, 4, dtype=torch.bfloat16)
    for conditioning in ("concatenation", "embedding"):
        assert LabelledImages(images_spec(), conditioning)(images, torch.tensor([0, 1])).dtype == torch.bfloat16


# ── Embedding: learned for each class ─────────────────────────────────────────────────────────────────────


def added(kind: str, shape=(3, 5, 4), labels=(2, 0, 2)):
    """The module, and what it appends to zeros."""
    labels = torch.tensor(labels)
    if kind == "latents":
        module = LabelledLatents(latents_spec(), "embedding", embedding_size=11)
        return module, module(torch.zeros(len(labels), 6), labels)[:, 6:]
    module = LabelledImages(images_spec(shape), "embedding")
    return module, module(torch.zeros(len(labels), *shape), labels)[:, shape[0] :]


def test_an_embedding_adds_its_length_to_latents_and_one_channel_to_images():
    module, vectors = added("latents")
    assert vectors.shape == (3, 11) and module.features == 17
    for shape in SHAPES:
        module, planes = added("images", shape)
        assert planes.shape == (3, 1, *shape[1:]) and module.shape == (shape[0] + 1, *shape[1:])
        assert sum(each.numel() for each in module.parameters()) == 4 * prod(shape[1:])


@pytest.mark.parametrize("kind", ["latents", "images"])
def test_each_class_has_one_embedding_and_only_the_classes_present_learn(kind):
    module, vectors = added(kind)
    assert torch.equal(vectors[0], vectors[2]) and not torch.equal(vectors[0], vectors[1])
    vectors.sum().backward()
    (table,) = module.parameters()
    assert table.grad.unique(dim=1).flatten().tolist() == [1, 0, 2, 0], "how often each class was there"


@pytest.mark.parametrize("kind", ["latents", "images"])
def test_the_input_beside_an_embedding_is_unchanged(kind):
    labels = torch.tensor([1, 3])
    if kind == "latents":
        inputs = torch.randn(2, 6)
        passed = LabelledLatents(latents_spec(), "embedding")(inputs, labels)[:, :6]
    else:
        inputs = torch.randn(2, 3, 5, 4)
        passed = LabelledImages(images_spec(), "embedding")(inputs, labels)[:, :3]
    assert torch.equal(passed, inputs)


# ── With and without labels ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("conditioning", ["concatenation", "embedding"])
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1])])
def test_where_the_loss_gives_no_labels_nothing_is_added_or_drawn(conditioning, labels):
    before = torch.get_rng_state()
    latents = LabelledLatents(NetworkSpec((6,), (3, 5, 4), classes=4), conditioning)
    images = LabelledImages(NetworkSpec((3, 5, 4), (1,), classes=4), conditioning)
    assert torch.equal(torch.get_rng_state(), before), "the other weights of a network do not change for a seed"
    assert (latents.features, images.shape) == (6, (3, 5, 4))
    assert not latents.state_dict() and not images.state_dict()
    noise, pictures = torch.randn(2, 6), torch.randn(2, 3, 5, 4)
    assert latents(noise, labels) is noise and images(pictures, labels) is pictures


@pytest.mark.parametrize("conditioning", ["concatenation", "embedding"])
def test_a_loss_that_forgets_the_labels_gets_an_error(conditioning):
    with pytest.raises(ContractError, match=r"^the network is built for labels, but the loss calls it without them$"):
        LabelledLatents(latents_spec(), conditioning)(torch.randn(2, 6), None)
    with pytest.raises(ContractError, match=r"^the network is built for labels, but the loss calls it without them$"):
        LabelledImages(images_spec(), conditioning)(torch.randn(2, 3, 5, 4), None)


# ── As a setting ──────────────────────────────────────────────────────────────────────────────────────────


class Both(Settings):
    latents: LatentConditioning = "concatenation"
    images: ImageConditioning = "embedding"


def test_the_settings_have_their_help_text_and_their_choices():
    for setting, what in zip(settings_help(Both), ("input per class", "constant channel per class"), strict=True):
        assert setting.type == '"concatenation" | "embedding"' and what in setting.help
    with pytest.raises(ValidationError):
        Both(latents="addition")


def test_the_help_text_says_the_length_of_an_embedding():
    module = LabelledLatents(latents_spec(6), "embedding")
    assert f"embedding adds {module.features - 6} that are learned" in next(settings_help(Both)).help
