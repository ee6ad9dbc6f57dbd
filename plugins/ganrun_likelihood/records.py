"""Records as a likelihood takes them: pixels drawn as black or white, or spread over the width of a grey step."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun import derived_seed, to_unit_range

ROWS_AT_ONCE = 1024
"""Records looked at together."""

GREY_STEP = 1 / 127.5
"""Distance of two neighbouring grey values of 256, in units of [-1, 1]."""


def number_of(record: Tensor) -> int:
    """A number that depends only on a record's contents, so that its random numbers do, too: they are the same in every
    batch, in every process and for any number of records."""
    return derived_seed(0, hashlib.blake2b(record.cpu().contiguous().numpy().tobytes()).hexdigest())


def black_or_white(record: Tensor) -> Tensor:
    """A uint8 image in black (−1) and white (1): each pixel is white with its grey value as the probability."""
    return torch.where(_uniform(record) < record / 255, 1.0, -1.0)


def dequantized(record: Tensor) -> Tensor:
    """A uint8 image in [-1, 1], each pixel moved at random within the width of a grey step, centred on its value."""
    return to_unit_range(record) + (_uniform(record) - 0.5) * GREY_STEP


def log_step_volume(record: Tensor) -> float:
    """The log of the volume over which `dequantized` spreads an image: added to a log density, it gives that of the
    8-bit image."""
    return record.numel() * math.log(GREY_STEP)


def is_black_and_white(images: npt.NDArray[np.generic]) -> bool:
    """Whether no pixel is grey, of stored images: uint8, or float32 in [-1, 1]."""
    black, white = (0, 255) if images.dtype == np.uint8 else (-1, 1)
    starts = range(0, len(images), ROWS_AT_ONCE)
    parts = (images[start : start + ROWS_AT_ONCE] for start in starts)
    return all(bool(((part == black) | (part == white)).all()) for part in parts)


def _uniform(record: Tensor) -> Tensor:
    """A number in [0, 1) for each pixel of a record, float32, on its device."""
    # numpy promises never to change RandomState's stream, and it is the same on every device.
    random = np.random.RandomState(number_of(record) % 2**32)
    return torch.from_numpy(random.random_sample(tuple(record.shape)).astype(np.float32)).to(record.device)
