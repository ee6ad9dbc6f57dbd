"""A run is continued on the same content, at any path, and differences between its starts are recorded and reported."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, strategies as st
from PIL import Image

from ganrun import (
    LocalPath,
    Metric,
    Observer,
    RequestError,
    Run,
    RunDirectory,
    RunError,
    Score,
    Settings,
    hookimpl,
    observes,
)
from ganrun.cli import main
from ganrun.rundir.environment import _git_state
from ganrun.rundir.sessions import changes_between, sessions_in, with_session
from ganrun.testing import build, registry_with, train
from ganrun.training.runner import execute

GANLoss = registry_with().find("loss", "gan").cls


class Dice(Metric):
    """A score that differs each time it is measured, as on another machine."""

    thrown = 0

    def measure(self, evaluation: Any) -> list[Score]:
        Dice.thrown += 1
        return [Score("dice", float(Dice.thrown), False, {"n": 1}), Score(f"at {evaluation.step}", 1.0, True, {})]


class Other(Metric):
    """Another score."""

    def measure(self, evaluation: Any) -> list[Score]:
        return [Score("other", 1.0, True, {})]


class Noter(Observer):
    """Adds to the summary once, and interrupts the run after a step."""

    class Settings(Settings):
        fails_at: int = 0

    settings: Settings
    essential = True
    at_start: dict[str, Any]

    @observes
    def run_started(self, run: Run) -> None:
        Noter.at_start = run.directory.summary()
        if not run.resumed:
            run.add_to_summary("noted", {"at": run.step})

    @observes(trylast=True)
    def step_ended(self, step: int) -> None:
        if step == self.settings.fails_at:
            raise RunError("it breaks off")


class Scaled(GANLoss):  # type: ignore[misc, valid-type]
    """A loss that reads a file."""

    class Settings(GANLoss.Settings):  # type: ignore[name-defined, misc]
        scales: LocalPath


class Plugin:
    @hookimpl
    def ganrun_losses(self) -> Any:
        return {"scaled": Scaled}

    @hookimpl
    def ganrun_metrics(self) -> Any:
        return {"dice": Dice, "other": Other}

    @hookimpl
    def ganrun_observers(self) -> Any:
        return {"noter": Noter}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANRUN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def recipe(steps: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "train": {"steps": steps, "batch_size": 4, "device": "cpu", "log_every_steps": 1, **more.pop("train", {})},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "gan", "latent_size": 4},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        **dict.fromkeys(("mlflow", "progress", "samples"), False),
        **more,
    }


def pictures(folder: Path, seed: int = 0, classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    """Four pictures of each class, to train on and to test."""
    random = np.random.default_rng(seed)
    for name in (
        f"{split}/{each}/{number}.png" for split in ("train", "test") for each in classes for number in range(4)
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name)
    return folder


def of(folder: Path | str, steps: int = 4, **more: Any) -> dict[str, Any]:
    data = {"use": "image-folder", "root": str(folder), "size": 8, **more.pop("data", {})}
    return recipe(steps, data=data, **more)


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def environment(directory: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    return facts


def summary(directory: Path) -> dict[str, Any]:
    return RunDirectory(directory).summary()


def assert_same_weights(one: Run, other: Run) -> None:
    for network, tensors in one.state.weights().items():
        for name, value in tensors.items():
            assert torch.equal(value, other.state.weights()[network][name]), f"{network}.{name}"


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────


def repaint(folder: Path, name: str) -> None:
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(folder / name)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a picture": (lambda folder: repaint(folder, "train/cats/1.png"), "train split: fingerprint"),
    "a test picture": (lambda folder: repaint(folder, "test/dogs/1.png"), "test split: fingerprint"),
    "one more": (lambda folder: repaint(folder, "train/cats/9.png"), "counts.train: 8 in the run, 9 now"),
    "one less": (lambda folder: (folder / "train/cats/3.png").unlink(), "counts.train: 8 in the run, 7 now"),
    "another class": (
        lambda folder: (folder / "train/cats/3.png").rename(folder / "train/dogs/9.png"),
        "train split: fingerprint",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_pictures_that_have_changed_are_refused_and_nothing_is_written(tmp_path: Path, change: str) -> None:
    folder = pictures(tmp_path / "pictures")
    train(of(folder, 2), tmp_path / "run")
    before = content(tmp_path / "run")
    deed, said = CHANGES[change]
    deed(folder)
    with pytest.raises(RequestError, match="the data differs from that of the run") as caught:
        build(of(folder, 4), tmp_path / "run", resume=True)
    told = str(caught.value)
    assert said in told and "run.toml:" in told and "choose another --output" in told
    assert content(tmp_path / "run") == before


def test_a_setting_that_changes_the_pixels_is_named(tmp_path: Path) -> None:
    train(recipe(2), tmp_path / "run")
    with pytest.raises(RequestError, match=r"data\.size: 8 in the run, 16 now"):
        build(recipe(2, data={"use": "digits", "size": 16}), tmp_path / "run", resume=True)


def moved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"root": str(folder.rename(folder.with_name("elsewhere")))}


def zipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"root": shutil.make_archive(str(folder.with_name("archive")), "zip", folder)}


def relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder.parent)
    return {"root": folder.name}


def at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HOME", str(folder.parent))
    return {"root": f"~/{folder.name}"}


def skipping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"root": str(folder), "unreadable": "skip"}


@pytest.mark.parametrize("change", [moved, zipped, relative, at_home, skipping])
def test_where_pictures_are_and_how_they_are_read_does_not_matter(
    tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "pictures")
    whole = train(of(folder), tmp_path / "whole")
    train(of(folder, 2), tmp_path / "run")
    first = environment(tmp_path / "run")
    resumed = train(of(folder, data=change(folder, monkeypatch)), tmp_path / "run", resume=True)
    assert_same_weights(whole, resumed)
    after = environment(tmp_path / "run")
    assert {**after, "sessions": None} == {**first, "sessions": None}, "the first start is not lost"


def test_a_run_is_resumed_from_another_directory_though_its_recipe_said_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    train(of("pictures", 2), tmp_path / "run")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    for options in (["--set", "train.steps=4"], []):
        done = CliRunner(catch_exceptions=False).invoke(main, ["resume", str(tmp_path / "moved"), *options])
        assert done.exit_code == 0, done.output
    assert summary(tmp_path / "moved")["steps"] == 4


def test_a_path_of_0_1_0_is_given_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipes kept a relative path as it was, and its environments one fingerprint."""
    folder = pictures(tmp_path / "pictures")
    train(of(folder, 2), tmp_path / "run")
    stored = tmp_path / "run/recipe.toml"
    stored.write_text(stored.read_text().replace(str(folder), "pictures"))
    facts = environment(tmp_path / "run")
    del facts["sessions"], facts["data"]["fingerprints"]
    (tmp_path / "run/environment.json").write_text(json.dumps(facts))
    monkeypatch.chdir(tmp_path / "run")
    call = ["resume", str(tmp_path / "run")]
    refused = CliRunner(catch_exceptions=False).invoke(main, call)
    assert refused.exit_code == 2 and "pictures" in refused.output and "root" in refused.output, refused.output
    repaint(folder, "test/dogs/1.png")
    done = CliRunner(catch_exceptions=False).invoke(main, [*call, "--set", f"data.root={folder}"])
    assert done.exit_code == 0, done.output + "; the test pictures of then are unknown"
    repaint(folder, "test/dogs/2.png")
    refused = CliRunner(catch_exceptions=False).invoke(main, call)
    assert refused.exit_code == 2 and "test split: fingerprint" in refused.output, "those of the second start are known"
    first, second = RunDirectory(tmp_path / "run").sessions()
    assert first["step"] is None and "data" not in first and second["step"] == 2


