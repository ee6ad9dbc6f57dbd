"""VQ-VAE with a codebook that is trained as a network (van den Oord et al. 2017, arXiv:1711.00937).

The built-in loss of this name moves its codebook by moving means instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

import ganrun
from ganrun import (
    Batch,
    DataSpec,
    Factor,
    Generator,
    Loss,
    Nets,
    Network,
    NetworkSpec,
    Phase,
    Ports,
    Run,
    Settings,
    Slot,
    Terms,
    View,
    float32_tanh,
)
from ganrun.testing import assert_conforms

DIGITS = DataSpec((1, 8, 8), classes=10)
GRID = (2, 2)
"""Height and width of the map of codes."""


class VqVae(Loss):
    """−log p(x | z_q) + ‖sg[z_e] − e‖² + β ‖z_e − sg[e]‖²: equation 3, with a Gaussian p of fixed variance.

    e is the code nearest to the encoder's output z_e (equations 1 and 2); its gradient is copied to z_e (straight
    through). The prior of codes is uniform and independent, as while the autoencoder is trained (section 3.2).
    """

    class Settings(ganrun.Settings):
        codes: int = Field(6, ge=2)
        """K: codes in the codebook."""

        width: int = Field(4, ge=1)
        """D: length of a code's vector."""

        beta: float = Field(0.25, ge=0)
        """β: weight of the commitment."""

    slots = {
        "encoder": Slot("network", averaged=True),
        "codebook": Slot("network", averaged=True, methods=("nearest",)),
        "decoder": Slot("generator", averaged=True),
    }

    @property
    def latent_size(self) -> int:
        return sum(factor.size for factor in self.factors())

    def factors(self) -> tuple[Factor, ...]:
        places = range(GRID[0] * GRID[1])
        return tuple(Factor(f"code_{place}", self.settings.codes, "categorical") for place in places)

    def ports(self, slot: str) -> Ports:
        settings, sample = self.settings, self.spec.sample_shape
        encoded = (settings.width, *GRID)
        return {
            "encoder": Ports(sample, encoded),
            "codebook": Ports((settings.codes,), (settings.width,)),
            "decoder": Ports(encoded, sample),
        }[slot]

    def latents(self, size: int, device: torch.device) -> Tensor:
        codes = torch.randint(self.settings.codes, (size, len(self.factors())), device=device)
        return one_hot(codes, self.settings.codes).flatten(1).float()

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("vqvae", self.objective, trains=tuple(self.slots)),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        encoded = nets.encoder(batch.images)
        vectors = self.vectors(nets, self.nearest(nets, encoded))
        straight_through = encoded + (vectors - encoded).detach()
        return Terms(
            {
                "reconstruction": mse_loss(nets.decoder(straight_through), batch.images),
                "codebook": mse_loss(vectors, encoded.detach()),
                "commitment": self.settings.beta * mse_loss(encoded, vectors.detach()),
            }
        )

    def generate(self, nets: Nets, latents: Tensor, sampling: Settings) -> Tensor:
        return nets.decoder(self.vectors(nets, latents))

    def readings(self) -> Mapping[str, Callable[[Nets, Batch], Tensor]]:
        return {
            "encodings": lambda nets, batch: self.nearest(nets, nets.encoder(batch.images)),
            "reconstructions": lambda nets, batch: nets.decoder(
                self.vectors(nets, self.nearest(nets, nets.encoder(batch.images)))
            ),
        }

    def nearest(self, nets: Nets, encoded: Tensor) -> Tensor:
        """The codes of a map of vectors `(batch, width, *GRID)`, as latents."""
        return nets.codebook.nearest(encoded.permute(0, 2, 3, 1)).flatten(1)

    def vectors(self, nets: Nets, latents: Tensor) -> Tensor:
        """The map of vectors that latents stand for."""
        vectors = nets.codebook(latents.reshape(-1, self.settings.codes))
        return vectors.reshape(len(latents), *GRID, -1).permute(0, 3, 1, 2)


