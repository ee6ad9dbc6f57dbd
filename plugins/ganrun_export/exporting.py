"""Exports a run as a folder that can be used elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.utils import make_grid

from ganrun import (
    DataError,
    Model,
    Registry,
    RequestError,
    RunDirectory,
    SavedModel,
    atomic_folder,
    exact_float32,
    find_saved_model,
    to_uint8,
)
from ganrun_export.card import card
from ganrun_export.facts import facts_of
from ganrun_export.programs import PROGRAMS, check_onnx, write_onnx, write_program

log = logging.getLogger("ganrun")

GRID_ROWS, GRID_COLUMNS = 8, 8

MAX_CLASSES = 20
"""Classes in a grid, one per row."""

SMALLEST_SIDE = 512
"""Grids with a shorter side, in pixels, are enlarged by a whole factor."""

OnStage = Callable[[str], object]
"""Called with a description of the current stage."""


@dataclass(frozen=True)
class Request:
    """A request for an export.

    Args:
        run: A run directory, a checkpoint, or a tracker's id.
        output: The folder to create; None for one in `exports` that is named after the run and its step.
        onnx: Whether to write the programs as ONNX too.
        device: The device that the programs run on.
    """

    run: str
    output: Path | None = None
    onnx: bool = False
    device: str = "cpu"


@exact_float32()
def export_run(request: Request, on_stage: OnStage = lambda _: None, registry: Registry | None = None) -> Path:
    """Create the folder, completely or not at all.

    Args:
        request: What to export.
        on_stage: Called with a description of the current stage.
        registry: The installed components; those of this environment unless given.

    Returns:
        The folder.

    Raises:
        RequestError: if there is no such run, its weights are gone or damaged, a network cannot be exported as a
            program, or the folder cannot be written.
    """
    if request.onnx:
        check_onnx()
    on_stage("loading the weights")
    saved = find_saved_model(request.run, registry)
    if not saved.is_run:
        raise RequestError(f"{saved.folder} is already an export; name the run that it came from")
    output = request.output or Path("exports") / f"{_run_name(saved.folder.resolve())}-step-{saved.step}"
    try:
        _check_free(output)
        with atomic_folder(output.absolute()) as folder:
            _write(saved, saved.model(request.device), folder, request.onnx, on_stage)
    except OSError as error:
        raise RequestError(f"cannot write {output}: {error.strerror or error}; choose another --output") from error
    return output


def _run_name(run: Path) -> str:
    """The name of the run directory; for a replicate, preceded by that of its parent folder."""
    return f"{run.parent.name}-{run.name}" if run.name.startswith("seed_") else run.name


def _check_free(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RequestError(f"{output} exists already; choose another --output")


def _write(saved: SavedModel, model: Model, folder: Path, onnx: bool, on_stage: OnStage) -> None:
    """Write every file of the folder."""
    saved.save(folder, facts_of(saved, model))
    for name, build in PROGRAMS.items():
        on_stage(f"making {name}.pt2")
        program = build(model)
        if program is not None:
            write_program(program, folder / f"{name}.pt2")
            if onnx:
                on_stage(f"making {name}.onnx")
                write_onnx(name, program, folder / f"{name}.onnx")
    if len(model.spec.sample_shape) == 3:
        on_stage("drawing samples")
        _write_grid(model, folder / "samples.png")
    written = RunDirectory(folder)
    recipe, files = written.recipe_path.read_text(encoding="utf-8"), {path.name for path in folder.iterdir()}
    (folder / "README.md").write_text(card(written.config(), recipe, files), encoding="utf-8")


def _write_grid(model: Model, path: Path) -> None:
    """The grid; none if samples are made from records and the data is absent."""
    try:
        grid = _grid(model)
    except DataError as error:
        log.warning("there is no samples.png: %s", error)
    else:
        grid.save(path)


def _grid(model: Model) -> Image.Image:
    """Samples of the same latents in every export; a row for each class, if the model is conditional."""
    latents = model.fixed_latents(GRID_ROWS * GRID_COLUMNS)
    classes = next((factor.size for factor in model.spec.factors if factor.name == "class"), 0)
    if classes:
        row = latents[:GRID_COLUMNS]
        latents = torch.cat([model.with_class(row, label) for label in range(min(classes, MAX_CLASSES))])
    grid = make_grid(to_uint8(model.decode(latents)).cpu(), GRID_COLUMNS, pad_value=255)
    picture = Image.fromarray(grid.permute(1, 2, 0).numpy())
    factor = -(-SMALLEST_SIDE // min(picture.size))
    return picture.resize([side * factor for side in picture.size], Image.Resampling.NEAREST)
