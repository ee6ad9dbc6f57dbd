"""`ganrun translate` and `restore`: a user's own pictures, of every kind, through a model of images from images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tests.core.test_image_to_image import ENLARGED, MASKED, Enlarger, Seen, model_of
from tests.plugins import test_restoration
from torch import Tensor, nn

from ganrun import DataSpec, IncompatibleError, Model, ModelSpec, NonFiniteError, ProgressReporter, RequestError
from ganrun.cli import main
from ganrun.testing import train
from ganrun_samples.own_pictures import OwnPictures, mask_at, picture_at, restoration, translation
from ganrun_translation.cyclegan import CycleGan

COLOUR = DataSpec((3, 8, 8), fields={"source": (3, 8, 8)})
rng = np.random.default_rng(0)


class Brightness(nn.Module):
    """The mean of the channels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True)


class Negative(nn.Module):
    """The negative of its first three channels."""

    def forward(self, images: Tensor) -> Tensor:
        return -images[:, :3]


def drawn(height: int, width: int, channels: int = 3) -> np.ndarray:
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def translated(spec: DataSpec, network: nn.Module, path: Path, *, whole: bool = False) -> np.ndarray:
    with ProgressReporter() as report:
        image = picture_at(path, spec.fields["source"][0])
        return translation(model_of(spec, network), image, whole=whole, report=report)


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


def test_the_way_back_goes_from_images_to_sources(tmp_path: Path) -> None:
    """As `encode` does for pictures of the model's own size; of sources in grey, from images in colour."""
    spec = DataSpec((3, 8, 8), fields={"source": (1, 8, 8)})
    loss = CycleGan(CycleGan.Settings(identity_weight=0), spec)
    about = replace(
        ModelSpec.from_facts(spec.facts()),
        latent_size=loss.latent_size,
        factors=tuple(loss.factors()),
        readings=tuple(loss.readings()),
        paired=False,
    )
    model = Model(about, loss, {"inverse_generator": Brightness()}, torch.device("cpu"), seed=0)
    images = torch.rand(2, 3, 11, 30) * 2 - 1
    torch.testing.assert_close(model.translate(images, reverse=True), images.mean(1, keepdim=True))
    own = images[:, :, :8, :8]
    assert torch.equal(model.translate(own, reverse=True), model.encode(own).view(2, 1, 8, 8))
    Image.fromarray(picture := drawn(11, 30)).save(tmp_path / "image.png")
    with ProgressReporter() as report:
        made = translation(model, picture_at(tmp_path / "image.png", 3), whole=False, report=report, reverse=True)
    assert np.abs(made - picture.mean(2)).max() <= 1
    with pytest.raises(IncompatibleError, match="has not learned to make sources from images, as CycleGAN does"):
        model_of(COLOUR, Negative()).translate(images, reverse=True)
    with pytest.raises(IncompatibleError, match="takes pictures of 3 channels, and these have 1"):
        model.translate(images[:, :1], reverse=True)
    with pytest.raises(IncompatibleError, match=r"^masks belong to sources, and reverse makes sources from images$"):
        model.translate(images, images[:, :1], reverse=True)


