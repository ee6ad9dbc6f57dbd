"""The pictures that the commands draw of a saved model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from math import ceil, sqrt
from pathlib import Path

import torch
from torch import Tensor

from ganrun import IncompatibleError, ProgressReporter, RequestError, find_saved_model, label_named, one_line
from ganrun_samples import pictures
from ganrun_samples.grid import are_images, image_grid, shown
from ganrun_samples.latents import Traversal, chosen_traversals, code_traversals, is_interpolated, most_active
from ganrun_samples.own_pictures import OwnPictures, mask_at, picture_at, restoration, translation
from ganrun_samples.scatter import scatter
from ganrun_samples.sheets import image_fields, sheet
from ganrun_samples.target import Target

log = logging.getLogger("ganrun")

MAX_IN_GRID = 4096
"""Maximum images in one picture: more would be too small to see, and might not fit into memory."""

MAX_ROWS = 128
"""Maximum rows of a strip, for the same reasons."""

FOLDER_HINT = "; write them to a folder: --output FOLDER"

BATCH = 256
"""Images that are reconstructed at once."""

TRAVERSED_ROWS = 10
"""Rows of a traversal, unless their number is given."""


class Maker:
    """Draws pictures of a saved model.

    Args:
        run: A run directory, a checkpoint, an exported folder, or a tracker's id.
        device: As `ganrun.load` takes it.
        overrides: Overrides of its sampling settings, `sampling.psi=0.5`, and of the data's location, `data.root=…`.

    Raises:
        RequestError: if it does not exist, or cannot be used.
    """

    def __init__(self, run: str, device: str, overrides: Sequence[str] = ()) -> None:
        self._saved = find_saved_model(run)
        self._data_overrides = [each for each in overrides if each.startswith("data.")]
        sampling = [each for each in overrides if each not in self._data_overrides]
        self._model = self._saved.model(device, sampling)
        self._changes = [_plain(each.removeprefix("sampling.")) for each in sampling]

    def target(
        self, command: str, output: Path | None, *, subject: str = "", end: str = ".png", **options: object
    ) -> Target:
        """Where its pictures go: `output`, or by default a PNG named after the command, its subject and its options, in
        the run directory; for an exported model, in the working directory. With an extension other than .png, a
        folder. With a subject, which is one of the user's pictures, `output` must be new."""
        given = {name: value for name, value in options.items() if value is not None and value is not False}
        said = [name if value is True else f"{name}_{_plain(str(value))}" for name, value in given.items()]
        suffix = "".join(f"_{each}" for each in (_plain(subject), *said, *self._changes) if each)
        name, folder = f"{command}_step_{self._saved.step:08d}{suffix}{end}", self._saved.folder
        default = folder / "pictures" / name if self._saved.is_run else Path(f"{folder.name}_{name}")
        return Target(output or default, is_new=bool(output and subject))

    def label(self, name: str | None) -> int | None:
        """The number of the class that a user calls `name`.

        Raises:
            RequestError: if there is no such class, or several have that name.
        """
        is_conditional = any(factor.name == "class" for factor in self._model.spec.factors)
        return None if name is None else label_named(name, self._saved.class_names if is_conditional else ())

    def sample(
        self, target: Target, count: int, columns: int | None, seed: int | None, labels: Sequence[int | None] = ()
    ) -> None:
        """Samples, in a grid or one by one; points in the plane, over real ones; images made from images, beside these.
        For several classes, `count` of each with the same noise, one row per class."""
        labels, is_plane = labels or [None], self._model.spec.sample_shape == (2,)
        if target.is_folder or not is_plane:
            self._check_images()
        count = self._available(count)
        total = count * len(labels)
        if not target.is_folder:
            _check_size(total, MAX_IN_GRID, "samples", "" if is_plane else FOLDER_HINT)
        batches = (made for label in labels for _, made in self._model.batches(count, seed=seed, label=label))
        made = _counted("samples", batches, total)
        if target.is_folder:
            target.write_all((_single(image) for batch in made for image in shown(batch)), total)
        elif is_plane:
            target.write(scatter(self._real(total), torch.cat([points.cpu() for points in made])))
        elif image_fields(self._model.spec) and len(labels) == 1:
            target.write(sheet(self._model, torch.cat([*map(shown, made)]), columns))
        else:
            columns = columns or (count if len(labels) > 1 else ceil(sqrt(count)))
            target.write(image_grid(torch.cat([*map(shown, made)]), columns).numpy())

    def interpolate(self, target: Target, count: int, columns: int, seed: int | None, label: int | None) -> None:
        """Interpolations from `count` samples to as many others, one per row."""
        self._check_images()
        if not is_interpolated(self._model.spec):
            raise IncompatibleError("the latents hold only records of the data, which cannot be interpolated")
        _check_size(count, MAX_ROWS, "rows")
        rows = pictures.interpolations(self._model, self._latents(2 * count, seed, label), columns)
        _write_strip(target, rows, "from one sample to another")

    def traverse(
        self,
        target: Target,
        count: int | None,
        columns: int,
        dimensions: str | None,
        seed: int | None,
        label: int | None,
    ) -> None:
        """Traversals of codes or latents, each from `count` samples."""
        self._check_images()
        found = self._traversals(dimensions, columns)
        count = count or max(1, TRAVERSED_ROWS // len(found))
        _check_size(count * len(found), MAX_ROWS, "rows")
        rows, names = pictures.traversals(self._model, self._latents(count, seed, label), found)
        _write_strip(target, rows, "one latent at a time", names)

    def reconstruct(self, target: Target, count: int, columns: int | None, split: str | None) -> None:
        """Real images, each above its reconstruction."""
        if "reconstructions" not in self._model.spec.readings:
            raise IncompatibleError("the model has no encoder, so it cannot reconstruct images")
        self._check_images()
        if not target.is_folder:
            _check_size(count, MAX_IN_GRID, "images", FOLDER_HINT)
        real = self._real(count, split)
        beside = {factor.name: self._real(count, split, factor.name) for factor in self._model.spec.given}

        def made_of(rows: slice) -> Tensor:
            return pictures.reconstructed(self._model, real[rows], {name: each[rows] for name, each in beside.items()})

        batches = map(made_of, [slice(start, start + BATCH) for start in range(0, len(real), BATCH)])
        made = _counted("images", batches, len(real))
        if target.is_folder:
            singles = (image for batch in made for image in torch.split(batch, 1))
            pairs = zip(torch.split(real, 1), singles, strict=True)
            target.write_all((pictures.pairs(*pair, 1) for pair in pairs), len(real))
        else:
            target.write(pictures.pairs(real, torch.cat([*made]), columns or ceil(sqrt(2 * len(real)))))

    # ── Of the user's own pictures ────────────────────────────────────────────────────────────────────

    def translate(self, target: Target, own: OwnPictures, *, whole: bool, reverse: bool) -> None:
        """The model's output for each picture; in reverse, for each image."""
        self._check_images()
        self._check_takes(masks=False)
        if not target.is_folder and len(own.files) > 1:
            raise RequestError(f"{len(own.files):,} pictures do not fit into one; say --output FOLDER")
        spec = self._model.spec
        channels, *_ = spec.image_shape if reverse else spec.fields["source"]
        with ProgressReporter() as report:
            made = own.made(
                lambda file: translation(
                    self._model, picture_at(file, channels), whole=whole, report=report, reverse=reverse
                )
            )
            if target.is_folder:
                target.write_named(made)
            else:
                for _, picture in made:
                    target.write(picture)

    def restore(self, target: Target, picture: Path, mask: Path) -> None:
        """A picture with its missing pixels filled in."""
        self._check_images()
        self._check_takes(masks=True)
        if target.is_folder:
            raise RequestError(one_line(f"{target.path}: one picture is written; say --output NAME.png"))
        with ProgressReporter() as report:
            image = picture_at(picture, self._model.spec.fields["source"][0])
            target.write(restoration(self._model, image, mask_at(mask), report))

    def _check_takes(self, *, masks: bool) -> None:
        """Say which command this model is for."""
        fields = {factor.name for factor in self._model.spec.factors}
        if fields != ({"source", "mask"} if masks else {"source"}):
            others = {"sample": {"noise"}, "translate": {"source"}, "restore": {"source", "mask"}}
            right = next((name for name, takes in others.items() if takes == fields), "sample")
            raise IncompatibleError(f"the model makes images of {' and '.join(sorted(fields))}; see ganrun {right}")
        if not are_images(source := self._model.spec.fields["source"]):
            raise IncompatibleError(f"the sources have shape {source}, and are not grey or colour images")

    # ── Inputs ────────────────────────────────────────────────────────────────────────────────────────

    def _check_images(self) -> None:
        shape = self._model.spec.sample_shape
        if not are_images(shape):
            hint = "; ganrun sample draws points: --output NAME.png" if shape == (2,) else ""
            raise IncompatibleError(f"the samples have shape {shape}, and are not grey or colour images{hint}")

    def _latents(self, count: int, seed: int | None, label: int | None) -> Tensor:
        if seed is None:
            latents = self._model.fixed_latents(count)
        else:
            latents = torch.cat([latents for latents, _ in self._model.batches(count, seed=seed)])
        return latents if label is None else self._model.with_class(latents, label)

    def _traversals(self, dimensions: str | None, columns: int) -> list[Traversal]:
        if dimensions is not None:
            return chosen_traversals(self._model, _numbers(dimensions), columns)
        codes = code_traversals(self._model, columns)
        found = codes or chosen_traversals(self._model, most_active(self._model, TRAVERSED_ROWS), columns)
        if not found:
            raise IncompatibleError("the latents hold records of the data and nothing else, so none can be traversed")
        return found

    def _available(self, count: int) -> int:
        """At most this many samples: no more than there are records, if latents hold nothing else."""
        given = self._model.given
        if given is None or is_interpolated(self._model.spec) or count <= given.count:
            return count
        log.warning("the data has %s records to make samples of, so there are not %s", given.count, count)
        return given.count

    def _real(self, count: int, split: str | None = None, field: str = "images") -> Tensor:
        return pictures.real_samples(self._saved.data(self._data_overrides), count, split, field)


def _plain(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text)


def _write_strip(target: Target, rows: Tensor, title: str, names: Sequence[str] = ()) -> None:
    """Write rows `(rows, columns, channels, height, width)` as one picture, or each column as one."""
    if target.is_folder:
        columns = (image_grid(images, ceil(sqrt(len(images)))).numpy() for images in rows.unbind(1))
        target.write_all(columns, rows.shape[1])
    else:
        target.write(pictures.strip(rows, title, names))


def _single(image: Tensor) -> pictures.Picture:
    """One image `(channels, height, width)`, not enlarged: `(height, width, 3)`, or `(height, width)` if it is grey."""
    picture = image.permute(1, 2, 0).numpy()
    return picture.squeeze(2) if picture.shape[2] == 1 else picture


def _check_size(count: int, most: int, noun: str, hint: str = "") -> None:
    if count > most:
        raise RequestError(f"{count:,} {noun} are too many for one picture, which takes {most:,}{hint}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f'--dimensions "{text}" is not a list of numbers, such as 0,3,7') from None


def _counted(noun: str, batches: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """The batches, with a progress bar if they take long."""
    done = 0
    with ProgressReporter() as on_progress:
        for batch in batches:
            yield batch
            done += len(batch)
            on_progress(noun, done, count)
