"""Hostile and damaged inputs, each a kind: recipes that ask for the impossible, files that were forged."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from ganrun import Checkpoint, DamagedCheckpoint, RequestError, RunDirectory, load_checkpoint
from ganrun.cli import main
from ganrun.rundir.checkpoints import latest_checkpoint
from ganrun.testing import build, train
from ganrun.training.optimizer_states import checked_state

TABLES: dict[str, Any] = {
    "train": {"steps": 4, "batch_size": 8, "device": "cpu"},
    "data": {"use": "digits", "size": 16},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [4]},
    "discriminator": {"use": "dcgan", "feature_maps": 2},
    "checkpoints": {"every_steps": 2, "keep": 2},
    **dict.fromkeys(("samples", "progress", "mlflow"), False),
}
RECIPE = """
train = { steps = 1, batch_size = 4, device = "cpu" }
data = { use = "digits", size = 16 }
[loss]
use = "gan"
latent_size = 20
[generator]
use = "mlp"
hidden = [8]
[discriminator]
use = "dcgan"
feature_maps = 2
"""


def ganrun(*arguments: object) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("cases") / "run"
    train(TABLES, folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


# ── Recipes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "deep",
    [
        f"[train.{'.'.join('a' * 1_000)}]\nb = 1",
        f"{'.'.join('a' * 40)} = 1",
        f"a = {'[' * 50}{']' * 50}",
        f"a = {'{ a = ' * 50}1{' }' * 50}",
        f"a = {'[' * 100_000}",
    ],
    ids=["table", "key", "lists", "inline tables", "beyond the parser"],
)
def test_a_recipe_that_is_nested_too_deep_is_refused_at_its_line(tmp_path: Path, deep: str) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"# first\n{deep}\n")
    result = ganrun("check", path)
    assert result.exit_code == 2 and result.stderr.startswith(f"{path}"), result.output
    assert "deep" in result.stderr and len(result.stderr) < 400


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("latent_size = 20", "latent_size = 2147483648", 6, "in [loss] is latent_size = 2147483648"),
        ("hidden = [8]", "hidden = [2, 3000000000, 5000]", 9, "in [generator] is hidden.1 = 3000000000"),
        ("feature_maps = 2", "feature_maps = 1000000000", 12, "in [discriminator] is feature_maps = 1000000000"),
        ("batch_size = 4", "batch_size = 70000000000", 2, "in [train] is batch_size = 70000000000"),
    ],
)
def test_absurd_sizes_are_refused_at_their_setting_before_they_are_allocated(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    path = tmp_path / "huge.toml"
    path.write_text(RECIPE.replace(old, new))
    for command in ("check", "train"):
        result = ganrun(command, path, *(["--output", tmp_path / "run"] if command == "train" else []))
        assert result.exit_code == 2 and message in result.stderr, result.output
        assert f"{path}:{line}: " in result.stderr and "GiB of memory" in result.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_is_handed_over_with_absurd_sizes_is_not_built(run: Path) -> None:
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("hidden = [\n    4,\n]", "hidden = [4000000000, 4000000000]"))
    result = ganrun("sample", run)
    assert result.exit_code == 2 and "is hidden.0 = 4000000000" in result.stderr, result.output


# ── Checkpoints ───────────────────────────────────────────────────────────────────────────────────────────


def signed(checkpoint: Path) -> None:
    """Make the manifest fit what the files hold now, as a forger does."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["sha256"] = {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in manifest["sha256"]
    }
    manifest["bytes"] = {name: (checkpoint / name).stat().st_size for name in manifest["bytes"]}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def forge_an_archive(checkpoint: Path) -> None:
    """Change how an entry of the progress file is packed, so that torch's reader of archives fails."""
    path = checkpoint / "progress.pt"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.infolist()[-3].header_offset
    content[at + 8] = content[content.rfind(b"PK\x01\x02") + 10] = 99
    path.write_bytes(content)