def test_output_that_is_not_finite_is_no_picture(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images / 0 * 0

    Image.fromarray(drawn(9, 9)).save(tmp_path / "a.png")
    with pytest.raises(NonFiniteError, match=r"^the model's output is not finite"):
        translated(COLOUR, Broken(), tmp_path / "a.png")


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


def test_masks_with_transparent_parts_are_refused(tmp_path: Path) -> None:
    clear = np.zeros((9, 9, 4), np.uint8)
    clear[2:4, 2:4] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    with pytest.raises(RequestError, match=r"clear\.png: a mask is white where .* not transparent"):
        mask_at(tmp_path / "clear.png")
    clear[:, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "opaque.png")
    assert np.array_equal(np.asarray(mask_at(tmp_path / "opaque.png")), clear[:, :, 0])


def read(path: Path) -> np.ndarray:
    """In the place of a model."""
    if path.stem == "large":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    return np.asarray(picture_at(path, 3))


def test_results_are_named_after_their_pictures_and_unreadable_ones_are_said(tmp_path: Path) -> None:
    (tmp_path / "in/deeper").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "deeper/b.png", "c.png", "large.png", ".hidden.png"):
        Image.fromarray(drawn(5, 5)).save(tmp_path / "in" / name)
    (tmp_path / "in/@eaDir").mkdir()
    Image.fromarray(drawn(5, 5)).save(tmp_path / "in/@eaDir/thumbnail.png")
    (tmp_path / "in/c.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "in/dangling.png").symlink_to("nowhere")
    (tmp_path / "in/notes.txt").write_text("not a picture")
    (tmp_path / "linked").mkdir()
    Image.fromarray(drawn(5, 5)).save(tmp_path / "linked/d.png")
    (tmp_path / "linked/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/linked").symlink_to(tmp_path / "linked")
    own = OwnPictures([tmp_path / "in"])
    assert [name for name, _ in own.made(read)] == [
        "a.jpg.png",
        "a.png.png",
        *map(str, map(Path, ("deeper/b.png", "linked/d.png"))),
    ]
    with pytest.raises(RequestError) as told:
        own.check()
    parts = (
        "3 of 7 pictures failed: ",
        "c.png: it is not",
        "dangling.png cannot be read: No such",
        "large.png: there is no memory",
    )
    assert all(part in str(told.value) for part in parts), told.value
    for path, message in {"absent": "absent cannot be read: No such file", "in/c.png": "1 of 1"}.items():
        with pytest.raises(RequestError, match=message):
            list(OwnPictures([tmp_path / path]).made(read))
    (tmp_path / "in/deeper").rename(tmp_path / "in/d.png")
    (tmp_path / "in/d.jpg").touch()
    assert {str(Path("d.png/b.png")), "d.jpg.png"} < {*OwnPictures([tmp_path / "in"]).files}
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty holds no pictures"):
        OwnPictures([tmp_path / "empty"])


# ── The commands ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that restores and one that fills in, each of a step."""
    folder = tmp_path_factory.mktemp("runs")
    for name, tables in {"restoring": test_restoration.TABLES, "filling": test_restoration.FILLED}.items():
        train({**tables, "checkpoints": {}, "train": {**tables["train"], "steps": 1}}, folder / name)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_the_commands_write_what_the_model_makes_and_say_where(runs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(drawn(9, 21, 3)).save(tmp_path / f"{name}.png")
    found = call("translate", runs / "restoring", tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out")
    assert (found.exit_code, found.output) == (0, f"wrote 2 pictures to {tmp_path / 'out'}\n")
    assert {Image.open(each).size for each in (tmp_path / "out").iterdir()} == {(21, 9)}
    alone = call("translate", runs / "restoring", tmp_path / "a.png")
    assert alone.output == f"wrote {runs}/restoring/pictures/translate_step_00000001_a.png\n"
    whole = call("translate", runs / "restoring", tmp_path / "a.png", "--whole")
    assert whole.output == f"wrote {runs}/restoring/pictures/translate_step_00000001_a_whole.png\n"
    Image.new("L", (21, 9), 255).save(tmp_path / "mask.png")
    filled = call(
        "restore", runs / "filling", tmp_path / "a.png", "--mask", tmp_path / "mask.png", "-o", tmp_path / "w.png"
    )
    assert (filled.exit_code, Image.open(tmp_path / "w.png").size) == (0, (21, 9))
    default = call("restore", runs / "filling", tmp_path / "a.png", "--mask", tmp_path / "mask.png")
    assert default.output == f"wrote {runs}/filling/pictures/restore_step_00000001_a_mask_mask.png\n"


def test_requests_that_cannot_be_met_say_what_to_do_and_change_nothing(runs: Path, tmp_path: Path) -> None:
    Image.fromarray(drawn(9, 9)).save(tmp_path / "a.png")
    picture = tmp_path / "a.png"
    Image.new("L", (9, 9), 255).save(tmp_path / "mask.png")
    filling = ("restore", runs / "filling", picture, "--mask", tmp_path / "mask.png", "-o")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments, message in (
        (("translate", runs / "restoring", picture, "-o", picture), "a.png exists already, and may be"),
        ((*filling, tmp_path / "mask.png"), "mask.png exists already, and may be"),
        ((*filling, tmp_path / "whole"), "one picture is written; say --output NAME.png"),
        (("translate", runs / "filling", picture), "makes images of mask and source; see ganrun restore"),
        (("restore", runs / "restoring", picture, "--mask", picture), "makes images of source; see ganrun translate"),
        (
            ("translate", runs / "restoring", picture, picture, "-o", tmp_path / "x.png"),
            "two pictures have the same name",
        ),
        (("translate", runs / "restoring", tmp_path, "-o", tmp_path), "exists already and is not an empty folder"),
    ):
        found = call(*arguments)
        assert found.exit_code == 2 and message in found.output, found.output
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
