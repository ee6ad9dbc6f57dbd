"""Runs that are killed, lose power, meet a full disk, signals and raising observers: a small form of each campaign."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.stress import events
from tests.stress.disk import Disk, File
from tests.stress.pairs import pair
from tests.stress.starts import SPACE, Orders, Server, reason_against
from tests.stress.stores import StoreBench, synchronised
from tests.stress.trials import FILE_FAULTS, Bench, FileFault, Result, failed, kill, one_signal, power_cut

pytestmark = pytest.mark.skipif(reason_against() is not None, reason=str(reason_against()))

CHEAP = "vae"
"""The family whose run takes the least time."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The process that forks every start."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def bench(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The cheapest family, with what the trials of events need."""
    return Bench(server, tmp_path_factory.mktemp("bench"), CHEAP, events.MORE)


def check(result: Result) -> None:
    """Fail with what is wrong."""
    assert not result.faults, "\n".join([*result.story, *result.faults])


def test_the_shim_sees_every_change_below_the_folder(bench: Bench, tmp_path: Path) -> None:
    place = bench.new_place("seen")
    disk = Disk(place)
    bench.start(place, Orders(journal=str(tmp_path / "journal")))
    disk.replay(tmp_path / "journal")
    files = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert disk.files() == files


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_run_goes_on_bit_for_bit(bench: Bench, seed: int) -> None:
    check(kill(bench, Random(seed)))


@pytest.mark.parametrize("family", ["gan", "progressive"])
def test_so_does_one_of_another_family(server: Server, tmp_path: Path, family: str) -> None:
    check(kill(Bench(server, tmp_path, family), Random(family)))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_goes_on_bit_for_bit_after_a_power_cut(bench: Bench, seed: int) -> None:
    check(power_cut(bench, Random(seed)))


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FILE_FAULTS if fault.number != errno.EDQUOT and (fault.short or not fault.for_good)],
    ids=str,
)
def test_a_fault_of_the_file_system_is_told_and_loses_nothing(bench: Bench, fault: FileFault) -> None:
    check(failed(bench, fault, Random(str(fault)).randint(1, bench.count(fault.kinds))))


@pytest.mark.parametrize("seed", range(2))
def test_a_signal_ends_a_run_that_goes_on_bit_for_bit(bench: Bench, seed: int) -> None:
    check(one_signal(bench, Random(seed)))


@pytest.mark.parametrize("seed", range(2))
def test_of_two_starts_on_one_directory_one_trains(bench: Bench, seed: int) -> None:
    check(pair(bench, Random(seed)))


@pytest.mark.parametrize(
    ("owner", "at", "kind"),
    [
        ("observer", "step_ended", "OSError"),
        ("observer", "evaluated", "SystemExit"),
        ("essential", "step_ended", "KeyboardInterrupt"),
        ("essential", "evaluating", "OSError"),
        ("other-brightness", "measure", "RecursionError"),
        ("tracker", "offer", "RuntimeError"),
        ("tracker", "find", "SystemExit"),
    ],
)
def test_whatever_a_part_raises_is_told_and_loses_nothing(bench: Bench, owner: str, at: str, kind: str) -> None:
    check(events.raised(bench, owner, at, kind))


def test_a_store_has_a_disturbed_run_once_and_whole(server: Server, tmp_path: Path) -> None:
    bench = StoreBench(server, tmp_path, CHEAP)
    full = FileFault(errno.ENOSPC, SPACE, for_good=True)
    check(synchronised(bench, failed(bench, full, bench.count(full.kinds) - 200)))


def test_a_file_that_was_not_flushed_may_be_there_in_part() -> None:
    file = File(b"kept", bytearray(b"kept"))
    file.write(4, b" and more")
    found = {file.after_cut(Random(seed)) for seed in range(50)}
    assert found == {b"kept", b"kept and more", b"kept" + bytes(9)}
    file.flush()
    assert {file.after_cut(Random(seed)) for seed in range(50)} == {b"kept and more"}
