"""Class-conditional GANs: objectives against the papers by hand, and the class in a real run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ganrun
from ganrun import Batch, ContractError, DataSpec, Factor, Generator, Nets, RequestError
from ganrun.testing import assert_conforms, build, train
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


def test_a_single_class_is_no_condition(tmp_path):
    tables = recipe("cgan") | {"data": {"use": "synthetic", "size": 8, "classes": 1}}
    with pytest.raises(RequestError, match=r"\[loss\] cgan.*needs labels of at least 2.*the data has 1 class$"):
        build(tables, tmp_path / "run")


def test_data_without_labels_is_refused_before_training(tmp_path):
    tables = recipe("acgan") | {"data": {"use": "unlabelled"}}
    with pytest.raises(RequestError, match=r"\[loss\] acgan.*needs labels.*the data has no labels"):
        build(tables, tmp_path / "run", UnlabelledPlugin())
