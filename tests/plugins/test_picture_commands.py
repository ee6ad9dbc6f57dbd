"""`ganrun sample`, `interpolate`, `traverse` and `reconstruct`: what they write of a real run, and what they refuse."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ganrun import RequestError, Run, find_saved_model, load, real_images, to_uint8, to_unit_range
from ganrun.cli import main
from ganrun.testing import train
from ganrun_samples import making
from ganrun_samples.grid import image_grid
from ganrun_samples.latents import code_traversals, interpolated
from ganrun_samples.scatter import scatter
from ganrun_samples.target import Target, file_name

SMALL = {
    "name": "small",
    "train": {"steps": 2, "batch_size": 8, "device": "cpu", "seed": 3},
    "data": {"use": "digits", "size": 8},
    "generator": {"use": "mlp", "hidden": [8]},
    "checkpoints": {"every_steps": 1, "keep": 2},
    **dict.fromkeys(("samples", "progress", "mlflow"), False),
}
ADVERSARIAL = {**SMALL, "discriminator": {"use": "mlp", "hidden": [8]}}
RECIPES = {
    "gan": {
        **ADVERSARIAL,
        "loss": {"use": "gan", "latent_size": 4},
        "metric": [{"use": "fid", "features": "classifier", "samples": 300}],
    },
    "cgan": {**ADVERSARIAL, "loss": {"use": "cgan", "noise_size": 4}},
    "infogan": {**ADVERSARIAL, "loss": {"use": "infogan", "noise_size": 3, "categorical": [4], "continuous": 1}},
    "vae": {**SMALL, "loss": {"use": "vae", "latent_size": 3}, "encoder": {"use": "mlp", "hidden": [8]}},
    "colour": {
        **ADVERSARIAL,
        "data": {"use": "synthetic", "size": 16, "channels": 3},
        "loss": {"use": "gan", "latent_size": 4},
    },
    "points": {**ADVERSARIAL, "data": {"use": "gaussians", "count": 300}, "loss": {"use": "gan", "latent_size": 2}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """A trained run of each recipe, on first use."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run_of(name: str) -> Run:
        if name not in made:
            made[name] = train(RECIPES[name], folder / name)
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANRUN_CACHE", str(folder / "cache"))
        yield run_of


def ganrun(*arguments: object) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def written(*arguments: object) -> np.ndarray:
    """The picture that a command reports."""
    result = ganrun(*arguments)
    assert result.exit_code == 0 and result.stdout.startswith("wrote "), result.output
    return pixels(Path(result.stdout.removeprefix("wrote ").strip()))


# ── Samples ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_of_samples_has_the_runs_own_score(runs, tmp_path):
    run = runs("gan")
    folder = tmp_path / "new" / "pictures"
    result = ganrun("sample", run.directory.path, "-n", 300, "-o", folder)
    assert result.exit_code == 0 and result.stdout == f"wrote 300 pictures to {folder}\n"
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:05}.png" for number in range(300)]
    scored = ganrun("eval", folder, "--against", run.directory / "recipe.toml")
    assert str(run.scores["fid_classifier"]) in scored.stdout, scored.output


@pytest.mark.parametrize(
    ("name", "count", "columns"), [("gan", 1, 1), ("gan", 7, 3), ("colour", 300, 18), ("cgan", 9, 3)]
)
def test_a_grid_shows_the_first_of_the_scored_samples(runs, name, count, columns):
    run = runs(name)
    drawn = written("sample", run.directory.path, "-n", count)
    assert np.array_equal(drawn, image_grid(to_uint8(run.model.sample(count)), columns).numpy())
    assert (run.directory / "pictures" / "sample_step_00000002.png").is_file()


def test_seed_and_label_select_other_samples(runs, tmp_path):
    run = runs("cgan")
    drawn = written("sample", run.directory.path, "-n", 6, "--label", 3, "--seed", 8, "--columns", 9)
    expected = load(run.directory.path, "cpu").sample(6, seed=8, label=3)
    assert np.array_equal(drawn, image_grid(to_uint8(expected), 6).numpy())
    assert (run.directory / "pictures" / "sample_step_00000002_seed_8_label_3.png").is_file()
    early = written("sample", run.directory / "checkpoints/step_00000001", "-n", 6, "--output", tmp_path / "early.PNG")
    assert not np.array_equal(early, written("sample", run.directory.path, "-n", 6))


