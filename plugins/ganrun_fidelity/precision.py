"""Repeatable float32 convolutions, for extractors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Within the block, cuDNN's convolutions are repeatable, and do not round to TensorFloat-32 as they do by default.

    Afterwards, the former settings are restored.
    """
    cudnn: Any = torch.backends.cudnn
    # From PyTorch 2.9 on, reading the old switch fails once the new one has been set.
    owner, name, exact = (
        (cudnn.conv, "fp32_precision", "ieee") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32", False)
    )
    precision, deterministic = getattr(owner, name), cudnn.deterministic
    setattr(owner, name, exact)
    cudnn.deterministic = True
    try:
        yield
    finally:
        setattr(owner, name, precision)
        cudnn.deterministic = deterministic
