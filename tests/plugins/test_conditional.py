"""Class-conditional GANs: objectives against the papers by hand, and the class in a real run."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import ganrun
from ganrun import Batch, ContractError, DataSpec, Factor, Generator, Nets, RequestError
from ganrun.contracts.settings import setting_names
from ganrun.discovery.registry import load_registry
from ganrun.testing import assert_conforms, build, registry_with, train
from ganrun.training.runner import execute
from ganrun_conditional.critics import (
    ConditionalHingeGan,
    ConditionalPenalisedWassersteinGan,
    dequantised,
    top_mean,
)
from ganrun_conditional.losses import AuxiliaryClassifierGan, ConditionalGan

CPU = torch.device("cpu")
POINT = DataSpec((1,), classes=3)
NOISE = torch.tensor([[0.5], [-3.0]])
ASKED = torch.tensor([2, 0])
IMAGES, LABELS = torch.tensor([[2.0], [-1.0]]), torch.tensor([1, 2])
BATCH = Batch(torch.cat([NOISE, nn.functional.one_hot(ASKED, 3)], dim=1), IMAGES, LABELS)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def log_softmax(logits: list[float], index: int) -> float:
    return logits[index] - math.log(sum(map(math.exp, logits)))


def loss(component, **settings):
    return component(component.Settings(noise_size=1, **settings), POINT)


@pytest.mark.parametrize("component", [ConditionalGan, AuxiliaryClassifierGan])
def test_the_losses_conform(component):
    assert_conforms("loss", component, {"noise_size": 5}, DataSpec((3, 8, 8), classes=4))
    assert_conforms("loss", component, {}, DataSpec((2,), classes=2))


def test_a_latent_is_noise_and_one_equally_likely_class():
    drawn = ConditionalGan(ConditionalGan.Settings(noise_size=4), POINT).latents(9000, CPU)
    noise, code = drawn[:, :4], drawn[:, 4:]
    assert torch.equal(code.sum(1), torch.ones(9000)), "one class each"
    assert set(code.unique().tolist()) == {0.0, 1.0}
    shares = code.mean(0)
    assert (shares - 1 / 3).abs().max() < 5 * math.sqrt(2 / 9 / 9000), "five standard errors"
    assert noise.mean().abs() < 0.03 and abs(noise.std() - 1) < 0.03


# ── Classes drawn as often as in the data ─────────────────────────────────────────────────────────────────


def as_data(component=ConditionalGan, classes=3):
    settings = component.Settings(noise_size=1, draw_classes="as-data")
    return component(settings, DataSpec((1,), classes=classes))


def records(*counts: int) -> ganrun.Split:
    """So many records of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return ganrun.Split(np.zeros((len(labels), 1), np.float32), labels)


def assert_drawn(classes: torch.Tensor, *counts: int) -> None:
    """One-hot classes are drawn independently, each in proportion to its count."""
    assert torch.equal(classes.sum(1), torch.ones(len(classes)))
    for found, count in zip(classes.mean(0).tolist(), counts, strict=True):
        share = count / sum(counts)
        assert abs(found - share) <= 5 * math.sqrt(share * (1 - share) / len(classes)), "five standard errors"


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any), seed=st.integers(0, 2**32))
def test_classes_are_drawn_in_proportion_to_their_records(counts, seed):
    loss = as_data(classes=len(counts))
    loss.prepare(records(*counts))
    with ganrun.isolated_random(CPU, seed):
        assert_drawn(loss.latents(4000, CPU)[:, 1:], *counts)


def test_before_records_are_known_classes_are_drawn_equally():
    """As `ganrun check` tries it; and so does a model whose run never counted."""
    assert_drawn(as_data().latents(9000, CPU)[:, 1:], 1, 1, 1)


def test_large_counts_keep_their_proportions():
    loss = as_data()
    loss.memory.class_counts.copy_(torch.tensor([2.0**27, 3 * 2.0**27, 0]))
    assert_drawn(loss.latents(9000, CPU)[:, 1:], 1, 3, 0)


def test_records_without_labels_have_no_classes_to_draw():
    unlabelled = ganrun.Split(np.zeros((4, 1), np.float32))
    with pytest.raises(ganrun.IncompatibleError, match=r'draw_classes = "as-data" needs labels, and .* have none$'):
        as_data().prepare(unlabelled)
    loss(ConditionalGan).prepare(unlabelled)