def test_several_labels_give_a_row_each_with_the_same_noise(runs, tmp_path):
    run = runs("cgan")
    drawn = written("sample", run.directory.path, "-n", 3, "--label", 7, "--label", 2)
    expected = torch.cat([run.model.sample(3, label=label) for label in (7, 2)])
    assert np.array_equal(drawn, image_grid(to_uint8(expected), 3).numpy())
    assert (run.directory / "pictures" / "sample_step_00000002_label_7-2.png").is_file()
    assert (
        ganrun("sample", run.directory.path, "-n", 3, "--label", 7, "--label", 2, "-o", tmp_path / "f").exit_code == 0
    )
    assert np.array_equal(pixels(tmp_path / "f" / "00004.png"), to_uint8(expected)[4, 0])


@pytest.fixture
def named(runs, tmp_path):
    """A run of the conditional model whose classes have names, as folders of pictures have."""
    folder = Path(
        shutil.copytree(runs("cgan").directory.path, tmp_path / "named", ignore=shutil.ignore_patterns("pictures"))
    )
    environment = json.loads((folder / "environment.json").read_text())
    names = ["cat", "dog", "../../up", "1", "ship", "ship", "", "\x1b[2J", "truck", "horse"]
    environment["problem"]["class_names"] = names
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


@pytest.mark.parametrize(("name", "label"), [("dog", 1), ("9", 9), ("../../up", 2), ("1", 3), ("", 6), ("\x1b[2J", 7)])
def test_a_class_is_named_or_numbered(runs, named, name, label):
    result = ganrun("sample", named, "-n", 2, "--label", name)
    assert result.exit_code == 0 and result.stdout == f"wrote {named}/pictures/sample_step_00000002_label_{label}.png\n"
    expected = image_grid(to_uint8(runs("cgan").model.sample(2, label=label)), 2)
    assert np.array_equal(pixels(Path(result.stdout.removeprefix("wrote ").strip())), expected)
    taken = '"1" is read as the name of class 3, not as the number of a class'
    assert (taken in result.stderr) == (name == "1")
    for command in ("interpolate", "traverse"):
        picture = written(command, named, "-n", 2, "--label", name)
        assert np.array_equal(picture, written(command, runs("cgan").directory.path, "-n", 2, "--label", label))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("horze", 'no class is called "horze"; did you mean "horse"?'),
        ("zebra", 'no class is called "zebra"; there are cat, dog, ../../up, 1, ship, ship, , \\x1b[2J, truck, horse'),
        ("ship", '2 classes are called "ship"; say the number of one: 4, 5'),
        ("10", "there is no class 10; the classes are 0 to 9"),
        ("-1", 'no class is called "-1"'),
    ],
)
def test_an_unknown_or_ambiguous_class_is_refused(named, name, message):
    result = ganrun("sample", named, "-n", 2, "--label", name)
    assert result.exit_code == 2 and message in result.stderr
    assert not (named / "pictures").exists()


def test_colours_stay_colours_in_a_folder(runs, tmp_path):
    run = runs("colour")
    assert ganrun("sample", run.directory.path, "-n", 3, "--output", tmp_path).exit_code == 0, (
        "an empty folder is accepted"
    )
    found = np.stack([pixels(path) for path in sorted(tmp_path.iterdir())])
    assert np.array_equal(found.transpose(0, 3, 1, 2), to_uint8(run.model.sample(3)))


def test_points_are_drawn_over_real_ones(runs):
    run = runs("points")
    expected = scatter(real_images(run.data, 50, "test"), run.model.sample(50))
    assert np.array_equal(written("sample", run.directory.path, "-n", 50), expected)


# ── Strips ────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_interpolation_is_a_strip_or_a_folder_of_its_steps(runs, tmp_path):
    run = runs("infogan")
    strip = written("interpolate", run.directory.path, "-n", 3, "--columns", 5)
    assert strip.ndim == 3
    assert (
        ganrun("interpolate", run.directory.path, "-n", 3, "--columns", 5, "--output", tmp_path / "steps").exit_code
        == 0
    )
    steps = sorted((tmp_path / "steps").iterdir())
    assert len(steps) == 5
    starts, ends = run.model.fixed_latents(6).chunk(2)
    between = interpolated(run.model, starts, ends, 5)
    for number, path in enumerate(steps):
        made = to_uint8(run.model.decode(between[:, number]))
        assert np.array_equal(pixels(path), image_grid(made, 2).numpy())