def test_scores_on_changed_pictures_are_named_so_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pictures(tmp_path / "pictures")
    run = train(of(folder, 2), tmp_path / "run")
    repaint(folder, "train/cats/1.png")
    options = [
        *("--metric", "inception-score"),
        *("--set", "metric.0.features=classifier", "--set", "metric.0.samples=20"),
    ]
    done = CliRunner(catch_exceptions=False).invoke(main, ["eval", str(tmp_path / "run"), "--device", "cpu", *options])
    assert done.exit_code == 0, done.output
    (record,) = (each for each in run.directory.records() if each.rescored)
    assert [*record.scores()] == ["inception_score_classifier@image-folder"]
    assert "the data has changed since the run" in done.output + caplog.text
    assert "train split: fingerprint" in done.output + caplog.text


# ── Starts of networks ────────────────────────────────────────────────────────────────────────────────────


def test_what_a_network_starts_from_may_move_go_on_or_vanish_once_there_is_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = train(recipe(2), tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    network = {"use": "mlp", "hidden": [8], "from": "source"}
    train(recipe(2, generator=network), tmp_path / "run")
    assert f'from = "{tmp_path}/source"' in (tmp_path / "run/recipe.toml").read_text()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "source").rename(tmp_path / "moved")
    train(recipe(3, generator={**network, "from": str(tmp_path / "moved")}), tmp_path / "run", resume=True)
    train(recipe(3), tmp_path / "moved", resume=True)
    train(recipe(4, generator={**network, "from": str(tmp_path / "moved")}), tmp_path / "run", resume=True)
    with pytest.raises(RequestError, match=r"generator\.from: .* in the run, .*third now"):
        train(recipe(3, train={"seed": 5}), tmp_path / "third")
        build(recipe(4, generator={**network, "from": str(tmp_path / "third")}), tmp_path / "run", resume=True)
    shutil.rmtree(tmp_path / "moved")
    assert CliRunner().invoke(main, ["resume", str(tmp_path / "run")]).exit_code == 0
    assert environment(tmp_path / "run")["starts"]["generator"]["path"] == str(source.directory.path)


