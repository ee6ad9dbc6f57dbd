"""Exports: the run's own samples in ganrun, without it, and in ONNX; and a model card that is true."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file

import ganrun
from ganrun import Run, to_uint8
from ganrun.cli import main
from ganrun.testing import train
from ganrun_export.programs import generator_of, write_program

QUIET = dict.fromkeys(("samples", "progress", "mlflow"), False)
MLP = {"use": "mlp", "hidden": [8]}
IMAGES = {
    "name": "small",
    "train": {"steps": 2, "batch_size": 8, "device": "cpu", "seed": 5},
    "data": {"use": "digits", "size": 16},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": MLP,
    "discriminator": MLP,
    **QUIET,
}


def conv(**settings: Any) -> dict[str, Any]:
    return {"use": "conv", "feature_maps": 2, "stages": 2, **settings}


def dcgan(**settings: Any) -> dict[str, Any]:
    return {"use": "dcgan", "feature_maps": 2, **settings}


VAE = {key: value for key, value in IMAGES.items() if key != "discriminator"} | {
    "loss": {"use": "vae", "latent_size": 4, "likelihood": "bernoulli"},
    "encoder": dcgan(norm="spectral"),
}
FAMILIES = {
    "mlp": IMAGES | {"generator": MLP | {"norm": "batch"}},
    "conv": IMAGES | {"generator": conv(), "discriminator": conv(norm="batch", dropout=0.5)},
    "dcgan": IMAGES | {"generator": dcgan(), "discriminator": dcgan(norm="spectral"), "ema": False},
    "wgan-gp": IMAGES
    | {
        "loss": {"use": "wgan-gp", "latent_size": 4},
        "generator": {"use": "wgan-gp-resnet", "widths": [4, 4, 4]},
        "discriminator": {"use": "wgan-gp-resnet", "widths": [4], "flat_blocks": 1},
    },
    "vae": VAE,
    "infogan": IMAGES
    | {
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "infogan", "noise_size": 3, "categorical": [3, 2], "continuous": 2},
        "generator": {"use": "infogan-mnist"},
    },
    "cgan": IMAGES | {"loss": {"use": "cgan", "noise_size": 4}, "generator": dcgan(labels="embedding")},
    "acgan": IMAGES | {"loss": {"use": "acgan", "noise_size": 4}},
    "points": IMAGES | {"data": {"use": "gaussians", "count": 100, "test_count": 10}},
}


def export(run: str | Path, *options: str | Path) -> str:
    result = CliRunner().invoke(main, ["export", str(run), *map(str, options)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(run: str | Path, *options: str | Path) -> str:
    result = CliRunner().invoke(main, ["export", str(run), *map(str, options)], catch_exceptions=False)
    assert result.exit_code == 2
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    metric = [{"use": "reconstruction", "real_samples": 50}, {"use": "fid", "features": "classifier", "samples": 50}]
    tables = VAE | {"train": VAE["train"] | {"evaluate_every_steps": 1}, "metric": metric}
    return train(tables | {"checkpoints": {"every_steps": 1, "keep": 2}}, tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def exported(run: Run) -> Path:
    """The run's export, with ONNX, in the default folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.directory.path.parent)
        assert export("run", "--onnx").startswith("exported to exports/run-step-2;")
    return run.directory.path.parent / "exports" / "run-step-2"


