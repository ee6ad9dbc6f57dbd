"""VQ-VAE: images as maps of discrete codes, whose vectors are moving means of the encodings assigned to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

import ganrun
from ganrun import (
    Batch,
    DataSpec,
    Factor,
    Loss,
    Nets,
    Phase,
    Ports,
    Reading,
    Slot,
    Split,
    Terms,
    exact_float32,
    gathered_over_ranks,
    halved_shape,
)
from ganrun_autoencoders.moving import begin_step, remember, see

DEAD = 0.03
"""A code is dead if its use is below this share of that under uniform use."""

VARIANCE_ROWS = 1000
"""Training records, evenly spaced, whose variance scales the reconstruction error."""


class VqVae(Loss):
    """VQ-VAE: an autoencoder whose latents are a map of codes from a codebook.

    Van den Oord et al. 2017 (arXiv:1711.00937), equation 3. The vectors of the encoder's map z_e are replaced by the
    nearest ones of the codebook (equations 1 and 2), the decoder's gradient is copied to z_e (straight-through), and
    the codebook follows by the moving means of appendix A.1, with the Laplace smoothing of the authors' program:

        loss = E‖x − Dec(e)‖² / Var(x) + β E‖z_e − e‖²
        N_k ← γ N_k + (1 − γ) n_k,   m_k ← γ m_k + (1 − γ) Σ z_e,   e_k = m_k / Ñ_k,   Ñ_k = N (N_k + ε) / (N + K ε)

    with n_k and Σ over the vectors of the whole batch that are nearest to e_k, and N = Σ N_k. The codebook starts as
    vectors of the first batch, drawn at random.

    A latent vector holds a one-hot code for each place of the map. The paper's prior is a trained PixelCNN; here each
    place's code is drawn independently, by the frequencies of codes there in the last training batches. So
    reconstructions show what the model has learned, and samples show only local structure.
    """

    class Settings(ganrun.Settings):
        codes: int = Field(512, ge=2)
        """K: codes in the codebook."""

        code_size: int = Field(64, ge=1)
        """D: length of a code's vector."""

        downsampling: Literal[2, 4, 8, 16, 32] = 4
        """Pixels along the side of the square that one code stands for."""

        commitment: float = Field(0.25, ge=0)
        """β: weight of the encoder's distance from the codes."""

        decay: float = Field(0.99, ge=0, lt=1)
        """γ of the moving means, per step."""

        smoothing: float = Field(1e-5, gt=0)
        """ε: added to the count of each code. It pulls codes that are no longer used towards the origin."""

        restarts: bool = True
        """Whether dead codes are replaced by random vectors of the batch, as in Dhariwal et al. 2020
        (arXiv:2005.00341). A code is dead if its moving count is below 3 % of the mean count of all codes."""

    slots = {
        "generator": Slot("generator", averaged=True),
        "encoder": Slot("network", averaged=True),
    }

    settings: Settings

    def __init__(self, settings: Settings, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        halvings = settings.downsampling.bit_length() - 1
        self.sides = halved_shape(spec.sample_shape, halvings, f"downsampling = {settings.downsampling}")[1:]
        places, codes = self.sides[0] * self.sides[1], settings.codes
        remember(
            self.memory,
            usage=torch.full((places, codes), 1 / places),
            sums=torch.randn(codes, settings.code_size),
        )
        self.memory.register_buffer("data_variance", torch.ones(()))

    @property
    def latent_size(self) -> int:
        """K for each place."""
        return self.settings.codes * self.sides[0] * self.sides[1]

    def factors(self) -> Sequence[Factor]:
        """`code_<row>_<column>`, counted from 1, row by row."""
        height, width = self.sides
        places = [(row, column) for row in range(1, height + 1) for column in range(1, width + 1)]
        return [Factor(f"code_{row}_{column}", self.settings.codes, "categorical") for row, column in places]

    def ports(self, slot: str) -> Ports:
        """Maps of vectors `(code_size, height / downsampling, width / downsampling)` between the two networks."""
        maps, sample = (self.settings.code_size, *self.sides), self.spec.sample_shape
        return Ports(maps, sample) if slot == "generator" else Ports(sample, maps)

    def prepare(self, training: Split) -> None:
        """Measure the variance of the pixels, by which the reconstruction error is divided."""
        rows = training.images[:: max(1, len(training.images) // VARIANCE_ROWS)]
        unit = 127.5 if rows.dtype == np.uint8 else 1.0
        variance = rows.var(dtype=np.float64) / unit**2
        self.memory.data_variance.fill_(variance if variance > 0 else 1.0)

    def latents(self, size: int, device: torch.device) -> Tensor:
        """One-hot codes, drawn for each place by their frequency there: `(size, latent_size)`."""
        usage = self.memory.usage.to(device)
        cumulative = usage.cumsum(1) / usage.sum(1, keepdim=True)
        drawn = torch.rand(size, len(usage), 1, device=device)
        codes = (drawn > cumulative).sum(2).clamp(max=self.settings.codes - 1)
        return one_hot(codes, self.settings.codes).flatten(1).float()

    def phases(self) -> Sequence[Phase]:
        """One phase, which trains both networks by the same gradient."""
        return (Phase("vq_vae", self.objective, trains=("generator", "encoder")),)

    def objective(self, nets: Nets, batch: Batch) -> Terms:
        """Equation 3 without its second term, which the moving means replace.

        Also reported: the perplexity of the codes in this part of the batch, at most K, and the number of dead codes.
        """
        memory, settings = self.memory, self.settings
        encoded = nets.encoder(batch.images)
        self._begin_step(encoded.detach(), batch.step)
        with exact_float32():  # rounded products would choose other codes than readings do
            codes = self.nearest(encoded)
            vectors = self.vectors_of(codes.flatten(1))
            self._see(codes, encoded.detach(), batch.step)
        reconstructed = nets.generator(encoded + (vectors - encoded).detach())
        return Terms(
            {
                "reconstruction": mse_loss(reconstructed, batch.images) / memory.data_variance,
                "commitment": settings.commitment * mse_loss(encoded, vectors),
            },
            {"perplexity": perplexity(codes), "dead_codes": self.is_dead.sum()},
        )

    def generate(self, nets: Nets, latents: Tensor, sampling: Any) -> Tensor:
        """The decoder's output for the codes' vectors."""
        return nets.generator(self.vectors_of(latents))

    def readings(self) -> Mapping[str, Reading]:
        """An image's codes, one-hot, and the decoder's output for their vectors."""
        return {"encodings": self.encodings, "reconstructions": self.reconstructions}

    def encodings(self, nets: Nets, batch: Batch) -> Tensor:
        """One-hot codes `(batch, latent_size)`."""
        return self.nearest(nets.encoder(batch.images)).flatten(1)

    def reconstructions(self, nets: Nets, batch: Batch) -> Tensor:
        """Images `(batch, *sample_shape)` in [-1, 1]."""
        return nets.generator(self.vectors_of(self.encodings(nets, batch)))

    @property
    def codebook(self) -> Tensor:
        """e_k, `(codes, code_size)`: as of the step before the one that was trained last."""
        counts, epsilon = self.memory.usage.sum(0), self.settings.smoothing
        total = counts.sum()
        smoothed = total * (counts + epsilon) / (total + len(counts) * epsilon)
        return self.memory.sums / smoothed[:, None]

    @property
    def is_dead(self) -> Tensor:
        """Which codes are dead: bool `(codes,)`."""
        counts = self.memory.usage.sum(0)
        return counts < DEAD * counts.mean()

    def nearest(self, encoded: Tensor) -> Tensor:
        """The codes nearest to the vectors of a map, one-hot: `(batch, code_size, …)` to `(batch, places, codes)`."""
        return nearest_codes(encoded.flatten(2).mT, self.codebook)

    def vectors_of(self, latents: Tensor) -> Tensor:
        """The map of vectors `(batch, code_size, height, width)` that latents `(batch, latent_size)` stand for."""
        vectors = latents.unflatten(1, (-1, self.settings.codes)) @ self.codebook  # type: ignore[no-untyped-call]
        return vectors.mT.unflatten(2, self.sides)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _begin_step(self, encoded: Tensor, step: Tensor) -> None:
        """Update the means; when a step begins, restart dead codes and, in the first step, initialise all."""
        memory = self.memory
        is_first, begins = memory.seen_step < 0, memory.seen_step != step
        begin_step(memory, step, self.settings.decay, "usage", "sums")
        restarted = (is_first | self.is_dead) if self.settings.restarts else is_first.expand(self.settings.codes)
        mean_count = memory.usage.sum() / self.settings.codes
        places = (restarted & begins)[:, None]
        memory.sums.copy_(torch.where(places, mean_count * self._drawn(encoded), memory.sums))
        memory.usage.copy_(torch.where(places.mT, mean_count / len(memory.usage), memory.usage))

    def _drawn(self, encoded: Tensor) -> Tensor:
        """A vector for each code, drawn from those of the first rank: `(codes, code_size)`."""
        vectors, codes = encoded.flatten(2).mT.flatten(0, 1), self.settings.codes
        rows = torch.randint(len(vectors), (codes,), device=encoded.device)
        return gathered_over_ranks(vectors[rows])[:codes]

    @torch.no_grad()
    def _see(self, codes: Tensor, encoded: Tensor, step: Tensor) -> None:
        """n_k at each place, and Σ z_e."""
        vectors = encoded.flatten(2).mT.flatten(0, 1)
        see(self.memory, step, usage=codes.sum(0), sums=codes.flatten(0, 1).mT @ vectors)


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """argmin ‖z − e_k‖² over k, one-hot (equation 1): vectors `(…, code_size)` to `(…, codes)`.

    ‖z‖² is the same for all k and left out.
    """
    distances = codebook.square().sum(1) - 2 * vectors @ codebook.T
    return one_hot(distances.argmin(-1), len(codebook)).to(vectors.dtype)


@torch.no_grad()
def perplexity(codes: Tensor) -> Tensor:
    """exp(−Σ p_k log p_k), with p_k the share of a code: K where all are used alike, 1 where only one is; a scalar."""
    shares = codes.flatten(0, -2).mean(0)
    found: Tensor = torch.special.entr(shares).sum().exp()
    return found
