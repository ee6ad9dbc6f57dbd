"""Inception's features, by torch-fidelity's network `inception-v3-compat`: those of the published scores."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ganrun
from ganrun import Checkup, Data, Extractor, MisfitError, PreflightError, Problem, isolated_random
from ganrun_fidelity.precision import exact_convolutions

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "6726825d"
"""How the published file's SHA-256 begins, as its name tells."""
IMAGES_AT_A_TIME = 32
SIDE = 299
"""Pixels of the network's input in either direction."""


class Inception(Extractor):
    """Inception's features, by torch-fidelity's network inception-v3-compat: those of published scores.

    `features` are the 2,048 of its last pooling, `logits` the 1,008 without bias that the Inception Score uses.
    """

    outputs = ("features", "logits")
    suffix = ""

    class Settings(ganrun.Settings):
        weights: str | None = None
        """Path of a state dict in torch-fidelity's format; without it, the published file in torch's hub folder,
        $TORCH_HOME/hub/checkpoints."""

    settings: Settings

    def __init__(self, settings: Settings, problem: Problem) -> None:
        super().__init__(settings, problem)
        channels = problem.image_shape[0]
        if channels not in (1, 3):
            raise MisfitError(f'Inception takes 1 or 3 channels, not {channels}; say features = "classifier"')

    def prepare(self, data: Data, device: torch.device) -> None:
        """Load the weights.

        Raises:
            PreflightError: if they are absent, damaged or another network's; with the steps that mend it.
        """
        path = _existing(self.settings.weights)
        self._sha256 = _sha256(path)
        if self.settings.weights is None and not self._sha256.startswith(WEIGHTS_SHA256):
            raise PreflightError(_altered(path))
        self._network = _network(path, self._sha256, device)

    @property
    def key(self) -> str:
        """Name and weights."""
        return f"inception-v3-compat/{self._sha256}"

    @property
    def protocol(self) -> Mapping[str, str | int | float | bool]:
        """Network, weights, resizing, channels, and the version of torch-fidelity."""
        return {
            "extractor": "inception-v3-compat",
            "weights": self._sha256[:16],
            "resize": "bilinear to 299×299, as TensorFlow 1",
            "channels": "3; grey repeated",
            "torch_fidelity": version("torch-fidelity"),
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """`features` `(batch, 2048)` and `logits` `(batch, 1008)` of uint8 images with 1 or 3 channels."""
        with exact_convolutions():
            parts = [self._network(part) for part in torch.split(images, IMAGES_AT_A_TIME)]
        features, logits = (torch.cat(each) for each in zip(*parts, strict=True))
        return {"features": features, "logits": logits}


def weights_checkup() -> Checkup:
    """Whether the published weights are where a run looks for them."""
    path = _usual_path()
    if not path.is_file():
        return Checkup(False, _absent(f"no file {path}"))
    if not _sha256(path).startswith(WEIGHTS_SHA256):
        return Checkup(False, _altered(path))
    return Checkup(True, str(path))


# ── The weights' file ─────────────────────────────────────────────────────────────────────────────────────


def _usual_path() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE


def _existing(weights: str | None) -> Path:
    path = _usual_path() if weights is None else Path(weights).expanduser()
    if not path.is_file():
        raise PreflightError(_absent(f"no file {path}"))
    return path


def _absent(reason: str) -> str:
    return (
        f"Inception's weights are not there: {reason}. Nothing is downloaded during a run; either\n"
        f"  - download {WEIGHTS_URL} (96 MB)\n"
        f"    and put it into {_usual_path().parent}, by that name\n"
        '  - or, where you have it elsewhere, say features = { use = "inception", weights = "…/that-file.pth" }\n'
        '  - or say features = "classifier": a small network trained on the data\'s own labels'
    )


def _altered(path: Path) -> str:
    return (
        f"{path} is not the published file (its SHA-256 should begin with {WEIGHTS_SHA256}): it is cut short or"
        f" was changed\n  - download it anew from {WEIGHTS_URL}\n"
        '  - or, where you mean other weights, say features = { use = "inception", weights = "…/file.pth" }'
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PreflightError(f"cannot read Inception's weights {path}: {error.strerror}") from error


# ── The network ───────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def _network(path: Path, sha256: str, device: torch.device) -> nn.Module:
    """The network of a file of this content; FID and Inception Score of a recipe share it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever it is given; so it is given tensors that were read safely before.
    safe = io.BytesIO()
    torch.save(_state(path), safe)
    safe.seek(0)
    try:
        with isolated_random(torch.device("cpu"), 0):
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], safe)
    except RuntimeError as error:
        raise PreflightError(_foreign(path, str(error).partition("\n")[2] or str(error))) from error
    return _Trunk(network).to(device).to(memory_format=torch.channels_last)


def _state(path: Path) -> Mapping[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails in any way on a file that is not its own
        raise PreflightError(_foreign(path, str(error) or type(error).__name__)) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PreflightError(_foreign(path, f"it holds a {type(state).__name__} and no tensors by name"))
    return state


def _foreign(path: Path, reason: str) -> str:
    return (
        f"{path} does not hold Inception's weights in torch-fidelity's format: {textwrap.shorten(reason, 300)}\n"
        f"  the published file is {WEIGHTS_URL}"
    )


class _Trunk(nn.Module):
    """The same function as torch-fidelity's network at half the cost: batch norms folded, resizing by matrices.

    Args:
        network: torch-fidelity's, with its weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _fold_batch_norms(network)
        *layers, head = network.children()
        self.layers, self.head = nn.Sequential(*layers), head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(batch, 2048)` and logits without bias `(batch, 1008)` of uint8 images."""
        resized = resize(images.float(), SIDE).sub_(128).div_(128)
        colour = resized.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        features = self.layers(colour).flatten(1)
        return features, features @ self.head.weight.T


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear resizing as in TensorFlow 1, corners not aligned: `(batch, channels, side, side)`.

    Output pixel i lies at i · n / side of the n input pixels, counted from the first one's centre, so the picture as a
    whole is shifted: a fault that published scores are built on. Pixels are mixed by two matrices.
    """
    height, width = images.shape[-2:]
    return _mixing(height, side, images.device) @ images @ _mixing(width, side, images.device).T


@lru_cache(maxsize=8)
def _mixing(count: int, side: int, device: torch.device) -> Tensor:
    """How much of each of `count` pixels enters each of `side`: `(side, count)`, two entries in a row."""
    places = torch.arange(side, dtype=torch.float32) * torch.tensor(count / side, dtype=torch.float32)
    low = places.long()
    share = places - low
    matrix = torch.zeros(side, count)
    matrix[torch.arange(side), low] = 1 - share
    matrix[torch.arange(side), (low + 1).clamp_max(count - 1)] += share
    return matrix.to(device)


def _fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm into the convolution before it."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    blocks: list[Any] = [module for module in network.modules() if hasattr(module, "bn")]
    for block in blocks:
        block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