def test_a_program_is_written_under_any_name_and_a_full_disk_ends_no_process(exported: Path, tmp_path: Path) -> None:
    program, path = torch.export.load(exported / "generator.pt2"), tmp_path / os.fsdecode(b"\xff")
    write_program(program, path)
    assert path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_program(program, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ── The same samples ──────────────────────────────────────────────────────────────────────────────────────


class PartsAndMemory(ganrun.Loss):
    """Samples are made by a part of a network, and by what the loss remembers."""

    slots = {"generator": ganrun.Slot("generator", methods=("layers",))}

    def __init__(self, settings: None, spec: ganrun.DataSpec) -> None:
        super().__init__(settings, spec)
        self.memory.register_buffer("shift", torch.rand(1, 4, 4))

    latent_size = 4

    def phases(self) -> tuple[ganrun.Phase, ...]:
        return ()

    def generate(self, nets: ganrun.Nets, latents: torch.Tensor, sampling: object) -> torch.Tensor:
        return nets.generator.layers(latents).unflatten(1, (1, 4, 4)) / 2 + self.memory.shift


def test_a_program_holds_networks_of_which_parts_are_called_and_the_memory(tmp_path: Path) -> None:
    loss, network = PartsAndMemory(None, ganrun.DataSpec((1, 4, 4))), torch.nn.Module()
    network.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh())
    spec = ganrun.ModelSpec((1, 4, 4), latent_size=4, factors=tuple(loss.factors()))
    model = ganrun.Model(spec, loss, {"generator": network}, torch.device("cpu"), 0)
    write_program(generator_of(model), tmp_path / "program.pt2")
    latents, program = model.fixed_latents(5), torch.export.load(tmp_path / "program.pt2").module()
    assert torch.allclose(program(latents), model.decode(latents), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_runs_own_samples(family: str, tmp_path: Path) -> None:
    run = train(FAMILIES[family], tmp_path / "run")
    export(tmp_path / "run", "--output", tmp_path / "out")
    expected, model = run.model, ganrun.load(tmp_path / "out", "cpu")
    assert torch.equal(model.sample(9), expected.sample(9))
    generator, latents = (
        torch.export.load(tmp_path / "out" / f"{name}.pt2").module() for name in ("generator", "latents")
    )
    for count in (1, 7):
        fixed = expected.fixed_latents(count)
        assert torch.equal(model.decode(fixed), expected.decode(fixed))
        torch.testing.assert_close(generator(fixed), expected.decode(fixed), rtol=0, atol=1e-6)
        torch.manual_seed(count)
        drawn = latents(torch.tensor(count))
        torch.manual_seed(count)
        assert torch.equal(drawn, run.model.loss.latents(count, torch.device("cpu")))
    assert (tmp_path / "out" / "encoder.pt2").exists() == ("encodings" in run.model.spec.readings)
    if "encodings" in run.model.spec.readings:
        images = expected.sample(7)
        encoder = torch.export.load(tmp_path / "out" / "encoder.pt2").module()
        assert torch.equal(model.encode(images), expected.encode(images))
        torch.testing.assert_close(encoder(images), expected.encode(images), rtol=0, atol=1e-6)
    if "reconstructions" in run.model.spec.readings:
        assert torch.equal(model.reconstruct(images), expected.reconstruct(images))
    assert (tmp_path / "out" / "samples.png").exists() == (family != "points")


def test_a_program_contains_the_weights_that_it_uses_and_the_folder_all(run: Run, exported: Path) -> None:
    assert {path.stem for path in exported.glob("*.safetensors")} == {"generator", "encoder"}
    assert set(load_file(exported / "generator.safetensors")) == set(run.state.slots["generator"].module.state_dict())
    program = torch.export.load(exported / "generator.pt2")
    assert {name.split(".")[1] for name in program.state_dict} == {"generator"}


ELSEWHERE = """
import sys
for name in ("ganrun", "ganrun_vae", "ganrun_vanilla", "ganrun_dcgan"):
    sys.modules[name] = None  # importing it is an error
import torch
from safetensors.torch import load_file
expected = load_file("expected.safetensors")
generator, encoder = (torch.export.load(f"{name}.pt2").module() for name in ("generator", "encoder"))
for count in (1, 7):
    images = generator(expected["latents"][:count])
    torch.testing.assert_close(images, expected["images"][:count], rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder(images), expected["encodings"][:count], rtol=0, atol=1e-5)
"""


def test_the_programs_run_without_ganrun(run: Run, exported: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    place = shutil.copytree(exported, tmp_path / "there")
    latents = run.model.fixed_latents(7)
    images = run.model.decode(latents)
    encodings = run.model.encode(images)
    assert encodings is not None
    tensors = {"latents": latents, "images": images, "encodings": encodings}
    save_file({name: each.contiguous() for name, each in tensors.items()}, place / "expected.safetensors")
    script = ELSEWHERE + scripts_of(exported)[1]
    is_old = Version(torch.__version__) < Version("2.12")  # whose torch.export.load warns
    torchs_own = ["-W", "ignore:The given buffer is not writable:UserWarning"] if is_old else []
    command = [sys.executable, *torchs_own, "-c", script]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_loading_a_program_unpickles_only_tensors(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_load = torch.load

    def careful_load(*arguments: Any, weights_only: bool = True, **named: Any) -> Any:
        assert weights_only
        return torch_load(*arguments, weights_only=True, **named)

    monkeypatch.setattr(torch, "load", careful_load)
    monkeypatch.setattr(pickle, "loads", None)
    for name in ("latents", "generator", "encoder"):
        torch.export.load(exported / f"{name}.pt2")


def test_onnx_gives_the_same_numbers(run: Run, exported: Path) -> None:
    import onnxruntime

    latents, generator, encoder = (
        onnxruntime.InferenceSession(exported / f"{name}.onnx") for name in ("latents", "generator", "encoder")
    )
    for count in (1, 7):
        fixed = run.model.fixed_latents(count)
        images = run.model.decode(fixed)
        (given,) = generator.run(["samples"], {"latents": fixed.numpy()})
        np.testing.assert_allclose(given, images.numpy(), rtol=0, atol=1e-5)
        (read,) = encoder.run(["latents"], {"images": images.numpy()})
        np.testing.assert_allclose(read, run.model.encode(images), rtol=0, atol=1e-5)
    drawn = [latents.run(["latents"], {"count": np.array(2_000)})[0] for _ in range(2)]
    assert drawn[0].shape == (2_000, 4) and not np.array_equal(*drawn)
    assert abs(drawn[0].mean()) < 0.05 and abs(drawn[0].std() - 1) < 0.05


def test_without_the_packages_for_onnx_nothing_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error = refused(run.directory.path, "-o", tmp_path / "out", "--onnx")
    assert error == 'error: --onnx needs onnxscript; run: pip install "ganrun[onnx]"'
    assert list(tmp_path.iterdir()) == []


# ── The card ──────────────────────────────────────────────────────────────────────────────────────────────


def scripts_of(folder: Path) -> list[str]:
    """The card's blocks of Python: with ganrun, without it, with ONNX Runtime."""
    return re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.M | re.S)


def test_the_cards_python_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    scripts = scripts_of(exported)
    assert len(scripts) == 3
    for script in scripts:
        names: dict[str, Any] = {}
        exec(script, names)
        assert tuple(names["images"].shape) == (64, 1, 16, 16) and -1 <= names["images"].min() < names["images"].max()


def test_a_hub_can_read_the_cards_metadata(run: Run, exported: Path) -> None:
    _, head, _ = (exported / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "ganrun" and metadata["pipeline_tag"] == "unconditional-image-generation"
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    assert model["name"] == "small" and result["dataset"] == {"type": "digits", "name": "digits"}
    assert {each["type"]: each["value"] for each in result["metrics"]} == {
        name: pytest.approx(score.value) for name, score in run.scores.items()
    }


def test_metadata_quotes_names_and_groups_scores_by_data_set(exported: Path) -> None:
    from ganrun_export.card import card

    facts = json.loads((exported / "config.json").read_text())
    facts["name"] = name = "wörter 🙂: 'a' # \"b\" <c> & d"
    facts["scores"] = {
        "fid": facts["scores"]["fid_classifier"],
        "fid@celeba": facts["scores"]["fid_classifier"] | {"value": 7.0},
        "psnr": facts["scores"]["psnr"] | {"value": float("inf")},
    }
    (model,) = yaml.safe_load(card(facts, "", ()).split("---\n", 2)[1])["model-index"]
    assert model["name"] == name
    assert [(each["dataset"]["name"], each["metrics"]) for each in model["results"]] == [
        ("digits", [{"type": "fid", "value": facts["scores"]["fid"]["value"]}]),
        ("celeba", [{"type": "fid", "value": 7.0}]),
    ]


def test_scores_are_those_of_the_exported_weights(run: Run, exported: Path, tmp_path: Path) -> None:
    export(run.directory / "checkpoints" / "step_00000001", "--output", tmp_path / "early")
    early, late = (json.loads((place / "config.json").read_text()) for place in (tmp_path / "early", exported))
    assert (early["step"], early["images_seen"], late["step"], late["images_seen"]) == (1, 8, 2, 16)
    for step, facts in ((1, early), (2, late)):
        (record,) = [each for each in run.directory.records() if each.step == step and each.evaluation]
        measured = record.scores()
        assert {name: score["value"] for name, score in facts["scores"].items()} == {
            name: score.value for name, score in measured.items()
        }
        fid = facts["scores"]["fid_classifier"]
        assert fid["protocol"] == measured["fid_classifier"].protocol
        assert (fid["better"], fid["error"], fid["floor"]) == (
            "lower", measured["fid_classifier"].error, measured["fid_classifier"].floor,
        )  # fmt: skip
    assert early["scores"]["mse"]["value"] != late["scores"]["mse"]["value"]
    assert not torch.equal(ganrun.load(tmp_path / "early").sample(2), ganrun.load(exported).sample(2))


def test_nothing_in_the_export_identifies_the_machine(run: Run, exported: Path) -> None:
    environment = run.directory.environment()
    for name in ("README.md", "config.json"):
        text = (exported / name).read_text()
        assert environment["host"] not in text.split() and str(run.directory.path) not in text
        assert environment["data_fingerprint"] in text and environment["packages"]["torch"] in text


def test_the_card_quotes_the_recipes_comment(tmp_path: Path) -> None:
    comment = "# Small numbers.\n#\n# Made to be exported.\n"
    recipe = tmp_path / "small.toml"
    recipe.write_text(f"#:schema ./ganrun.schema.json\n{comment}\n{TEXT}", encoding="utf-8")
    trained = CliRunner().invoke(main, [str(recipe), "--output", str(tmp_path / "run")], catch_exceptions=False)
    assert trained.exit_code == 0
    export(tmp_path / "run", "--output", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\n\n> Small numbers.\n>\n> Made to be exported.\n\n" in card and "schema" not in card
    assert "These weights were not scored." in card and "model-index" not in card
    assert rows_are_classes(tmp_path / "out")


def rows_are_classes(folder: Path) -> bool:
    """Whether the picture in row 3, column 5 of the grid is the sample of that class and that noise."""
    grid = np.asarray(Image.open(folder / "samples.png"))
    factor = grid.shape[1] // (8 * 10 + 2)
    assert grid.shape == ((10 * 10 + 2) * factor, (8 * 10 + 2) * factor, 3)
    model = ganrun.load(folder, "cpu")
    expected = to_uint8(model.decode(model.with_class(model.fixed_latents(8), 3)))[5, 0].numpy()
    return np.array_equal(grid[::factor, ::factor][32:40, 52:60, 0], expected)


TEXT = """
name = "words"
mlflow = false
progress = false

[train]
steps = 1
batch_size = 8
device = "cpu"

[data]
use = "digits"
size = 8

[loss]
use = "acgan"
noise_size = 4

[generator]
use = "mlp"
hidden = [8]

[discriminator]
use = "mlp"
hidden = [8]
"""


# ── The folder ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_existing_folder_is_left_as_it_is(run: Run, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported.parents[1])
    assert refused("run").endswith("error: exports/run-step-2 exists already; choose another --output")
    assert [path.name for path in exported.parent.iterdir()] == ["run-step-2"]


def test_replicates_have_different_default_folders(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.directory.path, tmp_path / "faces" / "seed_1")
    assert export("faces/seed_1").startswith("exported to exports/faces-seed_1-step-2;")


def edited(file: str, old: str, new: str) -> Callable[[Path], object]:
    """A function that replaces a text in a file of a folder."""
    return lambda folder: (folder / file).write_text((folder / file).read_text().replace(old, new))


TABLES = ("directions", "protocols", "errors", "floors")
"""What a line says of its scores beside their values."""


def damaged(run: Path) -> None:
    for path in (run / "checkpoints").glob("*/generator.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "holds no checkpoint"),
        (damaged, "every checkpoint in"),
        (lambda folder: (folder / "recipe.toml").unlink(), "is not a run directory, a checkpoint"),
        (lambda folder: (folder / "environment.json").write_text('{"problem": 3}'), "environment.json is damaged"),
        (edited("environment.json", '"plugins"', '"extensions"'), "copy is damaged: its files lack 'plugins'"),
        (edited("recipe.toml", "name =", "title ="), "copy is damaged: its files lack 'name'"),
        *(
            (edited("metrics.jsonl", f'"{table}"', '"terms"'), "metrics.jsonl is damaged: a line does not say")
            for table in TABLES
        ),
    ],
    ids=["nothing", "no weights", "damaged weights", "no run", "no facts", "half the facts", "no name", *TABLES],
)
def test_an_error_says_why_a_run_cannot_be_exported(
    run: Run, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    copy = shutil.copytree(run.directory.path, tmp_path / "copy")
    damage(copy)
    assert message in refused(copy, "--output", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_line_that_was_cut_short_is_reported_and_costs_no_export(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.directory.path, tmp_path / "copy")
    scored = (copy / "metrics.jsonl").read_text()
    lines = [line[: len(line) // 2] if "protocols" in line else line for line in scored.splitlines()]
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(main, ["export", str(copy), "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0
    warning = f"WARNING: {copy / 'metrics.jsonl'} has a line that was cut short: the model card may lack scores"
    assert warning in result.stderr.replace("\n", " ")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["scores"] == {}
    assert "These weights were not scored." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            edited("config.json", '"format": 1', '"format": 2'),
            "has format 2, and this version of ganrun reads format 1",
        ),
        (
            lambda folder: os.truncate(folder / "config.json", 200),
            "config.json is damaged, or not written by ganrun",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "or not written by ganrun"),
        (edited("config.json", '"sample_shape"', '"shape"'), "config.json is damaged: it does not state what"),
        (lambda folder: (folder / "encoder.safetensors").unlink(), "holds no weights of the encoder"),
        (lambda folder: os.truncate(folder / "generator.safetensors", 300), "the weights in .* are damaged"),
        (lambda folder: (folder / "recipe.toml").unlink(), "recipe.toml: no such file"),
    ],
    ids=["newer", "half", "somebody else's", "half the facts", "weights gone", "half the weights", "no recipe"],
)
def test_an_error_says_why_an_export_cannot_be_loaded(
    exported: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    damage(copy)
    with pytest.raises(ganrun.RequestError, match=message):
        ganrun.load(copy, "cpu")


def test_exports_and_places_that_cannot_be_written_are_refused(run: Run, exported: Path, tmp_path: Path) -> None:
    assert "is already an export; name the run that it came from" in refused(exported, "--output", tmp_path / "out")
    (tmp_path / "file").touch()
    assert "exists already" in refused(run.directory.path, "--output", tmp_path / "file")
    assert "cannot write" in refused(run.directory.path, "--output", tmp_path / "file" / "out")
    assert "device cuda:99 was requested" in refused(
        run.directory.path, "--output", tmp_path / "out", "--device", "cuda:99"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ── A network that torch.export cannot follow ─────────────────────────────────────────────────────────────


class Fickle(ganrun.Generator):
    """Its code branches on the values of its latents."""

    def __init__(self, settings: ganrun.Settings, spec: ganrun.NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layer = torch.nn.Linear(*spec.inputs, 256)

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        samples = self.layer(latents).tanh().view(-1, 1, 16, 16)
        return samples if samples.mean() > 0 else -samples


class FicklePlugin:
    @ganrun.hookimpl
    def ganrun_generators(self) -> dict[str, type[ganrun.Generator]]:
        return {"fickle": Fickle}


def test_a_network_that_torch_export_cannot_follow_is_reported(tmp_path: Path) -> None:
    from ganrun_export.programs import generator_of

    model = train(IMAGES | {"generator": {"use": "fickle"}}, tmp_path / "run", FicklePlugin()).model
    with pytest.raises(ganrun.RequestError, match="cannot export this model"):
        generator_of(model)