def test_a_run_without_a_checkpoint_starts_again_from_the_same_weights_or_not_at_all(tmp_path: Path) -> None:
    train(recipe(2), tmp_path / "source")
    tables = recipe(2, generator={"use": "mlp", "hidden": [8], "from": str(tmp_path / "source")})
    train(tables, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    train(recipe(3), tmp_path / "source", resume=True)
    before = content(tmp_path / "run")
    with pytest.raises(RequestError, match="the weights there have changed since the run started"):
        build(tables, tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == before


def test_a_file_that_a_loss_reads_may_move_but_not_change(tmp_path: Path) -> None:
    def tables(path: Path) -> dict[str, Any]:
        return recipe(3, loss={"use": "scaled", "latent_size": 4, "scales": str(path)})

    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1")
    train({**tables(first), "train": recipe(2)["train"]}, tmp_path / "run", Plugin())
    first.rename(second)
    train(tables(second), tmp_path / "run", Plugin(), resume=True)
    second.write_text("2")
    with pytest.raises(RequestError, match=r"the content of loss\.scales, by its SHA-256: 6b86b2.* in the run, d4735e"):
        build(tables(second), tmp_path / "run", Plugin(), resume=True)


# ── Starts of the run ─────────────────────────────────────────────────────────────────────────────────────


def test_every_start_is_kept_and_what_differs_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    threads = torch.get_num_threads()
    train(recipe(2), tmp_path / "run")
    try:
        torch.set_num_threads(threads + 3)
        train(recipe(4), tmp_path / "run", resume=True)
    finally:
        torch.set_num_threads(threads)
    train(recipe(4), tmp_path / "run", resume=True)
    assert [text for text in caplog.messages if "continues" in text] == [
        f"continues with threads {threads + 3}, before {threads}",
        f"continues with threads {threads}, before {threads + 3}",
    ]
    sessions = RunDirectory(tmp_path / "run").sessions()
    assert [(each["step"], each["threads"]) for each in sessions] == [(0, threads), (2, threads + 3), (4, threads)]
    assert sessions[1]["recipe"] == {"train.steps": {"before": 2, "now": 4}} and "recipe" not in sessions[2]
    assert environment(tmp_path / "run")["threads"] == threads and all("data" not in each for each in sessions)


def test_a_class_with_another_name_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pictures(tmp_path / "pictures")
    train(of(folder, 2), tmp_path / "run")
    for split in ("train", "test"):
        (folder / split / "dogs").rename(folder / split / "wolves")
    for steps in (4, 6):
        train(of(folder, steps), tmp_path / "run", resume=True)
    said = [text for text in caplog.messages if "continues" in text]
    assert said == ["continues with class 1 wolves, before dogs"], "once: the second resume is as the first"


TABLES = st.sampled_from([{"n": 0}, {"n": 1}])

FACTS = st.fixed_dictionaries(
    {"data": TABLES, "problem": TABLES},
    optional={"python": st.just("3"), "threads": st.integers(0, 64), "starts": TABLES, "host": st.just("node")},
)


@given(st.lists(FACTS, min_size=1, max_size=4))
def test_the_first_start_stays_and_each_is_found_again(starts: list[dict[str, Any]]) -> None:
    kept: dict[str, Any] = {}
    for number, facts in enumerate(starts):
        kept = json.loads(json.dumps(with_session(kept, facts, {"step": number})))
    assert {name: value for name, value in kept.items() if name != "sessions"} == starts[0]
    assert [each["step"] for each in sessions_in(kept)] == [*range(len(starts))]
    for number, (facts, session) in enumerate(zip(starts, sessions_in(kept), strict=True)):
        as_first = {name: starts[0][name] for name in ("data", "problem") if name not in session}
        as_first |= {name: value for name, value in facts.items() if name == "starts" and name not in session}
        assert {**as_first, **session} == {**facts, "step": number}


def test_versions_of_packages_and_plugins_are_compared_once_each() -> None:
    def session(torch_: str, ganrun: str, lenses: str | None, commit: str | None) -> dict[str, Any]:
        plugins = {"vanilla": f"ganrun {ganrun}", "data": f"ganrun {ganrun}"}
        return {
            "packages": {"torch": torch_, "ganrun": ganrun},
            "plugins": plugins if lenses is None else {**plugins, "lenses": f"ganrun-lenses:lenses {lenses}"},
            "git": commit and {"commit": commit, "dirty": None},
        }

    said = changes_between(session("2.14", "0.1", "1", "a" * 40), session("2.15", "0.2", "2", "b" * 40))
    assert sorted(said) == [
        "ganrun 0.2, before 0.1",
        "ganrun-lenses 2, before 1",
        "the recipe's commit bbbbbbbbbbbb, before aaaaaaaaaaaa",
        "torch 2.15, before 2.14",
    ]
    assert changes_between(session("2.14", "0.1", "1", None), session("2.14", "0.1", None, "b" * 40)) == []


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"sessions": 5'])
def test_a_damaged_environment_is_kept_and_reported(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    train(recipe(2), tmp_path / "run")
    (tmp_path / "run/environment.json").write_text(damage)
    with pytest.raises(RequestError, match=r"data\.size: 8 in the run, 16 now"):
        build(recipe(2, data={"use": "digits", "size": 16}), tmp_path / "run", resume=True)
    train(recipe(3), tmp_path / "run", resume=True)
    assert (tmp_path / "run/environment.damaged.json").read_text() == damage
    assert "has no fingerprint of the data" in caplog.text and "earlier starts of the run are unknown" in caplog.text
    assert [each["step"] for each in RunDirectory(tmp_path / "run").sessions()] == [2]


@pytest.mark.parametrize("setting", ["core.fsmonitor", "filter.x.clean", "filter.x.process"])
def test_asking_git_runs_nothing_that_a_folder_names_and_writes_nothing(tmp_path: Path, setting: str) -> None:
    """A recipe may be in an untrusted repository, with its own configuration."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, timeout=60, capture_output=True)

    git("init", "-q")
    (tmp_path / "recipe.toml").write_text("one")
    git("add", ".")
    git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x")
    hook, marker = tmp_path / "hook", tmp_path / "executed"
    hook.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    hook.chmod(0o755)
    git("config", setting, str(hook))
    (tmp_path / ".git/info/attributes").write_text("*.toml filter=x\n")
    (tmp_path / "recipe.toml").write_text("two")
    index = (tmp_path / ".git/index").read_bytes()
    state = _git_state(tmp_path)
    assert not marker.exists() and (tmp_path / ".git/index").read_bytes() == index
    assert state is not None and state["dirty"] is (True if setting == "core.fsmonitor" else None)
    git("status")
    assert marker.exists() or setting == "filter.x.process", "the test itself shows that git would have run it"


def test_what_git_does_not_say_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _git_state(tmp_path) is None
    for words in ("init -q", "config user.email a@b", "config user.name a", "commit -q --allow-empty -m one"):
        subprocess.run(["git", "-C", str(tmp_path), *words.split()], check=True, timeout=60)
    clean = _git_state(tmp_path)
    assert clean is not None and clean["dirty"] is False
    (tmp_path / ".git/index").write_bytes(b"damaged")
    assert _git_state(tmp_path) == {"commit": clean["commit"], "dirty": None}


# ── The summary ───────────────────────────────────────────────────────────────────────────────────────────

DICE = {"metric": [{"use": "dice"}], "train": {"evaluate_every_steps": 2}}


def in_brief(directory: Path) -> dict[str, Any]:
    return {name: summary(directory)[name] for name in ("scores", "score_steps", "directions", "protocols", "noted")}


def test_the_summary_is_the_same_after_any_number_of_resumes(tmp_path: Path) -> None:
    train(recipe(4, noter={}, **DICE), tmp_path / "run", Plugin())
    before, thrown = in_brief(tmp_path / "run"), Dice.thrown
    assert before["score_steps"] == {"dice": 4, "at 2": 2, "at 4": 4} and before["noted"] == {"at": 0}
    last = summary(tmp_path / "run")["last"]
    for tables in (recipe(4, noter={}, **DICE), recipe(4, noter={}, metric=[]), recipe(4, noter={}, metric=[])):
        train(tables, tmp_path / "run", Plugin(), resume=True)
        assert in_brief(tmp_path / "run") == before and summary(tmp_path / "run")["last"] == last
    longer = train(recipe(5, noter={}, metric=[]), tmp_path / "run", Plugin(), resume=True)
    assert in_brief(tmp_path / "run") == before and Dice.thrown == thrown, "nothing is measured again"
    assert {name: score.value for name, score in longer.scores.items()} == before["scores"]


def test_a_metric_that_is_new_is_measured_at_once(tmp_path: Path) -> None:
    train(recipe(4, **DICE), tmp_path / "run", Plugin())
    value = summary(tmp_path / "run")["scores"]["dice"]
    train(recipe(4, metric=[{"use": "other"}]), tmp_path / "run", Plugin(), resume=True)
    after = summary(tmp_path / "run")
    assert after["scores"]["dice"] == value and after["score_steps"]["other"] == 4
    both = recipe(4, metric=[{"use": "other"}, {"use": "dice"}])
    train(both, tmp_path / "run", Plugin(), resume=True)
    thrown = Dice.thrown
    assert summary(tmp_path / "run")["scores"]["dice"] == thrown != value
    for metrics in ([{"use": "dice"}], [{"use": "other"}]):
        train(recipe(4, metric=metrics), tmp_path / "run", Plugin(), resume=True)
    assert Dice.thrown == thrown, "what was measured before is left as it is"


def test_the_summary_follows_a_run_that_is_rewound(tmp_path: Path) -> None:
    tables = recipe(6, checkpoints={"every_steps": 2, "keep": 3}, noter={}, **DICE)
    train(tables, tmp_path / "run", Plugin())
    for folder in sorted((tmp_path / "run/checkpoints").iterdir())[1:]:
        (folder / "progress.pt").write_bytes(b"")
    run = build(tables, tmp_path / "run", Plugin(), resume=True)
    second = next(record for record in run.directory.evaluations() if record.step == 2)
    with pytest.raises(RunError):
        execute(build({**tables, "noter": {"fails_at": 3}}, tmp_path / "run", Plugin(), resume=True))
    after = summary(tmp_path / "run")
    assert after["steps"] == 3 and after["score_steps"] == {"dice": 2, "at 2": 2}
    assert after["scores"]["dice"] == second.scores()["dice"].value and after["noted"] == {"at": 0}
    assert all((tmp_path / "run" / path).exists() for path in after["last"].values())


def test_a_killed_run_has_its_scores_and_its_checkpoint_in_the_summary(tmp_path: Path) -> None:
    tables = recipe(4, checkpoints={"every_steps": 1}, **DICE)
    train({**tables, "train": {**tables["train"], "steps": 3}}, tmp_path / "run", Plugin())
    killed = {"status": "running", "steps": 0}
    (tmp_path / "run/summary.json").write_text(
        json.dumps({**killed, "last": {"recipe": "recipe.toml", "samples": 5, "x": "gone"}})
    )
    train({**tables, "noter": {}}, tmp_path / "run", Plugin(), resume=True)
    assert Noter.at_start["score_steps"] == {"dice": 3, "at 2": 2, "at 3": 3}
    last = {"recipe": "recipe.toml", "environment": "environment.json", "metrics": "metrics.jsonl"}
    assert Noter.at_start["last"] == {**last, "checkpoint": "checkpoints/step_00000003"}


def test_scores_that_eval_added_are_kept_and_those_of_other_samples_are_not(tmp_path: Path) -> None:
    run = train(recipe(4, **DICE), tmp_path / "run", Plugin())
    last = run.state.step
    run.record({}, [Score("kid", 2.0, False, {})], rescored=True)
    run.record({}, [Score("dice", 99.0, False, {"sampling.psi": 0.5})], rescored=True)
    value = run.scores["dice"].value
    for steps in (4, 5):
        train(recipe(steps, metric=[]), tmp_path / "run", Plugin(), resume=True)
        after = summary(tmp_path / "run")
        assert after["scores"]["kid"] == 2.0 and after["score_steps"]["kid"] == last
        assert after["scores"]["dice"] == value


def test_the_best_state_is_not_replaced_by_measuring_again_nor_by_unlike_scores(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = recipe(4, checkpoints={"best": "dice", "every_steps": 2}, **DICE)
    first = train(tables, tmp_path / "run", Plugin())
    best = content(tmp_path / "run/checkpoints/best")
    again = train(tables, tmp_path / "run", Plugin(), resume=True)
    assert content(tmp_path / "run/checkpoints/best") == best and again.notes["best"] == first.notes["best"]
    records = tmp_path / "run/metrics.jsonl"
    records.write_text(records.read_text().replace('"n": 1', '"n": 2'))
    longer = train({**tables, "train": {**tables["train"], "steps": 6}}, tmp_path / "run", Plugin(), resume=True)
    assert longer.notes["best"]["step"] == 6 and "unlike scores are not compared" in caplog.text
    assert content(tmp_path / "run/checkpoints/best_00000002").keys() and len(best) == len(
        content(tmp_path / "run/checkpoints/best_00000002")
    )
