"""Plugins that are broken, missing, blocked or share a name: reported by name, and the others still work."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import ganrun
from ganrun import Augmentation, Data, Discriminator, Generator, Loss, Observer, Slot, hookimpl
from ganrun.base.errors import PluginError, RecipeError, RequestError
from ganrun.cli import main
from ganrun.commands import doctor
from ganrun.commands.group import COMMANDS as OWN_COMMANDS
from ganrun.discovery.kinds import KINDS
from ganrun.discovery.plugins import DISABLE_VARIABLE, Plugin, discover
from ganrun.discovery.registry import Registry, load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.testing import registry_with

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package as pip would: a module, and a dist-info folder with its entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, source: str = "", *, entry: str = "", metadata: str | None = None) -> None:
        module = name.replace("-", "_")
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(dedent(source), encoding="utf-8")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" if metadata is None else metadata
        (info / "METADATA").write_text(text, encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[ganrun]\n{entry or name} = {module}\n", encoding="utf-8")

    return install


SOUND = """
    from ganrun import Generator, hookimpl

    class Toy(Generator):
        "A toy."

    @hookimpl
    def ganrun_generators():
        return {"toy": Toy}
"""


# ── Provenance ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_component_carries_the_package_and_version_it_came_from(install: Install) -> None:
    install("ganrun-toy", SOUND, entry="toy")
    registered = load_registry().find("generator", "toy")
    assert (registered.plugin.name, registered.plugin.package, registered.plugin.version) == (
        "toy",
        "ganrun-toy",
        "1.0",
    )
    assert str(registered) == "toy (ganrun-toy 1.0)"


def test_built_in_plugins_come_in_by_the_same_door() -> None:
    registry = load_registry()
    assert registry.find("loss", "gan").plugin.package == registry.find("data", "digits").plugin.package == "ganrun"
    assert not registry.broken()


def test_no_other_package_takes_a_built_in_plugins_name(install: Install) -> None:
    install("aaa-first", SOUND, entry="vanilla")
    registry = load_registry()
    assert registry.find("loss", "gan").plugin.name == "vanilla"
    assert registry.find("generator", "toy").plugin.name == "aaa-first.vanilla"


# ── Broken ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        (
            "import ganrun\n@ganrun.hookimpl\ndef ganrun_generator(): return {}",
            'there is no hook "ganrun_generator"; did you mean "ganrun_generators"?',
        ),
        (
            "def ganrun_losses(): return {}",
            "the function ganrun_losses lacks the decorator @ganrun.hookimpl",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named_with_the_reason(install: Install, source: str, reason: str) -> None:
    install("ganrun-bad", source, entry="bad")
    install("ganrun-toy", SOUND, entry="toy")
    registry = load_registry()
    assert registry.broken()["bad"].startswith(reason)
    assert "\n" not in registry.broken()["bad"]
    assert registry.names("generator").count("toy") == 1
    assert next(plugin for plugin in registry.plugins.found if plugin.name == "bad").status == "broken"


def test_a_hook_of_a_wrong_signature_takes_the_whole_plugin_out(install: Install) -> None:
    source = SOUND + "\n    @hookimpl\n    def ganrun_losses(settings):\n        return {}\n"
    install("ganrun-bad", source, entry="bad")
    registry = load_registry()
    assert "ganrun_losses" in registry.broken()["bad"] and "settings" in registry.broken()["bad"]
    assert "toy" not in registry.names("generator")


class Abstract(Loss):
    """Lacks phases."""

    slots = {"generator": Slot("generator")}


class Slotless(Loss):
    """Lacks slots."""

    phases = None  # type: ignore[assignment]


class Unsettled(Data):
    """Settings of another kind."""

    Settings = dict  # type: ignore[assignment]
    spec = prepare = split = None  # type: ignore[assignment]


class Sound(Generator):
    """Sound."""


class Judge(Discriminator):
    """Sound."""


class Idle(Augmentation):
    """Is never adjusted, and says that it is."""

    every = 2

    def forward(self, images):
        return images


@pytest.mark.parametrize(
    ("hook", "offered", "reason"),
    [
        ("ganrun_generators", lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        ("ganrun_generators", lambda: sys.exit(3), "SystemExit: 3"),
        ("ganrun_generators", lambda: None, "ganrun_generators returns nothing; it must return a mapping"),
        ("ganrun_generators", lambda: {"Toy": Sound}, "ganrun_generators offers the name 'Toy'; a name is lower-case"),
        ("ganrun_generators", lambda: {"a:b": Sound}, "ganrun_generators offers the name 'a:b'"),
        ("ganrun_generators", lambda: {5: Sound}, "ganrun_generators offers the name 5"),
        (
            "ganrun_generators",
            lambda: {"t": Judge},
            'ganrun_generators offers "t", which is not a subclass of ganrun',
        ),
        ("ganrun_generators", lambda: {"t": Sound(0, 0)}, 'ganrun_generators offers "t", which is not a subclass of'),
        ("ganrun_losses", lambda: {"t": Abstract}, 'ganrun_losses offers "t", whose class does not define phases'),
        ("ganrun_losses", lambda: {"t": Slotless}, 'ganrun_losses offers "t", whose class does not define slots'),
        ("ganrun_data", lambda: {"t": Unsettled}, 'ganrun_data offers "t", whose Settings are not a subclass'),
        (
            "ganrun_augmentations",
            lambda: {"t": Idle},
            'ganrun_augmentations offers "t", which says every = 2 and does not define adjust',
        ),
        (
            "ganrun_observers",
            lambda: {"t": Sound},
            'ganrun_observers offers "t", which is not a subclass of ganrun',
        ),
    ],
)
def test_an_invalid_offer_is_reported_and_left_out(hook: str, offered: Any, reason: str) -> None:
    registry = registry_with(plugin("bad", **{hook: offered}), plugin("good", ganrun_generators=lambda: {"toy": Sound}))
    for kind in ("generator", "loss", "data", "observer", "augmentation"):
        assert "t" not in registry.names(kind)
    assert registry.find("generator", "toy").plugin.name == "good"
    assert registry.broken()["bad"].startswith(reason)


def test_a_hook_is_called_for_its_own_kind_only() -> None:
    """So a fault in one hook leaves the plugin's other hooks, and `ganrun show loss gan` imports only losses."""
    called = []
    hooks = ("ganrun_generators", "ganrun_losses")
    bad = plugin("bad", **{hook: partial(called.append, hook) for hook in hooks})
    registry = registry_with(bad, plugin("good", ganrun_discriminators=lambda: {"judge": Judge}))
    assert registry.find("discriminator", "judge").plugin.name == "good"
    assert called == [] and registry.broken() == {}
    registry.names("loss")
    assert called == ["ganrun_losses"] and list(registry.broken()) == ["bad"]
    both = plugin("both", ganrun_generators=lambda: 1 / 0, ganrun_discriminators=lambda: {"judge": Judge})
    assert registry_with(both).find("discriminator", "judge").plugin.name == "both"


