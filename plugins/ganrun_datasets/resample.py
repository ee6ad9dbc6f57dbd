"""Resampling of decoded pictures, with the same result on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image


def resampled(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Images `(count, channels, height, width)`, grey or colour, at `size` × `size`: uint8.

    Pillow's bicubic filter widens when it shrinks a picture, so there is no aliasing, and computes 8-bit pictures in
    integers, so the bytes are equal on every processor. Images that have the size already are returned unchanged.
    """
    count, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    result = np.empty((count, channels, size, size), np.uint8)
    for image, row in zip(images, result, strict=True):
        for channel, plane in zip(image, row, strict=True):
            plane[:] = np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC))
    return result
