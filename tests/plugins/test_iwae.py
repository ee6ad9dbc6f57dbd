"""The importance-weighted autoencoder: its bound against weights composed of torch's densities and a model whose
likelihood is known, and pixels drawn as black or white."""

from __future__ import annotations

import math

import pytest
import torch
from tests.plugins.test_vae import IMAGES, SIGMA, X, uniform
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

import ganrun_vae
from ganrun import Batch, DataSpec, IncompatibleError, Nets, RequestError
from ganrun.testing import assert_conforms, build
from ganrun_vae.autoencoder import Posterior
from ganrun_vae.importance import ImportanceWeightedAutoencoder
from ganrun_vae.losses import VariationalAutoencoder
from ganrun_vae.pixels import binarized

SIZE, COUNT, SAMPLES = 3, 5, 4
POINTS = DataSpec((2,))


def iwae(spec: DataSpec = IMAGES, **settings: object) -> ImportanceWeightedAutoencoder:
    chosen = {"latent_size": SIZE, "importance_samples": SAMPLES, **settings}
    return ImportanceWeightedAutoencoder(ImportanceWeightedAutoencoder.Settings(**chosen), spec)


def networks() -> dict[str, nn.Module]:
    """Linear ones in float64, from and to the images of `IMAGES`."""
    torch.manual_seed(2)
    decoder = nn.Sequential(nn.Linear(SIZE, 60), nn.Tanh(), nn.Unflatten(1, IMAGES.sample_shape))
    return {"generator": decoder.double(), "encoder": nn.Sequential(nn.Flatten(), nn.Linear(60, 2 * SIZE)).double()}


def batch(images: Tensor | None = None) -> Batch:
    images = uniform(COUNT, *IMAGES.sample_shape).double() if images is None else images
    return Batch(uniform(COUNT, SIZE).double(), images)


