"""A shared model reveals nothing about the machine that trained it."""

from __future__ import annotations

import io
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, strategies as st
from PIL import Image

import ganrun
from ganrun import Settings, is_local_path, without_local_paths
from ganrun.cli import main
from ganrun.discovery.made_with import MadeWith
from ganrun.recipe.handed_out import handed_out
from ganrun.testing import registry_with

SECRET = "hunter22-token"
HOST = "gpu-box-of-ann"


class Tracker(ganrun.Observer):
    """An observer with a place, an address and a secret."""

    class Settings(Settings):
        uri: Annotated[str, ganrun.Address("TRACKER_URI")] | None = None
        folder: ganrun.LocalPath | None = None
        key: ganrun.Secret = "$TRACKER_KEY"
        note: str = ""


class Plugin:
    @ganrun.hookimpl
    def ganrun_observers(self) -> dict[str, type[ganrun.Observer]]:
        return {"tracker": Tracker}


RECIPE = """\
# Faces, as in the paper.
name = "~ faces"
mlflow = false
progress = false
samples = false

[train]
steps = 1
batch_size = 4
device = "cpu"

[data]
use = "image-folder"
root = "ROOT"
size = 16

[loss]
use = "vae"
latent_size = 2

[generator]
use = "dcgan"
feature_maps = 2
FROM

[encoder]
use = "dcgan"
feature_maps = 2
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with pictures in it."""
    home = tmp_path_factory.mktemp("home of ann")
    (home / "faces").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / "faces" / f"{number}.png")
    return home


@pytest.fixture(scope="module")
def exported(home: Path) -> Iterator[Path]:
    """An export of a run that continued from another one; its environment is full of names and secrets."""
    recipe = RECIPE.replace("ROOT", str(home / "faces"))
    (home / "first.toml").write_text(recipe.replace("FROM", ""))
    (home / "second.toml").write_text(recipe.replace("FROM", f'from = "{home / "first"}"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("HOME", str(home))
        patch.setenv("SERVICE_TOKEN", SECRET)
        patch.setattr("platform.node", lambda: HOST)
        patch.setattr("sys.argv", ["ganrun", "second.toml", "--set", f"note=https://ann:{SECRET}@host"])
        for name in ("first", "second"):
            ran("train", f"{name}.toml", "--output", name)
        stored = home / "second" / "recipe.toml"
        stored.write_text(f"# Ask with {SECRET}.\n{stored.read_text()}\n[old]\nword = '{SECRET}'\n")
        ran("export", "second", "--onnx", "--output", "out")
        yield home / "out"


def ran(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a folder, and every file in those that are archives."""
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        yield path.name, content
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path.name}: {name}", archive.read(name)) for name in archive.namelist())


def test_no_byte_of_an_export_tells_of_the_machine(exported: Path, home: Path) -> None:
    package = Path(ganrun.__file__).parents[2]
    code = str(Path(torch.__file__).parent)
    told = [str(home), str(Path.cwd()), HOST, SECRET, str(package), code]
    files = dict(contents(exported))
    assert {"generator.pt2", "encoder.onnx", "recipe.toml", "config.json", "README.md"} <= files.keys()
    for name, content in files.items():
        assert [each for each in told if each.encode() in content] == [], name


def test_an_export_keeps_what_it_is_loaded_with_and_the_authors_comment(exported: Path, home: Path) -> None:
    text = (exported / "recipe.toml").read_text()
    tables, own = tomllib.loads(text), tomllib.loads((home / "second" / "recipe.toml").read_text())
    assert "# Faces, as in the paper.\n" in text and "# Ask with ***.\n" in text
    del own["data"]["root"], own["generator"]["from"]
    own["old"]["word"] = "***"
    assert tables == own
    model, there = ganrun.load(exported, "cpu"), ganrun.load(home / "second", "cpu")
    assert torch.equal(model.sample(3), there.sample(3))


def test_a_command_that_needs_the_data_says_how_to_name_its_place(exported: Path, home: Path, tmp_path: Path) -> None:
    picture = str(tmp_path / "pairs.png")
    arguments = ["reconstruct", str(exported), "-n", "2", "--output", picture]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 2 and "say where it is: --set data.root=…" in result.stderr
    ran(*arguments, "--set", f"data.root={home / 'faces'}")
    assert Path(picture).is_file()


def test_settings_are_left_out_by_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
name = "/x"
[data]
use = "mnist"
root = "relative"
[generator]
use = "dcgan"
from = "runs/other"
[[stage]]
from = 3
lr = 0.1
[[metric]]
use = "fid"
features = { use = "inception", weights = "relative.pth" }
[tracker]
uri = "http://gpu-box:5000"
folder = "relative"
key = "$TRACKER_KEY"
note = "C:\\\\Users\\\\ann"
deep = { a = ["x", "/y"], b = ["x"], c = [{ d = "~/z", e = 1 }] }
[loss]
use = "gan"
latent_size = 2
"""
    )
    found = tomllib.loads(handed_out(path, registry_with(Plugin()), MadeWith()))
    assert found == {
        "name": "/x",
        "data": {"use": "mnist"},
        "generator": {"use": "dcgan"},
        "stage": [{"from": 3, "lr": 0.1}],
        "metric": [{"use": "fid", "features": {"use": "inception"}}],
        "tracker": {"key": "$TRACKER_KEY", "deep": {"b": ["x"], "c": [{"e": 1}]}},
        "loss": {"use": "gan", "latent_size": 2},
    }


class Frozen(ganrun.Generator):
    """A network with a setting that names a file."""

    class Settings(Settings):
        table: ganrun.LocalPath

    def __init__(self, settings: Settings, spec: ganrun.NetworkSpec) -> None:
        super().__init__(settings, spec)
        self.layer = torch.nn.Linear(*spec.inputs, 64)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layer(latents).tanh().view(-1, 1, 8, 8)


class FrozenPlugin:
    @ganrun.hookimpl
    def ganrun_generators(self) -> dict[str, type[ganrun.Generator]]:
        return {"frozen": Frozen}


@pytest.mark.parametrize("table", ["here/numbers.pt", "/there/numbers.pt"])
def test_of_a_path_that_a_network_needs_the_name_stays(tmp_path: Path, table: str) -> None:
    tables = {
        "train": {"steps": 1, "batch_size": 4, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "gan", "latent_size": 2},
        "generator": {"use": "frozen", "table": table},
        "discriminator": {"use": "mlp", "hidden": [2]},
        **dict.fromkeys(("samples", "progress", "mlflow"), False),
    }
    ganrun.testing.train(tables, tmp_path / "run", FrozenPlugin())
    saved = ganrun.find_saved_model(tmp_path / "run", registry_with(FrozenPlugin()))
    (tmp_path / "out").mkdir()
    saved.save(tmp_path / "out", {})
    stored = tomllib.loads((tmp_path / "out" / "recipe.toml").read_text())
    assert stored["generator"]["table"] == "numbers.pt"
    again = ganrun.find_saved_model(tmp_path / "out", registry_with(FrozenPlugin())).model("cpu")
    assert torch.equal(again.sample(3), saved.model("cpu").sample(3))


JSON = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["/a", "~", "~/b", r"C:\c", r"\\nas\d", "file:x", "a/b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4))
def test_no_path_is_left_at_any_depth_and_nothing_else_is_lost(table: dict[str, Any]) -> None:
    left = without_local_paths(table)
    assert not any(map(is_local_path, texts_in(left)))
    assert without_local_paths(left) == left
    if not any(map(is_local_path, texts_in(table))):
        assert left == table
