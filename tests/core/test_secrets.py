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
from ganrun.base.secrets import bare_address, command_without_secrets, secret_in, secret_under
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
    "postgresql://ann:p/a?ss@db:5432/runs": "password",
    "mysql+pymysql://:pw@db/runs?charset=utf8": "password",
    "postgresql://db/runs?user=ann&password=pw": "token",
    "mssql+pyodbc://ann:pw@db/runs?driver=ODBC+Driver+17": "password",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dann%3BPWD%3Dp%25w%3BEncrypt%3Dyes": "token",
    "mssql+pyodbc:///?odbc_connect=PWD={p;w};UID=ann": "token",
    "http://ann:pa\"ss'@host": "password",
}
HARMLESS = (
    "http://127.0.0.1:5000",
    "postgresql://ann@db/runs",
    "sqlite:////home/ann/mlflow.db",
    "https://arxiv.org/abs/1704.00028?page=2&keys=1",
    "mail ann@host: at 10:30",
    "size=64, tokens=256",
    "databricks",
    "databricks://profile",
    "databricks://scope:prefix",
    "mlflow-artifacts://host:5000/a@b",
    '{"uri": "http://host:5000","mail":"ann@host"}',
    "https://host:8080/@ann",
    "file:///home/ann@work/mlruns",
    "invalid token: unexpected ]",
    "http://ann:***@host?token=***",
    "--set service.api_key=$NAME",
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


@given(user=SAFE, password=st.text("abc%._-~/?:", min_size=1, max_size=12).map(lambda text: f"S{text}S"), host=SAFE)
def test_a_bare_address_is_the_same_with_and_without_a_login(user: str, password: str, host: str) -> None:
    bare = f"postgresql://{host}:5432/runs?sslmode=require"
    assert (
        bare_address(f"postgresql://{user}:{password}@{host}:5432/runs?sslmode=require") == bare_address(bare) == bare
    )
    assert bare_address(f"http://{user}@{host}/") == f"http://{host}"


@given(
    st.text("ab:/@?=&;.*%\"'{} \n", max_size=40).map(lambda text: text.replace("a", "token").replace("b", "http://"))
)
def test_what_was_removed_is_not_found_again(text: str) -> None:
    shown = without_secrets(text)
    assert without_secrets(shown) == shown
    assert secret_in(shown) is None


SECRET = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=8, max_size=20)


@given(secret=st.from_regex(r"[!-#%-~][!-~]{5,20}", fullmatch=True))
def test_settings_with_the_names_of_secrets_hold_one(secret: str) -> None:
    names = ("password", "db.passwd", "API_KEY", "hf_token")
    assert [secret_under(name, secret) for name in names] == ["password", "password", "token", "token"]
    for name, value in {
        "keys": secret,
        "passes": secret,
        "class_token": secret,
        "token": "$HF_TOKEN",
        "secret": "a b c d",
    }.items():
        assert secret_under(name, value) is None


@given(secret=SECRET)
def test_a_command_is_written_without_the_values_of_secret_options(secret: str) -> None:
    typed = [
        "ganrun",
        "x.toml",
        "--set",
        f"w.password={secret}",
        f"--api-key={secret}",
        "--token",
        secret,
        "--seed",
        "1",
    ]
    shown = ["ganrun", "x.toml", "--set", "w.password=***", "--api-key=***", "--token", "***", "--seed", "1"]
    assert command_without_secrets(typed) == shown


def test_passwords_in_addresses_of_the_environment_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:correct%20horse@db/runs")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/ann/key.json")
    given = 'no login for "correct horse" (correct%20horse), see /home/ann/key.json'
    assert without_secrets(given) == 'no login for "***" (***), see /home/ann/key.json'
    assert bare_address("sqlite:////home/correct horse/x.db") == "sqlite:////home/correct horse/x.db"


def test_headers_and_json_in_messages_are_written_without_secrets() -> None:
    given = """got {'Authorization': 'Basic YW5uOnB3', "password": "a b", 'x': 3} and Authorization: Bearer abc.def"""
    assert without_secrets(given) == (
        """got {'Authorization': 'Basic ***', "password": ***, 'x': 3} and Authorization: Bearer ***"""
    )


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
tags = { origin = "https://host/x?token=hunter22", api_key = "hunter22", token = "$TOKEN" }
"""


def test_a_recipe_that_holds_secrets_is_refused_without_showing_them(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path, load_registry(), ["train.seed=1", "name=http://ann:hunter22@host"])
    text = str(error.value)
    assert "hunter22" not in text
    assert f"{path}:14: [mlflow] uri: it holds a password; remove it from here, and set the whole address in" in text
    assert f"{path}:15: mlflow.tags.origin holds a token" in text
    assert f"{path}:15: mlflow.tags.api_key holds a token" in text
    assert f"{path}:1: this comment holds a password" in text
    assert "--set name=http://ann:***@host: name holds a password" in text
    assert text.count("\n") == 4
