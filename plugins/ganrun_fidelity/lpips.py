"""LPIPS: a perceptual distance between pictures (Zhang et al. 2018, arXiv:1801.03924)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import ganrun
from ganrun import Data, Extractor, IncompatibleError, LocalPath, ModelSpec, to_unit_range
from ganrun_fidelity.precision import exact_convolutions
from ganrun_fidelity.weights import Published

OTHERWISE = 'say features = "classifier" for path lengths, and leave features out of paired scores'
VGG = Published(
    "VGG-16",
    "lpips",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "528 MB",
    "397923af",
    otherwise=OTHERWISE,
)
LINEAR = Published(
    "LPIPS",
    "lpips",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
    "7 kB",
    setting="linear",
    otherwise=OTHERWISE,
)

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the last layer, after its ReLU, of each of VGG-16's five stages."""
ENDS = (4, 9, 16, 23, 30)
"""Where these stages end, in the numbering of torchvision."""
SHIFT, SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and standard deviation of each channel, for pictures in [-1, 1]."""
LEAST_SIDE, MOST_SIDE = 16, 256
"""In pixels: VGG-16's last stage has a sixteenth of the sides; larger pictures are averaged down, as StyleGAN's."""
EPSILON = 1e-10
"""Added to the length of a feature vector, as in the published code."""
PICTURES_AT_A_TIME = 16


class Lpips(Extractor):
    """LPIPS on VGG-16, version 0.1: `perceptual`, whose squared Euclidean distances are the perceptual distance.

    Zhang et al. 2018 (arXiv:1801.03924), equation 1: at every place of the last layer of VGG-16's five stages, feature
    vectors of length 1, each channel weighted as judgements of people say; squared differences are summed over channels
    and averaged over places. The distance of StyleGAN's perceptual path length, and of torch-fidelity's lpips-vgg16.
    Pictures of 512 pixels and more are averaged down to 256 … 511.
    """

    class Settings(ganrun.Settings):
        weights: LocalPath | None = None
        """Path of VGG-16's weights in torchvision's format; unless given, the published file in torch's hub folder,
        $TORCH_HOME/hub/checkpoints."""

        linear: LocalPath | None = None
        """Path of the channels' weights; unless given, torch-fidelity's file in the same folder."""

    outputs = ("perceptual",)
    takes_floats = True
    suffix = "lpips"
    published = VGG

    settings: Settings

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        super().__init__(settings, spec)
        channels, *sides = spec.image_shape
        if channels not in (1, 3):
            raise IncompatibleError(f"LPIPS takes 1 or 3 channels, not {channels}; {OTHERWISE}")
        if min(sides) < LEAST_SIDE:
            raise IncompatibleError(f"LPIPS takes {LEAST_SIDE}×{LEAST_SIDE} pixels or more, not {sides}; {OTHERWISE}")
        self._factor = max(1, min(sides) // MOST_SIDE)

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load both files of weights.

        Raises:
            PreflightError: if they are missing, damaged or another network's, with the steps that fix it.
        """
        vgg, vgg_digest = VGG.find(self.settings.weights)
        layers = VGG.load(_vgg_layers, vgg, "features.")
        linear, linear_digest = LINEAR.find(self.settings.linear)
        self._digests = vgg_digest, linear_digest
        self._network = _Stages(layers, _channel_weights(linear)).eval().requires_grad_(False).to(device)

    @property
    def key(self) -> str:
        """Both files."""
        return "/".join(("lpips-vgg16", *self._digests))

    @property
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """Network, weights, resizing and channels."""
        resize = f"mean of {self._factor}×{self._factor} pixels" if self._factor > 1 else "none"
        vgg, linear = (digest[:16] for digest in self._digests)
        about = {"extractor": "lpips-vgg16", "weights": vgg, "linear_weights": linear}
        return {**about, "resize": resize, "channels": "3; grey repeated"}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """`perceptual` `(batch, n)` of uint8 images, or of images in [-1, 1]; about 8 million numbers at 256×256."""
        colour = to_unit_range(images).expand(-1, 3, -1, -1)
        small = F.avg_pool2d(colour, self._factor) if self._factor > 1 else colour
        with exact_convolutions():
            return {"perceptual": torch.cat([self._network(part) for part in torch.split(small, PICTURES_AT_A_TIME)])}


class _Stages(nn.Module):
    """Pictures in [-1, 1] to the features of all stages, scaled such that squared distances are LPIPS."""

    shift: Tensor
    spread: Tensor

    def __init__(self, layers: nn.Sequential, weights: Sequence[Tensor]) -> None:
        super().__init__()
        bounds = zip((0, *ENDS[:-1]), ENDS, strict=True)
        self.stages = nn.ModuleList(layers[start:end] for start, end in bounds)
        self.scales = nn.ParameterList(each.sqrt() for each in weights)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        maps = (images - self.shift) / self.spread
        found = []
        for stage, scale in zip(self.stages, self.scales, strict=True):
            maps = stage(maps)
            directions = maps / (maps.norm(dim=1, keepdim=True) + EPSILON)
            places = maps.shape[2] * maps.shape[3]
            found.append((directions * scale[:, None, None]).flatten(1) / places**0.5)
        return torch.cat(found, 1)


def _vgg_layers() -> nn.Sequential:
    from torchvision.models import vgg16

    layers: nn.Sequential = vgg16(init_weights=False).features
    return layers


def _channel_weights(path: Path) -> list[Tensor]:
    """The weight of each channel, of each stage, at least 0."""
    state = LINEAR.state(path)
    shapes = {f"lin{stage}.model.1.weight": (1, width, 1, 1) for stage, width in enumerate(WIDTHS)}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != shapes or not all(tensor.is_floating_point() for tensor in state.values()):
        raise LINEAR.mismatch(path, f"it holds {found}")
    if any(bool((tensor < 0).any()) for tensor in state.values()):
        raise LINEAR.mismatch(path, "it holds weights below 0")
    return [state[name].flatten() for name in shapes]