def test_equal_classes_leave_nothing_in_a_checkpoint():
    assert not dict(loss(ConditionalGan).memory.named_buffers())


@pytest.mark.parametrize("component", [ConditionalGan, AuxiliaryClassifierGan, ConditionalHingeGan])
def test_the_losses_conform_with_the_datas_classes(component):
    assert_conforms("loss", component, {"noise_size": 5, "draw_classes": "as-data"}, DataSpec((3, 8, 8), classes=4))


DRAWING = [
    each.name
    for each in load_registry().components("loss")
    if "draw_classes" in setting_names(each.cls.Settings) and each.cls.label_factor == "class"
]
"""Every installed loss that can draw the data's classes as in the data."""

STYLED = {"use": "stylegan2", "width": 8, "widest": 4}
NETWORKS = {"conditional-stylegan2": {"generator": {**STYLED, "style_size": 4}, "discriminator": STYLED}}


def test_every_loss_with_classes_is_among_those_tried():
    assert {"cgan", "acgan", "conditional-hinge", "conditional-wgan-gp", "conditional-r3gan"} < set(DRAWING)


@pytest.mark.parametrize("use", DRAWING)
def test_a_run_draws_its_datas_classes_from_the_first_step_on(use, tmp_path):
    """In a share of the data, after a resume, and in a loaded model."""
    tables = recipe(use) | NETWORKS.get(use, {}) | {"data": {"use": "unbalanced"}}
    tables["checkpoints"] = {"every_steps": 1, "keep": 2}
    tables["loss"] |= {"draw_classes": "as-data"}
    tables["train"] = {"steps": 2, "batch_size": 4, "device": "cpu", "share": 0.5, "repeat": {"discriminator": 1}}
    plugin, shown = UnbalancedPlugin(), (18, 6, 0)

    def assert_as_data(model: ganrun.Model) -> None:
        assert model.loss.memory.class_counts.tolist() == list(shown)
        assert_drawn(model.loss.latents(4000, CPU)[:, -3:], *shown)

    started = build(tables, tmp_path / "run", plugin)
    assert_as_data(started.model)
    execute(started)
    assert_as_data(started.model)
    shutil.rmtree(ganrun.checkpoints_in(tmp_path / "run")[-1])
    assert_as_data(train(tables, tmp_path / "run", plugin, resume=True).model)
    assert_as_data(ganrun.find_saved_model(tmp_path / "run", registry_with(plugin)).model("cpu"))


def test_counts_of_an_earlier_version_are_kept(tmp_path):
    """It counted the images that it had been shown, and halved the counts now and then."""
    tables = recipe("cgan") | {"data": {"use": "unbalanced"}, "checkpoints": {"every_steps": 1}}
    tables["loss"] |= {"draw_classes": "as-data"}
    tables["train"]["steps"] = 1
    train(tables, tmp_path / "run", UnbalancedPlugin())
    (place,) = ganrun.checkpoints_in(tmp_path / "run")
    saved = ganrun.load_checkpoint(place)
    older = {**saved.weights, "loss": {"class_counts": torch.tensor([1.5, 0.0, 4.5])}}
    shutil.rmtree(place)
    ganrun.save_checkpoint(saved._replace(weights=older), place)
    tables["train"]["steps"] = 2
    loaded = ganrun.find_saved_model(place, registry_with(UnbalancedPlugin())).model("cpu")
    resumed = train(tables, tmp_path / "run", UnbalancedPlugin(), resume=True).model
    for model in (loaded, resumed):
        assert_drawn(model.loss.latents(4000, CPU)[:, -3:], 1, 0, 3)


# ── cgan: D(x|y) = σ(x + 10 y), G(z|y) = z − y ────────────────────────────────────────────────────────────

CONDITIONAL = Nets(
    {
        "discriminator": lambda x, labels: x + 10 * labels[:, None],
        "generator": lambda z, labels: z - labels[:, None],
    }
)


def test_both_of_cgans_networks_see_the_class_of_their_own_images():
    terms = loss(ConditionalGan).discriminator(CONDITIONAL, BATCH).minimise
    real = [2.0 + 10 * 1, -1.0 + 10 * 2]
    fake = [0.5 - 2 + 10 * 2, -3.0 - 0 + 10 * 0]
    assert terms["real"].item() == pytest.approx(sum(softplus(-x) for x in real) / 2)
    assert terms["fake"].item() == pytest.approx(sum(softplus(x) for x in fake) / 2)


