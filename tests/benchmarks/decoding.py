"""Pictures per second: ganrun's decoder against one pass of torchvision's ImageFolder, and its memory map afterwards.

    python tests/benchmarks/decoding.py [pictures]        2,000 unless given; a few seconds

JPEGs of CelebA's 178×218 are cut to their centre square and resized to 64×64 by both, and the results must be equal.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from ganrun_datasets.image_folder import ImageFolder

BATCH = 64


def write(root: Path, count: int) -> None:
    (root / "faces").mkdir(parents=True)
    for number, noise in enumerate(np.random.default_rng(0).integers(0, 256, (count, 28, 23, 3), np.uint8)):
        path = root / "faces" / f"{number:06d}.jpg"
        Image.fromarray(noise).resize((178, 218), Image.Resampling.BICUBIC).save(path, quality=90)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, os.environ["GANRUN_CACHE"] = Path(folder, "root"), str(Path(folder, "cache"))
        write(root, count)
        theirs = datasets.ImageFolder(str(root), Compose([CenterCrop(178), Resize(64), PILToTensor()]))
        start = time.perf_counter()
        expected = torch.cat([images for images, _ in DataLoader(theirs, BATCH)])
        rates = {"torchvision's ImageFolder, one pass": count / (time.perf_counter() - start)}
        ours = ImageFolder(ImageFolder.Settings(root=str(root), size=64, filter="bilinear"))
        start = time.perf_counter()
        ours.prepare()
        rates["ganrun's image-folder, decoded once"] = count / (time.perf_counter() - start)
        images = torch.from_numpy(ours.split("train").images)
        assert torch.equal(images, expected)
        start = time.perf_counter()
        _ = [images.index_select(0, rows) for rows in torch.randperm(count).split(BATCH)]
        rates["batches from its memory map"] = count / (time.perf_counter() - start)
    print(f"{os.cpu_count()} processors, Pillow {PIL.__version__}, Python {platform.python_version()}, n = {count:,}")
    for name, rate in rates.items():
        print(f"{name:36} {rate:>10,.0f} pictures/s   {rate / min(rates.values()):6.1f} ×")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