LIKELIHOODS = {
    "bernoulli": ({}, lambda made, images: Bernoulli((1 + made) / 2, validate_args=False).log_prob((1 + images) / 2)),
    "fixed-variance": ({"sigma": 0.7}, lambda made, images: Normal(made, 0.7).log_prob(images)),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_bound_and_its_gradient_are_those_of_weights_from_densities(likelihood):
    settings, log_prob = LIKELIHOODS[likelihood]
    loss, modules, records = iwae(likelihood=likelihood, **settings), networks(), batch()
    torch.manual_seed(7)
    terms = loss.objective(Nets(modules), records)
    torch.manual_seed(7)
    noise = torch.cat([records.latents[None], torch.randn(SAMPLES - 1, COUNT, SIZE)])
    mean, log_variance = modules["encoder"](records.images).chunk(2, 1)
    encoder = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    latents = mean + noise * (0.5 * log_variance).exp()
    prior = Independent(Normal(torch.zeros(SIZE).double(), 1.0), 1)
    made = torch.stack([modules["generator"](each) for each in latents])
    log_p = log_prob(made, records.images).flatten(2).sum(2)
    log_weights = log_p + prior.log_prob(latents) - encoder.log_prob(latents)
    expected = -log_weights.exp().mean(0).log().mean()
    assert terms.minimise["negative_bound"].item() == pytest.approx(expected.item(), rel=1e-10)
    assert terms.report["elbo"].item() == pytest.approx(log_weights.mean().item(), rel=1e-10)
    shares = log_weights.softmax(0).detach()
    assert terms.report["effective_samples"].item() == pytest.approx((1 / (shares**2).sum(0)).mean().item(), rel=1e-10)
    weights = [weight for module in modules.values() for weight in module.parameters()]
    ours = torch.autograd.grad(terms.minimise["negative_bound"], weights)
    theirs = torch.autograd.grad(-(shares * log_weights).sum(0).mean(), weights)  # equation 14
    assert all(torch.allclose(one, other, rtol=1e-8, atol=1e-12) for one, other in zip(ours, theirs, strict=True))


def test_with_the_exact_posterior_every_weight_is_the_likelihood():
    slope, offset = 0.8, -0.3
    marginal = slope**2 + SIGMA**2
    log_variance = torch.full((len(X), 1), math.log(SIGMA**2 / marginal), dtype=torch.float64)
    nets = Nets(
        {
            "generator": lambda z: slope * z + offset,
            "encoder": lambda x: torch.cat([slope * (x - offset) / marginal, log_variance], 1),
        }
    )
    loss = iwae(DataSpec((1,)), latent_size=1, likelihood="fixed-variance", sigma=SIGMA)
    terms = loss.objective(nets, Batch(torch.randn(len(X), 1).double(), X[:, None]))
    expected = Normal(offset, marginal**0.5).log_prob(X).mean().item()
    assert -terms.minimise["negative_bound"].item() == pytest.approx(expected, abs=1e-6)
    assert terms.report["effective_samples"].item() == pytest.approx(SAMPLES, abs=1e-4)


def test_one_sample_is_the_bound_of_a_vae_on_average():
    """Their expectations are equal: the VAE has the divergence in closed form, and the other one samples it."""
    modules, records = networks(), batch()
    nets, many = Nets(modules), 2_000
    encoded = Posterior(*modules["encoder"](records.images).detach().chunk(2, 1))
    with torch.no_grad():
        sampled = iwae().log_weights(nets, records.images, encoded, torch.randn(many, COUNT, SIZE).double())
    vae = VariationalAutoencoder(VariationalAutoencoder.Settings(latent_size=SIZE, likelihood="bernoulli"), IMAGES)
    repeated = Batch(torch.randn(2000, SIZE).double(), records.images.repeat(400, 1, 1, 1))
    with torch.no_grad():
        expected = vae.objective(nets, repeated).report["elbo"].item()
    assert sampled.mean().item() == pytest.approx(expected, abs=0.2)


# ── Black and white ───────────────────────────────────────────────────────────────────────────────────────


def test_pixels_are_white_as_often_as_their_grey_value_says():
    grey = torch.tensor([-1.0, -0.5, 0.2, 1.0])
    drawn = binarized(grey.repeat(20_000, 1))
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(drawn.mean(0), grey, atol=0.03) and drawn.mean(0)[[0, 3]].tolist() == [-1, 1]


@pytest.mark.parametrize("loss", [ImportanceWeightedAutoencoder, VariationalAutoencoder])
def test_with_dynamic_binarisation_each_update_sees_new_black_and_white_images(loss):
    seen: list[Tensor] = []
    modules = networks()
    nets = Nets({"generator": modules["generator"], "encoder": lambda x: seen.append(x) or modules["encoder"](x)})
    settings = loss.Settings(latent_size=SIZE, likelihood="bernoulli", binarization="dynamic")
    records = batch()
    terms = [loss(settings, IMAGES).objective(nets, records) for _ in range(2)]
    assert all(set(images.unique().tolist()) == {-1.0, 1.0} for images in seen)
    assert not torch.equal(*seen)
    assert len({sum(each.minimise.values()).item() for each in terms}) == 2
    black_and_white = batch(seen[0])
    loss(settings, IMAGES).objective(nets, black_and_white)
    assert torch.equal(seen[2], seen[0]), "what is black or white stays"


# ── Settings and contract ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "settings",
    [{"binarization": "dynamic"}, {"likelihood": "fixed-variance", "sigma": 0.3, "importance_samples": 1}],
)
def test_it_conforms(settings):
    assert_conforms("loss", ImportanceWeightedAutoencoder, settings)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"use": "iwae", "likelihood": "gaussian"}, r"likelihood"),
        ({"use": "iwae", "likelihood": "fixed-variance"}, r"needs it; say sigma = 1\.0"),
        ({"use": "vae", "binarization": "dynamic"}, r'"dynamic" is for likelihood = "bernoulli", which is "gaussian"'),
        ({"use": "iwae", "importance_samples": 0}, r"importance_samples"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, loss, message):
    tables = {
        "train": {"steps": 1, "batch_size": 8, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": loss,
        "generator": {"use": "mlp", "hidden": [4]},
        "encoder": {"use": "mlp", "hidden": [4]},
        **dict.fromkeys(("mlflow", "samples", "checkpoints", "progress"), False),
    }
    with pytest.raises(RequestError, match=message):
        build(tables, tmp_path / "run", ganrun_vae)


def test_points_need_a_variance():
    with pytest.raises(
        IncompatibleError, match=r'^likelihood "bernoulli" needs images, .* say "fixed-variance", and a'
    ):
        iwae(POINTS)