def test_damaged_metadata_of_one_package_stop_no_other(install: Install) -> None:
    install("ganrun-bad", SOUND, entry="bad", metadata="")
    install("ganrun-toy", SOUND.replace('"toy"', '"doll"'), entry="toy")
    registry = load_registry()
    assert registry.find("generator", "doll").plugin.package == "ganrun-toy"
    assert {plugin.version for plugin in registry.plugins.found if plugin.name == "bad"} == {"0"}


def _no_plugins_of_old(folder: Path) -> None:
    (folder / "ganrun-0.0.1.dist-info").mkdir()
    (folder / "ganrun-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ganrun\nVersion: 0.0.1\n")


def _second_version(folder: Path) -> None:
    shutil.copytree(folder / "ganrun_bad-1.0.dist-info", folder / "ganrun_bad-0.9.dist-info")
    (folder / "ganrun_bad-0.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ganrun-bad\nVersion: 0.9\n"
    )


def _entry_points(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "ganrun_bad-1.0.dist-info" / "entry_points.txt").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_entry_points(b"[ganrun]\nbad\n"), "the plugins of ganrun-bad 1.0 in {folder} cannot be read: TypeError"),
        (
            _entry_points(b"[ganrun]\nb\xff = bad\n"),
            "plugins of ganrun-bad 1.0 in {folder} cannot be read: Unicode",
        ),
        (
            _second_version,
            "{folder} holds ganrun-bad 0.9 and 1.0, so its plugins may be those of an old version",
        ),
        (
            lambda folder: (folder / "ganrun_bad.py").unlink(),
            "its module ganrun_bad is missing",
        ),
        (_no_plugins_of_old, ""),
    ],
)
def test_damaged_installations_hide_no_other_plugin_and_doctor_fails(
    install: Install, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    install("ganrun-bad", SOUND, entry="bad")
    install("ganrun-toy", SOUND.replace('"toy"', '"doll"'), entry="toy")
    damage(tmp_path)
    registry = load_registry()
    assert registry.find("generator", "doll") and registry.find("generator", "dcgan")
    lines = list(doctor._plugins(registry))
    failed = [line for line in lines if line.startswith("fail")]
    assert len(failed) == bool(told) and told.format(folder=tmp_path) in "".join(failed)


def test_doctor_fails_if_a_plugin_of_the_repository_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after git pull in an editable install."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "ganrun"\n[project.entry-points.ganrun]\nvae = "ganrun_vae"\nnew = "ganrun_new"\n'
    )
    monkeypatch.setattr("ganrun.discovery.packages.PYPROJECT", tmp_path / "pyproject.toml")
    with pytest.raises(PluginError, match="plugins that are not installed: new"):
        load_registry().find("observer", "new")
    monkeypatch.setattr(doctor, "examine", doctor._plugins)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert (
        f"fail     {tmp_path}/pyproject.toml has plugins that are not installed: new; run: pip install -e"
        in done.stdout
    )


