"""`ganrun translate` and `restore`: a user's own pictures, of every kind, through a model of images from images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.core.test_image_to_image import ENLARGED, MASKED, Enlarger, Seen, model_of
from torch import Tensor, nn

from ganrun import DataSpec, ProgressReporter, RequestError
from ganrun_samples.own_pictures import OwnPictures, picture_at, restoration, translation

COLOUR = DataSpec((3, 8, 8), fields={"source": (3, 8, 8)})
rng = np.random.default_rng(0)


class Negative(nn.Module):
    """The negative of its first three channels."""

    def forward(self, images: Tensor) -> Tensor:
        return -images[:, :3]


def drawn(height: int, width: int, channels: int = 3) -> np.ndarray:
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def translated(spec: DataSpec, network: nn.Module, path: Path, *, whole: bool = False) -> np.ndarray:
    with ProgressReporter() as report:
        return translation(model_of(spec, network), picture_at(path), whole=whole, report=report)


def test_pictures_of_every_kind_become_what_the_model_makes_of_them(tmp_path: Path) -> None:
    colour, clear = drawn(13, 29), drawn(13, 29, 4)
    clear[:, :, 3] = 255 * (clear[:, :, 3] > 127)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn clockwise makes it upright
    Image.fromarray(colour).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(colour[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    white = np.where(clear[:, :, 3:] > 0, clear[:, :, :3], 255)
    grey = np.repeat(colour[:, :, :1], 3, 2)
    for name, expected in {"turned": np.rot90(colour, -1), "clear": white, "deep": grey}.items():
        found = translated(COLOUR, Negative(), tmp_path / f"{name}.png")
        assert np.abs(found.astype(int) - (255 - expected.astype(int))).max() <= 1, name
    large = translated(ENLARGED, Enlarger(), tmp_path / "deep.png")
    assert np.array_equal(large, grey.repeat(2, 0).repeat(2, 1))


def test_a_picture_as_a_whole_is_seen_at_the_models_size(tmp_path: Path) -> None:
    Image.fromarray(drawn(24, 40)).save(tmp_path / "large.png")
    seen: list[torch.Size] = []

    class Noticing(Negative):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.shape)
            return super().forward(images)

    found = translated(COLOUR, Noticing(), tmp_path / "large.png", whole=True)
    assert (found.shape, seen) == ((24, 40, 3), [torch.Size((1, 3, 8, 8))])


def test_missing_pixels_are_filled_in_and_all_others_stay(tmp_path: Path) -> None:
    picture, mask = drawn(11, 19), 255 * (drawn(11, 19, 1)[:, :, 0] > 127)
    with ProgressReporter() as report:
        made = restoration(
            model_of(MASKED, Negative()), Image.fromarray(picture), Image.fromarray(mask.astype(np.uint8)), report
        )
    assert np.array_equal(made[mask == 0], picture[mask == 0])
    assert set(made[mask > 0].ravel()) == {127}, "the model sees grey, and the grey's negative is left"


@pytest.mark.parametrize(
    ("mask", "message"),
    [(np.zeros((11, 19), np.uint8), "no white pixel"), (np.full((9, 9), 255, np.uint8), "9×9 pixels, and the picture")],
)
def test_masks_that_do_not_fit_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(RequestError, match=message), ProgressReporter() as report:
        restoration(model_of(MASKED, Seen()), Image.fromarray(drawn(11, 19)), Image.fromarray(mask), report)


def test_results_are_named_after_their_pictures_and_unreadable_ones_are_said(tmp_path: Path) -> None:
    (tmp_path / "in/deeper").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "deeper/b.png", "c.png"):
        Image.fromarray(drawn(5, 5)).save(tmp_path / "in" / name)
    (tmp_path / "in/c.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "in/notes.txt").write_text("not a picture")
    own = OwnPictures([tmp_path / "in"])
    assert [name for name, _ in own.read()] == ["a.jpg.png", "a.png.png", str(Path("deeper/b.png"))]
    with pytest.raises(RequestError, match=r"1 of 4 pictures could not be read: .*c\.png: "):
        own.check()
    for path, message in {"absent": "absent cannot be read: No such file", "in/c.png": "1 of 1"}.items():
        with pytest.raises(RequestError, match=message):
            list(OwnPictures([tmp_path / path]).read())
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty holds no pictures"):
        OwnPictures([tmp_path / "empty"])