@pytest.mark.parametrize(
    "forge",
    [
        forge_an_archive,
        lambda folder: (folder / "progress.pt").write_bytes(b"PK\x03\x04 not an archive"),
        lambda folder: (folder / "progress.pt").write_bytes(b""),
        lambda folder: shutil.copyfile(folder.parent / "step_00000002/progress.pt", folder / "progress.pt"),
        lambda folder: (folder / "generator.safetensors").write_bytes(b"\xff" * 64),
        lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    ],
    ids=["packing", "archive", "empty", "another step's", "weights", "deep manifest"],
)
def test_a_forged_checkpoint_is_refused_and_the_one_before_is_taken(run: Path, forge: Any) -> None:
    latest = run / "checkpoints" / "step_00000004"
    forge(latest)
    if (latest / "manifest.json").read_text().startswith("{"):
        signed(latest)
    assert ganrun("sample", run, "-n", 4).exit_code == 0
    result = ganrun("resume", run)
    assert result.exit_code == 0 and "is damaged" in result.stderr, result.output
    assert "using an earlier one" in " ".join(result.stderr.split())
    assert load_checkpoint(latest).progress["step"] == 4


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_a_signed_checkpoint_escapes_as_another_error(trained: Path, data: st.DataObject) -> None:
    folder = trained.with_name("forged")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained / "checkpoints" / "step_00000004", folder)
    path = folder / data.draw(st.sampled_from(sorted(each.name for each in folder.iterdir())))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    if path.name != "manifest.json":
        signed(folder)
    try:
        assert isinstance(load_checkpoint(folder), Checkpoint)
    except (DamagedCheckpoint, RequestError) as error:
        assert str(folder) in str(error)


def forged(run: Path, **changes: Any) -> Path:
    """Give the latest checkpoint another progress, and sign it."""
    latest = run / "checkpoints" / "step_00000004"
    progress = torch.load(latest / "progress.pt", weights_only=True)
    torch.save(progress | changes, latest / "progress.pt")
    signed(latest)
    return latest


@pytest.mark.parametrize(
    "changes",
    [
        {"images_seen": -8},
        {"images_seen": 2**70},
        {"images_seen": 8.0},
        {"images_adjusted": -1},
        {"seconds": float("nan")},
        {"seconds": -1.0},
        {"seconds": "1"},
        {"step": True},
        {"optimizers": [1, 2]},
        {"optimizers": {"generator": 1}},
    ],
    ids=str,
)
def test_a_progress_that_no_run_has_gives_way_to_the_checkpoint_before(run: Path, changes: dict[str, Any]) -> None:
    latest = forged(run, **changes)
    with pytest.raises(DamagedCheckpoint, match=r"progress\.pt is damaged"):
        load_checkpoint(latest)
    assert latest_checkpoint(run).progress["step"] == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["/dev/zero", "../../summary.json", "pipe", "folder"])
def test_a_manifest_leads_to_files_of_its_checkpoint_alone(run: Path, name: str) -> None:
    latest = run / "checkpoints" / "step_00000004"
    os.mkfifo(latest / "pipe")
    (latest / "folder").mkdir()
    manifest = json.loads((latest / "manifest.json").read_text())
    manifest["sha256"][name] = "0" * 64
    (latest / "manifest.json").write_text(json.dumps(manifest))
    assert latest_checkpoint(run).progress["step"] == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [100, 10**13])
def test_a_file_of_another_size_is_damaged_and_not_read(run: Path, size: int) -> None:
    latest = run / "checkpoints" / "step_00000004"
    os.truncate(latest / "generator.safetensors", size)
    with pytest.raises(DamagedCheckpoint, match=rf"it has {size:,} bytes, and the manifest says"):
        load_checkpoint(latest)
    assert latest_checkpoint(run).progress["step"] == 2  # type: ignore[union-attr]


def test_what_was_never_part_of_a_checkpoint_is_not_read(run: Path) -> None:
    latest = run / "checkpoints" / "step_00000004"
    before = load_checkpoint(latest).weights.keys()
    (latest / "._generator.safetensors").write_bytes(b"as other systems leave them")
    assert load_checkpoint(latest).weights.keys() == before


def test_a_progress_that_unpacks_to_more_than_it_holds_is_not_unpacked(run: Path) -> None:
    path = run / "checkpoints" / "step_00000004" / "progress.pt"
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/999", bytes(10**7))
    signed(path.parent)
    with pytest.raises(DamagedCheckpoint, match="it would unpack to"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        lambda group, kept: kept.update(exp_avg=torch.zeros(0, dtype=torch.bfloat16)),
        lambda group, kept: kept.update(exp_avg=torch.zeros(1).expand(2**40)),
        lambda group, kept: kept.update(exp_avg=kept["exp_avg"].to(torch.int64)),
        lambda group, kept: kept.update(exp_avg=0.5),
        lambda group, kept: kept.update(step=torch.zeros(3)),
        lambda group, kept: kept.update(step=7),
        lambda group, kept: kept.pop("exp_avg_sq"),
        lambda group, kept: group.update(lr=float("nan")),
        lambda group, kept: group.update(betas=(0.5,)),
        lambda group, kept: group.update(fused="yes"),
        lambda group, kept: group.update(amsgrad=True),
        lambda group, kept: group.update(maximize=None),
        lambda group, kept: group.pop("lr"),
        lambda group, kept: group.update(params=[0] * len(group["params"])),
    ],
)
def test_a_state_that_its_optimiser_cannot_have_is_refused_before_a_kernel_reads_it(run: Path, change: Any) -> None:
    progress = torch.load(run / "checkpoints/step_00000004/progress.pt", weights_only=True)
    optimizer = progress["optimizers"]["generator"]
    change(optimizer["param_groups"][0], optimizer["state"][0])
    built = build(TABLES, run.with_name("new"))
    weights = load_checkpoint(run / "checkpoints/step_00000004").weights
    with pytest.raises(RequestError, match="the checkpoint does not match the recipe's networks"):
        built.state.load(Checkpoint(weights, progress))


