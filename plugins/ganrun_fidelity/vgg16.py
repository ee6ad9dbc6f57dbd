"""VGG-16's features: those of the paper on improved precision and recall."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from ganrun_fidelity.pretrained import IMAGENET, Normalised, Pretrained
from ganrun_fidelity.weights import Published

WEIGHTS = Published("VGG-16", "vgg16", "https://download.pytorch.org/models/vgg16-397923af.pth", "528 MB", "397923af")


class Vgg16(Pretrained):
    """VGG-16's second dense layer after its ReLU, 4,096 features, with torchvision's weights for ImageNet.

    The features of the paper on improved precision and recall (arXiv:1904.06991), and of torch-fidelity's vgg16.
    """

    suffix = name = "vgg16"
    side = 224
    published = WEIGHTS
    package = "torchvision"

    @classmethod
    def network(cls, path: Path) -> nn.Module:
        """torchvision's network up to that layer."""
        from torchvision.models import vgg16

        network = WEIGHTS.load(partial(vgg16, init_weights=False), path)
        network.classifier = network.classifier[:5]
        return Normalised(network, cls.side, *IMAGENET)
