"""From a run to a folder that can be handed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.utils import make_grid

from ganrun import Model, RequestError, RunDirectory, SavedModel, atomic_folder, find_saved_model, to_uint8
from ganrun_export.card import card
from ganrun_export.facts import facts_of
from ganrun_export.programs import PROGRAMS, check_onnx, write_onnx, write_program

GRID_ROWS, GRID_COLUMNS = 8, 8

MOST_CLASSES = 20
"""A grid has no more rows of classes."""

SMALLEST_SIDE = 512
"""Grids with a shorter side, in pixels, are enlarged by a whole factor."""

Tell = Callable[[str], object]
"""Told what is being done, for whatever may take a while."""


@dataclass(frozen=True)
class Request:
    """What is to be handed over, and how.

    Args:
        what: A run directory, a checkpoint, or a tracker's id.
        output: The folder to make; where None, one in `exports` that bears the run's name and step.
        onnx: Whether the programs are written as ONNX too.
        device: Where the programs will run.
    """

    what: str
    output: Path | None = None
    onnx: bool = False
    device: str = "cpu"


def export_run(request: Request, tell: Tell = lambda _: None) -> Path:
    """Make the folder, whole or not at all; where it is.

    Raises:
        RequestError: if there is no such run, its weights are gone or damaged, a network cannot be made a program, or
            the folder cannot be written.
    """
    if request.onnx:
        check_onnx()
    tell("loading the weights")
    trained = find_saved_model(request.what)
    if not trained.is_run:
        raise RequestError(f"{trained.folder} was exported already; name the run that it came from")
    place = request.output or Path("exports") / f"{_name(trained.folder.resolve())}-step-{trained.step}"
    try:
        _check_free(place)
        with atomic_folder(place.absolute()) as folder:
            _write(trained, trained.model(request.device), folder, request.onnx, tell)
    except OSError as error:
        raise RequestError(f"cannot write {place}: {error.strerror or error}; choose another --output") from error
    return place


def _name(run: Path) -> str:
    """A run directory's; with that of the folder in which it stands beside its replicates."""
    return f"{run.parent.name}-{run.name}" if run.name.startswith("seed_") else run.name


def _check_free(place: Path) -> None:
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RequestError(f"{place} is there already; choose another --output")


def _write(trained: SavedModel, model: Model, folder: Path, onnx: bool, tell: Tell) -> None:
    """Every file of the folder."""
    trained.save(folder, facts_of(trained, model))
    for name, make in PROGRAMS.items():
        tell(f"making {name}.pt2")
        program = make(model)
        if program is not None:
            write_program(program, folder / f"{name}.pt2")
            if onnx:
                tell(f"making {name}.onnx")
                write_onnx(name, program, folder / f"{name}.onnx")
    if len(model.spec.sample_shape) == 3:
        tell("drawing samples")
        _grid(model).save(folder / "samples.png")
    facts, recipe = RunDirectory(folder).read_json("config.json"), (folder / "recipe.toml").read_text(encoding="utf-8")
    files = {path.name for path in folder.iterdir()}
    (folder / "README.md").write_text(card(facts, recipe, files), encoding="utf-8")


def _grid(model: Model) -> Image.Image:
    """Samples of the same latents in every export; where the model knows classes, a row for each of the first."""
    latents = model.fixed_latents(GRID_ROWS * GRID_COLUMNS)
    classes = next((factor.size for factor in model.spec.factors if factor.name == "class"), 0)
    if classes:
        row = latents[:GRID_COLUMNS]
        latents = torch.cat([model.with_class(row, label) for label in range(min(classes, MOST_CLASSES))])
    grid = make_grid(to_uint8(model.decode(latents)).cpu(), GRID_COLUMNS, pad_value=255)
    picture = Image.fromarray(grid.permute(1, 2, 0).numpy())
    return picture.resize(
        [side * -(-SMALLEST_SIDE // min(picture.size)) for side in picture.size], Image.Resampling.NEAREST
    )
