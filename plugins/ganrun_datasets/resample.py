"""Resampling of decoded pictures, with the same result on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from ganrun_datasets.pictures.picture import Filter


def resampled(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Images `(count, channels, height, width)`, grey or colour, at `size` × `size`: uint8.

    Pillow's bicubic filter widens when downsampling, so there is no aliasing, and computes 8-bit pictures in integers,
    so the bytes are equal on every processor. Images that have the size already are returned unchanged.
    """
    return resized(images, size, size)


def resized(images: npt.NDArray[np.uint8], height: int, width: int, by: Filter = "bicubic") -> npt.NDArray[np.uint8]:
    """The same, at any size and by any of Pillow's filters, which all widen as the bicubic one does."""
    if images.shape[2:] == (height, width):
        return images
    result = np.empty((*images.shape[:2], height, width), np.uint8)
    for image, row in zip(images, result, strict=True):
        for channel, plane in zip(image, row, strict=True):
            plane[:] = np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling[by.upper()]))
    return result
