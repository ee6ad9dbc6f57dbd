"""Addresses of services in a run's own recipe: used only if the user names them too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest

import ganrun
from ganrun import RequestError, hookimpl, load_registry
from ganrun.discovery.plugins import Plugin
from ganrun.discovery.registry import Registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.recipe import Recipe
from ganrun.rundir.addresses import check_addresses, confirming_options, is_of_run, without_unconfirmed

RECIPE = """\
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
[chart-service]
colour = "red"
host = "{host}"
"""


class ChartService(ganrun.Observer):
    """Sends charts."""

    class Settings(ganrun.Settings):
        host: Annotated[str, ganrun.Address("CHARTS_HOST")] = "https://charts.example"
        """Where charts go."""

        mirror: Annotated[str, ganrun.Address("CHARTS_MIRROR")] | None = None
        """Where they go, too."""

        colour: str = "blue"
        """Of the charts."""


class Charts:
    """A plugin for these tests."""

    @hookimpl
    def ganrun_observers(self) -> dict[str, Any]:
        return {"chart-service": ChartService}


@pytest.fixture(scope="module")
def registry() -> Registry:
    registry = load_registry()
    registry.plugins.manager.register(Charts(), "charts")
    registry.plugins = replace(registry.plugins, found=(*registry.plugins.found, Plugin("charts", "charts", "1.0")))
    return registry


@pytest.fixture
def load(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CHARTS_HOST", raising=False)

    def load(host: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.format(host=host), encoding="utf-8")
        return load_recipe(path, registry, overrides)

    return load


def host_of(recipe: Recipe) -> str:
    settings: Any = recipe.observers["chart-service"].settings
    return str(settings.host)


def test_an_address_that_only_the_run_names_is_refused_with_its_place_and_the_remedy(load: Any, tmp_path: Path) -> None:
    recipe = load("http://h; rm -rf ~")
    with pytest.raises(RequestError) as error:
        check_addresses(recipe)
    assert str(error.value).startswith(f"{tmp_path}/recipe.toml:14: this run would be sent to http://h; rm -rf ~")
    assert "add: --set 'chart-service.host=http://h; rm -rf ~', or set CHARTS_HOST to it" in str(error.value)
    quiet = without_unconfirmed(recipe)
    assert host_of(quiet) == "https://charts.example" and host_of(recipe) == "http://h; rm -rf ~"
    assert quiet.observers["chart-service"].settings.model_dump()["colour"] == "red"
    assert confirming_options(recipe) == " --set 'chart-service.host=http://h; rm -rf ~'"


@pytest.mark.parametrize("override", ["chart-service.host=http://h", 'chart-service={host="http://h"}'])
def test_an_address_after_set_is_the_users(override: str, load: Any) -> None:
    recipe = load("http://other", override)
    check_addresses(recipe)
    assert host_of(without_unconfirmed(recipe)) == "http://h"


@pytest.mark.parametrize("named", ["http://h:5000", "http://h:5000/", "http://ann:hunter22@h:5000"])
def test_an_address_in_the_environment_is_the_users(named: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARTS_HOST", named)
    recipe = load("http://h:5000")
    check_addresses(recipe)
    assert host_of(without_unconfirmed(recipe)) == "http://h:5000" and confirming_options(recipe) == ""
    with pytest.raises(RequestError, match="h:5001"):
        check_addresses(load("http://h:5001"))


def test_a_default_is_nobodys_and_another_override_confirms_nothing(load: Any) -> None:
    check_addresses(load("https://charts.example"))
    with pytest.raises(RequestError):
        check_addresses(load("http://h", "chart-service.colour=green", "train.seed=1"))


def test_what_a_terminal_would_obey_is_not_printed(load: Any) -> None:
    with pytest.raises(RequestError) as error:
        check_addresses(load("http://h\\u001b[2J"))
    assert "\x1b" not in str(error.value)


def test_a_recipe_is_of_a_run_where_a_run_has_left_something_beside_it(load: Any, tmp_path: Path) -> None:
    load("http://h")
    assert not is_of_run(tmp_path / "recipe.toml")
    (tmp_path / "summary.json").touch()
    assert is_of_run(tmp_path / "recipe.toml") and not is_of_run(tmp_path / "mine.toml")
