"""`ganrun eval` and replicates: earlier runs and pictures, scored with their original protocol."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, strategies as st
from PIL import Image

from ganrun import Record, Run, Score
from ganrun.base.errors import RequestError
from ganrun.cli import main
from ganrun.testing import train
from ganrun.trained.replicates import parse_seeds, summary_of

FID = {"use": "fid", "features": "classifier", "samples": 300}
RECIPE = {
    "name": "small",
    "train": {"steps": 3, "batch_size": 8, "device": "cpu", "log_every_steps": 1},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "metric": [FID],
    "checkpoints": {"every_steps": 1, "keep": 2},
    "samples": False,
    "progress": False,
}


@pytest.fixture(autouse=True, scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory):
    """A cache and an MLflow store of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("GANRUN_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return train({**RECIPE, "mlflow": False}, tmp_path / "run")


def ganrun(*arguments: object) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


def rescored(run: Run) -> list[Record]:
    return [record for record in run.directory.records() if record.rescored]


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_scored_again_as_it_was_scored_then(run: Run) -> None:
    weights = {path: path.read_bytes() for path in (run.directory / "checkpoints").rglob("*") if path.is_file()}
    recipe = (run.directory / "recipe.toml").read_bytes()
    result = ganrun("eval", run.directory.path)
    assert result.exit_code == 0, result.output
    (record,) = rescored(run)
    (trained,) = [each for each in run.directory.records() if each.evaluation and not each.rescored]
    assert record.evaluation == trained.evaluation == (run.scores["fid_classifier"],) and record.step == 3
    assert str(run.scores["fid_classifier"]) in result.stdout
    assert all(path.read_bytes() == content for path, content in weights.items())
    assert (run.directory / "recipe.toml").read_bytes() == recipe


def test_other_metrics_join_the_runs_own(run: Run) -> None:
    options = ["--set", "metric.0.features=classifier", "--set", "metric.0.samples=200"]
    result = ganrun("eval", run.directory.path, "--metric", "inception-score", *options)
    assert result.exit_code == 0, result.output
    summary = run.directory.read_json("summary.json")
    assert set(summary["scores"]) == {"fid_classifier", "inception_score_classifier"}
    assert summary["protocols"]["inception_score_classifier"]["generated"] == 200
    assert summary["status"] == "finished"


def test_an_earlier_checkpoint_is_scored_by_itself(run: Run) -> None:
    result = ganrun("eval", run.directory / "checkpoints" / "step_00000002")
    assert result.exit_code == 0, result.output
    (record,) = rescored(run)
    assert record.step == 2 and record.scores()["fid_classifier"].value != run.scores["fid_classifier"].value
    assert run.directory.read_json("summary.json")["scores"]["fid_classifier"] == run.scores["fid_classifier"].value


def test_other_data_gives_the_score_another_name(run: Run) -> None:
    synthetic = ["--against", "synthetic", "--set", "data.classes=10", "--set", "data.channels=1"]
    result = ganrun("eval", run.directory.path, *synthetic)
    assert result.exit_code == 0, result.output
    assert list(rescored(run)[0].scores()) == ["fid_classifier@synthetic"]


def test_what_is_the_runs_own_data_is_recognised_by_the_pictures_and_not_by_the_name(run: Run, tmp_path: Path) -> None:
    import tomli_w

    recipe = tmp_path / "same.toml"
    recipe.write_text(tomli_w.dumps(RECIPE))
    for against in (recipe, "digits"):
        assert ganrun("eval", run.directory.path, "--against", against).exit_code == 0
    other = ["--set", "data.use=synthetic", "--set", "data.classes=10", "--set", "data.channels=1"]
    assert ganrun("eval", run.directory.path, *other).exit_code == 0
    names = [name for record in rescored(run) for name in record.scores()]
    assert names == ["fid_classifier", "fid_classifier", "fid_classifier@synthetic"]


def test_what_was_trained_is_not_scored_as_something_else(run: Run) -> None:
    result = ganrun("eval", run.directory.path, "--set", "ema.decay=0.5")
    assert result.exit_code == 2 and "ema.decay: 0.999 in the run, 0.5 now" in result.output
    result = ganrun("eval", run.directory.path, "--against", "synthetic")
    assert result.exit_code == 2 and "data synthetic is 3×8×8 with" in result.output and rescored(run) == []


def test_a_damaged_last_checkpoint_is_reported_and_the_one_before_it_named(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    (run.directory / "checkpoints/step_00000003/progress.pt").write_bytes(b"")
    result = ganrun("eval", run.directory.path)
    assert result.exit_code == 0 and "preparing samples of step 2" in result.output
    assert "step_00000003/progress.pt is damaged" in result.output and rescored(run)[0].step == 2
    named = ganrun("eval", run.directory / "checkpoints/step_00000003")
    assert named.exit_code == 2 and "is damaged" in named.output


def test_a_line_that_a_crash_cut_short_spoils_no_other(run: Run) -> None:
    with (run.directory / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "loss\xff')
    assert ganrun("eval", run.directory.path).exit_code == 0
    assert len(rescored(run)) == 1


def test_scores_reach_the_mlflow_run_without_changing_its_times(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = train(RECIPE, tmp_path / "run")
    note = json.loads((tmp_path / "run/mlflow.json").read_text())
    client = MlflowClient(note["uri"])
    before = client.get_run(note["run_id"])
    assert ganrun("eval", tmp_path / "run", "--set", "metric.0.samples=256").exit_code == 0
    after = client.get_run(note["run_id"])
    assert (after.info.status, after.info.start_time, after.info.end_time) == (
        "FINISHED",
        before.info.start_time,
        before.info.end_time,
    )
    history = client.get_metric_history(note["run_id"], "eval/fid_classifier")
    assert len(history) == 2 and history[-1].value == rescored(run)[0].scores()["fid_classifier"].value
    assert json.loads(after.data.tags["protocol/fid_classifier"])["generated"] == 256
    earlier = ["eval", tmp_path / "run/checkpoints/step_00000002", "--set", "metric.0.samples=200"]
    assert ganrun(*earlier).exit_code == 0
    tags = client.get_run(note["run_id"]).data.tags
    assert json.loads(tags["protocol/fid_classifier"])["generated"] == 256, "MLflow shows the last step's value"
    kid = ["--metric", "kid", "--set", "metric.0.features=classifier", "--set", "metric.0.samples=1000"]
    assert ganrun("eval", tmp_path / "run/checkpoints/step_00000002", *kid).exit_code == 0
    assert "protocol/kid_classifier" in client.get_run(note["run_id"]).data.tags


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────


def as_pngs(run: Run, count: int, folder: Path) -> Path:
    folder.mkdir()
    for number, image in enumerate(run.evaluation().generated(count).numpy()):
        Image.fromarray(image[0]).save(folder / f"{number:04}.png")
    return folder


def test_a_folder_of_a_runs_pictures_has_the_runs_own_score(run: Run, tmp_path: Path) -> None:
    folder = as_pngs(run, 300, tmp_path / "pictures")
    against = run.directory / "recipe.toml"
    result = ganrun("eval", folder, "--against", against)
    assert result.exit_code == 0, result.output
    assert str(run.scores["fid_classifier"]) in result.stdout
    named = ["--metric", "fid", "--set", "metric.0.features=classifier", "--set", "metric.0.samples=300"]
    again = ganrun("eval", folder, "--against", "digits", "--set", "data.size=8", *named)
    assert again.stdout.splitlines()[-1] == result.stdout.splitlines()[-1]
    for number, path in enumerate(sorted(folder.iterdir())):
        part = folder / ("test" if number < 150 else "train")
        part.mkdir(exist_ok=True)
        path.rename(part / path.name)
    in_parts = ganrun("eval", folder, "--against", against)
    assert in_parts.stdout == result.stdout, "all pictures of a folder are scored, whatever its parts are called"


def test_fewer_pictures_than_there_are_do_not_depend_on_their_order(run: Run, tmp_path: Path) -> None:
    """Pictures lie class by class in many folders; the first few of them would be one class."""
    digits = run.data.split("train")
    folder = tmp_path / "500"
    folder.mkdir()
    for number, row in enumerate(digits.labels.argsort(kind="stable")):
        Image.fromarray(digits.images[row][0]).save(folder / f"{number:04}.png")
    against = ["--against", run.directory / "recipe.toml"]
    reported = ganrun("eval", folder, *against, "--set", "metric.0.samples=400").stdout.split()
    assert reported[0] == "fid_classifier" and float(reported[1]) < 1, "the data's own images"


def test_pictures_that_cannot_be_scored_are_reported(run: Run, tmp_path: Path) -> None:
    against = ["--against", run.directory / "recipe.toml"]
    folder = as_pngs(run, 20, tmp_path / "pictures")

    def fault(path: Path, *options: object) -> str:
        result = ganrun("eval", path, *options)
        assert result.exit_code == 2 and "Traceback" not in result.output, result.output
        return result.output

    assert "metric.0 fid (ganrun 0.1.0): it asks for 300 samples, and there are 20; say samples = 20" in fault(
        folder, *against
    )
    Image.new("L", (9, 8)).save(folder / "wide.png")
    assert "wide.png" in (reported := fault(folder, *against)) and "9×8 pixels, not 8×8" in reported
    (folder / "wide.png").write_bytes(b"no picture")
    assert "wide.png" in fault(folder, *against)
    assert "say what to compare them with: --against DATA" in fault(folder)
    assert "there is nothing to measure; say --metric NAME" in fault(folder, "--against", "digits")
    assert 'no data set is called "digit"; did you mean "digits"?' in fault(folder, "--against", "digit")
    assert "there is no " in fault(tmp_path / "nowhere", *against)
    (tmp_path / "empty").mkdir()
    assert "empty" in fault(tmp_path / "empty", *against)


def test_a_run_that_cannot_be_scored_is_reported(run: Run, tmp_path: Path) -> None:
    import shutil

    assert 'no metric is called "fidd"' in ganrun("eval", run.directory.path, "--metric", "fidd").output
    shutil.rmtree(run.directory / "checkpoints")
    result = ganrun("eval", run.directory.path)
    assert result.exit_code == 2 and "holds no checkpoint, so its weights are gone" in result.output


# ── Replicates ────────────────────────────────────────────────────────────────────────────────────────────


def test_replicates_are_trained_side_by_side_grouped_and_summed_up(tmp_path: Path) -> None:
    import tomli_w
    from mlflow import MlflowClient

    recipe = tmp_path / "small.toml"
    recipe.write_text(tomli_w.dumps(RECIPE))
    result = ganrun(recipe, "--seeds", "4,7", "--output", tmp_path / "both")
    assert result.exit_code == 0, result.output
    summaries = [json.loads((tmp_path / f"both/seed_{seed}/summary.json").read_text()) for seed in (4, 7)]
    values = [summary["scores"]["fid_classifier"] for summary in summaries]
    assert values[0] != values[1]
    *_, head, line = result.stdout.splitlines()
    assert head.startswith("2 replicates, seeds 4,7, in ")
    mean, spread = statistics.mean(values), statistics.stdev(values)
    assert line.startswith(f"  fid_classifier {mean:.4g} ± {spread:.3g} (real images ") and line.endswith("), n = 2")
    notes = [json.loads((tmp_path / f"both/seed_{seed}/mlflow.json").read_text()) for seed in (4, 7)]
    runs = [MlflowClient(note["uri"]).get_run(note["run_id"]) for note in notes]
    assert [each.data.tags["replicates"] for each in runs] == ["both", "both"]
    assert [each.info.run_name for each in runs] == ["small, seed 4", "small, seed 7"]


def test_one_bad_replicate_costs_no_other(tmp_path: Path) -> None:
    import tomli_w

    recipe = tmp_path / "small.toml"
    recipe.write_text(tomli_w.dumps({**RECIPE, "mlflow": False}))
    folder = tmp_path / "all"
    (folder / "seed_5").mkdir(parents=True)
    (folder / "seed_5" / "summary.json").touch()
    result = ganrun(recipe, "--seeds", "4,5", "--output", folder)
    assert result.exit_code == 2 and "so it is not a run" in result.output and not (folder / "seed_4").exists()
    (folder / "seed_5" / "summary.json").unlink()
    assert ganrun(recipe, "--seeds", "4,5", "--output", folder).exit_code == 0
    for checkpoint in (folder / "seed_4" / "checkpoints").iterdir():
        (checkpoint / "progress.pt").write_bytes(b"")
    result = ganrun(recipe, "--seeds", "4,5", "--output", folder, "--resume")
    assert result.exit_code == 1 and "1 of 2 runs failed or left work undone: seed 4 has failed" in result.output, (
        result.output
    )
    assert "1 replicates, seeds 4,5" in result.stdout and "n = 1" in result.stdout


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True))
def test_seeds_are_read_as_they_are_written(seeds: list[int]) -> None:
    assert parse_seeds(",".join(map(str, seeds))) == tuple(seeds)


@pytest.mark.parametrize("text", ["", "1,", "a", "1,1", "-1", "1.5"])
def test_what_is_no_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="distinct integers"):
        parse_seeds(text)


def test_a_score_that_only_some_replicates_have_is_reported_with_its_number() -> None:
    one, two = Score("a", 1.0, True, {}), Score("a", 3.0, True, {})
    assert summary_of([[one, Score("b", 5.0, True, {}, floor=2.0)], [two]]) == [
        "a 2 ± 1.41, n = 2",
        "b 5 (real images 2), n = 1",
    ]


def score_of(value: float, floor: float | None = None, **protocol: int) -> list[Score]:
    return [Score("fid", value, False, protocol, floor=floor)]


def test_real_images_count_once_for_each_replicate() -> None:
    """Two equal scores of real images are two, and those that lack one are said."""
    replicates = [score_of(1.0, 3.0, seed=0), score_of(2.0, 3.0, seed=1), score_of(3.0, 6.0, seed=2)]
    assert summary_of(replicates) == ["fid 2 ± 1 (real images 4), n = 3"]
    assert summary_of([*replicates, score_of(2.0, seed=3)]) == ["fid 2 ± 0.816 (real images 4, n = 3), n = 4"]


def test_unlike_scores_are_never_averaged() -> None:
    replicates = [score_of(1.0, generated=100, seed=0), score_of(9.0, generated=200, seed=1)]
    assert summary_of(replicates) == ["fid 1, n = 1, generated 100", "fid 9, n = 1, generated 200"]


def test_a_score_that_is_no_number_is_counted_and_not_averaged() -> None:
    assert summary_of([score_of(1.0), score_of(math.nan), score_of(3.0)]) == ["fid 2 ± 1.41, n = 3, 1 not finite"]
    assert summary_of([score_of(math.nan)]) == ["fid not a number, n = 1, 1 not finite"]
    assert summary_of([score_of(1.7e308), score_of(-1.7e308), score_of(1.7e308)]) == ["fid 5.667e+307, n = 3"]
