"""Data sets: published ones, the user's own pictures, and those that need no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Data, Metric


@hookimpl
def ganrun_data() -> Mapping[str, type[Data]]:
    """Data sets of this plugin, by name."""
    from ganrun_datasets.binarized_mnist import BinarizedMnist
    from ganrun_datasets.celeba.data import Celeba
    from ganrun_datasets.cifar import Cifar10, Cifar100
    from ganrun_datasets.degraded.data import Degraded
    from ganrun_datasets.digits import Digits
    from ganrun_datasets.emnist import Emnist
    from ganrun_datasets.emoji.data import Emoji
    from ganrun_datasets.gaussians import Gaussians
    from ganrun_datasets.image_folder import ImageFolder
    from ganrun_datasets.mnist import FashionMnist, Kmnist, Mnist
    from ganrun_datasets.pairs.paired import PairedFolders
    from ganrun_datasets.pairs.unpaired import UnpairedFolders
    from ganrun_datasets.photographs import Photographs
    from ganrun_datasets.stl10 import Stl10
    from ganrun_datasets.svhn import Svhn
    from ganrun_datasets.synthetic import Synthetic

    return {
        "binarized-mnist": BinarizedMnist,
        "celeba": Celeba,
        "cifar10": Cifar10,
        "cifar100": Cifar100,
        "degraded": Degraded,
        "digits": Digits,
        "emoji": Emoji,
        "emnist": Emnist,
        "fashion-mnist": FashionMnist,
        "gaussians": Gaussians,
        "image-folder": ImageFolder,
        "kmnist": Kmnist,
        "mnist": Mnist,
        "paired-folders": PairedFolders,
        "photographs": Photographs,
        "stl10": Stl10,
        "svhn": Svhn,
        "synthetic": Synthetic,
        "unpaired-folders": UnpairedFolders,
    }


@hookimpl
def ganrun_metrics() -> Mapping[str, type[Metric]]:
    """The metric `modes-covered`."""
    from ganrun_datasets.gaussians import ModesCovered

    return {"modes-covered": ModesCovered}
