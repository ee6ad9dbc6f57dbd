"""Weights of published networks: where their files are, whether they are whole, and tensors read without unpickling."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganrun import HealthCheck, PreflightError


@dataclass(frozen=True)
class Published:
    """A published file of weights."""

    network: str
    """As people call it."""

    use: str
    """The extractor that reads it."""

    url: str
    """Where it is downloaded; its last part is the file's name."""

    size: str

    sha256: str = ""
    """How its SHA-256 begins, as far as its publisher tells."""

    @property
    def usual_path(self) -> Path:
        """In torch's hub folder, where torch itself would keep it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]

    def found(self, weights: str | None) -> tuple[Path, str]:
        """The file and its SHA-256.

        Args:
            weights: Where the recipe says that other weights are; None for the published ones.

        Raises:
            PreflightError: if it is absent or was altered, with the steps that mend it.
        """
        path = self.usual_path if weights is None else Path(weights).expanduser()
        if not path.is_file():
            raise PreflightError(self._absent(path))
        sha256 = self._sha256_of(path)
        if path == self.usual_path and not sha256.startswith(self.sha256):
            raise PreflightError(self._altered(path))
        return path, sha256

    def health_check(self) -> HealthCheck:
        """For `ganrun doctor`: whether the published file is where a run looks for it."""
        try:
            path, _ = self.found(None)
        except PreflightError as error:
            return HealthCheck(False, error.message)
        return HealthCheck(True, str(path))

    def state(self, path: Path) -> dict[str, Tensor]:
        """A state dict, read so that nothing in the file is executed.

        Raises:
            PreflightError: if the file holds none.
        """
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load fails in any way on a file that is not its own
            raise self.foreign(path, str(error) or type(error).__name__) from error
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise self.foreign(path, f"it holds a {type(state).__name__} and no tensors by name")
        return dict(state)

    def foreign(self, path: Path, reason: str) -> PreflightError:
        """The error for a file of another network."""
        return PreflightError(
            f"{path} does not hold {self.network}'s weights: {textwrap.shorten(reason, 300)}\n"
            f"  the published file is {self.url}"
        )

    def _absent(self, path: Path) -> str:
        return (
            f"{self.network}'s weights are not there: no file {path}. Nothing is downloaded during a run; either\n"
            f"  - download {self.url} ({self.size})\n"
            f"    and put it into {self.usual_path.parent}, by that name\n"
            f'  - or, where you have it elsewhere, say features = {{ use = "{self.use}", weights = "…/that-file" }}\n'
            '  - or say features = "classifier": a small network trained on the data\'s own labels'
        )

    def _altered(self, path: Path) -> str:
        return (
            f"{path} is not the published file (its SHA-256 should begin with {self.sha256[:16]}): it is cut short or"
            f" was changed\n  - download it anew from {self.url}\n"
            f'  - or, where you mean other weights, say features = {{ use = "{self.use}", weights = "…/file" }}'
        )

    def _sha256_of(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise PreflightError(f"cannot read {self.network}'s weights {path}: {error.strerror}") from error
