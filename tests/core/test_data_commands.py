"""`ganrun data`: which data sets there are, and where; and settings that fit another component."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ganrun import RequestError
from ganrun.cli import main
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import shipped_recipes

FOREIGN = '''
from pathlib import Path
import numpy as np
import ganrun

class Album(ganrun.Data):
    """A folder of pictures."""

    class Settings(ganrun.Settings):
        root: str = "album"
        """Where."""

        side: int = 4
        """Pixels."""

        first_label: int = 0
        """1 is a fault."""

    def spec(self):
        return ganrun.DataSpec((3, self.settings.side, self.settings.side), classes=2)

    def locate(self):
        path = Path(self.settings.root)
        if not path.is_dir():
            raise ganrun.DataError(f"its folder {path} is absent:\\nmake it")
        return path

    def fetch(self):
        Path(self.settings.root).mkdir(exist_ok=True)

    def prepare(self):
        self.locate()

    def split(self, name):
        if name != "train":
            raise ganrun.unknown_split(name, ["train"])
        side = self.settings.side
        return ganrun.Split(np.zeros((1200, 3, side, side), np.uint8), np.arange(1200) % 2 + self.settings.first_label)

    def manifest(self):
        return {**super().manifest(), "files": {"a.png": "12ab"}, "published": None}

@ganrun.hookimpl
def ganrun_data():
    return {"album": Album}
'''


@pytest.fixture(autouse=True)
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers the data set `album`, and an empty working folder."""
    site, here = tmp_path / "site", tmp_path / "here"
    metadata = site / "ganrun_album-1.0.dist-info"
    metadata.mkdir(parents=True)
    here.mkdir()
    (site / "album_for_data.py").write_text(FOREIGN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ganrun-album\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[ganrun]\nalbum = album_for_data\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(here)


def ganrun(*arguments: str, status: int = 0) -> str:
    """The output of a command, on both streams."""
    result = CliRunner().invoke(main, ["data", *arguments])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


def test_the_list_shows_where_each_data_set_is() -> None:
    lines = {line.split()[0]: line.split(maxsplit=3)[1:] for line in ganrun("list").splitlines()}
    assert lines["digits"] == ["1×32×32", "10", "needs no files"]
    assert lines["album"] == ["3×4×4", "2", "its folder album is absent; see: ganrun data path album"]
    ganrun("fetch", "album")
    assert ganrun("list").count(str(Path("album").absolute())) == 1


def test_missing_data_is_reported_with_the_steps_and_can_be_fetched() -> None:
    for command in ("check", "path"):
        assert ganrun(command, "album", status=2) == "error: data album: its folder album is absent:\nmake it\n"
    assert ganrun("fetch", "album", "--set", "root=other") == "other\n"
    assert ganrun("path", "album", "--set", "root=other") == f"{Path('other').absolute()}\n"


def test_a_check_reads_the_data_and_prints_its_manifest() -> None:
    ganrun("fetch", "album")
    lines = [line.split(maxsplit=1) for line in ganrun("check", "album", "-s", "side=6").splitlines()]
    assert lines[:2] == [["sample", "3×6×6"], ["classes", "2"]]
    assert ["counts", "train: 1,200"] in lines
    assert ["files", "a.png: 12ab"] in lines
    assert ["published", "null"] in lines


def test_a_check_tries_the_data_against_its_spec() -> None:
    ganrun("fetch", "album")
    error = ganrun("check", "album", "-s", "first_label=1", status=2)
    assert error.startswith("error: data album: its train labels reach from 1 to 2, and its spec says 2 classes")


def test_a_recipe_stands_for_its_data() -> None:
    assert "1×24×24" in ganrun("check", "quickstart.toml")
    assert "1×16×16" in ganrun("check", "recipes/quickstart.toml", "--set", "data.size=16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "albun"), 'error: no data set is called "albun"; did you mean "album"?'),
        (("check", "album", "--set", "sid=6"), '--set sid=6: [data] has no key "sid"; did you mean "side"?'),
        (("check", "album", "--set", "side=x"), '--set side=x: [data] side = "x": input should be a valid integer'),
        (("check", "album", "--set", "side"), "error: --set takes key.path=value"),
        (("path", "digits"), "error: data digits has no path: it needs no files"),
        (("check", "absent.toml"), "error: absent.toml: no such file"),
    ],
)
def test_a_wrong_request_gets_a_message_about_what_was_typed(arguments: tuple[str, ...], message: str) -> None:
    assert message in ganrun(*arguments, status=2)


# ── Another component in a recipe's table ─────────────────────────────────────────────────────────────────


def data_of(*overrides: str):
    return load_recipe(shipped_recipes() / "quickstart.toml", load_registry(), overrides).data


def test_another_component_keeps_the_settings_that_fit(caplog: pytest.LogCaptureFixture) -> None:
    assert data_of("data.use=fashion-mnist").settings.size == 24
    assert not caplog.records
    assert data_of("data.use=album").settings.model_dump() == {"root": "album", "side": 4, "first_label": 0}
    assert "[data] is now album (ganrun-album 1.0), which leaves out size" in caplog.text


def test_a_typed_setting_is_never_left_out() -> None:
    with pytest.raises(RequestError, match=r'--set data\.size=8: \[data\] has no key "size"'):
        data_of("data.use=album", "data.size=8")
    assert data_of("data.use=album", "data.side=8").settings.side == 8


def test_a_recipes_own_settings_must_fit(tmp_path: Path) -> None:
    text = (shipped_recipes() / "quickstart.toml").read_text(encoding="utf-8")
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace('use = "digits"', 'use = "album"'), encoding="utf-8")
    with pytest.raises(RequestError, match='has no key "size"'):
        load_recipe(path, load_registry())
