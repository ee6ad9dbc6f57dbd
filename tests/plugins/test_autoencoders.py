"""Autoencoders, plain, adversarial and of codes, and VAE-GAN: their terms and memories, computed another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate, one_hot

from ganrun import (
    Batch,
    DataSpec,
    IncompatibleError,
    ModelSpec,
    Nets,
    NetworkSpec,
    Split,
    View,
    interpolated_latents,
)
from ganrun.testing import assert_conforms
from ganrun_autoencoders.adversarial import AdversarialAutoencoder
from ganrun_autoencoders.networks import FeatureDiscriminator, VqDecoder, VqEncoder, halvings_between
from ganrun_autoencoders.plain import JITTER, Autoencoder
from ganrun_autoencoders.vae_gan import VaeGan
from ganrun_autoencoders.vector_quantised import VqVae, nearest_codes, perplexity

DIGITS = DataSpec((1, 8, 8), classes=10)
PAIRS = DataSpec((2, 4, 4))
"""Images whose halved map is one of four vectors of length two."""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64) * 2 - 1


def batch(images: Tensor, step: int = 0, latents: Tensor | None = None) -> Batch:
    drawn = torch.zeros(len(images), 1) if latents is None else latents
    return Batch(drawn, images, steps_done=torch.tensor(float(step)))


def is_close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found.double(), expected.double(), rtol=1e-9, atol=1e-9)


# ── VQ-VAE ────────────────────────────────────────────────────────────────────────────────────────────────

HALVING = Nets(
    {"encoder": lambda images: avg_pool2d(images, 2), "generator": lambda maps: interpolate(maps, scale_factor=2)}
)


def vq_vae(**settings: Any) -> VqVae:
    """In float64, with a codebook that the first batch has started."""
    given = {"codes": 5, "code_size": 2, "downsampling": 2, "decay": 0.75, "restarts": False, **settings}
    loss = VqVae(VqVae.Settings(**given), PAIRS)
    loss.memory.double()
    return loss


class Reference:
    """Appendix A.1 in NumPy, one vector at a time."""

    def __init__(self, loss: VqVae) -> None:
        self.counts, self.sums = loss.memory.usage.sum(0).numpy().copy(), loss.memory.sums.numpy().copy()
        self.decay, self.epsilon = loss.settings.decay, loss.settings.smoothing

    @property
    def codebook(self) -> np.ndarray:
        total, codes = self.counts.sum(), len(self.counts)
        smoothed = (self.counts + self.epsilon) / (total + codes * self.epsilon) * total
        return self.sums / smoothed[:, None]

    def see(self, images: Tensor) -> None:
        codebook, counts, sums = self.codebook, np.zeros_like(self.counts), np.zeros_like(self.sums)
        for vector in avg_pool2d(images, 2).permute(0, 2, 3, 1).reshape(-1, 2).numpy():
            nearest = min(range(len(codebook)), key=lambda k: float(((vector - codebook[k]) ** 2).sum()))
            counts[nearest] += 1
            sums[nearest] += vector
        self.counts = self.decay * self.counts + (1 - self.decay) * counts
        self.sums = self.decay * self.sums + (1 - self.decay) * sums


@pytest.mark.parametrize("parts", [1, 4])
def test_the_codebook_is_the_moving_mean_of_the_vectors_of_whole_batches(parts: int) -> None:
    loss, batches = vq_vae(), [uniform(8, 2, 4, 4) for _ in range(5)]
    loss.objective(HALVING, batch(batches[0]))
    reference = Reference(loss)
    reference.see(batches[0])
    for step, images in enumerate(batches[1:], start=1):
        for part in batch(images, step).chunks(parts):
            loss.objective(HALVING, part)
            assert is_close(loss.codebook, torch.from_numpy(reference.codebook)), "a step begins, or goes on"
        reference.see(images)


def test_the_encoder_gets_the_decoders_gradient_and_that_of_its_commitment() -> None:
    loss, images = vq_vae(commitment=0.5), uniform(3, 2, 4, 4)
    encoded = avg_pool2d(uniform(3, 2, 4, 4), 2).requires_grad_()
    nets = Nets({"encoder": lambda _: encoded, "generator": lambda maps: interpolate(maps, scale_factor=2).tanh()})
    sum(loss.objective(nets, batch(images)).minimise.values()).backward()
    vectors = loss.vectors_of(loss.nearest(encoded).flatten(1)).requires_grad_()
    (interpolate(vectors, scale_factor=2).tanh() - images).square().mean().backward()
    commitment = 2 * 0.5 * (encoded - vectors).detach() / encoded.numel()
    assert is_close(encoded.grad, vectors.grad + commitment)


def test_a_vectors_code_is_the_nearest_of_the_codebook() -> None:
    vectors, codebook = uniform(7, 9, 3), uniform(6, 3)
    found = nearest_codes(vectors, codebook)
    assert found.sum(-1).eq(1).all()
    assert torch.equal(found.argmax(-1), torch.cdist(vectors, codebook).argmin(-1))


def test_perplexity_is_the_number_of_codes_that_are_used_alike() -> None:
    every = torch.eye(6).repeat(3, 1)[None]
    assert perplexity(every).item() == pytest.approx(6)
    assert perplexity(every[:, :1].expand(1, 9, 6)).item() == pytest.approx(1)


def test_dead_codes_restart_as_vectors_of_the_batch() -> None:
    loss, images = vq_vae(restarts=True), uniform(8, 2, 4, 4)
    assert loss.objective(HALVING, batch(images)).report["dead_codes"] == 0
    loss.memory.usage[:, 3] *= 1e-3
    loss.memory.sums[3] *= 1e3
    loss.memory.seen_usage[:, 3] = 0
    kept = loss.memory.sums[:3] * 0.75 + loss.memory.seen_sums[:3] * 0.25
    assert loss.is_dead.tolist() == [False, False, False, True, False]
    assert loss.objective(HALVING, batch(images, 1)).report["dead_codes"] == 0
    vectors = avg_pool2d(images, 2).permute(0, 2, 3, 1).reshape(-1, 2)
    assert torch.cdist(loss.codebook[3:4], vectors).min() < 1e-4
    assert is_close(loss.memory.sums[:3], kept)


def test_each_place_draws_codes_by_their_frequency_there() -> None:
    loss = vq_vae(codes=3)
    wanted = torch.tensor([[1.0, 3, 0], [0, 0, 1], [2, 2, 0], [0, 5, 5]], dtype=torch.float64)
    loss.memory.usage.copy_(wanted)
    found = loss.latents(4000, torch.device("cpu")).unflatten(1, (4, 3)).double().mean(0)
    expected = wanted / wanted.sum(1, keepdim=True)
    assert (found - expected).abs().max() < 0.03
    assert found[expected == 0].eq(0).all()


def test_an_interpolation_between_codes_changes_one_place_after_the_other() -> None:
    loss = vq_vae(codes=3)
    spec = ModelSpec((2, 4, 4), latent_size=loss.latent_size, factors=tuple(loss.factors()))
    codes = torch.tensor([[0, 0, 0, 0], [1, 2, 1, 2]])
    start, end = one_hot(codes, 3).flatten(1).float()
    rows = interpolated_latents(start, end, torch.linspace(0, 1, 5)[:, None], spec, start[None])
    rows = rows.unflatten(1, (4, 3)).argmax(2)
    assert rows.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 1, 0], [1, 2, 1, 2]]


@pytest.mark.parametrize("is_float", [False, True])
def test_the_reconstruction_error_is_a_share_of_the_variance_of_the_data(is_float: bool) -> None:
    loss = vq_vae()
    pixels = np.random.default_rng(1).integers(0, 256, (20, 2, 4, 4)).astype(np.uint8)
    scaled = (pixels / 127.5 - 1).astype(np.float32)
    loss.prepare(Split(scaled if is_float else pixels))
    assert loss.memory.data_variance.item() == pytest.approx(scaled.var(dtype=np.float64), rel=1e-6)
    loss.prepare(Split(np.zeros_like(pixels)))
    assert loss.memory.data_variance == 1, "nothing to explain"


def test_vq_vaes_networks_have_the_layers_of_section_4_1() -> None:
    encoder = VqEncoder(VqEncoder.Settings(), NetworkSpec((3, 32, 32), (64, 8, 8)))
    residual = 2 * (256 * 256 * 9 + 256 + 256 * 256 + 256)
    assert parameters(encoder) == (3 * 256 * 16 + 256) + (256 * 256 * 16 + 256) + residual + (256 * 64 + 64)
    decoder = VqDecoder(VqDecoder.Settings(), NetworkSpec((64, 8, 8), (3, 32, 32)))
    assert parameters(decoder) == (64 * 256 * 9 + 256) + residual + (256 * 256 * 16 + 256) + (256 * 3 * 16 + 3)


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VqVae(VqVae.Settings(downsampling=8), DataSpec((1, 28, 28))), "downsampling = 8 .* not 28×28"),
        (lambda: VqVae(VqVae.Settings(), DataSpec((2,))), "works on images"),
        (lambda: halvings_between((1, 12, 12), (4, 4, 4)), "a half, a quarter, …; not images of 12×12 and maps of 4×4"),
        (lambda: halvings_between((1, 4, 4), (4, 4, 4)), "not images of 4×4"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        make()


# ── The plain autoencoder ─────────────────────────────────────────────────────────────────────────────────


def test_samples_are_drawn_from_the_gaussian_of_the_codes() -> None:
    """With γ = 0 it is that of the last batch, however that was cut."""
    loss = Autoencoder(Autoencoder.Settings(latent_size=3, decay=0.0), DataSpec((3,)))
    loss.memory.double()
    images = uniform(64, 3) @ uniform(3, 3) + 2
    nets = Nets({"encoder": lambda x: x, "generator": lambda z: z})
    for step in (1, 2):
        for part in batch(images, step).chunks(4):
            terms = loss.objective(nets, part)
    assert terms.minimise["reconstruction"] == 0
    assert is_close(loss.memory.mean, images.mean(0))
    covariance = torch.cov(images.T, correction=0)
    factor = loss.memory.factor
    added = JITTER * covariance.diagonal().mean() * torch.eye(3)
    assert is_close(factor @ factor.T, covariance + added)
    latents = loss.readings()["encodings"](nets, batch(images))
    assert is_close(loss.generate(nets, latents, loss.Sampling()), images)
    assert latents.mean(0).abs().max() < 1e-9 and (latents.var(0, correction=0) - 1).abs().max() < 0.05


def test_codes_that_are_all_alike_can_still_be_drawn() -> None:
    loss = Autoencoder(Autoencoder.Settings(latent_size=4, decay=0.0), DataSpec((4,)))
    nets = Nets({"encoder": lambda x: 0 * x + 3, "generator": lambda z: z})
    for step in (1, 2):
        loss.objective(nets, batch(torch.rand(8, 4), step))
    drawn = loss.generate(nets, torch.randn(5, 4), loss.Sampling())
    assert (drawn - 3).abs().max() < 0.01


# ── The adversarial autoencoder ───────────────────────────────────────────────────────────────────────────


def test_the_adversarial_terms_are_cross_entropies_of_prior_and_codes() -> None:
    loss = AdversarialAutoencoder(
        AdversarialAutoencoder.Settings(latent_size=2, adversarial_weight=0.3), DataSpec((2,))
    )
    judge = torch.tensor([[0.7], [-1.1]], dtype=torch.float64)
    nets = Nets({"encoder": lambda x: 2 * x - 1, "generator": lambda z: z.tanh(), "discriminator": lambda z: z @ judge})
    images, latents = uniform(6, 2), uniform(6, 2)
    at = batch(images, 0, latents)
    of_prior, of_codes = latents @ judge, (2 * images - 1) @ judge
    entropy = binary_cross_entropy_with_logits
    terms = loss.discriminator(nets, at).minimise
    assert is_close(terms["real"], entropy(of_prior, torch.ones_like(of_prior)))
    assert is_close(terms["fake"], entropy(of_codes, torch.zeros_like(of_codes)))
    assert is_close(loss.encoder(nets, at).minimise["fake"], 0.3 * entropy(of_codes, torch.ones_like(of_codes)))
    errors = (2 * images - 1).tanh() - images
    assert is_close(loss.reconstruction(nets, at).minimise["reconstruction"], errors.square().mean())
    assert torch.equal(loss.real_inputs("discriminator", at).inputs, latents)
    assert torch.equal(loss.generated_inputs("discriminator", nets, at).inputs, 2 * images - 1)


# ── VAE-GAN ───────────────────────────────────────────────────────────────────────────────────────────────


class Halved(nn.Module):
    """Features x / 2, logits 3 for bright images and -1 for others."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.where(images.flatten(1).mean(1, keepdim=True) > 0.9, 3.0, -1.0)

    def features(self, images: Tensor) -> Tensor:
        return images / 2


