"""The first GAN: its losses against the paper, its networks against their contract."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ganrun import Batch, MisfitError, Nets, Problem
from ganrun.testing import assert_conforms
from ganrun_vanilla.losses import LeastSquaresGan, MinimaxGan, NonSaturatingGan
from ganrun_vanilla.networks import ConvDiscriminator, ConvGenerator, MlpDiscriminator, MlpGenerator

POINT = Problem((1,), latent_size=1)


def nets(slope: float) -> Nets:
    """D(x) = σ(slope · x) and G(z) = z, so that every value below can be worked out by hand."""
    return Nets({"discriminator": lambda x: slope * x, "generator": lambda z: z})


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


REAL, FAKE = [2.0, -1.0], [0.5, -3.0]
BATCH = Batch(torch.tensor(FAKE)[:, None], torch.tensor(REAL)[:, None])


@pytest.mark.parametrize("loss", [NonSaturatingGan, MinimaxGan])
def test_the_discriminator_minimises_the_papers_cross_entropy(loss):
    terms = loss(loss.Settings(), POINT).discriminator(nets(0.7), BATCH)
    assert terms.minimise["real"].item() == pytest.approx(-sum(math.log(sigmoid(0.7 * x)) for x in REAL) / 2)
    assert terms.minimise["fake"].item() == pytest.approx(-sum(math.log(1 - sigmoid(0.7 * x)) for x in FAKE) / 2)


def test_the_two_generators_objectives():
    saturating = MinimaxGan(MinimaxGan.Settings(), POINT).generator(nets(0.7), BATCH)
    assert saturating.minimise["fake"].item() == pytest.approx(sum(math.log(1 - sigmoid(0.7 * x)) for x in FAKE) / 2)
    usual = NonSaturatingGan(NonSaturatingGan.Settings(), POINT).generator(nets(0.7), BATCH)
    assert usual.minimise["fake"].item() == pytest.approx(-sum(math.log(sigmoid(0.7 * x)) for x in FAKE) / 2)


def test_only_the_non_saturating_generator_learns_from_a_discriminator_that_is_sure():
    gradients = []
    for loss in (NonSaturatingGan, MinimaxGan):
        logit = torch.tensor([[-20.0]], requires_grad=True)
        loss(loss.Settings(), POINT).generator_loss(logit).backward()
        gradients.append(logit.grad.item())
    assert gradients[0] == pytest.approx(-1.0, abs=1e-6), "d/dl softplus(-l) = -σ(-l)"
    assert gradients[1] == pytest.approx(-sigmoid(-20.0), rel=1e-4), "d/dl -softplus(l) = -σ(l), which vanishes"


def test_losses_stay_finite_for_extreme_logits():
    terms = NonSaturatingGan(NonSaturatingGan.Settings(), POINT).discriminator(
        nets(1.0), Batch(torch.tensor([[1e4]]), torch.tensor([[-1e4]]))
    )
    assert [value.item() for value in terms.minimise.values()] == [1e4, 1e4]


def test_least_squares_are_taken_of_the_raw_output():
    loss = LeastSquaresGan(LeastSquaresGan.Settings(), POINT)
    terms = loss.discriminator(nets(0.5), BATCH).minimise
    assert terms["real"].item() == pytest.approx(((1.0 - 1) ** 2 + (-0.5 - 1) ** 2) / 2 / 2)
    assert terms["fake"].item() == pytest.approx((0.25**2 + (-1.5) ** 2) / 2 / 2)
    generator = loss.generator(nets(0.5), BATCH).minimise
    assert generator["fake"].item() == pytest.approx(((0.25 - 1) ** 2 + (-1.5 - 1) ** 2) / 2 / 2)


def test_the_least_squares_generator_is_pulled_from_both_sides():
    """Where cross-entropy is content: a sample far on the side of the real ones."""
    gradients = []
    for loss in (LeastSquaresGan, NonSaturatingGan):
        output = torch.tensor([[-20.0], [20.0]], requires_grad=True)
        loss(loss.Settings(), POINT).generator_loss(output).backward()
        gradients.append(output.grad.flatten().tolist())
    assert gradients[0] == pytest.approx([-21 / 2, 19 / 2])
    assert gradients[1] == pytest.approx([-1 / 2, 0.0], abs=1e-6)


@pytest.mark.parametrize("loss", [NonSaturatingGan, MinimaxGan, LeastSquaresGan])
def test_losses_conform(loss):
    assert_conforms("loss", loss)


@pytest.mark.parametrize("settings", [{}, {"hidden": [], "norm": "none"}, {"hidden": [40, 20], "norm": "batch"}])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 7, 5), (2,)])
def test_the_dense_generator_conforms_for_any_shape(settings, shape):
    assert_conforms("generator", MlpGenerator, settings, Problem(shape, latent_size=16))


@pytest.mark.parametrize("settings", [{}, {"hidden": []}, {"hidden": [30], "dropout": 0.3}])
def test_the_dense_discriminator_conforms(settings):
    assert_conforms("discriminator", MlpDiscriminator, settings)


@pytest.mark.parametrize(("stages", "size"), [(1, 6), (2, 28), (3, 32), (4, 16)])
def test_the_convolutional_networks_conform(stages, size):
    problem = Problem((3, size, size), latent_size=16, out_features=5)
    settings = {"stages": stages, "feature_maps": 4}
    assert_conforms("generator", ConvGenerator, settings, problem)
    for norm in ("none", "batch"):
        assert_conforms("discriminator", ConvDiscriminator, {**settings, "norm": norm}, problem)


@pytest.mark.parametrize("component", [ConvGenerator, ConvDiscriminator])
def test_a_size_that_cannot_be_halved_so_often_is_refused(component):
    with pytest.raises(MisfitError, match=r"stages = 3 it takes sizes divisible by 8, not 28×28"):
        component(component.Settings(), Problem((1, 28, 28), latent_size=4))
    with pytest.raises(MisfitError, match=r"works on images"):
        component(component.Settings(), Problem((2,), latent_size=4))


def test_the_convolutional_networks_start_as_dcgan_prescribes():
    problem = Problem((3, 32, 32), latent_size=64)
    modules = [*ConvGenerator(ConvGenerator.Settings(), problem).modules()]
    modules += ConvDiscriminator(ConvDiscriminator.Settings(), problem).modules()
    weights = [m.weight for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    scales = torch.cat([m.weight for m in modules if isinstance(m, nn.BatchNorm2d)])
    pooled = torch.cat([weight.flatten() for weight in weights])
    assert pooled.mean().item() == pytest.approx(0, abs=1e-4) and pooled.std().item() == pytest.approx(0.02, rel=0.01)
    assert scales.mean().item() == pytest.approx(1, abs=0.005) and scales.std().item() == pytest.approx(0.02, rel=0.15)
    assert all(torch.all(m.bias == 0) for m in modules if getattr(m, "bias", None) is not None)


def test_batch_norm_is_absent_from_the_generators_output_and_the_discriminators_input():
    problem = Problem((3, 32, 32), latent_size=8)
    generator = list(ConvGenerator(ConvGenerator.Settings(), problem).layers)
    discriminator = list(ConvDiscriminator(ConvDiscriminator.Settings(), problem).layers)
    assert [type(layer) for layer in generator[-2:]] == [nn.ConvTranspose2d, nn.Tanh]
    assert [type(layer) for layer in discriminator[:2]] == [nn.Conv2d, nn.LeakyReLU]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in discriminator) == 2
