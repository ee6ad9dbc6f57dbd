"""A resolved recipe keeps its meaning, even if plugins were installed, moved or upgraded since."""

from __future__ import annotations

import datetime
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from pydantic import Field, ValidationError, field_validator

import ganrun
from ganrun import AdversarialLoss, Generator, Slot, hookimpl
from ganrun.base.errors import PluginError, RecipeError, RequestError
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.made_with import MadeWith
from ganrun.discovery.plugins import Plugin, Plugins
from ganrun.discovery.registry import RegisteredComponent, Registry, load_registry
from ganrun.recipe.reader import load_component_config, load_model_config, load_recipe
from ganrun.recipe.recipe import ComponentConfig, Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.stored import made_with
from ganrun.testing import registry_with
from ganrun.training.continuing import differences_from

INSTALLED = load_registry()

RECIPE = """
name = "small"
[train]
steps = 4
[data]
use = "digits"
[loss]
use = "gan"
[generator]
use = "mlp"
[discriminator]
use = "mlp"
"""


class Mlp(Generator):
    """Another of that name."""

    class Settings(ganrun.Settings):
        hidden: tuple[int, ...] = (1,)


class Fixed(ganrun.load_registry().find("schedule", "constant").cls):  # type: ignore[misc, name-defined]
    """Another of that name."""


class Lenses:
    """A plugin that offers ganrun's own names."""

    @hookimpl
    def ganrun_generators(self) -> Any:
        return {"mlp": Mlp, "own": Mlp}

    @hookimpl
    def ganrun_schedules(self) -> Any:
        return {"constant": Fixed}


def with_lenses(version: str = "2.0", package: str = "ganrun-lenses", name: str = "Lenses") -> Registry:
    """The installed plugins and a package of that version."""
    plugins = registry_with(Lenses()).plugins
    plugins.manager.unregister(name="Lenses")
    plugins.manager.register(Lenses(), name)
    others = tuple(plugin for plugin in plugins.found if plugin.name != "Lenses")
    return Registry(Plugins(plugins.manager, (*others, Plugin(name, package, version))))


def load(folder: Path, text: str, *overrides: str, registry: Registry = INSTALLED) -> Recipe:
    path = folder / "r.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, registry, overrides)


def stored(folder: Path, recipe: Recipe | str, plugins: dict[str, str]) -> RunDirectory:
    """A directory as a run leaves it, as far as recipes are concerned."""
    folder.mkdir()
    text = recipe if isinstance(recipe, str) else tomli_w.dumps(recipe.resolved())
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"plugins": plugins}), encoding="utf-8")
    return RunDirectory(folder)


def reload(run: RunDirectory, registry: Registry, *overrides: str) -> Recipe:
    return load_recipe(run.recipe_path, registry, overrides, made_with(run.recipe_path))


def origins(recipe: Recipe) -> dict[str, str]:
    return {config.registered.plugin.name: str(config.registered.plugin) for config in recipe.components()}


# ── Names ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_component_and_part_is_written_with_its_plugin(tmp_path: Path) -> None:
    tables = load(tmp_path, RECIPE + "[[metric]]\nuse = 'fid'\nfeatures = 'classifier'\n").resolved()
    assert tables["data"]["use"] == "datasets:digits" and tables["generator"]["use"] == "vanilla:mlp"
    assert tables["optimizer"]["generator"]["use"] == "optimizers:adam"
    assert tables["optimizer"]["generator"]["schedule"] == "optimizers:constant"
    assert tables["metric"][0]["features"] == "fidelity:classifier"
    assert tables["checkpoints"]["use"] == "checkpoints:checkpoints"


def test_a_package_that_offers_a_taken_name_breaks_no_resolved_recipe_and_no_default(tmp_path: Path) -> None:
    resolved = tomli_w.dumps(load(tmp_path, RECIPE).resolved())
    both = with_lenses()
    assert load(tmp_path, resolved, registry=both).networks["generator"].registered.plugin.name == "vanilla"
    with pytest.raises(RecipeError, match=r'r\.toml:10: "mlp" is offered by .* say use = "Lenses:mlp" or') as caught:
        load(tmp_path, RECIPE, registry=both)
    assert len(caught.value.faults) == 1, "nobody has written schedule = constant"
    mixed = RECIPE.replace('[generator]\nuse = "mlp"', '[generator]\nuse = "Lenses:mlp"')
    schedule = load(tmp_path, mixed, registry=both).optimizers["generator"].parts["schedule"]
    assert schedule.registered.plugin.name == "optimizers"


