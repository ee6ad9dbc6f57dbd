"""Tests on a real GPU. They need no MLflow and no torch-fidelity: `python -m pytest tests/gpu`."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    """The first GPU; without one, the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU, and torch finds none")
    return torch.device("cuda", 0)


@pytest.fixture
def gpus(gpu: torch.device) -> list[torch.device]:
    """All GPUs; with fewer than two, the test is skipped."""
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip("needs two CUDA GPUs, and torch finds one")
    return [torch.device("cuda", index) for index in range(count)]
