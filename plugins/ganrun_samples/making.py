"""From a command's request to its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, sqrt
from pathlib import Path

import torch
from torch import Tensor

from ganrun import IncompatibleError, ProgressReporter, RequestError, find_saved_model, to_unit_range
from ganrun_samples import pictures
from ganrun_samples.grid import are_images, image_grid, shown
from ganrun_samples.latents import Line, chosen_lines, code_lines, most_active
from ganrun_samples.scatter import scatter
from ganrun_samples.target import Target

MOST_IN_A_GRID = 4096
"""More samples in one picture are not to be looked at, and could outgrow memory."""

FOR_MORE = "; for more, name a folder: --output FOLDER"

MOST_ROWS = 128
"""Rows of a strip, for the same reasons."""

IMAGES_AT_A_TIME = 256
"""So many are reconstructed at once."""

LINES = 10
"""Rows of a traversal, where nothing else was said."""


class Maker:
    """Makes pictures of what was trained.

    Args:
        run: A run directory, a checkpoint, an exported folder, or a tracker's id.
        device: As `ganrun.load` takes it.

    Raises:
        RequestError: if there is no such thing, or it cannot be used.
    """

    def __init__(self, run: str, device: str) -> None:
        self._trained = find_saved_model(run)
        self._model = self._trained.model(device)

    def target(self, command: str, output: Path | None, **told: object) -> Target:
        """Where its pictures go: to `output`, or to a PNG whose name says what was `told`, among the run's own; of what
        was exported, in the working directory."""
        asked = "".join(f"_{name}_{value}" for name, value in told.items() if value is not None)
        name = f"{command}_step_{self._trained.step:08d}{asked}.png"
        folder = self._trained.folder
        return Target(output or (folder / "pictures" / name if self._trained.is_run else Path(f"{folder.name}_{name}")))

    # ── The commands: each returns how many pictures it wrote ─────────────────────────────────────────

    def sample(self, target: Target, count: int, columns: int | None, seed: int | None, label: int | None) -> int:
        """Samples as a grid or one by one; points as a scatter over real ones."""
        batches = (made for _, made in self._model.batches(count, seed=seed, label=label))
        is_plane = self._model.spec.sample_shape == (2,)
        if target.is_folder or not is_plane:
            self._check_images()
        if target.is_folder:
            return self._write_each(target, batches, count)
        _check_size(count, MOST_IN_A_GRID, "samples", "" if is_plane else FOR_MORE)
        if is_plane:
            generated = torch.cat([made.cpu() for made in batches])
            target.write(scatter(self._real(count), generated))
            return 1
        images = [shown(made) for made in _counted("samples", batches, count)]
        target.write(image_grid(torch.cat(images), columns or ceil(sqrt(count))).numpy())
        return 1

    def interpolate(self, target: Target, count: int, columns: int, seed: int | None, label: int | None) -> int:
        """Strips from `count` samples to as many others."""
        self._check_images()
        _check_size(count, MOST_ROWS, "rows")
        rows = pictures.interpolations(self._model, self._latents(2 * count, seed, label), columns)
        return _write_strip(target, rows, "from one sample to another")

    def traverse(
        self,
        target: Target,
        count: int | None,
        columns: int,
        dimensions: str | None,
        seed: int | None,
        label: int | None,
    ) -> int:
        """Strips along codes or dimensions, from `count` samples each."""
        self._check_images()
        lines = self._lines(dimensions, columns)
        count = count or max(1, LINES // len(lines))
        _check_size(count * len(lines), MOST_ROWS, "rows")
        rows, names = pictures.traversals(self._model, self._latents(count, seed, label), lines)
        return _write_strip(target, rows, "one latent at a time", names)

    def reconstruct(self, target: Target, count: int, columns: int | None, split: str | None) -> int:
        """Real images above what is made of them."""
        if not self._model.spec.reconstructs:
            raise IncompatibleError("the model has no encoder, so it cannot reconstruct images; a vae can")
        self._check_images()
        if not target.is_folder:
            _check_size(count, MOST_IN_A_GRID, "images", FOR_MORE)
        real = self._real(count, split)
        made = _counted("images", map(self._reconstructed, torch.split(real, IMAGES_AT_A_TIME)), len(real))
        if not target.is_folder:
            target.write(pictures.pairs(real, torch.cat([*made]), columns or ceil(sqrt(2 * len(real)))))
            return 1
        singles = (image for part in made for image in torch.split(part, 1))
        with target.folder(len(real)) as pages:
            for pair in zip(torch.split(real, 1), singles, strict=True):
                pages.add(pictures.pairs(*pair, 1))
        return pages.count

    # ── What they have in common ──────────────────────────────────────────────────────────────────────

    def _check_images(self) -> None:
        shape = self._model.spec.sample_shape
        if not are_images(shape):
            told = "sample draws them: --output NAME.png" if shape == (2,) else "no picture can show them"
            raise IncompatibleError(
                f"the model makes samples of shape {shape}, which are no grey or colour images; {told}"
            )

    def _write_each(self, target: Target, batches: Iterator[Tensor], count: int) -> int:
        with target.folder(count) as pages:
            for made in _counted("samples", batches, count):
                for image in shown(made).permute(0, 2, 3, 1).numpy():
                    pages.add(image.squeeze(2) if image.shape[2] == 1 else image)
        return pages.count

    def _latents(self, count: int, seed: int | None, label: int | None) -> Tensor:
        if seed is None:
            latents = self._model.fixed_latents(count)
        else:
            latents = torch.cat([latents for latents, _ in self._model.batches(count, seed=seed)])
        return latents if label is None else self._model.with_class(latents, label)

    def _lines(self, dimensions: str | None, columns: int) -> list[Line]:
        if dimensions is not None:
            return chosen_lines(self._model, _numbers(dimensions), columns)
        codes = code_lines(self._model, columns)
        return codes or chosen_lines(self._model, most_active(self._model, LINES), columns)

    def _real(self, count: int, split: str | None = None) -> Tensor:
        return pictures.real_samples(self._model, self._trained.data(), count, split)

    def _reconstructed(self, real: Tensor) -> Tensor:
        made = self._model.reconstruct(to_unit_range(real))
        assert made is not None, "problem.reconstructs"
        return shown(made)


def _write_strip(target: Target, rows: Tensor, title: str, names: Sequence[str] = ()) -> int:
    """Rows `(rows, columns, channels, height, width)` as one picture, or each column as one."""
    if not target.is_folder:
        target.write(pictures.strip(rows, title, names))
        return 1
    with target.folder(rows.shape[1]) as pages:
        for images in rows.unbind(1):
            pages.add(image_grid(images, ceil(sqrt(len(images)))).numpy())
    return pages.count


def _check_size(count: int, most: int, what: str, hint: str = "") -> None:
    if count > most:
        raise RequestError(f"{count:,} {what} are too many for one picture, which takes {most:,}{hint}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f'--dimensions "{text}" is no list of numbers; say 0,3,7, for instance') from None


def _counted(what: str, batches: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """The batches, whose number is shown where they take their time."""
    done = 0
    with ProgressReporter() as told:
        for batch in batches:
            yield batch
            done += len(batch)
            told(what, done, count)