def test_a_traversal_varies_the_codes_or_the_chosen_latents(runs, tmp_path):
    run = runs("infogan")
    place = run.directory.path
    rows = written("traverse", place, "-n", 2)
    assert not np.array_equal(rows, written("traverse", place, "-n", 2, "--dimensions", "0,1"))
    assert np.array_equal(rows, written("traverse", place, "-n", 2, "--dimensions", "4,7")), "both codes"
    assert np.array_equal(written("traverse", place), written("traverse", place, "-n", 5)), "ten rows"
    folder = tmp_path / "steps"
    assert ganrun("traverse", place, "-n", 1, "--columns", 3, "--output", folder).exit_code == 0
    latents = run.model.fixed_latents(1)
    code, continuous = (
        to_uint8(run.model.decode(traversal.applied_to(latents)[0])) for traversal in code_traversals(run.model, 3)
    )
    expected = [torch.stack([code[step], continuous[step]]) for step in range(3)]
    expected.append(torch.stack([code[3], torch.full_like(code[3], 255)]))
    found = [pixels(path) for path in sorted(folder.iterdir())]
    assert len(found) == 4
    for drawn, images in zip(found, expected, strict=True):
        assert np.array_equal(drawn, image_grid(images, 2).numpy())


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_a_model_without_codes_is_traversed_along_its_latents(runs, name):
    assert written("traverse", runs(name).directory.path, "--columns", 4).std() > 10


def test_label_and_seed_select_other_interpolations(runs):
    place = runs("cgan").directory.path
    pictures = [written("interpolate", place, *more) for more in ([], ["--label", 2], ["--seed", 4], ["--seed", 5])]
    for index, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[:index])


# ── Reconstructions ───────────────────────────────────────────────────────────────────────────────────────


def test_real_images_are_above_their_reconstructions(runs, tmp_path):
    run = runs("vae")
    real = real_images(run.data, 7, "test")
    made = to_uint8(run.model.reconstruct(to_unit_range(real)))
    white = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    rows = [real[:3], made[:3], real[3:6], made[3:6], torch.cat([real[6:], white]), torch.cat([made[6:], white])]
    drawn = written("reconstruct", run.directory.path, "-n", 7, "--columns", 3)
    assert np.array_equal(drawn, image_grid(torch.cat(rows), 3).numpy())
    assert ganrun("reconstruct", run.directory.path, "-n", 7, "--output", tmp_path / "pairs").exit_code == 0
    pairs = [pixels(path) for path in sorted((tmp_path / "pairs").iterdir())]
    assert len(pairs) == 7
    assert np.array_equal(pairs[4], image_grid(torch.stack([real[4], made[4]]), 1).numpy())
    of_training = written("reconstruct", run.directory.path, "-n", 7, "--split", "train", "--columns", 3)
    assert not np.array_equal(of_training, drawn)


def test_a_folder_has_room_for_more_pairs_than_one_picture(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "MAX_IN_GRID", 5)
    monkeypatch.setattr(making, "BATCH", 3)
    run = runs("vae")
    assert ganrun("reconstruct", run.directory.path, "-n", 7, "--output", tmp_path / "pairs").exit_code == 0
    real = real_images(run.data, 7, "test")
    made = to_uint8(run.model.reconstruct(to_unit_range(real)))
    for number, path in enumerate(sorted((tmp_path / "pairs").iterdir())):
        assert np.array_equal(pixels(path), image_grid(torch.stack([real[number], made[number]]), 1).numpy())
    assert number == 6
    refused = ganrun("reconstruct", run.directory.path, "-n", 7)
    message = "7 images are too many for one picture, which takes 5; write them to a folder"
    assert refused.exit_code == 2 and message in refused.output


