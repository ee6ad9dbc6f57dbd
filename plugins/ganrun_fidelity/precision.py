"""Repeatable float32 convolutions, for extractors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ganrun import exact_float32


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Within the block, float32 is exact, and cuDNN's convolutions are repeatable.

    Afterwards, the former settings are restored.
    """
    cudnn = torch.backends.cudnn
    deterministic = cudnn.deterministic
    cudnn.deterministic = True
    try:
        with exact_float32():
            yield
    finally:
        cudnn.deterministic = deterministic
