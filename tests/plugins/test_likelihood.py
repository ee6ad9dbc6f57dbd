"""The metric log-likelihood: against models whose likelihood is known, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal

import ganrun_vae
from ganrun import Data, DataSpec, IncompatibleError, Model, ModelSpec, PreflightError, RequestError, Score, Split
from ganrun.testing import build, evaluation_on, measured, train
from ganrun_datasets.gaussians import Gaussians
from ganrun_likelihood import records
from ganrun_likelihood.metric import LogLikelihood
from ganrun_likelihood.weighing import Weigher, estimate
from ganrun_vae.losses import VariationalAutoencoder

PIXELS = (1, 4, 4)


class Arrays(Data):
    """Pictures of a test split."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(None)
        self.images = images

    def spec(self) -> DataSpec:
        return DataSpec(self.images.shape[1:])

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        return Split(self.images)


class Fixed(nn.Module):
    """The same output for every input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output.expand(len(inputs), *self.output.shape)


def model_of(spec: DataSpec, networks: Mapping[str, nn.Module], **settings: object) -> Model:
    loss = VariationalAutoencoder(VariationalAutoencoder.Settings(**settings), spec)
    facts = ModelSpec(spec.sample_shape, latent_size=loss.latent_size, readings=tuple(loss.readings()))
    return Model(facts, loss, networks, torch.device("cpu"), 0)


def scores_of(model: Model, data: Data, **settings: object) -> dict[str, Score]:
    metric = LogLikelihood(LogLikelihood.Settings(**settings), model.spec)
    metric.prepare(data, torch.device("cpu"))
    evaluation = evaluation_on(data, lambda count: model.draw(count), model=model)
    return {score.name: score for score in measured([metric], evaluation)}


def pictures(count: int = 40) -> Arrays:
    return Arrays(np.random.RandomState(0).randint(0, 256, (count, *PIXELS), dtype=np.uint8))


# ── Models whose likelihood is known ──────────────────────────────────────────────────────────────────────


def probabilistic_pca(shift: float, width: float) -> tuple[Model, MultivariateNormal]:
    """x = W z + b + σ ε, and its density. The encoder is off the exact posterior by a shift and a width."""
    weights, offset, sigma = torch.tensor([[0.9, 0.2], [-0.4, 0.7]]), torch.tensor([0.3, -0.2]), 0.5
    decoder, encoder = nn.Linear(2, 2), nn.Linear(2, 4)
    inner = weights.T @ weights + sigma**2 * torch.eye(2)
    slope = torch.linalg.solve(inner, weights.T)
    with torch.no_grad():
        decoder.weight.copy_(weights), decoder.bias.copy_(offset)
        encoder.weight.copy_(torch.cat([slope, torch.zeros(2, 2)]))
        variance = (sigma**2 * torch.linalg.inv(inner)).diagonal() * width
        encoder.bias.copy_(torch.cat([shift - slope @ offset, variance.log()]))
    model = model_of(
        DataSpec((2,)),
        {"generator": decoder, "encoder": encoder},
        latent_size=2,
        likelihood="fixed-variance",
        sigma=sigma,
    )
    return model, MultivariateNormal(offset, weights @ weights.T + sigma**2 * torch.eye(2))


def test_it_is_that_of_probabilistic_pca():
    data = Gaussians(Gaussians.Settings(count=16))
    model, density = probabilistic_pca(shift=0.2, width=1.5)
    found = scores_of(model, data, importance_samples=4000, split="train")
    expected = density.log_prob(torch.from_numpy(data.split("train").images)).mean().item()
    value = found["log_likelihood"]
    assert 0 < value.error < 0.01 and value.value == pytest.approx(expected, abs=4 * value.error)
    assert 400 < found["effective_samples"].value < 4000 and set(found) == {"log_likelihood", "effective_samples"}
    assert value.protocol["importance_samples"] == 4000 and value.protocol["pixels"].startswith("no pixels")
    rough = scores_of(probabilistic_pca(shift=1.5, width=0.3)[0], data, importance_samples=5, split="train")
    assert rough["log_likelihood"].value < expected - 0.1, "from few samples, a bound below it"


def test_black_and_white_pixels_have_a_probability():
    """A decoder that does not look at its latents: every weight is the likelihood, if the encoder says the prior."""
    made = torch.linspace(-0.9, 0.9, 16).reshape(PIXELS)
    model = model_of(
        DataSpec(PIXELS),
        {"generator": Fixed(made), "encoder": Fixed(torch.zeros(6))},
        latent_size=3,
        likelihood="bernoulli",
    )
    data = Arrays(255 * (pictures().images > 99).astype(np.uint8))
    found = scores_of(model, data, importance_samples=7)
    expected = Bernoulli((1 + made) / 2).log_prob(torch.from_numpy(data.images / 255)).flatten(1).sum(1).mean().item()
    assert found["log_likelihood"].value == pytest.approx(expected, rel=1e-5)
    assert found["effective_samples"].value == pytest.approx(7) and found["log_likelihood"].error < 1e-4
    grey = scores_of(model, pictures(), importance_samples=7, binarize=True)
    share, white = torch.from_numpy(pictures().images / 255), (1 + made) / 2
    on_average = (share * white.log() + (1 - share) * (1 - white).log()).flatten(1).sum(1).mean().item()
    assert grey["log_likelihood"].value == pytest.approx(on_average, abs=2)
    again = scores_of(model, pictures(), importance_samples=7, binarize=True)
    assert again["log_likelihood"] == grey["log_likelihood"], "the same pixels in every run"
    assert grey["log_likelihood"].protocol["pixels"] == "black and white, drawn by their grey values"
    assert found["log_likelihood"].protocol["pixels"] == "black and white, as the data has them"


def test_a_density_of_pictures_is_in_units_of_their_grey_steps():
    sigma, made = 0.8, torch.full(PIXELS, 0.1)
    model = model_of(
        DataSpec(PIXELS),
        {"generator": Fixed(made), "encoder": Fixed(torch.zeros(6))},
        latent_size=3,
        likelihood="fixed-variance",
        sigma=sigma,
    )
    found = scores_of(model, pictures(), importance_samples=3)
    values = torch.from_numpy(pictures().images).double() / 127.5 - 1
    edges = Normal(0.1, sigma).cdf(values + 0.5 / 127.5), Normal(0.1, sigma).cdf(values - 0.5 / 127.5)
    probability = (edges[0] - edges[1]).log().flatten(1).sum(1).mean().item()
    assert found["log_likelihood"].value == pytest.approx(probability, abs=0.02), "the probability of 8-bit values"
    bits = -probability / 16 / math.log(2)
    assert found["bits_per_dim"].value == pytest.approx(bits, abs=0.002) and not found["bits_per_dim"].higher_is_better


# ── The estimator ─────────────────────────────────────────────────────────────────────────────────────────


def test_its_error_is_that_of_repeated_draws():
    torch.manual_seed(0)
    log_weights = 0.7 * torch.randn(500, 400) - 90
    found = estimate(log_weights)
    assert found.log_likelihood.mean().item() == pytest.approx(-90 + 0.7**2 / 2, abs=0.01)
    assert found.log_likelihood.std().item() == pytest.approx(found.variance.mean().sqrt().item(), rel=0.1)
    assert found.log_likelihood.dtype == torch.float64
    alone = estimate(torch.tensor([[-1000.0, -90.0, -2000.0]]))
    assert alone.effective_samples.item() == pytest.approx(1) and alone.log_likelihood.isfinite().all()


def test_an_estimate_depends_on_its_record_alone():
    torch.manual_seed(0)
    networks = {
        "generator": nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Unflatten(1, PIXELS)),
        "encoder": nn.Sequential(nn.Flatten(), nn.Linear(16, 6)),
    }
    model = model_of(DataSpec(PIXELS), networks, latent_size=3, likelihood="bernoulli")

    def weighed(images: Tensor) -> Tensor:
        reading = "binary_log_weights"
        weigher = Weigher(model, reading, 600, records.black_or_white, lambda record: 0.0, "key")
        return weigher(images)["log_likelihood"]

    images = torch.from_numpy(pictures(5).images)
    together = weighed(images)
    assert together.unique().numel() == 5
    assert torch.equal(together[3:], weighed(images[3:])) and torch.equal(together[2:3], weighed(images[2:3]))


def test_pixels_are_spread_over_their_grey_step_and_no_further():
    record = torch.arange(0, 256, dtype=torch.uint8).reshape(1, 16, 16)
    moved = (records.dequantized(record) + 1) * 127.5 - record
    assert moved.abs().max() <= 0.5001 and moved.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.03)
    drawn = torch.stack([records.black_or_white(record.roll(shift)).roll(-shift) for shift in range(200)])
    assert torch.allclose(drawn.mean(0), record / 127.5 - 1, atol=0.3) and drawn.abs().eq(1).all()


# ── What it refuses, before training ──────────────────────────────────────────────────────────────────────

VAE = {"use": "vae", "latent_size": 4, "likelihood": "bernoulli"}


def recipe(loss: Mapping[str, object] = VAE, **metric: object) -> dict:
    second = "encoder" if loss["use"] in ("vae", "iwae") else "discriminator"
    return {
        "train": {"steps": 60, "batch_size": 64, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": loss,
        "generator": {"use": "mlp", "hidden": [32]},
        second: {"use": "mlp", "hidden": [32]},
        "optimizer": {"lr": 5e-3, "betas": [0.9, 0.999]},
        "metric": [{"use": "log-likelihood", **metric}],
        **dict.fromkeys(("mlflow", "samples", "checkpoints", "progress"), False),
    }


@pytest.mark.parametrize(
    ("loss", "metric", "message"),
    [
        ({"use": "gan"}, {}, r"this loss has no likelihood .* leave the metric out"),
        ({**VAE, "likelihood": "gaussian"}, {}, r'a VAE has one with likelihood = "bernoulli" or "fixed-variance"'),
        (VAE, {}, r"grey pixels have no likelihood under this loss, .*: say binarize = true"),
        (
            {**VAE, "likelihood": "fixed-variance", "sigma": 0.3},
            {"binarize": True},
            r"binarize is for losses of black and white pixels",
        ),
        (VAE, {"binarize": True, "real_samples": 5000}, r'it asks for 5000 records, but split "test" has 360'),
    ],
)
def test_what_has_no_likelihood_is_refused_at_the_recipes_line(tmp_path, loss, metric, message):
    with pytest.raises(RequestError, match=r"run\.toml:\d+: \[\[metric\]\] log-likelihood .*" + message):
        build(recipe(loss, **metric), tmp_path / "run", ganrun_vae)


def test_black_and_white_pictures_are_not_drawn_again():
    data = Arrays(np.zeros((3, *PIXELS), np.uint8))
    spec = ModelSpec(PIXELS, readings=("binary_log_weights",))
    with pytest.raises(PreflightError, match="black and white already; leave binarize out"):
        LogLikelihood(LogLikelihood.Settings(binarize=True), spec).prepare(data, torch.device("cpu"))


def test_pictures_alone_have_none():
    metric = LogLikelihood(LogLikelihood.Settings(), ModelSpec(PIXELS, readings=("density_log_weights",)))
    metric.prepare(pictures(), torch.device("cpu"))
    evaluation = evaluation_on(pictures(), lambda count: (torch.zeros(count, 1), torch.zeros(count, *PIXELS)))
    evaluation.model = None
    with pytest.raises(IncompatibleError, match="it takes a model"):
        metric.watch(evaluation)


# ── A real run ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("use", ["vae", "iwae"])
def test_training_makes_unseen_digits_more_likely_than_coins(tmp_path, use):
    chosen = {"binarize": True, "importance_samples": 200, "real_samples": 100}
    run = train(recipe({**VAE, "use": use, "binarization": "dynamic"}, **chosen), tmp_path / "run", ganrun_vae)
    found = run.scores["log_likelihood"]
    assert -64 * math.log(2) + 5 < found.value < 0 and found.protocol["real"] == 100