def test_a_broken_plugin_is_fatal_only_to_a_recipe_that_needs_it(install: Install, tmp_path: Path) -> None:
    install("ganrun-bad", "import no_such_module", entry="bad")
    registry = load_registry(("mlflow",))
    recipe = tmp_path / "r.toml"
    slots = "[generator]\nuse='mlp'\n[discriminator]\nuse='mlp'\n"
    text = f"[train]\nsteps=1\n[data]\nuse='digits'\n[loss]\nuse='gan'\n{slots}"
    recipe.write_text(text, encoding="utf-8")
    assert load_recipe(recipe, registry).loss.use == "gan"
    recipe.write_text(text.replace("generator]\nuse='mlp'", "generator]\nuse='vqgan'"), encoding="utf-8")
    with pytest.raises(RecipeError, match='no generator is called "vqgan"') as caught:
        load_recipe(recipe, registry)
    expected = "the plugin \"bad\" might offer it, but is broken: ModuleNotFoundError: No module named 'no_such_module'"
    assert expected in str(caught.value)
    recipe.write_text(text + "[tensorboard]\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="bad is broken: ModuleNotFoundError"):
        load_recipe(recipe, registry)


# ── Collisions ────────────────────────────────────────────────────────────────────────────────────────────


def test_two_plugins_of_one_name_are_both_named_and_either_can_be_picked() -> None:
    registry = registry_with(
        plugin("first", ganrun_generators=lambda: {"toy": Sound}),
        plugin("second", ganrun_generators=lambda: {"toy": Sound, "conv": Sound}),
    )
    with pytest.raises(PluginError) as caught:
        registry.find("generator", "toy")
    expected = '"toy" is offered by first 0 and second 0; say use = "first:toy" or use = "second:toy"'
    assert caught.value.message == expected
    assert registry.find("generator", "second:toy").plugin.name == "second"
    assert registry.find("generator", "vanilla:conv").plugin.package == "ganrun"
    assert registry.names("generator").count("toy") == 1


def test_a_package_name_picks_too(install: Install) -> None:
    install("ganrun-toy", SOUND.replace('"toy"', '"conv"'), entry="toys")
    registry = load_registry()
    assert registry.find("generator", "ganrun-toy:conv") is registry.find("generator", "toys:conv")
    with pytest.raises(PluginError, match=r"ganrun-toy:toys 1\.0 and ganrun "):
        registry.find("generator", "conv")


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    with pytest.raises(PluginError, match='no loss is called "gna"; did you mean "gan"\\?'):
        load_registry().find("loss", "gna")
    with pytest.raises(PluginError, match='no data set is called "nobody:digits"'):
        load_registry().find("data", "nobody:digits")


# ── Blocking ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_blocked_plugin_is_not_even_imported(install: Install, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    install("ganrun-toy", "raise SystemExit('imported')", entry="toy")
    if by == "environment":
        monkeypatch.setenv(DISABLE_VARIABLE, "samples, toy")
    plugins = discover(["toy", "samples"] if by == "argument" else [])
    assert {plugin.name for plugin in plugins.found if plugin.status == "blocked"} == {"samples", "toy"}
    with pytest.raises(PluginError, match='the plugin "toy" might offer it, but is blocked'):
        Registry(plugins).find("generator", "toy")


def test_only_an_installed_plugin_can_be_blocked() -> None:
    with pytest.raises(RequestError, match='there is no plugin "vanila" to leave out; did you mean "vanilla"\\?'):
        load_registry(["samples", "vanila"])
    with pytest.raises(RequestError, match='no plugin "qqq" to leave out; there are augmentations, autoencoders, '):
        load_registry(["qqq"])


# ── Health checks ──────────────────────────────────────────────────────────────────────────────────────────────


def test_health_checks_are_named_after_their_plugin() -> None:
    answer = ganrun.HealthCheck(ok=True, text="fine")
    registry = registry_with(
        plugin("bad", ganrun_health_checks=lambda: 1 / 0),
        plugin("toy", ganrun_health_checks=lambda: {"heart": lambda: answer}),
    )
    assert registry.health_checks()["toy: heart"]() == answer
    assert "ZeroDivisionError" in registry.broken()["bad"]


def test_one_plugin_may_offer_every_kind() -> None:
    class Bell(Observer):
        """Bell."""

    registry = registry_with(
        plugin("toy", ganrun_generators=lambda: {"toy": Sound}, ganrun_observers=lambda: {"bell": Bell})
    )
    assert (
        registry.find("observer", "bell").plugin
        == registry.find("generator", "toy").plugin
        == Plugin("toy", "toy", "0")
    )


def plugin(name: str, **hooks: Callable[[], Any]) -> object:
    """A plugin object of these hooks."""
    marked = {hook: staticmethod(hookimpl(_taking_nothing(function))) for hook, function in hooks.items()}
    return type("Fake", (), {"__name__": name, **marked})()


def _taking_nothing(function: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: function()


# ── Commands ──────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS = """
    import click
    from ganrun import RequestError, hookimpl

    @click.command()
    @click.argument("what", default="nothing")
    def greet(what):
        "Say a word."
        if what == "nothing":
            raise RequestError("there is nobody to greet; say: ganrun greet NAME")
        click.echo(f"good day, {what}")

    @hookimpl
    def ganrun_commands():
        return {"greet": greet}
"""


def test_a_plugins_command_is_one_of_ganruns_own(install: Install) -> None:
    install("ganrun-polite", COMMANDS, entry="polite")
    assert "greet" in command_line("--help").output and "Say a word." in command_line("--help").output
    assert command_line("greet", "recipes.toml").output == "good day, recipes.toml\n", (
        "a command, and no recipe to train"
    )
    refused = command_line("greet")
    assert refused.exit_code == 2 and refused.output == "error: there is nobody to greet; say: ganrun greet NAME\n"
    assert 'did you mean "greet"?' in command_line("great").output


def test_the_command_line_knows_every_kind() -> None:
    for name, others in (("list", ["recipes"]), ("show", ["train", "stage", "ema"])):
        command = main.get_command(click.Context(main), name)
        kind = next(parameter for parameter in command.params if parameter.name == "kind")
        assert list(kind.type.choices) == [*KINDS, *others]


def test_a_command_takes_nobodys_name(install: Install) -> None:
    install("ganrun-first", COMMANDS, entry="first")
    install("ganrun-second", COMMANDS, entry="second")
    install("ganrun-third", COMMANDS.replace('"greet": greet', '"train": greet'), entry="third")
    registry = load_registry()
    assert list(registry.commands(taken=OWN_COMMANDS)).count("greet") == 1
    assert registry.broken()["third"] == 'ganrun_commands offers "train", which is a command already'
    (loser,) = {"first", "second"} & set(registry.broken())
    assert loser == "second", "in the order of names"


def test_the_error_for_an_unknown_command_names_the_broken_plugins(install: Install) -> None:
    install("ganrun-bad", "import no_such_module", entry="bad")
    refused = command_line("greet")
    assert refused.exit_code == 2 and 'the plugin "bad" is broken' in refused.output


HOOK = "from ganrun import hookimpl\n\n@hookimpl\ndef ganrun_commands():\n    "


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{HOOK}import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{HOOK}raise SystemExit(3)", "SystemExit: 3"),
        (f"{HOOK}return ['greet']", "ganrun_commands returns ['greet']; it must return a mapping of names"),
        (f"{HOOK}return {{'greet': print}}", 'ganrun_commands offers "greet", which is not a click command'),
        (f"{HOOK}return {{5: None}}", "ganrun_commands offers the name 5; a name is lower-case"),
    ],
)
def test_a_plugin_with_broken_commands_does_not_break_the_help(install: Install, source: str, reason: str) -> None:
    install("ganrun-polite", COMMANDS, entry="polite")
    install("ganrun-bad", source, entry="bad")
    shown = command_line("--help")
    assert shown.exit_code == 0 and "greet" in shown.output and "Train the model" in shown.output
    refused = command_line("great").output
    assert f'the plugin "bad" is broken: {reason}' in refused


def command_line(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)
