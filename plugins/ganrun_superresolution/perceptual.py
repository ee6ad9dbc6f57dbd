"""The base of networks with published weights: finds the file, reads it without executing code, and fills layers."""

from __future__ import annotations

import hashlib
import textwrap
from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import ganrun
from ganrun import IncompatibleError, LocalPath, Network, NetworkSpec, PreflightError, image_shape


class Pretrained(Network):
    """A network with published weights, up to one of its layers, for a frozen slot.

    It takes images in [-1, 1] with 1 or 3 channels; grey ones become three equal channels. Images are not resized.
    """

    class Settings(ganrun.Settings):
        weights: LocalPath | None = None
        """Path of a file of the weights, in torch's format or as safetensors; unless given, the published one."""

    settings: Settings
    name: ClassVar[str]
    """The network's name, for messages."""
    sha256: ClassVar[str]
    """The first digits of the published file's SHA-256, which are part of its name."""
    layers: nn.Module
    """The layers that the file fills."""

    def __init__(self, settings: Settings, spec: NetworkSpec) -> None:
        super().__init__(settings, spec)
        channels = image_shape(spec.inputs)[0]
        if channels not in (1, 3):
            raise IncompatibleError(f"{self.name} takes images of 1 or 3 channels, not {channels}")

    def prepare(self, device: torch.device) -> None:
        """Fill the layers from the file.

        Raises:
            PreflightError: if it is missing, damaged or another network's, with the steps that fix it.
        """
        published, given = self.published(), self.settings.weights
        path = Path(given) if given else published
        if path is None or not path.is_file():
            raise PreflightError(self.missing(path))
        try:
            self._fill(path, is_published=path == published)
        except Exception as error:  # torch raises errors of many types for files of other kinds
            reason = textwrap.shorten(str(error).partition("\n")[2] or str(error), 300)
            raise PreflightError(f"{path} does not hold {self.name}'s weights: {reason}") from error

    @abstractmethod
    def published(self) -> Path | None:
        """Where the published file should be, or None where that is unknown."""

    @abstractmethod
    def missing(self, path: Path | None) -> str:
        """The message for a missing file, with the steps that get it."""

    @abstractmethod
    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published tensors that the layers need, by the layers' names."""

    def _fill(self, path: Path, *, is_published: bool) -> None:
        if is_published and not digest_of(path, path.stat().st_mtime_ns).startswith(self.sha256):
            raise ValueError(f"its SHA-256 should begin with {self.sha256}; it is truncated or altered")
        self.layers.load_state_dict(self.renamed(read_weights(path)))


def colour(images: Tensor) -> Tensor:
    """Images `(batch, 1 or 3, height, width)` with three channels."""
    return images.expand(-1, 3, -1, -1)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a file by name.

    Raises:
        ValueError: if it holds something else; other errors if it cannot be read.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
        raise ValueError(f"it holds a {type(state).__name__} and no tensors by name")
    return state


@lru_cache(maxsize=4)
def digest_of(path: Path, modified_ns: int) -> str:
    """The SHA-256 of a file that was changed last at this time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
