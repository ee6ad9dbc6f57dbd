"""`ganrun compare`: reading run directories, grouping replicates, ranking groups, and printing."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import statistics
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st

from ganrun import GanrunError, Score, Tracker, hookimpl
from ganrun.cli import main
from ganrun.testing import registry_with, train
from ganrun_report import finding
from ganrun_report.finding import find_runs
from ganrun_report.protocols import protocol_difference
from ganrun_report.ranking import compare_runs
from ganrun_report.reading import PastRun, Result as Scored, read_run
from ganrun_report.table import Column, score_text
from ganrun_report.terminal import _bands

RECIPE: dict[str, Any] = {
    "name": "small",
    "train": {"steps": 4, "batch_size": 8, "device": "cpu", "log_every_steps": 1, "evaluate_every_steps": 2},
    "data": {"use": "digits", "size": 16},
    "loss": {"use": "vae", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "encoder": {"use": "mlp", "hidden": [8]},
    "metric": [{"use": "reconstruction", "real_samples": 64}],
    "samples": False,
    "checkpoints": False,
    "progress": False,
    "mlflow": False,
}
FEWER = [{"use": "reconstruction", "real_samples": 32}]


def changed(**tables: Any) -> dict[str, Any]:
    """The recipe with entries of its tables changed, or whole tables."""
    merge = {
        name: {**RECIPE.get(name, {}), **table} if isinstance(table, dict) else table for name, table in tables.items()
    }
    return {**RECIPE, **merge}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: two replicates, a wider one, one that was scored on fewer samples, one that was not scored, and
    one that failed."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    for seed in (0, 1):
        train(changed(train={"seed": seed}), folder / f"small/seed_{seed}")
    train(changed(name="wide", generator={"hidden": [16]}), folder / "wide")
    train(changed(name="fewer", generator={"hidden": [6]}, metric=FEWER), folder / "fewer")
    train(changed(name="unscored", generator={"hidden": [5]}, metric=[]), folder / "unscored")
    with pytest.raises(GanrunError):
        train(changed(name="failed", optimizer={"use": "adam", "lr": 1e30}, metric=[]), folder / "failed")
    return folder


def ganrun(*arguments: object) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


def comparison_of(*arguments: object) -> dict[str, Any]:
    result = ganrun("compare", "--json", *arguments)
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def final(run: Path, score: str = "mse") -> float:
    return float(json.loads((run / "summary.json").read_text())["scores"][score])


# ── Groups and rankings ───────────────────────────────────────────────────────────────────────────────────


def test_replicates_share_a_row_and_different_protocols_are_ranked_separately(runs: Path) -> None:
    facts = comparison_of(runs)
    first, other = facts["rankings"]
    assert facts["by"] == "mse" and first["protocol"]["real"] == 64
    assert {row["name"] for row in first["rows"]} == {"small", "wide"}
    assert [row["rank"] for row in first["rows"]] == [1, 2]
    assert [row["name"] for row in other["rows"]] == ["fewer"] and other["protocol"]["real"] == 32
    assert {row["name"] for row in facts["unscored"]} == {"unscored", "failed"}
    (small,) = (row for row in first["rows"] if row["name"] == "small")
    values = [final(runs / f"small/seed_{seed}") for seed in (0, 1)]
    cell = small["scores"]["mse"]
    assert cell["mean"] == pytest.approx(statistics.mean(values)) and cell["n"] == 2
    assert cell["std"] == pytest.approx(statistics.stdev(values))
    assert [run["seed"] for run in small["runs"]] == [0, 1]
    means = [row["scores"]["mse"]["mean"] for row in first["rows"]]
    assert means == sorted(means)


def test_the_table_shows_the_differences_and_nothing_else(runs: Path) -> None:
    result = ganrun("compare", runs)
    assert result.exit_code == 0 and "\x1b" not in result.output and "─" not in result.output
    assert "6 runs of 5 recipes, ranked by mse, lower is better" in result.stdout
    heading = "Not ranked with the others (mse: real 32 ≠ 64)"
    before, after = result.stdout.split(heading)
    assert "small" in before and "wide" in before and "fewer" not in before and "fewer" in after.split("\n\n")[1]
    *_, head = after.split("Differences between the recipes\n\n")
    keys = {line.split()[0] for line in head.strip().splitlines()[1:]}
    own = {"generator.hidden", "metric.reconstruction.real_samples"}
    assert own <= keys and not {"name", "train.seed", "data.size", "train.steps", "loss.use"} & keys
    assert all(key.startswith(("optimizer.", "metric.")) for key in keys - own)


def test_another_score_ranks_by_its_own_direction_and_other_protocols_are_marked(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs / "wide", tmp_path / "copied")
    text = (copied / "metrics.jsonl").read_text()
    (copied / "metrics.jsonl").write_text(text.replace('"mse": {"real": 64', '"mse": {"real": 63'))
    recipe = (copied / "recipe.toml").read_text()
    (copied / "recipe.toml").write_text(recipe.replace("16,", "17,").replace('"wide"', '"copied"'))
    named = [runs / "small", runs / "wide", copied]
    (ranking,) = comparison_of(*named, "--by", "psnr")["rankings"]
    means = [row["scores"]["psnr"]["mean"] for row in ranking["rows"]]
    assert len(means) == 3 and means == sorted(means, reverse=True)
    assert sorted(row["rank"] for row in ranking["rows"][:2]) in ([1, 1], [1, 2]), "equal means share a rank"
    letter = next(row["group"] for row in ranking["rows"] if row["name"] == "copied")
    assert f"≠ mse of {letter}: real 63 ≠ 64" in ganrun("compare", *named, "--by", "psnr").stdout
    result = ganrun("compare", runs, "--by", "fid")
    assert result.exit_code == 2 and "--by fid: these runs have mse, psnr, ssim" in result.output


def test_errors_and_the_scores_of_real_images_are_shown(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs / "wide", tmp_path / "copied")
    record = json.loads((copied / "metrics.jsonl").read_text().splitlines()[-1])
    record |= {"errors": {"mse": 0.0123}, "floors": {"mse": 0.000456}}
    (copied / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    text = ganrun("compare", copied).stdout
    assert f"{final(copied):.4g} se 0.012 " in text and "se: standard error of one run's score" in text
    floor = next(line for line in text.splitlines() if line.strip().startswith("real images"))
    assert floor.split() == ["real", "images", "0.000456"]
    cell = comparison_of(copied)["rankings"][0]["rows"][0]["scores"]["mse"]
    assert (cell["error"], cell["floor"], cell["std"], cell["n"]) == (0.0123, 0.000456, None, 1)


def test_a_score_that_was_measured_before_the_last_step_says_at_which(tmp_path: Path) -> None:
    recipe = {**RECIPE, "checkpoints": {"every_steps": 2}}
    train(recipe, tmp_path / "longer")
    train({**recipe, "train": {**recipe["train"], "steps": 5}, "metric": []}, tmp_path / "longer", resume=True)
    table = ganrun("compare", tmp_path / "longer").stdout
    assert re.search(rf"{final(tmp_path / 'longer'):.4g} se [\d.]+ at step 4 .* 5  ", table)
    train(recipe, tmp_path / "last")
    assert "at step" not in ganrun("compare", tmp_path / "last").stdout


def test_a_run_named_twice_counts_once(runs: Path) -> None:
    result = ganrun("compare", runs / "wide", runs / "wide")
    assert (
        result.exit_code == 0 and "1 run of 1 recipe," in result.stdout and "Differences between" not in result.stdout
    )
    assert f"{final(runs / 'wide'):.4g}" in result.stdout


def test_a_run_with_several_paths_counts_once(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(runs / "wide")
    ways = [runs / "wide", runs / "small/../wide", tmp_path / "link", runs / "wide/."]
    assert find_runs([str(way) for way in ways]) == [runs / "wide"]
    assert find_runs([str(tmp_path)]) == [tmp_path / "link"], "the given path is kept"


def test_runs_of_one_seed_are_no_replicates(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "small", tmp_path / "small")
    again = shutil.copytree(folder / "seed_0", folder / "seed_0_again")
    metrics = (again / "metrics.jsonl").read_text()
    (again / "metrics.jsonl").write_text(metrics.replace(f'"eval/mse": {final(folder / "seed_0")}', '"eval/mse": 9.0'))
    (row,) = comparison_of(folder)["rankings"][0]["rows"]
    seeds = [(final(folder / "seed_0") + 9) / 2, final(folder / "seed_1")]
    cell = row["scores"]["mse"]
    assert len(row["runs"]) == 3 and cell["n"] == 2
    assert (cell["mean"], cell["std"]) == pytest.approx((statistics.fmean(seeds), statistics.stdev(seeds)))
    (row,) = comparison_of(folder / "seed_0", again)["rankings"][0]["rows"]
    assert row["scores"]["mse"]["n"] == 1 and row["scores"]["mse"]["std"] is None
    assert "(n = 1)" in ganrun("compare", folder / "seed_0", again).stdout


def test_unfinished_replicates_do_not_enter_a_mean(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "small", tmp_path / "small")
    killed = folder / "seed_1"
    lines = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 2))
    (killed / "summary.json").write_text('{"status": "running", "steps": 2}')
    rows = comparison_of(folder)["rankings"][0]["rows"]
    assert sorted((row["runs"][0]["status"], row["scores"]["mse"]["n"]) for row in rows) == [
        ("finished", 1),
        ("killed", 1),
    ]
    whole = next(row for row in rows if row["runs"][0]["status"] == "finished")
    assert whole["scores"]["mse"]["mean"] == final(folder / "seed_0")


def test_a_later_score_with_another_protocol_splits_a_group(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs / "small", tmp_path / "small")
    metrics = copied / "seed_1/metrics.jsonl"
    record = json.loads(metrics.read_text().splitlines()[-1])
    record["protocols"]["mse"]["torch"] = "9.0"
    record["rescored"] = True
    with metrics.open("a") as file:
        file.write(json.dumps(record) + "\n")
    text = ganrun("compare", copied).stdout
    assert "torch 9.0 ≠ " in text and "2 runs of 1 recipe" in text and "(n = 1)" not in text
    run = read_run(copied / "seed_1")
    assert len(run.score_curves["mse"].points) == 2, "curves are of training alone"
    assert run.results["mse"].protocol["torch"] == "9.0"


def test_a_curve_has_only_points_of_the_last_protocol(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs / "wide", tmp_path / "copied")
    lines = (copied / "metrics.jsonl").read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if "protocols" in line)
    lines[first] = lines[first].replace('"mse": {"real": 64', '"mse": {"real": 63').replace('"seed": 0', '"seed": 5')
    (copied / "metrics.jsonl").write_text("".join(lines))
    run = read_run(copied)
    assert [point.step for point in run.score_curves["mse"].points] == [4]
    assert run.score_curves["mse"].protocol["real"] == 64
    assert [point.step for point in run.score_curves["psnr"].points] == [2, 4], "a seed is no part of a protocol"


def test_passive_observers_and_intervals_do_not_distinguish_recipes(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs / "wide", tmp_path / "again")
    recipe = copied / "recipe.toml"
    text = recipe.read_text().replace('name = "wide"', 'name = "renamed"').replace('"cpu"', '"auto"')
    text = text.replace("log_every_steps = 1", "log_every_steps = 3")
    text = text.replace("samples = false", "").replace("mlflow = false", "")
    recipe.write_text(text + "\n[samples]\nevery_steps = 7\n\n[mlflow]\nexperiment = 'x'\n")
    assert "2 runs of 1 recipe," in ganrun("compare", runs / "wide", copied).stdout
    recipe.write_text(recipe.read_text() + "\n[early-stopping]\nmetric = 'mse'\npatience = 3\n")
    assert "2 runs of 2 recipes," in ganrun("compare", runs / "wide", copied).stdout


def moved(run: Path, root: str, fingerprint: str, start: str, digest: str) -> Path:
    """The run, as if its data and the weights that it started from lay elsewhere."""
    text = (run / "recipe.toml").read_text().replace("[generator]\n", f'[generator]\nfrom = "{start}"\n')
    (run / "recipe.toml").write_text(text.replace("[data]\n", f'[data]\nroot = "{root}"\n'))
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"data_fingerprint": fingerprint, "starts": {"generator": {"path": start, "sha256": digest}}}
    (run / "environment.json").write_text(json.dumps(environment))
    return run


def test_the_same_data_and_weights_in_other_places_are_no_difference(runs: Path, tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(runs / "wide", tmp_path / name)) for name in "abcd"]
    moved(copies[0], "/home/ann/faces", "f1", "/home/ann/run", "d1")
    moved(copies[1], "pictures/celeba", "f1", "other", "d1")
    assert "2 runs of 1 recipe," in ganrun("compare", *copies[:2]).stdout
    moved(copies[2], "/home/ann/faces", "f2", "/home/ann/run", "d1")
    moved(copies[3], "/home/ann/faces", "f1", "/home/ann/run", "d2")
    differences = comparison_of(*copies)["differences"]
    assert differences.keys() == {"data.fingerprint", "generator.from"}
    assert {*differences["data.fingerprint"].values()} == {"f1", "f2"}
    assert "/home/ann" not in json.dumps(differences)


OLD = Path(__file__).parents[1] / "compatibility" / "runs_0_1_0"


@pytest.mark.parametrize("name", ["hinge", "gan", "wgan-gp"])
def test_a_setting_that_has_moved_since_is_no_difference(tmp_path: Path, name: str) -> None:
    for folder in "ab":
        shutil.copytree(OLD / name, tmp_path / folder)
    recipe = tmp_path / "b" / "recipe.toml"
    text = recipe.read_text()
    (old,) = re.findall(r"^n_\w+ = (\d)\n", text, re.M)
    text = re.sub(r"^n_\w+ = \d\n", "", text, flags=re.M)
    repeat = f"repeat = {{ discriminator = {old} }}\n" if old != "1" else ""
    recipe.write_text(text.replace("[train]\n", f"[train]\n{repeat}"))
    assert "2 runs of 1 recipe" in ganrun("compare", tmp_path).stdout
    recipe.write_text(text.replace("[train]\n", "[train]\nrepeat = { discriminator = 7 }\n"))
    differences = comparison_of(tmp_path)["differences"]
    assert differences.keys() == {"train.repeat.discriminator"}
    assert "7" in differences["train.repeat.discriminator"].values()


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────

PROTOCOLS = [{"generated": n} for n in (100, 200)]
VALUES = st.floats(-1e6, 1e6) | st.just(math.nan) | st.integers(-3, 3).map(float)
SCORES = st.builds(
    Score, name=st.just("any"), value=VALUES, higher_is_better=st.booleans(), protocol=st.sampled_from(PROTOCOLS)
)
SCORED = st.builds(Scored, score=SCORES, step=st.just(1))


@st.composite
def past_runs(draw: st.DrawFn) -> list[PastRun]:
    """Runs of up to four recipes, with up to two scores each, with any of four protocols."""
    found = []
    for number in range(draw(st.integers(1, 9))):
        recipe = {"train": {"seed": draw(st.integers(0, 3))}, "loss": {"beta": draw(st.integers(0, 3))}}
        results = draw(st.dictionaries(st.sampled_from(["fid", "kid"]), SCORED, max_size=2))
        place = Path(f"/runs/{number}")
        found.append(
            PastRun(place, "x", "finished", None, "", recipe, {}, 1, 8, 1.0, results, {}, {}, pictures={}, notes=())
        )
    return found


@settings(deadline=None)
@given(past_runs())
def test_every_ranking_is_in_order_and_of_one_protocol_and_no_run_is_lost(runs: list[PastRun]) -> None:
    comparison = compare_runs(runs)
    assert sorted(run.path for row in comparison.rows for run in row.runs) == sorted(run.path for run in runs)
    seen = []
    for ranking in comparison.rankings:
        assert ranking.protocol not in seen
        seen.append(ranking.protocol)
        sign = -1 if ranking.protocol["better"] == "higher" else 1
        cells = [row.cells[comparison.by or ""] for row in ranking.rows]
        assert all(cell.protocol == ranking.protocol for cell in cells)
        numbers = [sign * cell.mean for cell in cells if not math.isnan(cell.mean)]
        assert numbers == sorted(numbers) and list(ranking.ranks[len(numbers) :]) == [None] * (
            len(cells) - len(numbers)
        )
        assert list(ranking.ranks[: len(numbers)]) == [1 + sum(each < own for each in numbers) for own in numbers]
    assert all(comparison.by not in row.cells for row in comparison.unscored)


@settings(deadline=None)
@given(past_runs())
def test_mean_and_deviation_are_those_of_the_runs_with_equal_protocols(runs: list[PastRun]) -> None:
    comparison = compare_runs(runs)
    by = comparison.by or ""
    scored: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if by in run.results:
            scored[json.dumps([run.recipe["loss"], dict(run.results[by].protocol)])][run.seed].append(
                run.results[by].score.value
            )
    expected = {key: [statistics.fmean(each) for each in seeds.values()] for key, seeds in scored.items()}
    shown = [row for ranking in comparison.rankings for row in ranking.rows]
    assert len(shown) == len(expected)
    for row in shown:
        values = expected[json.dumps([row.runs[0].recipe["loss"], dict(row.cells[by].protocol)])]
        assert row.cells[by].n == len(values)
        assert row.cells[by].mean == pytest.approx(statistics.fmean(values), nan_ok=True)
        if len(values) > 1 and not any(map(math.isnan, values)):
            assert row.cells[by].std == pytest.approx(statistics.stdev(values))
        else:
            assert row.cells[by].std is None


@given(st.lists(st.integers(1, 40), min_size=3, max_size=12), st.integers(20, 120))
def test_no_column_is_lost_on_a_narrow_terminal(widths: list[int], width: int) -> None:
    columns = [Column("x" * each, [f"{number}"]) for number, each in enumerate(widths)]
    bands = list(_bands(columns, 2, width))
    assert [column for band in bands for column in band[2:]] == columns[2:]
    assert all(band[:2] == columns[:2] for band in bands)
    assert all(len(band) == 3 or sum(column.width + 3 for column in band) <= width for band in bands)


def test_differences_are_named_from_both_sides() -> None:
    assert protocol_difference({"a": 1, "b": True}, {"a": 2, "c": "x"}) == "a 1 ≠ 2, b true ≠ –, c – ≠ x"
    assert protocol_difference({"a": 1}, {"a": True}) == "a 1 ≠ true"
    assert protocol_difference({"a": 1}, {"a": 1}) == ""
    assert score_text(None, 1) == "–"


# ── A terminal ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_keep_to_the_width_of_the_terminal(runs: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": str(width), "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    result = ganrun("compare", runs)
    lines = [line for line in _plain(result.stdout).splitlines() if "…/" not in line]
    assert "─" in result.stdout and max(map(len, lines)) <= width
    squeezed = "".join("".join(lines).split())
    assert "mse↓" in squeezed or width == 40
    assert f"{final(runs / 'wide'):.4g}" in squeezed


def test_an_encoding_without_arrows_gets_the_numbers(runs: Path) -> None:
    result = CliRunner(charset="ascii", catch_exceptions=False).invoke(main, ["compare", str(runs / "wide")])
    assert result.exit_code == 0 and f"{final(runs / 'wide'):.4g}" in result.stdout and r"mse \u2193" in result.stdout


def _plain(text: str) -> str:
    """Without escape sequences."""
    import re

    return re.sub(r"\x1b\[[\d;]*m", "", text)


# ── Unreadable runs ───────────────────────────────────────────────────────────────────────────────────────


def test_an_error_says_why_a_name_matches_no_run(runs: Path, tmp_path: Path) -> None:
    def fault(*arguments: object) -> str:
        result = ganrun("compare", *arguments)
        assert result.exit_code == 2 and "Traceback" not in result.output and result.stdout == "", result.output
        return result.output

    (tmp_path / "empty").mkdir()
    assert "empty is not a run directory and contains none: there is no recipe.toml in it" in fault(tmp_path / "empty")
    assert "there is no " in fault(tmp_path / "nowhere") and "there is no 0123abcd" in fault(runs, "0123abcd")
    assert "cannot read xxx" in fault("x" * 300)
    assert "is a file; name the run directory" in fault(runs / "wide/recipe.toml")
    (runs / "wide/elsewhere").mkdir()
    assert f"; {runs / 'wide'} is one" in fault(runs / "wide/elsewhere")
    assert 'no tracker has an experiment "nobody made this"' in fault("--experiment", "nobody made this")
    assert "name the runs" in fault("--by", "fid")


def test_an_unreadable_run_is_reported_and_the_others_are_compared(runs: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(runs / "wide", tmp_path / "whole")
    broken = shutil.copytree(runs / "wide", tmp_path / "broken")
    (broken / "recipe.toml").write_text('name = "half wri')
    result = ganrun("compare", tmp_path)
    assert result.exit_code == 0 and f"{broken / 'recipe.toml'} is damaged: " in result.stderr
    assert "1 run of 1 recipe" in result.stdout and str(whole) not in result.stderr
    alone = ganrun("compare", broken)
    assert alone.exit_code == 2 and "recipe.toml is damaged" in alone.output and "Traceback" not in alone.output


def test_an_unreadable_folder_is_reported_and_the_others_are_compared(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "wide", tmp_path / "wide")
    locked = tmp_path / "locked"
    locked.mkdir()
    stat = os.stat

    def refuse(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        """As the kernel does for all users but root."""
        if locked in Path(path).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert sorted(find_runs([str(tmp_path)])) == [locked, tmp_path / "wide"]
    result = ganrun("compare", tmp_path)
    assert result.exit_code == 0 and "1 run of 1 recipe" in result.stdout, result.output
    assert f"{locked / 'recipe.toml'} cannot be read: " in result.stderr
    result = ganrun("compare", locked)
    assert result.exit_code == 2 and f"{locked / 'recipe.toml'} cannot be read: " in result.output


def test_what_a_run_left_undone_is_noted(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "wide", tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    fault = {"of": "metric.0 fid", "at": "measure", "text": "no\x1b[31m", "step": 5, "last_step": 9, "times": 2}
    (run / "summary.json").write_text(json.dumps({**summary, "faults": [fault, "damaged", {}]}))
    result = ganrun("compare", tmp_path)
    assert result.exit_code == 0 and "metric.0 fid failed at measure at steps 5 to 9, 2 times: no" in result.stderr
    assert "\x1b" not in result.stderr


def test_control_characters_in_names_are_escaped(runs: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(runs / "wide", tmp_path / "odd\n\udcff")
    recipe = (odd / "recipe.toml").read_text()
    (odd / "recipe.toml").write_text(recipe.replace('name = "wide"', 'name = "a\\nb\\u001b[31m"'))
    text = ganrun("compare", odd).stdout
    assert "A · a\\nb\\x1b[31m" in text and "odd\\n\\udcff\n" in text and "\x1b" not in text
    (odd / "recipe.toml").write_text(recipe.replace('name = "wide"', ""))
    (odd / "samples" / "\udcff").mkdir(parents=True)
    result = ganrun("report", odd)
    assert result.exit_code == 0 and "odd\\n\\udcff" in (odd / "report.html").read_text(encoding="utf-8")


def test_a_killed_run_with_damaged_lines(runs: Path, tmp_path: Path) -> None:
    killed = shutil.copytree(runs / "wide", tmp_path / "killed")
    summary = json.loads((killed / "summary.json").read_text())
    (killed / "summary.json").write_text(json.dumps({**summary, "status": "running", "steps": 0, "scores": {}}))
    lines = (killed / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    upto = next(number for number, line in enumerate(lines) if b"protocols" in line) + 1
    foreign = b'5\n{"step": "two"}\n{"step": 2, "images_seen": 1, "seconds": 1, "eval/odd": 3}\n'
    (killed / "metrics.jsonl").write_bytes(b"".join(lines[:upto]) + foreign + lines[-1][:40] + b"\xff")
    result = ganrun("compare", killed)
    assert result.exit_code == 0 and "killed" in result.stdout and "2 of 4" in result.stdout
    assert f"{killed}: skipped 4 damaged lines of metrics.jsonl" in result.stderr
    assert "odd" not in result.stdout and "mse ↓" in result.stdout
    for name in ("summary.json", "environment.json", "metrics.jsonl"):
        (killed / name).unlink()
    result = ganrun("compare", killed)
    assert result.exit_code == 0 and "summary.json is missing" in result.stderr and "unknown" in result.stdout
    assert "none was scored: use ganrun eval RUN --metric NAME" in result.stdout


@pytest.mark.parametrize("left", ["nothing", "half", "a device without end"])
def test_without_metrics_jsonl_the_scores_of_the_summary_are_used(runs: Path, tmp_path: Path, left: str) -> None:
    bereft = shutil.copytree(runs / "wide", tmp_path / "bereft")
    metrics = bereft / "metrics.jsonl"
    losses = [line for line in metrics.read_text().splitlines(keepends=True) if "protocols" not in line]
    metrics.unlink()
    if left == "half":
        metrics.write_text("".join(losses))
    elif left == "a device without end":
        metrics.symlink_to("/dev/zero")
    facts, whole = (
        comparison_of(bereft)["rankings"][0]["rows"][0],
        comparison_of(runs / "wide")["rankings"][0]["rows"][0],
    )
    assert facts["scores"] == whole["scores"]
    assert "metrics.jsonl has no scores; showing those of summary.json" in ganrun("compare", bereft).stderr


def test_a_run_of_a_newer_version_is_noted(runs: Path, tmp_path: Path) -> None:
    newer = shutil.copytree(runs / "wide", tmp_path / "newer")
    environment = json.loads((newer / "environment.json").read_text())
    environment["packages"]["ganrun"] = "99.1"
    (newer / "environment.json").write_text(json.dumps(environment))
    result = ganrun("compare", newer)
    assert (
        result.exit_code == 0 and "newer: written by ganrun 99.1, which is newer than this version, 0." in result.stderr
    )
    environment["packages"] = ["unheard of"]
    (newer / "environment.json").write_text(json.dumps(environment))
    assert ganrun("compare", newer).exit_code == 0


def test_scores_that_are_not_finite_are_shown_as_absent_and_not_ranked(runs: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(runs / "wide", tmp_path / "nan")
    metrics = copied / "metrics.jsonl"
    record = json.loads(metrics.read_text().splitlines()[-1])
    odd = {"eval/mse": math.nan, "errors": {"ssim": math.nan}, "floors": {"ssim": math.inf, "psnr": 30.0}}
    endless = record | {"step": 6, "seconds": math.inf}
    metrics.write_text("".join(json.dumps(each) + "\n" for each in (record | odd | {"step": 5}, endless)))
    recipe = (copied / "recipe.toml").read_text().replace("16,", "17,")
    (copied / "recipe.toml").write_text(recipe)
    facts = comparison_of(runs / "wide", copied)
    assert "nan" not in ganrun("compare", copied).stdout.replace(str(copied), "")
    assert [row["rank"] for row in facts["rankings"][0]["rows"]] == [1, None]
    scores = facts["rankings"][0]["rows"][1]["scores"]
    assert scores["mse"]["mean"] is None and (scores["ssim"]["error"], scores["ssim"]["floor"]) == (None, None)
    assert scores["psnr"]["floor"] == 30


def test_numbers_near_the_largest_are_compared_and_drawn(runs: Path, tmp_path: Path) -> None:
    values = {0: 1.7e308, 1: -1.7e308, 2: 1.7e308}
    for seed, value in values.items():
        run = shutil.copytree(runs / f"small/seed_{seed % 2}", tmp_path / f"runs/seed_{seed}")
        recipe = run / "recipe.toml"
        recipe.write_text(recipe.read_text().replace(f"\nseed = {seed % 2}\n", f"\nseed = {seed}\n"))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line, name in product(lines, ("loss/vae", "loss/vae.kl", "eval/mse", "eval/psnr")):
            line |= {name: value * (-1) ** line["step"]} if name in line else {}
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (ranking,) = comparison_of(tmp_path / "runs")["rankings"]
    (row,) = ranking["rows"]
    cell = row["scores"]["mse"]
    assert cell["n"] == 3 and math.isfinite(cell["mean"]) and cell["std"] is None
    assert ganrun("report", tmp_path / "runs", "-o", tmp_path / "page.html").exit_code == 0


# ── Trackers ──────────────────────────────────────────────────────────────────────────────────────────────


def test_runs_and_experiments_of_a_tracker_are_found(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shelf(Tracker):
        def find(self, run_id: str) -> Path | None:
            return runs / "wide" if run_id == "shelf-7" else None

        def runs_of(self, experiment: str) -> list[Path] | None:
            return {"all": [runs / "wide", runs / "fewer"], "none": []}.get(experiment)

        def experiments(self) -> list[str]:
            return ["all", "none"]

    class ShelfPlugin:
        @hookimpl
        def ganrun_trackers(self) -> dict[str, Tracker]:
            return {"shelf": Shelf()}

    monkeypatch.setattr(finding, "load_registry", lambda: registry_with(ShelfPlugin(), installed=False))
    assert find_runs(["shelf-7"]) == [runs / "wide"]
    assert find_runs(["shelf-7"], "all") == [runs / "wide", runs / "fewer"]
    with pytest.raises(GanrunError, match="has no runs yet"):
        find_runs([], "none")
    with pytest.raises(GanrunError, match='no tracker has an experiment "other"; there are "all", "none"; or'):
        find_runs([], "other")
