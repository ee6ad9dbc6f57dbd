"""InfoGAN's objective: a GAN that also maximises the information in its samples about the codes, a part of the latents.

    min over G, Q  max over D   V(D, G) − λ L_I(G, Q)                      (equation 6)
    L_I(G, Q) = H(c) + E[log Q(c | G(z, c))]  ≤  I(c; G(z, c))             (equations 4 and 5)

Q shares all of the discriminator's layers but the last ones, so both live in one slot: the first of its outputs is
D's logit, the others are Q's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from ganrun import (
    Batch,
    Factor,
    LogisticLoss,
    Nets,
    Ports,
    Reading,
    Terms,
    join_latents,
    non_saturating_loss,
    random_noise,
    random_one_hot,
    split_latents,
)


class InfoGan(LogisticLoss):
    """A GAN whose codes can be read from its samples: it finds classes and continuous factors without labels.

    Chen et al. 2016 (arXiv:1606.03657). A latent vector is noise, then one one-hot block for each categorical code,
    then the continuous codes. Codes are, and noise is by default, uniform on (-1, 1), as in the authors' program.
    """

    class Settings(LogisticLoss.Settings):
        latents: Literal["normal", "uniform", "truncated"] = "uniform"
        """Distribution of the noise, drawn independently for each number: the uniform distribution on (-1, 1), the
        normal one N(0, 1), or the normal one truncated at ±2. Codes have their own."""

        noise_size: int = Field(62, ge=0)
        """Length of the noise."""

        categorical: tuple[Annotated[int, Field(ge=2)], ...] = (10,)
        """Number of values of each categorical code; all values are equally likely."""

        continuous: int = Field(2, ge=0)
        """Number of continuous codes, uniform on (-1, 1)."""

        categorical_weight: float = Field(1.0, ge=0)
        """λ for the categorical codes' information."""

        continuous_weight: float = Field(0.1, ge=0)
        """λ for the continuous codes' information, which has no upper bound: the paper advises a smaller weight."""

        @field_validator("continuous")
        @classmethod
        def _has_codes(cls, continuous: int, info: ValidationInfo) -> int:
            if not continuous and info.data.get("categorical") == ():
                raise ValueError('there are no codes; set categorical or continuous, or say use = "gan"')
            return continuous

    settings: Settings

    @property
    def latent_size(self) -> int:
        """Noise and codes together; 74 by default, as in the paper for MNIST."""
        return sum(factor.size for factor in self.factors())

    def ports(self, slot: str) -> Ports:
        """D's logit, then Q's: logits of each categorical code, mean and log-variance of the continuous ones."""
        ports = super().ports(slot)
        return ports._replace(outputs=(sum(self._output_sizes),)) if slot == "discriminator" else ports

    def factors(self) -> Sequence[Factor]:
        """`noise`, `code_1`, `code_2`, … and `continuous` (all continuous codes in one); empty ones are absent."""
        noise = Factor("noise", self.settings.noise_size, "noise")
        sizes = enumerate(self.settings.categorical, start=1)
        codes = [Factor(f"code_{number}", size, "categorical") for number, size in sizes]
        continuous = Factor("continuous", self.settings.continuous, "continuous")
        return [factor for factor in (noise, *codes, continuous) if factor.size]

    def latents(self, size: int, device: torch.device) -> Tensor:
        """Noise, one-hot codes and continuous codes `(size, latent_size)`, all drawn independently."""
        return torch.cat([self._drawn(factor, size, device) for factor in self.factors()], dim=1)

    def _drawn(self, factor: Factor, size: int, device: torch.device) -> Tensor:
        """Noise; equally likely values of a categorical code; continuous codes, uniform on (-1, 1)."""
        if factor.kind == "noise":
            return self.draw_noise(size, factor.size, device)
        if factor.kind == "categorical":
            return random_one_hot(size, factor.size, device)
        return random_noise(size, factor.size, "uniform", device)

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(x)] − E[log(1 − D(G(z, c)))] − λ L_I, which trains D, Q and what they share.

        Q learns only from generated images, because only their codes are known.
        """
        real = nets.discriminator(batch.images)[:, 0]
        outputs = nets.discriminator(nets.generator(batch.latents))
        return self._with_information(self.logistic_terms(real, outputs[:, 0]), batch.latents, outputs)

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        """−E[log D(G(z, c))] − λ L_I: the non-saturating form, as in the authors' program."""
        outputs = nets.discriminator(nets.generator(batch.latents))
        return self._with_information({"fake": non_saturating_loss(outputs[:, 0])}, batch.latents, outputs)

    def information(self, latents: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """L_I in nats, summed over the codes of each kind: `categorical` and `continuous`, where there are any.

        Args:
            latents: The samples' latents `(batch, latent_size)`.
            outputs: The discriminator's outputs for the samples, `(batch, out_features)`.
        """
        codes = split_latents(latents, self.factors())
        logits, mean, log_variance = self._read(outputs)
        found = {}
        if logits:
            each = [categorical_information(logits[name], codes[name]) for name in logits]
            found["categorical"] = torch.stack(each).sum()
        if self.settings.continuous:
            found["continuous"] = continuous_information(mean, log_variance, codes["continuous"]).sum()
        return found

    def readings(self) -> Mapping[str, Reading]:
        """Q's probabilities of each categorical code and means of the continuous ones, after zeros for the noise."""
        return {"encodings": self._encodings}

    def _encodings(self, nets: Nets, batch: Batch) -> Tensor:
        logits, mean, _ = self._read(nets.discriminator(batch.images))
        probabilities = {name: each.softmax(dim=1) for name, each in logits.items()}
        means = {"continuous": mean} if self.settings.continuous else {}
        return join_latents({**probabilities, **means}, self.factors())

    def _with_information(self, adversarial: Mapping[str, Tensor], latents: Tensor, outputs: Tensor) -> Terms:
        entropy = sum(math.log(values) for values in self.settings.categorical)
        bound = {"mutual_information_bound": outputs.new_full((), entropy)} if entropy else {}
        weights = {"categorical": self.settings.categorical_weight, "continuous": self.settings.continuous_weight}
        information = self.information(latents, outputs)
        return Terms(
            minimise={**adversarial, **{kind: -weights[kind] * value for kind, value in information.items()}},
            report={**{f"mutual_information_{kind}": value for kind, value in information.items()}, **bound},
        )

    def _read(self, outputs: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Q's outputs: logits of each categorical code by its name, mean and log-variance of the continuous ones."""
        _, *logits, mean, log_variance = torch.split(outputs, self._output_sizes, dim=1)
        codes = [factor.name for factor in self.factors() if factor.kind == "categorical"]
        return dict(zip(codes, logits, strict=True)), mean, log_variance

    @property
    def _output_sizes(self) -> list[int]:
        return [1, *self.settings.categorical, self.settings.continuous, self.settings.continuous]


# ── Equation 5: L_I = H(c) + E[log Q(c | x)] ──────────────────────────────────────────────────────────────


def categorical_information(logits: Tensor, codes: Tensor) -> Tensor:
    """ln K + E[log softmax(logits)_c] in nats, a scalar: at most ln K, and 0 where Q is uniform.

    Args:
        logits: Q's logits `(batch, K)`.
        codes: The true codes, one-hot `(batch, K)`, drawn with equal probabilities.
    """
    return math.log(codes.shape[1]) - cross_entropy(logits, codes)


def continuous_information(mean: Tensor, log_variance: Tensor, codes: Tensor) -> Tensor:
    """ln 2 + E[log N(c; μ, σ²)] in nats, for each code `(codes,)`: Q is a factored Gaussian (section 6).

    ln 2 is the differential entropy of a code that is uniform on (-1, 1). There is no upper bound: a continuous code
    that is recovered exactly carries infinite information.

    Args:
        mean: Q's means `(batch, codes)`.
        log_variance: Q's log σ² `(batch, codes)`.
        codes: The true codes `(batch, codes)`.
    """
    squares = (codes - mean).square() * torch.exp(-log_variance)
    return math.log(2) - 0.5 * (math.log(2 * math.pi) + log_variance + squares).mean(dim=0)
