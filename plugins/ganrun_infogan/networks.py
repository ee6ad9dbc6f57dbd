"""InfoGAN's networks for MNIST: table 1 in appendix C.1 of arXiv:1606.03657.

Where the table leaves a choice, the authors' program decides: batch norm stands before the non-linearity, weights
start at N(0, 0.02) and the scales of batch norm at N(1, 0.02).
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from ganrun import Discriminator, Generator, NetworkSpec, Settings, dcgan_init, float32_tanh, halved_shape

LEAK = 0.1
"""Slope of leaky ReLU for negative inputs (appendix C)."""


class MnistGenerator(Generator):
    """Two dense layers, then two transposed convolutions: InfoGAN's generator for MNIST.

    Dense 1024, dense 7·7·128, transposed convolution 4×4 to 64 channels, another to the image; batch norm and ReLU
    between them. The paper ends in a sigmoid for pixels in [0, 1]; tanh is the same for [-1, 1]. Takes any height and
    width that 4 divides.
    """

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = halved_shape(spec.outputs, 2, "its two strided convolutions")
        start = (128, height, width)
        self.layers = nn.Sequential(
            nn.Linear(spec.inputs[0], 1024, bias=False),
            nn.BatchNorm1d(1024),
            nn.ReLU(),
            nn.Linear(1024, prod(start), bias=False),
            nn.BatchNorm1d(prod(start)),
            nn.ReLU(),
            nn.Unflatten(1, start),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, channels, 4, stride=2, padding=1),
        )
        self.apply(dcgan_init)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents `(batch, latent_size)` to images `(batch, channels, height, width)` in [-1, 1]."""
        return float32_tanh(self.layers(latents))


class MnistDiscriminator(Discriminator):
    """Two convolutions and a dense layer, then D's logit and Q's own head: InfoGAN's discriminator for MNIST.

    Convolutions 4×4 of stride 2 to 64 and 128 channels, dense 1024. D is one more dense layer; Q is a dense layer of
    128 and another one. Batch norm before each leaky ReLU but the first. The first output is D's, all others are Q's;
    for a loss with a single output there is no Q. Takes any height and width that 4 divides.
    """

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels, height, width = halved_shape(spec.inputs, 2, "its two strided convolutions")
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(64, 128, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(LEAK),
            nn.Flatten(),
            nn.Linear(128 * height * width, 1024, bias=False),
            nn.BatchNorm1d(1024),
            nn.LeakyReLU(LEAK),
        )
        self.logit = nn.Linear(1024, 1)
        self.recognition = _recognition(spec.out_features - 1) if spec.out_features > 1 else None
        self.apply(dcgan_init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to D's logit and Q's parameters `(batch, out_features)`."""
        hidden = self.trunk(images)
        logit: Tensor = self.logit(hidden)
        return logit if self.recognition is None else torch.cat([logit, self.recognition(hidden)], dim=1)


def _recognition(outputs: int) -> nn.Module:
    """Q's own layers."""
    return nn.Sequential(
        nn.Linear(1024, 128, bias=False), nn.BatchNorm1d(128), nn.LeakyReLU(LEAK), nn.Linear(128, outputs)
    )