def test_cgans_generator_is_judged_as_the_class_that_it_was_asked_for():
    terms = loss(ConditionalGan).generator(CONDITIONAL, BATCH).minimise
    assert terms["fake"].item() == pytest.approx((softplus(-18.5) + softplus(3.0)) / 2)


def test_a_sample_is_of_the_class_in_its_latents():
    samples = loss(ConditionalGan).generate(CONDITIONAL, BATCH.latents, None)
    assert samples.tolist() == [[0.5 - 2], [-3.0]]


# ── conditional-hinge and conditional-wgan-gp, on the same networks ───────────────────────────────────────

REAL = [2.0 + 10 * 1, -1.0 + 10 * 2]
FAKE = [0.5 - 2 + 10 * 2, -3.0 - 0 + 10 * 0]


@pytest.mark.parametrize(
    ("component", "settings"),
    [
        (ConditionalHingeGan, {}),
        (ConditionalHingeGan, {"dequantise": True, "generator_samples": 2, "draw_classes": "as-data"}),
        (ConditionalHingeGan, {"top_share": {"schedule": "exponential", "start": 1.0, "end": 0.5}}),
        (ConditionalPenalisedWassersteinGan, {"sided": "one"}),
        (ConditionalPenalisedWassersteinGan, {"dequantise": True, "generator_samples": 2}),
    ],
)
def test_the_losses_of_critics_conform(component, settings):
    assert_conforms("loss", component, {"noise_size": 5, **settings}, DataSpec((3, 8, 8), classes=4))


def test_hinge_with_classes_is_the_formula():
    hinge = loss(ConditionalHingeGan)
    terms = hinge.discriminator(CONDITIONAL, BATCH).minimise
    assert terms["real"].item() == pytest.approx(sum(max(0.0, 1 - x) for x in REAL) / 2) == 0
    assert terms["fake"].item() == pytest.approx(sum(max(0.0, 1 + x) for x in FAKE) / 2)
    assert hinge.generator(CONDITIONAL, BATCH).minimise["fake"].item() == pytest.approx(-sum(FAKE) / 2)
    below = Nets({"discriminator": lambda x, labels: x / 10, "generator": CONDITIONAL.generator})
    assert hinge.discriminator(below, BATCH).minimise["real"].item() == pytest.approx((0.8 + 1.1) / 2)


def test_the_penalty_with_classes_is_at_the_real_images_labels():
    """D(x|y) = x² / 2 + (y + 1) x has the gradient x + y + 1. At x̂ = x, where samples equal images: 2 + 1 + 1."""
    quadratic = Nets(
        {
            "discriminator": lambda x, labels: x.square() / 2 + (labels[:, None] + 1) * x,
            "generator": lambda z, labels: IMAGES.to(z),
        }
    )
    found = loss(ConditionalPenalisedWassersteinGan, penalty_weight=3.0).discriminator(quadratic, BATCH)
    gradients = [2.0 + 1 + 1, -1.0 + 2 + 1]
    expected = 3 * sum((abs(each) - 1) ** 2 for each in gradients) / 2
    assert found.minimise["penalty"].item() == pytest.approx(expected, rel=1e-5)
    real, fake = [2 + 2 * 2, 0.5 - 3 * 1], [2 + 3 * 2, 0.5 - 1 * 1]
    assert found.minimise["real"].item() == pytest.approx(-sum(real) / 2)
    assert found.minimise["fake"].item() == pytest.approx(sum(fake) / 2)
    assert found.report["wasserstein"].item() == pytest.approx((sum(real) - sum(fake)) / 2)
    critic, _ = loss(ConditionalPenalisedWassersteinGan).phases()
    assert (
        critic.second_order
        and critic.name == "critic"
        and ConditionalPenalisedWassersteinGan.repeat == {"discriminator": 5}
    )


