"""Settings without effect, or that would fail elsewhere, are reported at their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ganrun.testing
from ganrun.cli import main

RECIPE = """\
train = { steps = 3, batch_size = 4, device = "cpu" }
data = { use = "digits", size = 8 }
loss = { use = "gan", latent_size = 2 }
generator = { use = "mlp", hidden = [2] }
discriminator = { use = "mlp", hidden = [2] }
checkpoints = { every_steps = 1, keep = 2 }
mlflow = false
samples = false
progress = false
"""
EACH = """
[optimizer]
lr = 0.5
[optimizer.generator]
lr = 0.1
[optimizer.discriminator]
lr = 0.2
"""


def ran(*arguments: object) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


def written(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "r.toml"
    path.write_text(text)
    return path


def refused(*arguments: object) -> str:
    result = ran(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("no effect")
    assert ran("train", written(folder), "--output", folder / "run").exit_code == 0
    return folder / "run"


@pytest.mark.parametrize("setting", ["lr=0.5", "use=sgd", "schedule=cosine"])
def test_a_shared_setting_that_no_slot_takes_is_refused_after_set(run: Path, setting: str) -> None:
    """A run's own recipe has a table for every slot."""
    name = setting.partition("=")[0]
    error = refused("resume", run, "--set", f"optimizer.{setting}")
    assert f"--set optimizer.{setting}: [optimizer] {name} has no effect, since [optimizer.generator] and" in error
    assert f"say --set optimizer.generator.{name}=…" in error


def test_a_shared_setting_that_no_slot_takes_is_warned_about_in_a_recipe(tmp_path: Path) -> None:
    result = ran("check", written(tmp_path, RECIPE + EACH))
    assert result.exit_code == 0 and "r.toml:12: [optimizer] lr has no effect" in " ".join(result.stderr.split())
    one = EACH.replace("[optimizer.discriminator]\nlr = 0.2\n", "")
    assert "no effect" not in ran("check", written(tmp_path, RECIPE + one)).stderr
    assert "no effect" not in ran("check", tmp_path / "r.toml", "--set", "optimizer.lr=0.3").stderr
    inherits = EACH.replace("lr = 0.2", "eps = 1e-7")
    assert "no effect" not in ran("check", written(tmp_path, RECIPE + inherits)).stderr


def test_an_override_of_an_entry_that_is_not_there_says_how_to_add_one(tmp_path: Path) -> None:
    error = refused("check", written(tmp_path), "--set", "regularizer.0.use=r1")
    assert "there is no entry 0" in error or "regularizer=[{ use" in error
    assert """to add one, say --set 'regularizer=[{ use = "NAME" }]'""" in error


def test_a_component_that_is_no_name_lists_the_names(tmp_path: Path) -> None:
    error = refused("check", written(tmp_path), "--set", "optimizer.schedule=3")
    assert "schedule = 3: it names a component: one of constant, cosine" in error


def test_a_stages_batch_is_located_at_the_stage(tmp_path: Path) -> None:
    text = RECIPE + "[[stage]]\nfrom = 1\nlr = 0.1\n[[stage]]\nfrom = 2\nbatch_size = 5000\n"
    error = refused("train", written(tmp_path, text), "--output", tmp_path / "run")
    assert f"{tmp_path}/r.toml:15: " in error and "lower [[stage]] batch_size to 1437" in error


def test_text_that_is_not_utf_8_is_located(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(RECIPE.encode() + b"\n# caf\xe9\n")
    assert f"{path}:11: is not UTF-8 text" in refused("check", path)


def test_an_absent_device_is_warned_about_by_check(tmp_path: Path) -> None:
    result = ran("check", written(tmp_path), "--set", "train.device=cuda:99")
    said = " ".join(result.stderr.split())
    assert result.exit_code == 0 and "device cuda:99 was requested" in said and "training would be refused here" in said


def test_a_start_from_a_damaged_run_is_not_told_how_to_resume(run: Path, tmp_path: Path) -> None:
    import shutil

    other = Path(shutil.copytree(run, tmp_path / "other"))
    for path in (other / "checkpoints").glob("*/generator.safetensors"):
        path.write_bytes(b"")
    error = refused("check", written(tmp_path), "--set", f"generator.from={other}")
    assert "is damaged, so its weights are gone" in error and "step 0" not in error
    assert "to train it again from step 0" in refused("resume", other)


def test_an_output_among_other_files_is_warned_about(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-ann.txt").touch()
    result = ran("train", recipe, "--output", tmp_path / "letters", "--set", "train.steps=1")
    said = "holds other files, such as to-ann.txt; the run's are written beside them"
    assert result.exit_code == 0 and said in " ".join(result.stderr.split())
    (tmp_path / "empty").mkdir()
    result = ran("train", recipe, "--output", tmp_path / "empty", "--set", "train.steps=1")
    assert "other files" not in result.stderr and result.exit_code == 0


def test_two_plugins_of_one_class_name_are_both_there() -> None:
    def plugin(name: str) -> object:
        class Plugin:
            @ganrun.hookimpl
            def ganrun_observers(self) -> dict[str, type[ganrun.Observer]]:
                return {name: type("Own", (ganrun.Observer,), {"__doc__": "One."})}

        return Plugin()

    registry = ganrun.testing.registry_with(plugin("first-one"), plugin("second-one"))
    assert {"first-one", "second-one"} <= set(registry.names("observer"))
    assert {"Plugin", "Plugin-2"} <= {each.name for each in registry.plugins.found}