def test_a_plugin_named_as_anothers_package_does_not_make_a_name_ambiguous(tmp_path: Path) -> None:
    text = RECIPE.replace('[generator]\nuse = "mlp"', '[generator]\nuse = "vanilla:mlp"')
    both = with_lenses(package="vanilla")
    assert load(tmp_path, text, registry=both).networks["generator"].registered.plugin.package == "ganrun"


def test_a_run_of_0_1_0_means_the_plugin_that_it_recorded_and_else_the_built_in_one(tmp_path: Path) -> None:
    both = with_lenses()
    built_in = {"vanilla": "ganrun 0.1.0", "datasets": "ganrun 0.1.0"}
    old = stored(tmp_path / "old", RECIPE, built_in)
    assert reload(old, both).networks["generator"].registered.plugin.name == "vanilla"
    text = RECIPE.replace('[discriminator]\nuse = "mlp"', '[discriminator]\nuse = "conv"').replace('"gan"', '"lsgan"')
    own = stored(tmp_path / "own", text, {"Lenses": "ganrun-lenses:Lenses 2.0", "datasets": "ganrun 0.1.0"})
    assert reload(own, both).networks["generator"].registered.plugin.name == "Lenses"
    each = stored(tmp_path / "each", RECIPE, {"Lenses": "ganrun-lenses 2.0", **built_in})
    assert reload(each, both).networks["generator"].registered.plugin.name == "vanilla"


def test_bare_and_full_names_are_the_same_component_to_a_run_that_goes_on(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)
    old = tomli_w.dumps(without_plugins(recipe.resolved()))
    run = stored(tmp_path / "run", old, origins(recipe))
    assert differences_from(run, recipe) == []
    assert differences_from(run, reload(run, INSTALLED)) == []
    changed = load(
        tmp_path,
        RECIPE.replace('[generator]\nuse = "mlp"', '[generator]\nuse = "Lenses:mlp"\n'),
        registry=with_lenses(),
    )
    assert "generator.use: mlp in the run, Lenses:mlp now" in differences_from(run, changed)


