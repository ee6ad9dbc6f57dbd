"""The base of extractors with published weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

import ganrun
from ganrun import Data, Extractor, IncompatibleError, LocalPath, ModelSpec
from ganrun_fidelity.precision import exact_convolutions
from ganrun_fidelity.resizing import resize
from ganrun_fidelity.weights import Published

IMAGES_AT_A_TIME = 32
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of each channel of ImageNet's pictures in [0, 1]."""


class Pretrained(Extractor):
    """A network with published weights. It takes resized pictures in colour; grey ones become three equal channels."""

    class Settings(ganrun.Settings):
        weights: LocalPath | None = None
        """Path of a file of weights in the published format; unless given, the published file in torch's hub folder,
        $TORCH_HOME/hub/checkpoints."""

    settings: Settings
    name: ClassVar[str]
    """Its name in protocols."""
    side: ClassVar[int]
    """Height and width of its input, in pixels."""
    published: ClassVar[Published]
    """Its weights."""
    resizing: ClassVar[str] = "bilinear to {side}×{side}, as TensorFlow 1"
    """How pictures are resized, as protocols say it."""
    package: ClassVar[str] = ""
    """The package that the network comes from, if not this one."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        channels = spec.image_shape[0]
        if channels not in (1, 3):
            name = self.published.network
            raise IncompatibleError(f'{name} takes 1 or 3 channels, not {channels}; say features = "classifier"')

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the weights.

        Raises:
            PreflightError: if they are missing, damaged or another network's, with the steps that fix it.
        """
        path, self._sha256 = self.published.find(self.settings.weights)
        self._package_version = version(self.package) if self.package else ""
        self._network = _built(type(self), path, self._sha256, device)

    @property
    def key(self) -> str:
        """Name, weights, and the version of the network's package."""
        return f"{self.name}/{self._sha256}/{self._package_version}"

    @property
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """Network, weights, resizing, channels, and the version of the network's package."""
        about: dict[str, str] = {
            "extractor": self.name,
            "weights": self._sha256[:16],
            "resize": self.resizing.format(side=self.side),
            "channels": "3; grey repeated",
        }
        return {**about, self.package: self._package_version} if self.package else about

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """The outputs for uint8 images with 1 or 3 channels."""
        with exact_convolutions():
            parts = [self._network(part) for part in torch.split(images, IMAGES_AT_A_TIME)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.outputs}

    @classmethod
    @abstractmethod
    def network(cls, path: Path) -> nn.Module:
        """The network with the weights in this file: from uint8 images of any size to the outputs by name.

        Raises:
            PreflightError: if they are not its weights.
        """


class Normalised(nn.Module):
    """A network behind its preprocessing: resizing, three channels, and normalisation of each.

    Args:
        network: From preprocessed images to features.
        side: Height and width of its input, in pixels.
        mean: Mean of each channel, for pictures in [0, 1].
        deviation: Standard deviation of each channel, likewise.
        resize: Makes `(batch, channels, side, side)` of pictures in 0 … 255.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        network: nn.Module,
        side: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        resize: Callable[[Tensor, int], Tensor] = resize,
    ) -> None:
        super().__init__()
        self.network, self.side, self.resize = network, side, resize
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", 255 * torch.tensor(deviation)[:, None, None])

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """`features` of uint8 images of any size."""
        resized = self.resize(images.float(), self.side).float()
        return {"features": self.network((resized - self.mean) / self.deviation)}


@lru_cache(maxsize=2)
def _built(extractor: type[Pretrained], path: Path, sha256: str, device: torch.device) -> nn.Module:
    """The network with the weights in this file, shared by all extractors that read the same content."""
    network = extractor.network(path).eval().requires_grad_(False)
    return network.to(device).to(memory_format=torch.channels_last)