def test_entries_that_an_optimiser_adds_to_torchs_are_its_own_business() -> None:
    class Warm(torch.optim.SGD):
        """Adds an entry, and another one in its first step."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.param_groups[0]["warm"] = False

        def step(self) -> None:  # type: ignore[override]
            self.param_groups[0] |= {"warm": True, "steps": 1}

    weight = [torch.nn.Parameter(torch.ones(2))]
    stepped = Warm(weight, lr=0.1)
    stepped.step()
    new = Warm(weight, lr=0.1)
    new.load_state_dict(checked_state(new, stepped.state_dict()))
    assert new.param_groups[0]["warm"] and new.param_groups[0]["steps"] == 1
    stepped.load_state_dict(checked_state(stepped, Warm(weight, lr=0.1).state_dict()))
    assert not stepped.param_groups[0]["warm"] and "steps" not in stepped.param_groups[0], "as it was before that step"


def test_a_state_without_an_entry_that_its_optimiser_has_is_completed(run: Path) -> None:
    checkpoint = load_checkpoint(run / "checkpoints/step_00000004")
    built = build(TABLES, run.with_name("new"))
    built.state.load(checkpoint)
    (expected,) = built.state.slots["generator"].optimizer.state_dict()["param_groups"]
    for name in expected.keys() - {"lr", "params"}:
        progress = copy.deepcopy(checkpoint.progress)
        del progress["optimizers"]["generator"]["param_groups"][0][name]
        built.state.load(Checkpoint(checkpoint.weights, progress))
        assert built.state.slots["generator"].optimizer.state_dict()["param_groups"] == [expected]


def test_a_run_goes_on_whatever_files_its_summary_names(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    odd = ["x" * 300, "a/" * 4_000, "/etc/passwd", "../x", "a\0b", "\ud800", "", "é" * 200]
    summary["last"] |= {f"role {number}": path for number, path in enumerate(odd)}
    (run / "summary.json").write_text(json.dumps(summary))
    assert ganrun("resume", run, "--set", "train.steps=5").exit_code == 0
    assert not {"role 0", "role 2", "role 3"} & json.loads((run / "summary.json").read_text())["last"].keys()


def test_of_many_differences_the_first_are_listed_and_long_values_are_cut(run: Path) -> None:
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("hidden = [", "hidden = [" + "7, " * 3_000, 1))
    result = ganrun("train", run / "recipe.toml", "-o", run, "--resume", "--set", "generator.hidden=[4]")
    assert result.exit_code == 2 and "holds a run of another recipe" in result.output and len(result.output) < 5_000


# ── Runs that are read ────────────────────────────────────────────────────────────────────────────────────

DEEP = {
    "summary.json": '{"a":' * 100_000,
    "environment.json": '{"a":' * 900 + "1" + "}" * 900,
    "metrics.jsonl": '{"step": ' + "[" * 100_000,
    "recipe.toml": f"a = {'[' * 100_000}",
}


@pytest.mark.parametrize("name", [*DEEP, "nested recipe"])
def test_runs_with_a_deeply_nested_file_do_not_hide_the_others(trained: Path, tmp_path: Path, name: str) -> None:
    for each in ("good", "bad"):
        shutil.copytree(trained, tmp_path / each)
    if name in DEEP:
        (tmp_path / "bad" / name).write_text(DEEP[name])
    else:
        recipe = tmp_path / "bad" / "recipe.toml"
        recipe.write_text(f"{recipe.read_text()}\n[{'.'.join('a' * 1_000)}]\n")
    for command, *options in (["compare"], ["report", "--output", tmp_path / "page.html"]):
        result = ganrun(command, tmp_path, *options)
        assert result.exit_code == 0 and "bad" in result.stderr and "damaged" in result.stderr, result.output
    assert json.dumps(str(tmp_path / "good")) in ganrun("compare", "--json", tmp_path).stdout


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**10)


ODD = {
    "pipe": a_pipe,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "ten gigabytes": a_sparse_file,
    "folder": Path.mkdir,
    "loop of links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_of_a_run_does_not_hide_the_others(trained: Path, tmp_path: Path, kind: str) -> None:
    for name in ("good", *DEEP):
        shutil.copytree(trained, tmp_path / name)
    for name in DEEP:
        (tmp_path / name / name).unlink()
        ODD[kind](tmp_path / name / name)
    found = ganrun("compare", "--json", tmp_path)
    assert found.exit_code == 0 and json.dumps(str(tmp_path / "good")) in found.stdout, found.output
    assert ganrun("sample", tmp_path / "summary.json", "-n", 2, "-o", tmp_path / "a.png").exit_code == 0
    assert ganrun("sample", tmp_path / "recipe.toml", "-n", 2, "-o", tmp_path / "b.png").exit_code == 2


def test_what_a_run_says_in_another_type_is_not_said(run: Path) -> None:
    odd = {"steps": 10**400, "images_seen": -8, "seconds": "inf", "scores": [], "name": {}, "status": None, "own": [1]}
    (run / "summary.json").write_text(json.dumps(odd).replace('"inf"', "1e999"))
    assert RunDirectory(run).summary() == {"own": [1]}
    (run / "environment.json").write_text(json.dumps({"plugins": [], "sessions": [{"threads": -1, "step": 2}, 5]}))
    assert RunDirectory(run).sessions() == [{"step": 2}]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": -8, "images_seen": 8, "seconds": 1, "time": 1}\n' + "x" * 3_000_000 + "\n")
    records, damaged = RunDirectory(run).read_records()
    assert len(damaged) == 2 and max(map(len, damaged)) < 1_000 and all(record.step >= 0 for record in records)


def contents(folder: Path) -> dict[str, tuple[float, bytes]]:
    files = {str(path): path for path in folder.rglob("*")}
    return {name: (path.stat().st_mtime, path.read_bytes() if path.is_file() else b"") for name, path in files.items()}


@pytest.mark.parametrize("lock", [True, False])
def test_reading_a_run_leaves_its_folder_as_it_is(run: Path, tmp_path: Path, lock: bool) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "running"}))
    if not lock:
        (run / ".lock").unlink(missing_ok=True)
    before = contents(run)
    assert "killed" in ganrun("compare", run).stdout
    assert ganrun("report", run, "--output", tmp_path / "page.html").exit_code == 0
    assert ganrun("export", run, "--output", tmp_path / "out").exit_code == 0
    assert ganrun("sample", run, "--output", tmp_path / "grid.png").exit_code == 0
    assert contents(run) == before


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and the requests that it gets."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            requests.append(self.rfile.readline().decode())

    with HTTPServer(("127.0.0.1", 0), Handler) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{started.server_port}", requests
        started.shutdown()


def test_reading_a_run_sends_nothing_to_the_server_that_it_names(
    run: Path, tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, requests = server
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret-password")
    (run / "mlflow.json").write_text(json.dumps({"uri": address, "experiment": "x", "run_id": "1" * 32, "files": {}}))
    recipe = (run / "recipe.toml").read_text().replace("mlflow = false", "")
    (run / "recipe.toml").write_text(f'{recipe}\n[mlflow]\nuri = "{address}"\n')
    assert ganrun("compare", run).exit_code == 0
    assert ganrun("report", run, "--output", tmp_path / "page.html").exit_code == 0
    assert ganrun("export", run, "--output", tmp_path / "out").exit_code == 0
    assert ganrun("sample", run, "--output", tmp_path / "grid.png").exit_code == 0
    assert requests == []
    for path in ((tmp_path / "page.html"), (tmp_path / "out" / "recipe.toml")):
        assert address not in path.read_text() and "secret-password" not in path.read_text()


def test_a_cut_picture_is_refused_by_name(tmp_path: Path) -> None:
    for number in range(3):
        Image.effect_noise((32, 32), 50).convert("RGB").save(tmp_path / f"{number}.jpg")
    content = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(content[: len(content) // 2])
    result = ganrun("data", "check", "image-folder", "--set", f"root={tmp_path}", "--set", "size=16")
    assert result.exit_code == 2 and "1.jpg" in result.stderr, result.output