def test_the_generator_may_have_more_samples_than_the_critic():
    calls = []
    counting = Nets(
        {
            "discriminator": lambda x, labels: x + 0 * labels[:, None],
            "generator": lambda z, labels: calls.append(z) or z - labels[:, None],
        }
    )
    hinge = loss(ConditionalHingeGan, generator_samples=3)
    hinge.discriminator(counting, BATCH)
    hinge.generator(counting, BATCH)
    assert [len(each) for each in calls] == [2, 6]
    assert torch.equal(calls[1][:2], NOISE) and len(calls[1].unique()) == 6


def test_dequantised_levels_are_uniform_between_their_neighbours():
    levels = torch.arange(256.0).repeat(400, 1)
    found = (dequantised(levels / 127.5 - 1) + 1) * 128
    assert (found >= levels - 1e-3).all() and (found <= levels + 1 + 1e-3).all()
    assert abs((found - levels).mean() - 0.5) < 5 * math.sqrt(1 / 12 / levels.numel())
    images = dequantised(torch.tensor([-1.0, 1.0]))
    assert -1 <= images[0] < -1 + 1 / 128 + 1e-6 and 1 - 1 / 128 - 1e-6 < images[1] <= 1


def test_real_images_alone_are_dequantised_and_regularisers_see_the_same():
    spec = DataSpec((1, 2, 2), classes=3)
    hinge = ConditionalHingeGan(ConditionalHingeGan.Settings(noise_size=1, dequantise=True), spec)
    batch = Batch(BATCH.latents, torch.zeros(2, 1, 2, 2), LABELS)
    seen = []
    nets = Nets(
        {
            "discriminator": lambda x, labels: seen.append(x) or x.flatten(1)[:, :1],
            "generator": lambda z, labels: torch.zeros(2, 1, 2, 2),
        }
    )
    hinge.discriminator(nets, batch)
    assert seen[0].any() and not seen[1].any()
    assert hinge.real_inputs("discriminator", batch).inputs.ne(0).all()
    with pytest.raises(ganrun.IncompatibleError, match="works on images"):
        loss(ConditionalHingeGan, dequantise=True)


def test_only_the_best_samples_teach_the_generator():
    values = torch.tensor([3.0, -1.0, 2.0, 0.0, 1.0], requires_grad=True)
    mean = top_mean(values, torch.tensor(0.5))
    assert mean.item() == pytest.approx((3 + 2 + 1) / 3), "the best three of five"
    mean.backward()
    torch.testing.assert_close(values.grad, torch.tensor([1, 0, 1, 0, 1]) / 3)
    torch.testing.assert_close(top_mean(values, torch.tensor(1.0)), values.mean())
    top = loss(ConditionalHingeGan, top_share=0.5)
    assert top.generator(CONDITIONAL, BATCH).minimise["fake"].item() == pytest.approx(-max(FAKE))


# ── acgan: outputs (x, x, −x, 0), so that all logits are known ────────────────────────────────────────────

CLASSIFYING = Nets(
    {
        "discriminator": lambda x: torch.cat([x, x, -x, 0 * x], dim=1),
        "generator": lambda z, labels: z - labels[:, None],
    }
)


def test_acgans_discriminator_maximises_the_source_and_the_class_of_both_kinds():
    terms = loss(AuxiliaryClassifierGan, class_weight=0.7).discriminator(CLASSIFYING, BATCH)
    fake = [-1.5, -3.0]
    assert terms.minimise["real"].item() == pytest.approx((softplus(-2.0) + softplus(1.0)) / 2)
    assert terms.minimise["fake"].item() == pytest.approx(sum(map(softplus, fake)) / 2)
    of_real = [log_softmax([2.0, -2.0, 0.0], 1), log_softmax([-1.0, 1.0, 0.0], 2)]
    of_fake = [log_softmax([-1.5, 1.5, 0.0], 2), log_softmax([-3.0, 3.0, 0.0], 0)]
    assert terms.minimise["class_real"].item() == pytest.approx(-0.7 * sum(of_real) / 2)
    assert terms.minimise["class_fake"].item() == pytest.approx(-0.7 * sum(of_fake) / 2)
    assert terms.report["accuracy_real"].item() == 0.0 == terms.report["accuracy_fake"].item()


def test_acgans_generator_wants_to_be_real_and_recognised():
    terms = loss(AuxiliaryClassifierGan).generator(CLASSIFYING, BATCH).minimise
    assert terms["fake"].item() == pytest.approx((softplus(1.5) + softplus(3.0)) / 2)
    of_fake = [log_softmax([-1.5, 1.5, 0.0], 2), log_softmax([-3.0, 3.0, 0.0], 0)]
    assert terms["class"].item() == pytest.approx(-sum(of_fake) / 2)


