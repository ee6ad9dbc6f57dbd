"""Samples that are comparable between runs: from latents that are the same in each of them."""

from __future__ import annotations

from PIL import Image

from ganrun import Run, atomic_path, to_uint8
from ganrun_mlflow.mirror import COMPARED

COUNT = 16
SMALLEST_SIDE = 128
"""Smaller pictures are enlarged by a whole factor, so that they can be looked at."""


def write_compared(run: Run) -> None:
    """Write `compare/sample_00.png`, … into the run directory; nothing where samples are no images."""
    if len(run.problem.sample_shape) != 3:
        return
    folder = run.directory / COMPARED
    folder.mkdir(exist_ok=True)
    samples = to_uint8(run.model.decode(run.model.fixed_latents(COUNT))).cpu()
    factor = -(-SMALLEST_SIDE // min(run.problem.sample_shape[1:]))
    for number, sample in enumerate(samples.repeat_interleave(factor, 2).repeat_interleave(factor, 3)):
        pixels = sample.permute(1, 2, 0).numpy()
        with atomic_path(folder / f"sample_{number:02}.png") as partial:
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(partial, "PNG")