def nearest_codes(codes: Tensor, vectors: Tensor) -> Tensor:
    """argmin ‖z_e − e_k‖₂ over k (equation 1), one-hot: vectors `(…, width)` to `(…, codes)`."""
    distances = (vectors[..., None, :] - codes).square().sum(-1)
    return one_hot(distances.argmin(-1), len(codes)).float()


class Encoder(Network):
    """A convolution that looks at each quarter of an image."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layers = nn.Conv2d(spec.inputs[0], spec.out_features, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).float()


class Codebook(Network):
    """A vector for each code."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.codes = nn.Parameter(torch.randn(*spec.inputs, spec.out_features))

    def forward(self, codes: Tensor) -> Tensor:
        """One-hot codes `(batch, codes)` to vectors."""
        return (codes @ self.codes).float()

    def nearest(self, vectors: Tensor) -> Tensor:
        """The nearest codes of vectors `(…, width)`, one-hot."""
        return nearest_codes(self.codes.detach(), vectors)


class Decoder(Generator):
    """The transposed convolution."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layers = nn.ConvTranspose2d(spec.inputs[0], spec.out_features, 4, stride=4)

    def forward(self, encoded: Tensor) -> Tensor:
        return float32_tanh(self.layers(encoded))


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"vqvae": VqVae}

    @ganrun.hookimpl
    def ganrun_networks(self) -> dict[str, type[Network]]:
        return {"quarters": Encoder, "codebook": Codebook}

    @ganrun.hookimpl
    def ganrun_generators(self) -> dict[str, type[Generator]]:
        return {"quarters": Decoder}


NETWORKS = {"encoder": {"use": "quarters"}, "decoder": {"use": "quarters"}}


def test_an_autoencoder_of_codes_trains_and_makes_samples_of_its_prior(journey: Callable[..., Run]) -> None:
    tables = {"loss": {"use": "vqvae"}, "codebook": {"use": "codebook"}}
    model = journey(NETWORKS | tables, Plugin()).model
    images = model.sample(6)
    codes = model.encode(images)
    assert codes.unflatten(1, (4, -1)).sum(2).eq(1).all()
    assert torch.equal(model.reconstruct(images), model.decode(codes))


def build(cls: type[VqVae], **settings: float) -> tuple[VqVae, Nets]:
    torch.manual_seed(1)
    loss = cls(cls.Settings(**settings), DIGITS)
    parts = {"encoder": Encoder, "codebook": Codebook, "decoder": Decoder}
    networks = {slot: parts[slot](None, NetworkSpec(*loss.ports(slot))) for slot in loss.slots}
    return loss, Nets({slot: View(network) for slot, network in networks.items()})


def test_the_encoder_gets_the_decoders_gradient_straight_through() -> None:
    loss, nets = build(VqVae)
    batch = Batch(loss.latents(3, torch.device("cpu")), torch.randn(3, 1, 8, 8).tanh())
    terms, bias = loss.objective(nets, batch).minimise, nets.encoder.weights()["layers.bias"]
    (found,) = torch.autograd.grad(terms["reconstruction"], bias, retain_graph=True)
    vectors = loss.vectors(nets, loss.nearest(nets, nets.encoder(batch.images))).detach().requires_grad_()
    (slope,) = torch.autograd.grad(mse_loss(nets.decoder(vectors), batch.images), vectors)
    torch.testing.assert_close(found, slope.sum((0, 2, 3)))
    assert torch.autograd.grad(terms["codebook"], bias, allow_unused=True) == (None,)


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", VqVae, spec=DIGITS, networks={"codebook": Codebook})
    assert_conforms("network", Encoder, spec=NetworkSpec((1, 8, 8), (4, 2, 2)))
    assert_conforms("network", Codebook, spec=NetworkSpec((6,), (4,)))
    assert_conforms("generator", Decoder, spec=NetworkSpec((4, 2, 2), (1, 8, 8)))