def without_plugins(value: Any) -> Any:
    """Tables as ganrun 0.1.0 wrote them."""
    names = {plugin.name for plugin in INSTALLED.plugins.found}
    if isinstance(value, dict):
        return {key: without_plugins(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_plugins(each) for each in value]
    return value.partition(":")[2] if isinstance(value, str) and value.partition(":")[0] in names else value


# ── Packages ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run_with_lenses(tmp_path: Path) -> RunDirectory:
    text = RECIPE.replace('[generator]\nuse = "mlp"', '[generator]\nuse = "Lenses:own"')
    recipe = load(tmp_path, text, registry=with_lenses())
    return stored(tmp_path / "run", recipe, origins(recipe))


def test_a_missing_package_is_named_with_the_version_that_made_the_run(run_with_lenses: RunDirectory) -> None:
    said = r'the run was made with ganrun-lenses 2\.0, which is not installed; say: pip install "ganrun-lenses==2\.0"'
    with pytest.raises(RecipeError, match=said):
        reload(run_with_lenses, INSTALLED)
    with pytest.raises(RecipeError, match=said):
        load_model_config(run_with_lenses.recipe_path, INSTALLED, (), made_with(run_with_lenses.recipe_path))
    with pytest.raises(RequestError, match=said):
        reload(run_with_lenses, with_lenses(package="another"))


def test_a_missing_observers_package_is_named_too(tmp_path: Path) -> None:
    text = RECIPE + '[wandb]\nuse = "wandb:wandb"\n'
    run = stored(tmp_path / "run", text, {"wandb": "ganrun-wandb 0.2"})
    with pytest.raises(RecipeError, match=r"made with ganrun-wandb 0\.2, which is not installed"):
        reload(run, INSTALLED)


def test_another_version_is_a_warning_and_the_reason_where_a_component_is_gone(
    run_with_lenses: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    reload(run_with_lenses, with_lenses("2.0"))
    assert caplog.messages == []
    reload(run_with_lenses, with_lenses("3.1"))
    assert [text.partition(": ")[2] for text in caplog.messages] == [
        "the run was made with ganrun-lenses 2.0, and 3.1 is installed"
    ]
    text = run_with_lenses.recipe_path.read_text(encoding="utf-8")
    run_with_lenses.recipe_path.write_text(text.replace("Lenses:own", "Lenses:gone"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r'2\.0, and 3\.1 is installed; say: pip install "ganrun-lenses==2\.0"'):
        reload(run_with_lenses, with_lenses("3.1"))


def test_a_component_that_moved_within_its_package_is_found() -> None:
    run = MadeWith({"datasets": "ganrun 0.1.0"})
    assert run.find(INSTALLED, "generator", "datasets:mlp").plugin.name == "vanilla"
    with pytest.raises(PluginError, match="is called"):
        run.find(INSTALLED, "generator", "datasets:absent")


@pytest.mark.parametrize("plugins", ["damaged", 5, {"vanilla": 5}, {"vanilla": ""}])
def test_a_damaged_record_of_plugins_is_none(tmp_path: Path, plugins: Any) -> None:
    run = stored(tmp_path / "run", RECIPE, plugins)
    assert reload(run, INSTALLED).networks["generator"].use == "mlp"


# ── Settings that have moved ──────────────────────────────────────────────────────────────────────────────


class Wgan(AdversarialLoss):
    """Once with n_critic."""

    moved = {"n_critic": "train.repeat.discriminator", "temperature": "sampling.temperature"}
    repeat = {"discriminator": 5}
    slots = {
        "generator": Slot("generator", averaged=True),
        "discriminator": Slot("discriminator", augmented=True),
    }

    class Settings(ganrun.Settings):
        latent_size: int = Field(4, ge=1)

    class Sampling(ganrun.Settings):
        psi: float = Field(1.0, ge=0, le=1)
        """Truncation."""
        temperature: float = 1.0
        """Temperature."""

    discriminator = generator = None  # type: ignore[assignment]


class Moved:
    @hookimpl
    def ganrun_losses(self) -> Any:
        return {"moved": Wgan}


MOVED = registry_with(Moved())
OLD = RECIPE.replace('use = "gan"', 'use = "moved"')


def test_a_moved_setting_is_read_where_it_is_now_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load(tmp_path, OLD.replace('"moved"', '"moved"\nn_critic = 3\ntemperature = 0.5'), registry=MOVED)
    assert recipe.train.repeat == {"discriminator": 3} and recipe.sampling.temperature == 0.5  # type: ignore[attr-defined]
    assert caplog.messages == [
        f"{tmp_path}/r.toml:9: [loss] n_critic is now [train] repeat = {{ discriminator = 3 }}",
        f"{tmp_path}/r.toml:10: [loss] temperature is now [sampling] temperature = 0.5",
    ]
    assert "n_critic" not in recipe.resolved()["loss"]


def test_the_new_spelling_counts_where_a_recipe_says_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = OLD.replace("steps = 4", "steps = 4\nrepeat = { discriminator = 2 }")
    recipe = load(tmp_path, text, "loss.n_critic=3", registry=MOVED)
    assert recipe.train.repeat == {"discriminator": 2}
    assert caplog.messages[0].startswith("--set loss.n_critic=3: [loss] n_critic is now")
    assert caplog.messages[0].endswith("the recipe sets that too, so it is left out")


def test_a_wrong_value_is_blamed_where_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, OLD.replace('"moved"', '"moved"\nn_critic = 0'), registry=MOVED)
    assert caught.value.faults[0].startswith(f"{tmp_path}/r.toml:9: [train] repeat.discriminator = 0: input should be")


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (5, "", []),
        (3, "\nrepeat = { discriminator = 3 }", []),
        (3, "", ["train.repeat.discriminator: 3 in the run, None now"]),
    ],
)
def test_an_old_run_is_compared_by_what_is_meant(tmp_path: Path, then: int, now: str, expected: list[str]) -> None:
    new = load(tmp_path, OLD.replace("steps = 4", f"steps = 4{now}"), registry=MOVED)
    tables = without_plugins(new.resolved())
    del tables["train"]["repeat"]
    tables["loss"] = {"use": "moved", "latent_size": 4, "n_critic": then}
    run = stored(tmp_path / "run", tomli_w.dumps(tables), origins(new))
    assert differences_from(run, new) == expected
    assert differences_from(run, reload(run, MOVED)) == []
    config = load_model_config(run.recipe_path, MOVED, ("sampling.psi=0.5",), made_with(run.recipe_path))
    assert config.sampling.psi == 0.5  # type: ignore[attr-defined]


