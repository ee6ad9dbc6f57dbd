"""Passwords and tokens: found in texts, removed from them, and refused in recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

import ganrun
from ganrun import RequestError, load_registry, without_secrets
from ganrun.base.errors import RecipeError
from ganrun.base.secrets import secret_in
from ganrun.contracts.outside import Address, local_paths, marked
from ganrun.contracts.settings import parse_settings
from ganrun.recipe.reader import load_recipe

ADDRESSES = {
    "http://ann:hunter22@host:5000/x": "password",
    "postgresql+psycopg2://ann:p%40ss@db/runs": "password",
    "https://ghp_abcdef@host/x": "token",
    "https://host/x?token=abc123&page=2": "token",
    "s3://bucket/x?X-Amz-Signature=abcdef": "token",
    "https://host/x?api_key=abc": "token",
}
HARMLESS = (
    "http://127.0.0.1:5000",
    "postgresql://ann@db/runs",
    "sqlite:////home/ann/mlflow.db",
    "https://arxiv.org/abs/1704.00028?page=2&keys=1",
    "mail ann@host: at 10:30",
    "size=64, tokens=256",
)
SAFE = st.text("abcdefghijklmnopqrstuvwxyz0123456789%._-~", min_size=1, max_size=12)


@pytest.mark.parametrize(("address", "what"), ADDRESSES.items())
def test_addresses_that_hold_a_secret(address: str, what: str) -> None:
    assert secret_in(f"see {address}") == what
    assert secret_in(without_secrets(address).replace("***", "")) is None


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert secret_in(text) is None
    assert without_secrets(text) == text


@given(user=SAFE, password=SAFE.map(lambda text: f"S{text}S"), host=SAFE)
def test_no_password_survives_in_any_address(user: str, password: str, host: str) -> None:
    text = f"could not connect to mysql+pymysql://{user}:{password}@{host}:3306/runs (timed out)"
    assert password not in without_secrets(text)
    assert without_secrets(text).endswith(f"@{host}:3306/runs (timed out)")


def test_entries_and_the_values_of_secret_variables_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    shown = without_secrets("ganrun --set wandb.api_key=abc123 'host=db password=pw1' gave: correct horse, tokens=3")
    assert shown == "ganrun --set wandb.api_key=*** 'host=db password=***' gave: ***, tokens=3"


class Connected(ganrun.Settings):
    uri: Annotated[str, Address("SERVICE_URI")] | None = None
    api_key: ganrun.Secret = "$SERVICE_KEY"
    root: ganrun.LocalPath | None = None


def test_an_address_and_a_secret_are_types_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(marked(Connected, Address)) == {"uri": Address("SERVICE_URI")}
    assert local_paths(Connected) == ["root"]
    with pytest.raises(ValidationError, match="set the whole address in SERVICE_URI"):
        parse_settings(Connected, {"uri": "http://ann:pw@host"})
    with pytest.raises(ValidationError, match="put it into an environment variable"):
        parse_settings(Connected, {"api_key": "sk-123"})
    with pytest.raises(RequestError, match="SERVICE_KEY is not set"):
        ganrun.secret_value(Connected().api_key)
    monkeypatch.setenv("SERVICE_KEY", "sk-123")
    assert ganrun.secret_value(Connected().api_key) == "sk-123"


def test_a_local_path_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    assert parse_settings(Connected, {"root": "faces"}).root == str(tmp_path / "faces")
    assert parse_settings(Connected, {"root": "~/faces"}).root == "/home/ann/faces"
    with pytest.raises(ValidationError, match="say a path"):
        parse_settings(Connected, {"root": ""})


RECIPE = """\
# Trained on http://ann:hunter22@host
name = "x"
[train]
steps = 1
[data]
use = "digits"
[loss]
use = "gan"
[generator]
use = "mlp"
[discriminator]
use = "mlp"
[mlflow]
uri = "http://ann:hunter22@host:5000"
tags = { origin = "https://host/x?token=hunter22" }
"""


def test_a_recipe_that_holds_secrets_is_refused_without_showing_them(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path, load_registry(), ["train.seed=1", "name=http://ann:hunter22@host"])
    text = str(error.value)
    assert "hunter22" not in text
    assert f"{path}:14: [mlflow] uri: it holds a password; leave it out here, and set the whole address in" in text
    assert f"{path}:15: mlflow.tags.origin holds a token" in text
    assert f"{path}:1: this comment holds a password" in text
    assert "--set name=http://ann:***@host: name holds a password" in text
    assert text.count("\n") == 3
