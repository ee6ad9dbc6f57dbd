"""The variational autoencoder: its bound against models whose likelihood is known exactly, and a real run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

import ganrun_vae
from ganrun import Batch, Buffer, DataSpec, IncompatibleError, Nets, RequestError
from ganrun.testing import assert_conforms, build, train
from ganrun_vae import losses, pixels
from ganrun_vae.losses import VariationalAutoencoder

POINT = DataSpec((1,))
IMAGES = DataSpec((3, 4, 5))


def vae(spec: DataSpec = POINT, **settings: object) -> VariationalAutoencoder:
    return VariationalAutoencoder(VariationalAutoencoder.Settings(**{"latent_size": 1, **settings}), spec)


def mean_loss(samples: Tensor, images: Tensor, **settings: object) -> tuple[Tensor, dict[str, Tensor]]:
    losses, facts = vae(IMAGES, **settings).pixel_loss(samples, images)
    return losses.mean(), facts


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 1.98 - 0.99


# ── The bound ─────────────────────────────────────────────────────────────────────────────────────────────

SIGMA = 0.6
X = torch.tensor([-0.9, 0.2, 0.7], dtype=torch.float64)
EPSILON = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(X))[:, None]
"""Over ε = ±1 the mean of a quadratic in ε is its mean over N(0, 1), so nothing below is random."""


class LinearGaussian:
    """p(x|z) = N(w z + b, SIGMA²) with an encoder of free slope, offset and log variance."""

    def __init__(self) -> None:
        self.w, self.b = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.8, -0.3))
        marginal = self.w.item() ** 2 + SIGMA**2
        posterior = (self.w.item() / marginal, -self.w.item() * self.b.item() / marginal, math.log(SIGMA**2 / marginal))
        self.posterior = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in posterior]

    def terms(self, **settings: object):
        slope, offset, log_variance = self.posterior
        nets = Nets(
            {
                "generator": lambda z: self.w * z + self.b,
                "encoder": lambda x: torch.cat([slope * x + offset, log_variance.expand(x.shape)], 1),
            }
        )
        batch = Batch(EPSILON, X.repeat_interleave(2)[:, None])
        return vae(likelihood="fixed-variance", sigma=SIGMA, **settings).objective(nets, batch)

    def log_likelihood(self) -> Tensor:
        return Normal(self.b, (self.w**2 + SIGMA**2).sqrt()).log_prob(X).mean()


def test_with_the_exact_posterior_the_bound_is_the_log_likelihood():
    model = LinearGaussian()
    assert model.terms().report["elbo"].item() == pytest.approx(model.log_likelihood().item(), abs=1e-6)


def test_there_its_gradient_is_the_log_likelihoods_and_the_encoder_is_at_its_optimum():
    model = LinearGaussian()
    expected = torch.autograd.grad(-model.log_likelihood(), [model.w, model.b])
    loss = sum(model.terms().minimise.values())
    decoder = torch.autograd.grad(loss, [model.w, model.b], retain_graph=True)
    assert torch.allclose(torch.stack(decoder), torch.stack(expected), atol=1e-6)
    assert torch.stack(torch.autograd.grad(loss, model.posterior)).abs().max() < 1e-6


def test_elsewhere_the_bound_is_lower_by_the_divergence_from_the_posterior():
    model = LinearGaussian()
    slope, offset, log_variance = (value.detach().clone() for value in model.posterior)
    exact = Normal(slope * X + offset, (0.5 * log_variance).exp())
    model.posterior[1].data += 0.4
    model.posterior[2].data -= 0.9
    guess = Normal(slope * X + offset + 0.4, (0.5 * (log_variance - 0.9)).exp())
    gap = kl_divergence(guess, exact).mean().item()
    assert gap > 0.2
    assert model.terms().report["elbo"].item() == pytest.approx(model.log_likelihood().item() - gap, abs=1e-6)


def test_the_divergence_is_a_sum_over_latent_dimensions():
    mean, log_variance = 2 * uniform(5, 7), 3 * uniform(5, 7)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(losses.kl_divergence(mean, log_variance), expected, rtol=1e-5)
    assert losses.kl_divergence(torch.zeros(1, 7), torch.zeros(1, 7)).item() == 0


def test_beta_weighs_the_divergence_alone_and_warms_up_from_0():
    nets = Nets({"generator": lambda z: z, "encoder": lambda x: torch.cat([x + 1, x], 1)})
    batch = {
        step: Batch(EPSILON.float(), uniform(6, 1), steps_done=torch.tensor(float(step)))
        for step in (0, 250, 1000, 5000)
    }

    def terms(step: int, **settings: object):
        return vae(**settings).objective(nets, batch[step])

    kl = terms(0).report["kl"].item()
    weights = [terms(step, beta=4.0, warmup_steps=1000).minimise["weighted_kl"].item() / kl for step in batch]
    assert weights == pytest.approx([0, 1, 4, 4])
    assert terms(0, beta=0.25).minimise["weighted_kl"].item() == pytest.approx(0.25 * kl)
    reconstructions = {terms(step, beta=3.0, warmup_steps=9).minimise["reconstruction"].item() for step in batch}
    assert len(reconstructions) == 1
    warming_up = terms(250, beta=9.0, warmup_steps=1000)
    assert warming_up.report["elbo"].item() == pytest.approx(-warming_up.minimise["reconstruction"].item() - kl)


def test_the_encoders_first_half_is_the_mean_and_its_second_the_log_variance():
    encoded = torch.tensor([[1.0, -2.0, math.log(4.0), math.log(0.25)]])
    decoded = []
    nets = Nets({"generator": lambda z: decoded.append(z) or z.tanh(), "encoder": lambda _: encoded})
    loss = vae(DataSpec((2,)), latent_size=2)
    loss.objective(nets, Batch(torch.tensor([[3.0, -1.0]]), torch.zeros(1, 2)))
    loss.readings()["reconstructions"](nets, Batch(torch.zeros(1, 2), torch.zeros(1, 2)))
    assert torch.allclose(decoded[0], torch.tensor([[1 + 2 * 3.0, -2 - 0.5]])), "z = μ + ε exp(½ log σ²)"
    assert torch.equal(decoded[1], encoded[:, :2]), "a reconstruction is that of the mean"


def test_active_dimensions_are_those_whose_mean_follows_the_image():
    nets = Nets({"generator": lambda z: z[:, :1], "encoder": lambda x: torch.cat([x, 0.05 * x, 0 * x - 9, x, x, x], 1)})
    terms = vae(latent_size=3).objective(nets, Batch(torch.zeros(40, 3), uniform(40, 1)))
    assert terms.report["active_dimensions"].item() == 1


# ── The likelihoods ───────────────────────────────────────────────────────────────────────────────────────


def test_the_bernoulli_likelihood_is_that_of_pixels_mapped_to_0_and_1():
    samples, images = uniform(6, 3, 4, 5), uniform(6, 3, 4, 5).flip(0)
    log_probabilities = Bernoulli((samples + 1) / 2, validate_args=False).log_prob((images + 1) / 2)
    expected = -log_probabilities.flatten(1).sum(1)
    assert torch.allclose(pixels.bernoulli_loss(samples, images), expected, rtol=1e-5)
    loss, _ = mean_loss(samples, images, likelihood="bernoulli")
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5), "a sum over pixels, a mean over the batch"


@pytest.mark.parametrize("target", [-1.0, -0.3, 1.0])
def test_the_bernoulli_gradient_through_tanh_is_that_of_logits(target):
    before_tanh = torch.linspace(-8, 8, 41)[:, None].requires_grad_()
    pixels.bernoulli_loss(before_tanh.tanh(), torch.full((41, 1), target)).sum().backward()
    expected = 2 * ((2 * before_tanh.double()).sigmoid() - (target + 1) / 2)
    assert torch.allclose(before_tanh.grad.double(), expected, atol=1e-6)


def test_the_bernoulli_loss_is_finite_where_tanh_has_rounded_to_1():
    before_tanh = torch.tensor([[-50.0], [50.0], [9.5], [-9.5]], requires_grad=True)
    loss = pixels.bernoulli_loss(before_tanh.tanh(), torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([25 * math.log(2)] * 2 + [0] * 2, abs=1e-6)
    assert before_tanh.grad.isfinite().all()


def test_the_fixed_variance_likelihood_is_the_whole_normal_density():
    samples, images = uniform(6, 3, 4, 5), uniform(6, 3, 4, 5).flip(0)
    loss, facts = mean_loss(samples, images, likelihood="fixed-variance", sigma=0.5)
    expected = -Normal(samples, 0.5).log_prob(images).sum() / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert facts["sigma"].item() == 0.5


def test_the_gaussian_likelihood_takes_the_variance_that_suits_the_batch_best():
    samples, images = 0.3 * uniform(6, 3, 4, 5), uniform(6, 3, 4, 5).flip(0)
    loss, facts = mean_loss(samples, images, likelihood="gaussian")
    sigma = facts["sigma"].item()
    sigmas = [sigma * factor for factor in (0.9, 0.99, 1.01, 1.1)]
    assert sigma == pytest.approx((samples - images).square().mean().sqrt().item())
    around = [mean_loss(samples, images, likelihood="fixed-variance", sigma=other)[0] for other in sigmas]
    assert all(loss < other for other in around)
    count = images[0].numel()
    assert loss.item() == pytest.approx(count * (math.log(sigma) + 0.5 + 0.5 * math.log(2 * math.pi)), rel=1e-5)


def test_the_gaussian_gradient_is_the_one_through_the_variance_too():
    images = uniform(6, 3, 4, 5).flip(0)
    samples = uniform(6, 3, 4, 5).requires_grad_()
    loss, _ = mean_loss(samples, images)
    through = 0.5 * images[0].numel() * (samples - images).square().mean().log()
    pairs = zip(torch.autograd.grad(loss, samples), torch.autograd.grad(through, samples), strict=True)
    assert all(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7) for ours, theirs in pairs)


def test_a_perfect_reconstruction_stays_finite():
    images = uniform(6, 3, 4, 5)
    samples = images.clone().requires_grad_()
    loss, facts = mean_loss(samples, images)
    loss.backward()
    assert facts["sigma"].item() == pytest.approx(2 / 255 / math.sqrt(12)) and loss.isfinite()
    assert torch.equal(samples.grad, torch.zeros_like(images))


# ── Settings, contract, a real run ────────────────────────────────────────────────────────────────────────

SETTINGS = [
    {},
    {"likelihood": "bernoulli", "beta": 4.0, "warmup_steps": 10},
    {"likelihood": "fixed-variance", "sigma": 0.3, "latent_size": 5},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_conforms_and_asks_the_encoder_for_two_numbers_per_latent_dimension(settings):
    assert_conforms("loss", VariationalAutoencoder, settings)
    chosen = {"latent_size": 2, **settings}
    assert vae(IMAGES, **chosen).ports("encoder").outputs == (2 * chosen["latent_size"],)


def recipe(**loss: object) -> dict:
    return {
        "train": {"steps": 400, "batch_size": 64, "log_every_steps": 50, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "vae", "latent_size": 16, **loss},
        "generator": {"use": "mlp", "hidden": [64, 128]},
        "encoder": {"use": "mlp", "hidden": [128, 64]},
        "optimizer": {"use": "adam", "lr": 2e-3, "betas": [0.9, 0.999]},
        **dict.fromkeys(("mlflow", "samples", "checkpoints"), False),
        "progress": False,
    }


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"likelihood": "fixed-variance"}, r'"fixed-variance" needs it; say sigma = 1\.0'),
        ({"likelihood": "gaussian", "sigma": 1.0}, r'is for "fixed-variance", but likelihood = "gaussian"'),
        ({"likelihood": "laplace"}, r"likelihood"),
    ],
)
def test_sigma_belongs_to_the_fixed_variance(tmp_path, loss, message):
    with pytest.raises(RequestError, match=message):
        build(recipe(**loss), tmp_path / "run", ganrun_vae)


def test_bernoulli_is_refused_for_points():
    with pytest.raises(
        IncompatibleError, match=r'^likelihood "bernoulli" needs images, not samples of shape \(1,\); say "gaussian"$'
    ):
        vae(likelihood="bernoulli")


@pytest.mark.parametrize(("likelihood", "share"), [("gaussian", 0.25), ("bernoulli", 0.6)])
def test_it_learns_to_reconstruct_and_to_draw_digits(tmp_path, likelihood, share):
    run = train(recipe(likelihood=likelihood, warmup_steps=100), tmp_path / "run", ganrun_vae)
    evaluation = run.evaluation()
    pairs = evaluation.collect_real(Buffer(), "images", "reconstructions", split="test")
    evaluation.run()
    unseen, made = pairs.tensors()
    assert made.dtype == torch.uint8 and made.shape == unseen.shape
    unseen, made = unseen.float(), made.float()
    mean_image = evaluation.real(split="train").float().mean(0)
    assert (made - unseen).square().mean() < share * (mean_image - unseen).square().mean()
    moment = run.evaluation()
    later = moment.collect_real(Buffer(), "reconstructions", split="test")
    moment.run()
    assert torch.equal(made, later.tensors()[0].float()), "reconstructions are deterministic"
    drawn = evaluation.generated(512).float()
    assert (drawn.mean(0) - mean_image).abs().mean() < 0.1 * mean_image.mean(), "z ~ N(0, I) gives the data's mean"
    assert drawn.var(0).mean() > 0.3 * unseen.var(0).mean(), "and samples that differ"
