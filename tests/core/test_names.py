"""Names of files and texts of any kind: they survive, or are refused with advice."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st

from ganrun import shell_quoted
from ganrun.cli import main
from ganrun_mlflow.labels import tags_from

NETWORK = {"use": "vanilla:mlp", "hidden": [4]}

RECIPE = {
    "train": {"steps": 2, "batch_size": 8, "device": "cpu"},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": NETWORK,
    "discriminator": NETWORK,
    **dict.fromkeys(("mlflow", "samples", "progress"), False),
}

NO_TEXT = os.fsdecode(b"\xff\xfe")

ODD = {"no UTF-8": NO_TEXT, "hard": '👩‍🎨 a\nb\r\x1b[31m\x7f it\'s "$HOME" `x` \\n'}


def ganrun(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, arguments)


@pytest.mark.parametrize("kind", ODD)
def test_a_run_lives_under_any_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the name of its recipe, its folder, the working directory and a picture."""
    name = ODD[kind]
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    Path(f"{name}.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    done = [
        ganrun("train", f"{name}.toml", "-o", name),
        ganrun("resume", name, "--set", "train.steps=3"),
        ganrun("sample", name, "-n", "4", "-o", f"{name}.png"),
        ganrun("compare", name, "--json"),
    ]
    assert [each.exit_code for each in done] == [0] * 4, "".join(each.output for each in done)
    assert all(text.isprintable() for each in done for text in each.output.split("\n"))
    assert Path(f"{name}.png").is_file()
    (run,) = json.loads(done[-1].stdout)["unscored"][0]["runs"]
    assert (run["step"], Path(run["path"]).name) == (3, name)


def test_a_tag_takes_any_name() -> None:
    assert tags_from({"run_directory": NO_TEXT}) == {"run_directory": r"\udcff\udcfe"}


@settings(max_examples=1)
@given(st.lists(st.binary(max_size=20).map(lambda name: os.fsdecode(name.replace(b"\0", b"")))))
def test_a_command_for_copying_means_the_same_name(names: list[str]) -> None:
    names = [*ODD.values(), "plain", "", "-n", "a b", *names]
    quoted = [shell_quoted(name) for name in names]
    assert all(each.isprintable() for each in quoted) and "plain" in quoted
    done = subprocess.run(["bash", "-c", rf"printf '%s\0' {' '.join(quoted)}"], capture_output=True, check=True)
    assert [os.fsdecode(each) for each in done.stdout.split(b"\0")[:-1]] == names


# ── Told ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("root", "place", "reason"),
    [
        (r'"C:\new\train"', "r.toml:3: [data] root", r"holds the control character \n; within double quotes"),
        (r'"C:\Users\x"', "r.toml:3: ", r"within double quotes, \ starts an escape, so write a path with \ in single"),
        (r'"\u0000"', "r.toml:3: [data] root", r"holds the control character \x00"),
        (r"'C:\new'", "r.toml:1: [data]", r"there is no"),
        ('"' + "x" * 300 + '"', "r.toml:1: [data]", "cannot be read: File name too long; set root in [data]"),
        ('"r.toml/in"', "r.toml:1: [data]", "cannot be read: Not a directory; set root in [data]"),
    ],
)
def test_a_path_that_is_nothing_is_explained(
    root: str, place: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tables = {name: table for name, table in RECIPE.items() if name != "data" and table is not False}
    Path("r.toml").write_text(f'[data]\nuse = "image-folder"\nroot = {root}\n{tomli_w.dumps(tables)}', encoding="utf-8")
    done = ganrun("check", "r.toml")
    assert done.exit_code == 2 and done.output.startswith(place) and reason in done.output


@pytest.mark.parametrize("override", [f"name={NO_TEXT}", f"data.root={NO_TEXT}", f"data.{NO_TEXT}=1"])
def test_what_no_recipe_can_hold_is_refused(override: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(RECIPE), encoding="utf-8")
    done = ganrun("check", str(tmp_path / "r.toml"), "--set", override)
    assert done.exit_code == 2 and "is not UTF-8 text, as a recipe must be" in done.output