class Posterior(nn.Module):
    """Mean 2 and variance e⁻⁸⁰ in each of four dimensions."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([2.0, -80.0]).repeat_interleave(4).expand(len(images), -1)


class Grey(nn.Module):
    """Pixels of a quarter of the first latent."""

    def forward(self, latents: Tensor) -> Tensor:
        return (latents[:, :1] / 4).expand(-1, 64).unflatten(1, (1, 8, 8))


def test_the_terms_of_a_vae_gan_are_those_of_the_paper_where_they_are_known() -> None:
    """x = 1, x̃ = ½: L_llike = ½ · 64 / 16, and L_prior = KL(N(2, e⁻⁸⁰) ‖ N(0, 1)) in four dimensions."""
    loss = VaeGan(VaeGan.Settings(latent_size=4, gamma=0.1), DIGITS)
    networks = {"encoder": Posterior(), "generator": Grey(), "discriminator": Halved()}
    nets = Nets({slot: View(network) for slot, network in networks.items()})
    at = batch(torch.ones(5, 1, 8, 8), latents=torch.randn(5, 4))
    prior = 4 * kl_divergence(Normal(2.0, torch.tensor(-40.0).double().exp()), Normal(0.0, 1.0))
    encoder, generator = loss.encoder(nets, at).minimise, loss.generator(nets, at).minimise
    discriminator = loss.discriminator(nets, at).minimise
    assert [term.item() for term in encoder.values()] == pytest.approx([prior.item(), 2])
    logits, targets = torch.tensor([3.0, -1.0, -1.0]), torch.tensor([1.0, 0.0, 1.0])
    real, right, wrong = binary_cross_entropy_with_logits(logits, targets, reduction="none").tolist()
    assert [term.item() for term in generator.values()] == pytest.approx([0.2, wrong, wrong])
    found = [discriminator[each].item() for each in ("real", "fake", "reconstructed")]
    assert found == pytest.approx([real, right, right])


# ── Contracts ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", Autoencoder, {"latent_size": 3}, spec=DIGITS)
    assert_conforms("loss", AdversarialAutoencoder, {"latent_size": 3}, spec=DIGITS)
    assert_conforms("loss", VaeGan, {"latent_size": 3}, spec=DIGITS, networks={"discriminator": FeatureDiscriminator})
    assert_conforms("loss", VqVae, {"codes": 6, "code_size": 4}, spec=DIGITS)
    assert_conforms("network", VqEncoder, {"width": 4}, spec=NetworkSpec((1, 8, 8), (4, 2, 2)))
    assert_conforms("generator", VqDecoder, {"width": 4}, spec=NetworkSpec((4, 2, 2), (1, 8, 8)))
    assert_conforms("discriminator", FeatureDiscriminator, {"hidden": 4}, spec=NetworkSpec((1, 8, 8), (1, ...)))
