"""Inception's features, as in published scores, with torch-fidelity's network `inception-v3-compat`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganrun import isolated_random
from ganrun_fidelity.pretrained import Pretrained
from ganrun_fidelity.resizing import resize
from ganrun_fidelity.weights import Published

WEIGHTS = Published(
    "Inception",
    "inception",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "96 MB",
    "6726825d",
)
SIDE = 299
"""Pixels of the network's input in either direction."""


class Inception(Pretrained):
    """Inception's features, as in published scores, with torch-fidelity's network inception-v3-compat.

    `features` are the 2,048 of the last pooling; `logits` are the 1,008 without bias that the Inception Score uses.
    """

    outputs = ("features", "logits")
    suffix = ""
    name = "inception-v3-compat"
    side = SIDE
    published = WEIGHTS
    package = "torch-fidelity"

    @classmethod
    def network(cls, path: Path) -> nn.Module:
        """torch-fidelity's network at half its cost."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity unpickles the file, which could run code; so it gets a file of tensors that were read safely.
        safe = io.BytesIO()
        torch.save(WEIGHTS.state(path), safe)
        safe.seek(0)
        try:
            with isolated_random(torch.device("cpu"), 0):
                network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], safe)
        except RuntimeError as error:
            raise WEIGHTS.mismatch(path, str(error).partition("\n")[2] or str(error)) from error
        return _Trunk(network)


class _Trunk(nn.Module):
    """The same function as torch-fidelity's network, at half its cost: batch norms folded, resizing by matrices.

    Args:
        network: torch-fidelity's, with its weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _fold_batch_norms(network)
        *layers, head = network.children()
        self.layers, self.head = nn.Sequential(*layers), head

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """`features` `(batch, 2048)` and `logits`, without bias, `(batch, 1008)` of uint8 images."""
        resized = resize(images.float(), SIDE).sub_(128).div_(128)
        colour = resized.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        features = self.layers(colour).flatten(1)
        return {"features": features, "logits": features @ self.head.weight.T}


def _fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm into the convolution before it."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    blocks: list[Any] = [module for module in network.modules() if hasattr(module, "bn")]
    for block in blocks:
        block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
