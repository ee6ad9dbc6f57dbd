"""VAE-GAN: an autoencoder whose likelihood is that of a discriminator's features (Larsen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

import ganrun
from ganrun import (
    Batch,
    DataSpec,
    Discriminator,
    Loss,
    Nets,
    NetworkSpec,
    Phase,
    Ports,
    Run,
    Settings,
    Slot,
    Terms,
    View,
)
from ganrun.testing import assert_conforms

DIGITS = DataSpec((1, 8, 8), classes=10)


class VaeGan(Loss):
    """L = L_prior + L_llike + L_GAN (arXiv:1512.09300, equations 7 to 9), by algorithm 1: three phases.

    L_prior = KL(q(z|x) ‖ N(0, I)), L_llike = −E log N(Dis_l(x); Dis_l(x̃), I) with x̃ = Dec(z), z ~ q(z|x), and
    L_GAN = log Dis(x) + log(1 − Dis(Dec(z_p))) + log(1 − Dis(x̃)) with z_p ~ N(0, I). The encoder minimises
    L_prior + L_llike, the decoder γ L_llike + L_GAN, and the discriminator −L_GAN (equation 6 has this sign; algorithm
    1 has the other).
    """

    class Settings(ganrun.Settings):
        latent_size: int = Field(4, ge=1)
        """Length of a latent vector."""

        gamma: float = Field(0.1, ge=0)
        """γ: weight of the likelihood for the decoder."""

    slots = {
        "encoder": Slot("discriminator", averaged=True),
        "generator": Slot("generator", averaged=True),
        "discriminator": Slot("discriminator", augmented=True, methods=("features",)),
    }

    def ports(self, slot: str) -> Ports:
        ports = super().ports(slot)
        return ports._replace(outputs=(2 * self.latent_size,)) if slot == "encoder" else ports

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("encoder", self.encoder, trains=("encoder",)),
            Phase("generator", self.generator, trains=("generator",)),
            Phase("discriminator", self.discriminator, trains=("discriminator",)),
        )

    def encoder(self, nets: Nets, batch: Batch) -> Terms:
        mean, log_variance = self.posterior(nets, batch)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return Terms({"prior": divergence, "likelihood": self.likelihood(nets, batch, self.reconstructed(nets, batch))})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        samples = self.reconstructed(nets, batch)
        likelihood = self.settings.gamma * self.likelihood(nets, batch, samples)
        return Terms({"likelihood": likelihood, "gan": self.gan(nets, batch, samples)})

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"gan": -self.gan(nets, batch, self.reconstructed(nets, batch))})

    def posterior(self, nets: Nets, batch: Batch) -> tuple[Tensor, Tensor]:
        mean, log_variance = nets.encoder(batch.images).chunk(2, dim=1)
        return mean, log_variance

    def reconstructed(self, nets: Nets, batch: Batch) -> Tensor:
        mean, log_variance = self.posterior(nets, batch)
        return nets.generator(mean + torch.randn_like(mean) * (log_variance / 2).exp())

    def likelihood(self, nets: Nets, batch: Batch, samples: Tensor) -> Tensor:
        """L_llike without its constant."""
        errors = nets.discriminator.features(batch.images) - nets.discriminator.features(samples)
        return 0.5 * errors.square().flatten(1).sum(1).mean()

    def gan(self, nets: Nets, batch: Batch, samples: Tensor) -> Tensor:
        """L_GAN, which the discriminator maximises, on logits."""
        prior = nets.generator(batch.latents)
        real, *fakes = (nets.discriminator(each) for each in (batch.images, prior, samples))
        return -softplus(-real).mean() - sum(softplus(fake).mean() for fake in fakes)

    def readings(self) -> Mapping[str, Callable[[Nets, Batch], Tensor]]:
        return {
            "encodings": lambda nets, batch: self.posterior(nets, batch)[0],
            "reconstructions": lambda nets, batch: nets.generator(self.posterior(nets, batch)[0]),
        }


class Featured(Discriminator):
    """A convolution, whose outputs are the features, and a dense layer."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = spec.inputs
        self.trunk = nn.Sequential(nn.Conv2d(channels, 4, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        self.head = nn.Linear(prod((4, height // 2, width // 2)), spec.out_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1)).float()

    def features(self, images: Tensor) -> Tensor:
        """Dis_l: `(batch, 4, height / 2, width / 2)`."""
        return self.trunk(images)


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"vae-gan": VaeGan}

    @ganrun.hookimpl
    def ganrun_discriminators(self) -> dict[str, type[Discriminator]]:
        return {"featured": Featured}


def test_three_networks_train_in_three_phases(journey: Callable[..., Run]) -> None:
    mlp = {"use": "mlp", "hidden": [8]}
    tables = {"loss": {"use": "vae-gan"}, "encoder": mlp, "generator": mlp, "discriminator": {"use": "featured"}}
    model = journey(tables, Plugin()).model
    images = model.sample(3)
    torch.testing.assert_close(model.reconstruct(images), model.decode(model.encode(images)))


class Halved(nn.Module):
    """Features x / 2, logit 3."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(1, keepdim=True) * 0 + 3

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


def test_the_terms_are_those_of_the_paper_where_they_are_known() -> None:
    """x = 1, x̃ = ½: L_llike = ½ · 64 / 16, and L_prior = ½ Σ (μ² + σ² − log σ² − 1) = ½ · 4 · (4 + 80 − 1)."""
    loss, networks = (
        VaeGan(VaeGan.Settings(), DIGITS),
        {"encoder": Posterior(), "generator": Grey(), "discriminator": Halved()},
    )
    nets = Nets({slot: View(network) for slot, network in networks.items()})
    batch = Batch(torch.randn(5, 4), torch.ones(5, 1, 8, 8))
    encoder, generator = loss.encoder(nets, batch).minimise, loss.generator(nets, batch).minimise
    assert [round(term.item(), 4) for term in encoder.values()] == [166, 2]
    assert round(generator["likelihood"].item(), 4) == 0.2
    three = torch.tensor(3.0)
    value = -softplus(-three) - 2 * softplus(three)
    torch.testing.assert_close(generator["gan"], value)
    torch.testing.assert_close(loss.discriminator(nets, batch).minimise["gan"], -value)


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", VaeGan, spec=DIGITS, networks={"discriminator": Featured})
    assert_conforms("discriminator", Featured, spec=NetworkSpec((1, 8, 8), (1, ...)))