class Momentum(INSTALLED.find("optimizer", "adam").cls):  # type: ignore[misc, name-defined]
    """Once with a setting of the run's."""

    moved = {"total": "train.steps"}


class MovedOptimizer:
    @hookimpl
    def ganrun_optimizers(self) -> Any:
        return {"momentum": Momentum}


def test_an_optimizers_setting_moves_too_from_the_shared_table_and_a_slots(tmp_path: Path) -> None:
    registry, text = registry_with(MovedOptimizer()), RECIPE.replace("steps = 4", "")
    shared = "[optimizer]\nuse = 'momentum'\n{0}[optimizer.generator]\n{1}lr = 1e-3\n"
    for tables in (shared.format("total = 9\n", ""), shared.format("", "total = 9\n")):
        recipe = load(tmp_path, text + tables, registry=registry)
        assert recipe.train.steps == 9
    old = recipe.resolved()
    old["optimizer"]["generator"]["total"] = old["train"].pop("steps")
    assert differences_from(stored(tmp_path / "run", tomli_w.dumps(old), origins(recipe)), recipe) == []


@pytest.mark.parametrize(
    ("moved", "reason"),
    [({"psi": "train.x"}, ""), ({"latent_size": "train.x"}, "latent_size is among"), ({"psi": "x"}, "names no key")],
)
def test_what_moves_is_no_setting_any_more_and_goes_into_a_table(moved: dict[str, str], reason: str) -> None:
    assert reason in (type("Own", (Wgan,), {"moved": moved}).class_fault() or "")


def test_once_per_step_is_what_a_slot_has_anyway(tmp_path: Path) -> None:
    new, one = load(tmp_path, OLD, registry=MOVED), "steps = 4\nrepeat = { generator = 1 }"
    run = stored(tmp_path / "run", load(tmp_path, OLD.replace("steps = 4", one), registry=MOVED), origins(new))
    assert differences_from(run, new) == []


# ── There and back ────────────────────────────────────────────────────────────────────────────────────────

EVERY = [(kind, each) for kind in KINDS for each in INSTALLED.components(kind) if each.plugin.package == "ganrun"]


