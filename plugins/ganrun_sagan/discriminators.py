"""The discriminators of SNGAN and SAGAN, with the class by projection."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

import ganrun
from ganrun import Discriminator, IncompatibleError, NetworkSpec, halved_shape
from ganrun_sagan.blocks import PLAIN, SPECTRAL, DownBlock, Layers, initialise
from ganrun_sagan.layout import AttentionSize, Initialisation, Widths, attentions


class SnganDiscriminator(Discriminator):
    """SNGAN's residual discriminator: spectral norm in every layer, a sum over the last map, the class by projection.

    Residual blocks that halve the size, then blocks that keep it, then ReLU, the sum h over the map, and w·h; with
    labels, (w + v_y)·h, where v_y is a vector learned for each class. Miyato et al. 2018 (arXiv:1802.05957), appendix
    B; Miyato and Koyama 2018 (arXiv:1802.05637), equation 4. Many other programs take the mean over the map instead.
    """

    class Settings(ganrun.Settings):
        widths: Widths = (128, 128)
        """Channels of each block that halves the size. The default is the paper's for 32×32."""

        flat_blocks: int = Field(2, ge=0)
        """Blocks after those, which keep the size and the channels."""

        spectral: bool = True
        """Whether every layer has spectral norm. Without, the loss must bound the critic, as wgan-gp does."""

        attention_size: AttentionSize = 0

        init: Initialisation = "glorot"

    settings: Settings

    residual_gain: ClassVar[float] = sqrt(2)
    """Of the convolutions in blocks, for `init = "glorot"`."""

    output_bias: ClassVar[bool] = False
    """Whether the last layer has a bias."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        widths, layers = settings.widths, SPECTRAL if settings.spectral else PLAIN
        advice = "use fewer widths or change the size in [data]"
        channels, height, width = halved_shape(spec.inputs, len(widths), f"{len(widths)} widths", advice)
        last = len(widths) - 1
        maps = [(each, height << last - index, width << last - index) for index, each in enumerate(widths)]
        self.first = DownBlock(channels, widths[0], layers.conv, first=True)
        self.blocks = nn.ModuleList(DownBlock(*pair, layers.conv) for pair in pairwise(widths))
        self.attentions = attentions(settings.attention_size, maps)
        flat = (DownBlock(widths[-1], widths[-1], layers.conv, halves=False) for _ in range(settings.flat_blocks))
        self.flat = nn.Sequential(*flat)
        self.head = Projection(widths[-1], spec, layers, self.output_bias)
        initialise(self, settings.init, self.residual_gain)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images `(batch, channels, height, width)` to logits `(batch, out_features)`."""
        maps = self.attentions[0](self.first(images))
        for block, attention in zip(self.blocks, self.attentions[1:], strict=True):
            maps = attention(block(maps))
        return self.head(relu(self.flat(maps)).sum((2, 3)), labels)  # type: ignore[no-any-return]


class SaganDiscriminator(SnganDiscriminator):
    """SAGAN's discriminator: SNGAN's, with self-attention at one size.

    Zhang et al. 2018 (arXiv:1805.08318). BigGAN's for 32×32 (arXiv:1809.11096) is this one, with
    `widths = [256, 256]`, `attention_size = 0` and `init = "orthogonal"`.
    """

    class Settings(SnganDiscriminator.Settings):
        widths: Widths = (128, 128)
        """Channels of each block that halves the size. The default is SNGAN's for 32×32; the authors' for 128×128 is
        [64, 128, 256, 512, 1024]."""

        flat_blocks: int = Field(2, ge=0)
        """Blocks after those, which keep the size and the channels; 1 in the authors' for 128×128."""

        attention_size: AttentionSize = 16

    residual_gain = 1.0

    output_bias = True


class Projection(nn.Module):
    """w·h + v_y·h: a discriminator's last layer, and a vector for each class (arXiv:1802.05637, equation 4)."""

    def __init__(self, features: int, spec: NetworkSpec, layers: Layers, bias: bool) -> None:
        super().__init__()
        if spec.labelled and spec.out_features != 1:
            raise IncompatibleError(f"gives one number by class, and the loss expects {spec.out_features}")
        self.output = layers.dense(features, spec.out_features, bias=bias)
        self.classes = layers.table(spec.classes, features) if spec.labelled else None

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Features `(batch, features)` to `(batch, out_features)`."""
        logits: Tensor = self.output(features)
        return logits if self.classes is None else logits + (self.classes(labels) * features).sum(1, keepdim=True)