# ── Targets ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("count", "last"), [(1, "00000.png"), (100_000, "99999.png"), (100_001, "100000.png")])
def test_file_names_in_a_folder_sort_in_order(tmp_path, count, last):
    numbers = sorted({0, count // 2, count - 1})
    names = [file_name(number, count) for number in numbers]
    assert names == sorted(names) and names[-1] == last and {len(name) for name in names} == {len(last)}
    target = Target(tmp_path / "folder")
    target.write_all([np.zeros((2, 2), np.uint8)], count)  # the first will do
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [names[0]]
    assert target.report() == f"wrote 1 picture to {tmp_path / 'folder'}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_no_partial_folder(runs, tmp_path, number):
    folder = tmp_path / "pictures"
    command = [sys.executable, "-m", "ganrun.cli", "sample", str(runs("gan").directory.path), "-n", "1000000"]
    with subprocess.Popen([*command, "--output", str(folder)], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not [*tmp_path.glob(".pictures.*/*.png")]:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in errors
    assert not [*tmp_path.iterdir()]


def test_pictures_of_an_exported_model_are_in_the_working_directory(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    find_saved_model(runs("gan").directory.path).save(tmp_path / "model", {})
    before = {*(tmp_path / "model").iterdir()}
    drawn = written("sample", "model", "-n", 4)
    assert np.array_equal(drawn, written("sample", runs("gan").directory.path, "-n", 4))
    assert (tmp_path / "model_sample_step_00000002.png").is_file() and {*(tmp_path / "model").iterdir()} == before


def test_a_folder_may_be_a_link_but_not_the_working_directory(runs, tmp_path, monkeypatch):
    place = runs("gan").directory.path
    (tmp_path / "here").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "new").symlink_to("far/away")
    monkeypatch.chdir(tmp_path / "here")
    for link, target in {"link": "empty", "new": "far/away"}.items():
        result = ganrun("sample", place, "-n", 2, "--output", f"../{link}")
        assert result.exit_code == 0 and result.stdout == f"wrote 2 pictures to ../{link}\n", result.output
        assert (tmp_path / link).is_symlink() and len([*(tmp_path / target).iterdir()]) == 2
    result = ganrun("sample", place, "-n", 2, "--output", ".")
    assert result.exit_code == 2 and ". is the working directory" in result.output, result.output


def test_an_error_without_a_number_is_reported_too(tmp_path):
    def full_disk():
        yield np.zeros((2, 2), np.uint8)
        raise OSError("encoder error")  # as PIL reports a full disk

    with pytest.raises(RequestError, match="folder: encoder error; choose another"):
        Target(tmp_path / "folder").write_all(full_disk(), 2)
    assert not list(tmp_path.iterdir())


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("gan", ["reconstruct"], "the model has no encoder, so it cannot reconstruct images"),
        ("gan", ["sample", "--label", "3"], "knows no classes"),
        ("gan", ["traverse", "--label", "cat"], 'the model knows no classes, so none is called "cat"'),
        ("cgan", ["sample", "--label", "10"], "the classes are 0 to 9"),
        ("gan", ["sample", "-n", "0"], "0 is not in the range"),
        ("gan", ["interpolate", "--columns", "1"], "1 is not in the range"),
        ("gan", ["traverse", "--columns", "513"], "513 is not in the range"),
        ("gan", ["sample", "-n", "5000"], "5,000 samples are too many for one picture, which takes 4,096; write them"),
        ("gan", ["interpolate", "-n", "500"], "500 rows are too many for one picture"),
        ("gan", ["traverse", "--dimensions", "0,4"], "there is no latent 4; the model has 4, counted from 0"),
        ("gan", ["traverse", "--dimensions", "0;4"], '"0;4" is not a list of numbers'),
        ("gan", ["sample", "--device", "gpu"], 'device "gpu" is unknown'),
        ("gan", ["sample", "--output", "grid.jpg"], "pictures are written as PNG"),
        ("points", ["sample", "--output", "folder"], "the samples have shape (2,), and are not grey or colour images"),
        ("points", ["sample", "-n", "5000"], "which takes 4,096\n"),
        ("points", ["interpolate"], "and are not grey or colour images"),
        ("points", ["traverse"], "and are not grey or colour images"),
    ],
)
def test_invalid_requests_are_refused_and_nothing_is_written(runs, tmp_path, monkeypatch, name, arguments, message):
    run = runs(name)
    before = {*run.directory.path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    command, *options = arguments
    result = ganrun(command, run.directory.path, *options)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output, result.output
    assert not list(tmp_path.iterdir()) and {*run.directory.path.rglob("*")} == before


def test_existing_files_are_not_overwritten(runs, tmp_path):
    place = runs("gan").directory.path
    (tmp_path / "kept.txt").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    taken = {".": "exists already", "kept.txt": "exists already", "folder.png": "is a folder"}
    for output, message in {**taken, "kept.txt/a.png": "cannot write to"}.items():
        result = ganrun("sample", place, "-n", 2, "--output", tmp_path / output)
        assert result.exit_code == 2 and message in result.output, result.output
    assert (tmp_path / "kept.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("command", ["sample", "interpolate", "traverse", "reconstruct"])
def test_an_error_says_why_a_folder_is_no_model(runs, tmp_path, command):
    def refusal_of(place: Path) -> str:
        result = ganrun(command, place)
        assert result.exit_code == 2 and "Traceback" not in result.output, result.output
        return result.output

    assert "there is no " in refusal_of(tmp_path / "nowhere")
    assert "is not a run directory, a checkpoint or an exported folder" in refusal_of(tmp_path)
    run = shutil.copytree(runs("vae").directory.path, tmp_path / "copy")
    newest = run / "checkpoints" / "step_00000002" / "manifest.json"
    newest.write_text(json.dumps({**json.loads(newest.read_text()), "format": 99}))
    assert "has format 99" in (found := refusal_of(run)) and "use the version that wrote it" in found
    shutil.rmtree(run / "checkpoints")
    assert "holds no checkpoint" in refusal_of(run)