@pytest.mark.parametrize(("kind", "registered"), EVERY, ids=[f"{kind}-{each.name}" for kind, each in EVERY])
def test_settings_of_every_built_in_component_survive_a_recipe(kind: str, registered: RegisteredComponent) -> None:
    # Settings that must fit each other, such as R3GAN's, seldom do when each is drawn by itself.
    @settings(max_examples=15, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(st.data())
    def survive(data: st.DataObject) -> None:
        schema = registered.cls.Settings.model_json_schema()
        table = data.draw(values(schema, schema, frozenset(registered.cls.parts)))
        try:
            config = ComponentConfig(registered, parse_settings(registered.cls.Settings, table), (kind,))
        except ValidationError:
            assume(False)
        back = tomllib.loads(tomli_w.dumps(config.table()))
        assert back.pop("use") == registered.full_name
        assert parse_settings(registered.cls.Settings, back) == config.settings

    survive()
    if not any(field.is_required() for field in registered.cls.Settings.model_fields.values()):
        config = load_component_config(kind, registered.full_name, INSTALLED)
        again = tomllib.loads(tomli_w.dumps({kind: config.table()}))[kind]
        assert config.completed(again, MadeWith()) == again == config.table()


def values(schema: Any, root: Any, parts: frozenset[str] = frozenset()) -> st.SearchStrategy[Any]:
    """Values that a JSON schema of settings allows, as TOML has them."""
    if "$ref" in schema:
        return values(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    if "anyOf" in schema:
        return st.one_of([values(each, root) for each in schema["anyOf"] if each.get("type") != "null"])
    if schema["type"] == "object":
        fields = {name: values(each, root) for name, each in schema.get("properties", {}).items() if name not in parts}
        needed = {name: fields.pop(name, st.text(max_size=9)) for name in schema.get("required", [])}
        return st.fixed_dictionaries(needed, optional=fields)
    if schema["type"] == "array":
        items = schema.get("prefixItems")
        several = st.lists(values(schema.get("items", {"type": "string"}), root), max_size=3)
        return st.tuples(*(values(each, root) for each in items)).map(list) if items else several
    low, high = schema.get("minimum"), schema.get("maximum")
    low, high = schema.get("exclusiveMinimum", low), schema.get("exclusiveMaximum", high)
    numbers = st.floats(low, high, allow_nan=False, allow_infinity=False)
    if schema["type"] == "integer":
        return st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high)
    return {"boolean": st.booleans(), "string": st.text(max_size=9), "number": numbers}[schema["type"]]


def test_a_whole_recipe_is_equal_after_a_round_trip(tmp_path: Path) -> None:
    text = RECIPE.replace("steps = 4", "steps = 4\nrepeat = { discriminator = 2 }")
    text = text.replace('[generator]\nuse = "mlp"', '[generator]\nuse = "mlp"\nfrom = "runs/before"')
    text += "[[stage]]\nfrom = 2\nlr = 1e-4\n[sampling]\npsi = 0.5\n"
    first = load(tmp_path, text.replace('use = "gan"', 'use = "moved"'), registry=MOVED)
    again = load(tmp_path, tomli_w.dumps(first.resolved()), registry=MOVED)
    assert again.resolved() == first.resolved()
    assert (again.stages, again.train, again.sampling) == (first.stages, first.train, first.sampling)
    assert again.networks["generator"].start == "runs/before"


def offer(**fields: Any) -> str | None:
    """Why a data set whose settings have these defaults is refused."""
    made = type(
        "Settings",
        (ganrun.Settings,),
        {
            "__annotations__": {name: t for name, (t, _) in fields.items()},
            **{name: value for name, (_, value) in fields.items()},
        },
    )

    class Own(INSTALLED.find("data", "digits").cls):  # type: ignore[misc, name-defined]
        """Own."""

        Settings = made

    class Offer:
        @hookimpl
        def ganrun_data(self) -> Any:
            return {"own": Own}

    registry = registry_with(Offer())
    registry.names("data")
    return registry.broken().get("Offer")


@pytest.mark.parametrize(
    ("kind", "default", "reason"),
    [
        (list[int | None], [1, None], 'default of "x" holds None'),
        (dict[int, int], {1: 2}, "has keys that are not strings"),
        (float, float("inf"), "is not finite"),
        (tuple[float, ...], (1.0, float("nan")), "is not finite"),
        (datetime.date, datetime.date(2026, 1, 1), "is a date or time"),
        (int, 2**63, "is beyond 64 bits"),
        (bytes, b"x", "is bytes"),
        (int, Field("five", ge=1), 'default of "x" its own validation refuses: Input should be a valid integer'),
        (int, Field(0, ge=1), "its own validation refuses: Input should be greater than or equal to 1"),
        (Any, object(), "whose defaults a recipe cannot hold"),
        (ganrun.Scheduled, 0.5, "whose default"),
    ],
)
def test_settings_that_a_recipe_cannot_hold_are_refused_with_the_component(
    kind: Any, default: Any, reason: str
) -> None:
    assert reason in (offer(x=(kind, default)) or "it is taken")


def test_a_setting_may_not_have_a_name_of_the_engines() -> None:
    assert 'whose setting "use" has the name of a key' in (offer(use=(str, "x")) or "")
    assert offer(x=(int, 1), y=(int | None, None), z=(ganrun.Scheduled, ganrun.Scheduled(start=0.5))) is None


def test_a_validator_that_changes_what_it_has_made_is_found() -> None:
    class Growing(ganrun.Settings):
        root: str = "a"

        @field_validator("root")
        @classmethod
        def _longer(cls, root: str) -> str:
            return root + "/a"

    from ganrun.discovery.defaults import settings_fault

    assert "is read back as a different value" in (settings_fault(Growing) or "")