def test_acgan_reads_the_class_off_an_image_and_leaves_the_noise_open():
    encodings = loss(AuxiliaryClassifierGan).readings()["encodings"]
    read = encodings(CLASSIFYING, Batch(BATCH.latents, torch.tensor([[2.0]])))
    assert read[0, 0] == 0
    torch.testing.assert_close(read[0, 1:], torch.tensor([2.0, -2.0, 0.0]).softmax(0))


@pytest.mark.parametrize("component", [ConditionalGan, AuxiliaryClassifierGan])
def test_data_that_declares_classes_but_has_no_labels_is_named_as_the_fault(component):
    nets = CONDITIONAL if component is ConditionalGan else CLASSIFYING
    with pytest.raises(ContractError, match=r"^the data declares classes, but its training images have no labels$"):
        loss(component).discriminator(nets, Batch(BATCH.latents, IMAGES))


# ── In a run ──────────────────────────────────────────────────────────────────────────────────────────────


def recipe(use: str, generator: str = "mlp") -> dict:
    return {
        "train": {"steps": 3, "batch_size": 8, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": use, "noise_size": 6},
        "generator": {"use": generator},
        "discriminator": {"use": "mlp"},
        "mlflow": False,
        "progress": False,
    }


@pytest.mark.parametrize("use", ["cgan", "acgan"])
def test_a_run_gives_each_network_what_its_slot_says(use, tmp_path):
    run = train(recipe(use), tmp_path / "run")
    assert run.model.spec.factors == (Factor("noise", 6, "noise"), Factor("class", 10, "categorical"))
    latents = run.model.fixed_latents(4)
    assert latents.shape == (4, 16)
    others = torch.cat([latents[:, :6], latents[:, 6:].roll(1, dims=1)], dim=1)
    assert not torch.equal(run.model.decode(latents), run.model.decode(others)), "another class, another sample"


class Deaf(Generator):
    """Takes labels and ignores them."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layer = nn.Linear(*spec.inputs, 64)

    def forward(self, latents, labels=None):
        return self.layer(latents).tanh().unflatten(1, (1, 8, 8))


class DeafPlugin:
    @ganrun.hookimpl
    def ganrun_generators(self):
        return {"deaf": Deaf}


def test_a_network_that_ignores_the_class_is_refused_before_training(tmp_path):
    with pytest.raises(RequestError, match=r"\[generator\] deaf.*ignores its labels"):
        build(recipe("cgan", "deaf"), tmp_path / "run", DeafPlugin())
    assert not (tmp_path / "run").exists()


class Unlabelled(ganrun.Data):
    """Noise without labels."""

    def spec(self):
        return DataSpec((1, 8, 8))

    def prepare(self):
        return None

    def split(self, name):
        raise AssertionError("not needed")


class UnlabelledPlugin:
    @ganrun.hookimpl
    def ganrun_data(self):
        return {"unlabelled": Unlabelled}


class Unbalanced(ganrun.Data):
    """Images of three classes: 36 of the first, 12 of the second, and none of the third."""

    def spec(self):
        return DataSpec((1, 8, 8), classes=3)

    def prepare(self):
        return None

    def split(self, name):
        images = np.arange(48 * 64, dtype=np.uint8).reshape(48, 1, 8, 8)
        return ganrun.Split(images, np.arange(48) % 4 // 3)


class UnbalancedPlugin:
    @ganrun.hookimpl
    def ganrun_data(self):
        return {"unbalanced": Unbalanced}


def test_a_single_class_is_no_condition(tmp_path):
    tables = recipe("cgan") | {"data": {"use": "synthetic", "size": 8, "classes": 1}}
    with pytest.raises(RequestError, match=r"\[loss\] cgan.*needs labels of at least 2.*the data has 1 class$"):
        build(tables, tmp_path / "run")


def test_data_without_labels_is_refused_before_training(tmp_path):
    tables = recipe("acgan") | {"data": {"use": "unlabelled"}}
    with pytest.raises(RequestError, match=r"\[loss\] acgan.*needs labels.*the data has no labels"):
        build(tables, tmp_path / "run", UnlabelledPlugin())
