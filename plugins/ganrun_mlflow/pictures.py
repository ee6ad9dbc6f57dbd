"""Finds the pictures of a run, and logs them to MLflow."""

from __future__ import annotations

import re
from pathlib import Path

from ganrun_mlflow.labels import PICTURE_LENGTH, key_text
from ganrun_mlflow.mlflow_run import MlflowRun

STEP_PICTURE = re.compile(r"(?P<series>[^/]+)/step_(?P<step>\d+)\.(png|jpe?g)")
"""A picture of one step, relative to the run directory. MLflow shows a series with a slider over the steps."""

COMPARISON = "compare"
"""The folder of samples from latents that all runs share."""


def step_pictures(folder: Path) -> list[Path]:
    """The pictures of a series, by step."""
    return sorted(path for path in folder.glob("step_*") if STEP_PICTURE.fullmatch(f"{folder.name}/{path.name}"))


def log_picture(run: MlflowRun, path: Path, key: str, step: int) -> None:
    """Log a picture under a key, such as `eval/samples`.

    Raises:
        OSError: if the file is not a picture.
    """
    from PIL import Image

    with Image.open(path) as image:
        spelled = key_text(key, PICTURE_LENGTH)
        run.client.log_image(run.id, image.convert("RGB"), key=spelled, step=step, synchronous=True)
