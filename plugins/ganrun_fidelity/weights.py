"""Weights of published networks: finding their files, checking them, and reading tensors without unpickling code."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ganrun import HealthCheck, PreflightError

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Published:
    """A published file of weights."""

    network: str
    """The network's name, for messages."""

    use: str
    """Name of the extractor that reads the file."""

    url: str
    """Address of the download; ends in the file's name."""

    size: str
    """Size of the file, with its unit."""

    sha256: str = ""
    """The first digits of its SHA-256, as many as are published."""

    setting: str = "weights"
    """The extractor's setting that names another file."""

    otherwise: str = 'say features = "classifier": a small network trained on the data\'s own labels'
    """The alternative for a recipe without the file."""

    @property
    def usual_path(self) -> Path:
        """The file in torch's hub folder."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]

    def find(self, weights: str | None) -> tuple[Path, str]:
        """The path and the SHA-256 of the file.

        Args:
            weights: Path of other weights, from the recipe; None for the published ones.

        Raises:
            PreflightError: if the file is missing or not the published one, with the steps that fix it.
        """
        path = self.usual_path if weights is None else Path(weights).expanduser()
        if not path.is_file():
            raise PreflightError(self._missing(path))
        sha256 = self._sha256_of(path)
        if path == self.usual_path and not sha256.startswith(self.sha256):
            raise PreflightError(self._altered(path))
        return path, sha256

    def health_check(self) -> HealthCheck:
        """Whether the published file is there and whole, for `ganrun doctor`."""
        try:
            path, _ = self.find(None)
        except PreflightError as error:
            return HealthCheck(False, error.message)
        return HealthCheck(True, str(path))

    def state(self, path: Path) -> dict[str, Tensor]:
        """The state dict in a file, in float32 where it is in another precision; no code of the file is executed.

        Raises:
            PreflightError: if the file holds none, or tensors that no network has, such as sparse ones.
        """
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises errors of many types for other files
            raise self.mismatch(path, str(error) or type(error).__name__) from error
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise self.mismatch(path, f"it holds a {type(state).__name__} and no tensors by name")
        if odd := [name for name, each in state.items() if not _is_plain(each)]:
            raise self.mismatch(path, f"{odd[0]} is {state[odd[0]].dtype}, {state[odd[0]].layout}")
        return {str(name): each.float() if each.is_floating_point() else each for name, each in state.items()}

    def load(self, network: Callable[[], N], path: Path, prefix: str = "") -> N:
        """The network with the weights in a file.

        Args:
            network: Builds the network; called on the meta device, so that it allocates nothing.
            path: The file.
            prefix: Of the names of the network's tensors in the file, if it also holds others.

        Raises:
            PreflightError: if they are not the network's weights.
        """
        found = self.state(path)
        state = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
        with torch.device("meta"):
            built = network()
        own = built.state_dict()
        for name in sorted(state.keys() & own):
            if state[name].is_floating_point() != own[name].is_floating_point():
                raise self.mismatch(path, f"{name} is {state[name].dtype}")
        try:
            built.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise self.mismatch(path, str(error).partition("\n")[2]) from error
        return built

    def mismatch(self, path: Path, reason: str) -> PreflightError:
        """The error for a file that does not hold the network's weights."""
        return PreflightError(
            f"{path} does not hold {self.network}'s weights: {textwrap.shorten(reason, 300)}\n"
            f"  the published file is {self.url}"
        )

    def _missing(self, path: Path) -> str:
        return (
            f"{self.network}'s weights are not there: no file {path}. Nothing is downloaded during a run; either\n"
            f"  - download {self.url} ({self.size})\n"
            f"    into {self.usual_path.parent}, under its own name\n"
            f'  - or, if you have it elsewhere, say features = {{ use = "{self.use}", {self.setting} = "…/file" }}\n'
            f"  - or {self.otherwise}"
        )

    def _altered(self, path: Path) -> str:
        return (
            f"{path} is not the published file (its SHA-256 should begin with {self.sha256[:16]}): it is truncated or"
            f" altered\n  - download it again from {self.url}\n"
            f'  - or, to use other weights, say features = {{ use = "{self.use}", {self.setting} = "…/file" }}'
        )

    def _sha256_of(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise PreflightError(f"cannot read {self.network}'s weights {path}: {error.strerror}") from error


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has real values, all of them in memory."""
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_complex()
