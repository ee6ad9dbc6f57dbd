"""The cache's limit, and `ganrun cache`: the least recently used files go first, and downloads only on request."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st

from ganrun import CacheError, RequestError, cache_directory, cache_file, cache_path
from ganrun.base.caches import LEFTOVER_SECONDS, TAG, cache_entries
from ganrun.cli import main

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GANRUN_CACHE_LIMIT", "1 kB")
    return tmp_path / "cache"


def write(folder: str, name: str, size: int, age: float = 0) -> Path:
    path = cache_path(folder, name)
    with cache_file(path) as partial:
        partial.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def fetched(folder: str, name: str, size: int) -> Path:
    path = cache_directory(*folder.split("/")) / name
    path.write_bytes(bytes(size))
    os.utime(path, (0, 0))
    return path


def names(root: Path) -> set[str]:
    return {entry.path.name for entry in cache_entries()}


def ganrun(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["cache", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return f"{result.exit_code}: {result.output}"


# ── The limit ─────────────────────────────────────────────────────────────────────────────────────────────

ACTIONS = st.lists(st.tuples(st.sampled_from(["write", "use"]), st.integers(0, 5), st.integers(1, 1500)), max_size=25)


def test_those_used_longest_ago_are_removed_and_no_more_than_necessary(root):
    other = fetched("data", "archive.zip", 5000)

    @settings(max_examples=60, deadline=None, database=None)
    @given(ACTIONS)
    def check(actions: list[tuple[str, int, int]]) -> None:
        for path in root.rglob("*.bin"):
            path.unlink()
        expected: dict[str, int] = {}  # bytes by name, the one used last at the end
        for moment, (action, number, size) in enumerate(actions):
            name, folder = f"{number}.bin", f"k{number}/inner" if number % 2 else "k"
            if action == "write":
                path = write(folder, name, size)
                expected.pop(name, None)
                while expected and sum(expected.values()) + size > 1000:
                    expected.pop(next(iter(expected)))
                expected[name] = size
            elif name in expected:
                path = cache_path(folder, name)
                expected[name] = expected.pop(name)
            else:
                continue
            os.utime(path, (1e9 + moment,) * 2)  # the clock of a file system may stand still between two actions
            assert {path.name: path.stat().st_size for path in root.rglob("*.bin")} == expected

    check()
    assert other.stat().st_size == 5000


def test_a_file_beyond_the_limit_is_kept_for_now_and_all_is_said(root, caplog):
    write("statistics", "old", 600, age=9)
    write("statistics", "new", 600)
    assert "the cache has reached its limit of 1.0 kB (GANRUN_CACHE_LIMIT): removed 1 files, old the one" in caplog.text
    caplog.clear()
    large = write("floors", "large", 2000)
    assert f"{large} alone exceeds the cache's limit of 1.0 kB" in caplog.text and names(root) == {"large"}


def test_what_is_not_ganruns_is_left_alone(root, tmp_path):
    foreign = fetched("pip/http", "CACHEDIR.TAG", 0)
    foreign.write_text(TAG.splitlines()[0] + "\n# of another program")
    fetched("pip/http", "wheel", 9000)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo").write_bytes(bytes(9000))
    (cache_directory("data") / "linked").symlink_to(outside)
    write("statistics", "a", 1500)
    (root / "statistics" / "linked").symlink_to(outside / "photo")
    write("statistics", "b", 1500)
    assert names(root) == {"http", "linked", "b"}
    assert ganrun("clear", "data", "statistics", "pip").startswith("0: removed ")
    assert (outside / "photo").stat().st_size == 9000 and names(root) == set()


@pytest.mark.parametrize("kind", ["endless", "pipe", "sparse"])
def test_a_tag_that_is_no_file_of_a_few_bytes_is_not_read(root, kind):
    write("statistics", "a", 1500)
    tag = root / "statistics/CACHEDIR.TAG"
    tag.unlink()
    if kind == "pipe":
        os.mkfifo(tag)
    elif kind == "endless":
        tag.symlink_to("/dev/zero")
    else:
        with tag.open("wb") as file:
            file.truncate(10**12)
    assert [entry.path.name for entry in cache_entries()] == ["a"]


def test_leftovers_of_killed_processes_go_after_a_day(root):
    for name, age in (("old", LEFTOVER_SECONDS + 60), ("young", 60)):
        for folder in ("statistics", "mlflow"):
            path = cache_directory(folder) / f".{name}.12ab.partial"
            path.write_bytes(bytes(5000))
            os.utime(path, (time.time() - age,) * 2)
    copied = cache_directory("mlflow", ".run.34cd.partial")
    (copied / "weights").touch()
    os.utime(copied / "weights", (1, 1))
    os.utime(copied, (1, 1))
    write("statistics", "a", 10)
    assert [path.name for path in sorted(root.rglob("*.partial"))] == [".young.12ab.partial"] * 2


@pytest.mark.parametrize("limit", ["5", "many GB", "-1 GB", "5 GiB", "1e3 GB", "GB", "٣ GB", "nan GB"])
def test_a_wrong_limit_is_an_error_before_anything_is_computed(monkeypatch, limit):
    monkeypatch.setenv("GANRUN_CACHE_LIMIT", limit)
    with pytest.raises(RequestError, match=r'GANRUN_CACHE_LIMIT is ".*"; say a size in kB, MB, GB or TB'):
        cache_path("statistics", "a")
    assert "GANRUN_CACHE_LIMIT is" in ganrun("list")


@pytest.mark.parametrize("place", ["a-file", "a-file/below", "~no-such-user/cache"])
def test_a_place_that_cannot_be_used_is_named(tmp_path, monkeypatch, place):
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("GANRUN_CACHE", place if place.startswith("~") else str(tmp_path / place))
    with pytest.raises(CacheError, match=r"the cache cannot be used: .*\nset GANRUN_CACHE to a folder"):
        cache_path("statistics", "a")


def test_a_relative_place_starts_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", "here")
    monkeypatch.chdir(tmp_path)
    assert cache_path("statistics", "a") == tmp_path / "here" / "statistics" / "a"


# ── The commands ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def filled(root, monkeypatch) -> None:
    monkeypatch.setenv("GANRUN_CACHE_LIMIT", "1 GB")
    write("statistics", "a.safetensors", 2_500_000, age=3 * DAY)
    write("data/pictures", "b.pixels", 1000, age=2 * DAY)
    (root / "data" / "pictures" / "b.lock").touch()
    fetched("data/cifar10", "archive", 4000)
    fetched("mlflow/12ab", "weights", 10)


def test_list_shows_what_is_there(root, filled):
    lines = ganrun("list").splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["data", "data/pictures", "mlflow", "statistics"]
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 3 * DAY))
    assert lines[4].split() == ["statistics", "2.5", "MB", day, "a.safetensors"]
    assert lines[1].split()[-2:] == ["(fetched)", "cifar10"]
    assert lines[5].startswith("4 entries of 2.5 MB in ") and str(root) in lines[5]
    assert lines[6] == "2 entries of 2.5 MB that ganrun can recreate; it keeps at most 1.0 GB (GANRUN_CACHE_LIMIT)"


def test_clear_removes_what_can_be_made_again_and_what_is_named(root, filled):
    assert "removed 1 entry of 2.5 MB" in ganrun("clear", "--older-than", "2.5")
    assert names(root) == {"b.pixels", "cifar10", "12ab"}
    assert "removed 1 entry of 1.0 kB" in ganrun("clear")
    assert names(root) == {"cifar10", "12ab"}
    assert "2: error: the cache" in (text := ganrun("clear", "mlfow")) and 'did you mean "mlflow"?' in text
    assert "removed 1 entry" in ganrun("clear", "mlflow")
    assert names(root) == {"cifar10"} and (root / "data/cifar10/archive").exists()
    assert "removed 1 entry" in ganrun("clear", "data")
    assert names(root) == set() and "0 entries of 0.0 kB in" in ganrun("list")


def test_a_cache_that_is_absent_is_empty_and_stays_absent(root):
    assert "0 entries" in ganrun("list") and "removed 0 entries" in ganrun("clear")
    assert "it is empty" in ganrun("clear", "data")
    assert not root.exists()
