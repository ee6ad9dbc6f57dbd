"""How extractors compute on a GPU: the same features every time, in full float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """A block in which cuDNN's convolutions are repeatable and do not round to TensorFloat-32, as they do by default.

    What was set outside is set again afterwards.
    """
    cudnn: Any = torch.backends.cudnn
    # From PyTorch 2.9 on, the old switch fails where somebody has used the new one, so the new one it is.
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
