"""How likely pixels are around a decoder's output, in nats per image, and pixels drawn as black or white."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST_GAP = 2.0**-24
"""Distance from 1 to the next smaller float32: a sample closer to ±1 has been rounded to ±1."""

SMALLEST_SIGMA = 2 / 255 / math.sqrt(12)
"""Standard deviation of rounding to 8 bits, in units of [-1, 1]: no decoder can predict a pixel better."""


# ── Bernoulli pixels: Kingma and Welling 2013, appendix C.1, equation 11 ──────────────────────────────────


def bernoulli_loss(samples: Tensor, images: Tensor) -> Tensor:
    """−Σ [t log p + (1 − t) log(1 − p)] over pixels, p = (1 + sample) / 2, t = (1 + image) / 2: `(batch,)`, in nats.

    Grey pixels are treated as probabilities: for them this is a cross-entropy, not a log-likelihood (arXiv:1907.06845).
    """
    # Where 1 + x or 1 − x is small, it is exact in float32; 1 − p with p = (1 + x) / 2 is not. So the gradient through
    # the decoder's tanh is 2 (p − t), as with logits, until tanh itself rounds to ±1. Only there does the clamp act: it
    # avoids log 0, and the NaN of 0 · ∞ in the backward pass.
    log_p = ((1 + samples).clamp_min(SMALLEST_GAP) / 2).log()
    log_not_p = ((1 - samples).clamp_min(SMALLEST_GAP) / 2).log()
    target = (1 + images) / 2
    return -(target * log_p + (1 - target) * log_not_p).flatten(1).sum(1)


def binarized(images: Tensor) -> Tensor:
    """Black (−1) or white (1) pixels, drawn from the global random stream; a pixel x is white with probability
    (1 + x) / 2. Black and white images are unchanged.

    Args:
        images: In [-1, 1].
    """
    return (torch.rand_like(images) < (1 + images) / 2).to(images.dtype) * 2 - 1


# ── Gaussian pixels: appendix C.2, equation 12, with one variance for all pixels ──────────────────────────


def gaussian_loss(samples: Tensor, images: Tensor, variance: Tensor) -> Tensor:
    """−log N(image; sample, variance · I) = ½ Σ [error² / variance + log(2π variance)]: `(batch,)`, in nats.

    The density is over pixels in [-1, 1]; over pixels in [0, 1] the loss is log 2 lower per pixel.
    """
    errors = (samples - images).square() / variance
    return 0.5 * (errors + (2 * math.pi * variance).log()).flatten(1).sum(1)


def best_variance(samples: Tensor, images: Tensor) -> Tensor:
    """The maximum-likelihood variance of the batch: its mean squared error, over all pixels and images; a scalar.

    The optimal σ-VAE (Rybkin et al. 2020, arXiv:2006.13202). The derivative of the loss by the variance is 0 there, so
    treating the variance as a constant leaves the gradient unchanged.
    """
    return (samples - images).detach().square().mean().clamp_min(SMALLEST_SIGMA**2)
