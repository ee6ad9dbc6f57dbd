"""The JSON Schema of recipes: it accepts what the reader of recipes accepts, and refuses what that refuses."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from ganrun.base.errors import RecipeError, RequestError
from ganrun.discovery.registry import Registry, load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.schema import recipe_schema, write_schema
from ganrun.recipe.source import read_source

RECIPES = sorted(Path(__file__).parents[2].joinpath("recipes").glob("*.toml"))

RECIPE = """
name = "small"
[train]
steps = 2
[data]
use = "digits"
[loss]
use = "gan"
[generator]
use = "conv"
[discriminator]
use = "conv"
"""

THIRD_PARTY = '''
import enum
import ganrun
from pydantic import Field

class Warp(ganrun.Settings):
    strength: float = Field(1.0, ge=0)
    """How far pixels move."""

class Mode(enum.Enum):
    NEAR = "near"
    FAR = "far"

class Warped(ganrun.Data):
    """Pictures through a lens.

    More about lenses.
    """

    class Settings(ganrun.Settings):
        root: str
        """Folder of the pictures."""
        warp: Warp = Warp()
        warps: list[Warp] = []
        second: Warp | None = None
        """Another lens; none unless given."""
        mode: Mode = Mode.NEAR
        zoom: ganrun.Scheduled = Field(ganrun.Scheduled(start=1.0), gt=0)

    def spec(self):
        return ganrun.DataSpec((1, 8, 8))

    def prepare(self):
        pass

    def split(self, name):
        raise ganrun.unknown_split(name, [])

class Digits(Warped):
    """The same name as a built-in one."""

    class Settings(ganrun.Settings):
        lens: int = 0

@ganrun.hookimpl
def ganrun_data():
    return {"warped": Warped, "digits": Digits}
'''


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(recipe_schema(load_registry()))


@pytest.fixture
def third_party(tmp_path, monkeypatch) -> Registry:
    """The registry of an environment in which another package is installed too."""
    (tmp_path / "lenses_for_schema.py").write_text(THIRD_PARTY)
    metadata = tmp_path / "ganrun_lenses-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ganrun-lenses\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[ganrun]\nlenses = lenses_for_schema\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield load_registry()
    sys.modules.pop("lenses_for_schema", None)


def faults(validator: Draft202012Validator, tables: dict) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(tables)]


def test_it_is_a_sound_schema_and_every_reference_leads_somewhere(third_party):
    schema = recipe_schema(third_party)
    Draft202012Validator.check_schema(schema)
    known = {f"#/$defs/{name}" for name in schema["$defs"]}
    assert set(_references(schema)) <= known


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_are_valid(validator, path):
    assert faults(validator, tomllib.loads(path.read_text(encoding="utf-8"))) == []


VALID = [
    "train.device=cpu",
    "train.evaluate_every_steps=5",
    "ema=false",
    "ema.decay=0.5",
    'requires=["torch"]',
    "metric=[]",
    "data.size=16",
    'generator.use="vanilla:conv"',
    'generator.use="ganrun:conv"',
    'generator={use="mlp", hidden=[8, 16]}',
    "optimizer.lr=1",
    "optimizer.betas=[0.0, 0.9]",
    "optimizer.clip_norm=1.0",
    "optimizer.discriminator.lr=1e-4",
    'optimizer.discriminator={use="sgd", momentum=0.5}',
    'optimizer={use="rmsprop", alpha=0.9, discriminator={lr=1e-4, alpha=0.5}}',
    'optimizer={generator={use="sgd"}, discriminator={use="adamw", eps=1e-6}}',
    "train.repeat={discriminator=5}",
    "stage=[{from=1, batch_size=8}]",
    'generator.from="runs/before"',
    "sampling={}",
    "regularizer=[]",
    "mlflow=false",
    "mlflow=true",
    'mlflow.tags={group="a"}',
    'mlflow.uri="sqlite:///runs.db"',
]

INVALID = [
    'name=""',
    "nmae=small",
    "train.steps=true",
    "train.steps=0",
    "train.precision=f16",
    "train.stesp=3",
    "ema=true",
    "ema.decay=1.0",
    'requires="torch"',
    'metric={use="fid"}',
    'metric=[{use="fidd"}]',
    "metric=[{samples=10}]",
    'data.size="32"',
    "data.size=4",
    "data=digits",
    "loss.latnt_size=3",
    "loss.latent_size=2.5",
    "generator.use=cov",
    'generator.use="datasets:conv"',
    'generator={use="mlp", stages=3}',
    "generator={stages=3}",
    'generater={use="conv"}',
    "optimizer.use=lbfgs",
    'optimizer.lr="fast"',
    "optimizer.betas=[0.5]",
    "optimizer.momentum=0.9",
    "optimizer.discriminator.momentum=0.5",
    'optimizer.discriminator={use="sgd", betas=[0.5, 0.9]}',
    "optimizer.discriminator=1e-4",
    "optimizer.enc={lr=1e-3}",
    "train.repeat={discriminator=0}",
    "stage=[{from=0, lr=1e-4}]",
    "stage=[{start=1, lr=1e-4}]",
    "stage={from=1, lr=1e-4}",
    "generator.from=5",
    'data.from="runs/before"',
    "sampling.absent=0.5",
    'augmentation.use="absent"',
    'regularizer=[{use="absent"}]',
    'regularizer={use="absent"}',
    "mlflow=yes",
    "mlflow.experimnt=a",
    "samples.every_steps=0",
]


@pytest.mark.parametrize(("change", "sound"), [(each, True) for each in VALID] + [(each, False) for each in INVALID])
def test_schema_and_reader_agree(validator, tmp_path, change, sound):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    found = faults(validator, read_source(path, [change]).tables)
    assert bool(found) is not sound, found
    try:
        recipe = load_recipe(path, load_registry(), [change])
    except RecipeError as error:
        assert not sound, error
    else:
        assert sound
        assert faults(validator, recipe.resolved()) == []


def test_a_third_partys_settings_are_checked_to_the_depth(third_party):
    validator = Draft202012Validator(recipe_schema(third_party))
    tables = tomllib.loads(RECIPE)
    warped = {"use": "warped", "root": "x", "warps": [{"strength": 2.0}], "second": {"strength": 1}, "mode": "far"}
    assert faults(validator, {**tables, "data": warped}) == []
    for wrong in ({"warp": {"strength": -1.0}}, {"second": {"strenght": 1.0}}, {"warps": [{"x": 1}]}, {"mode": "off"}):
        assert faults(validator, {**tables, "data": {**warped, **wrong}}), wrong
    assert faults(validator, {**tables, "data": {"use": "warped"}}), "root is required"


def test_a_schedule_is_a_number_or_a_table_within_the_bounds_of_its_field(third_party):
    validator = Draft202012Validator(recipe_schema(third_party))
    tables, data = tomllib.loads(RECIPE), {"use": "warped", "root": "x"}
    for sound in (2, 0.5, {"schedule": "cosine", "start": 1.0, "end": 0.5, "steps": 10}):
        assert faults(validator, {**tables, "data": {**data, "zoom": sound}}) == []
    for wrong in (0, "1", {"schedule": "cosine", "start": 0.0, "end": 1}, {"schedule": "wave", "start": 1, "end": 2}):
        assert faults(validator, {**tables, "data": {**data, "zoom": wrong}}), wrong


def test_a_name_of_two_plugins_must_be_qualified(third_party):
    validator = Draft202012Validator(recipe_schema(third_party))
    tables = tomllib.loads(RECIPE)
    assert faults(validator, tables)
    assert faults(validator, {**tables, "data": {"use": "lenses:digits", "lens": 1}}) == []
    assert faults(validator, {**tables, "data": {"use": "ganrun-lenses:digits", "lens": 1}}) == []
    assert faults(validator, {**tables, "data": {"use": "datasets:digits", "lens": 1}})


def test_docstrings_become_descriptions_and_nothing_may_be_null(third_party):
    table = recipe_schema(third_party)["$defs"]["data.lenses.warped"]
    assert table["description"].startswith("Pictures through a lens.")
    assert table["properties"]["root"] == {"type": "string", "description": "Folder of the pictures."}
    assert table["properties"]["second"]["description"] == "Another lens; none unless given."
    assert "null" not in json.dumps(table)


def test_it_is_written_whole_and_the_same_each_time(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_schema(load_registry(), first)
    write_schema(load_registry(), second)
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text(encoding="utf-8"))["title"] == "ganrun recipe"
    with pytest.raises(RequestError, match="cannot be written"):
        write_schema(load_registry(), tmp_path / "absent" / "schema.json")


def _references(schema) -> list[str]:
    if isinstance(schema, list):
        return [each for item in schema for each in _references(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    return own + [each for value in schema.values() for each in _references(value)]
