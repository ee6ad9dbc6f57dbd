"""`ganrun doctor` examines everything, reports each fault by name, and continues after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ganrun.commands.doctor import examine
from ganrun.discovery.registry import load_registry

PATIENT = '''
from pathlib import Path
import ganrun
import numpy as np

class Flat(ganrun.Data):
    """Grey pictures of nothing."""

    def spec(self):
        return ganrun.DataSpec((1, 4, 4))

    def prepare(self):
        pass

    def split(self, name):
        return ganrun.Split(np.zeros((12, 1, 4, 4), np.uint8))

class Absent(Flat):
    """Not there."""

    def locate(self):
        raise ganrun.DataError("photos are absent\\nput them there")

class Crashing(Flat):
    """Has a bug."""

    def locate(self):
        raise ZeroDivisionError("in a plugin")

class Quitting(Flat):
    """Ends the program."""

    def locate(self):
        raise SystemExit(3)

class Present(Flat):
    """In a folder."""

    def locate(self):
        return Path(__file__).parent

class Rooted(Flat):
    """Somebody's pictures."""

    class Settings(ganrun.Settings):
        root: str

@ganrun.hookimpl
def ganrun_data():
    classes = {"flat": Flat, "absent": Absent, "crashing": Crashing, "quitting": Quitting, "present": Present}
    return {**classes, "rooted": Rooted}

def crash():
    raise RuntimeError("no answer")

@ganrun.hookimpl
def ganrun_health_checks():
    return {
        "fine": lambda: ganrun.HealthCheck(True, "all is well"),
        "weights": lambda: ganrun.HealthCheck(False, "weights are absent\\nfetch them"),
        "crash": crash,
    }
'''

BROKEN = "import a_package_that_nobody_has\n"


@pytest.fixture
def lines(tmp_path, monkeypatch) -> list[str]:
    """The output on a machine with a faulty package and a broken one."""
    _install(tmp_path, "patient", PATIENT)
    _install(tmp_path, "sick", BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    registry = load_registry(("progress",))
    yield list(examine(registry))
    sys.modules.pop("patient_for_doctor", None)


def test_every_fault_is_reported_and_the_examination_goes_on(lines, tmp_path):
    assert "ok       data flat: needs no files" in lines
    assert f"ok       data present: {tmp_path}" in lines
    assert "missing  data absent: photos are absent; see: ganrun data path absent" in lines
    crashed = "fail     data crashing (ganrun-patient 2.0): locate fails: ZeroDivisionError: in a plugin (patient_for_"
    assert any(line.startswith(crashed) for line in lines)
    assert any("data quitting (ganrun-patient 2.0): locate fails: SystemExit: 3 (" in line for line in lines)
    assert "skip     data rooted: set by root" in lines
    assert "ok       plugin patient (ganrun-patient 2.0)" in lines
    assert "skip     plugin progress (ganrun 0.1.0): blocked" in lines
    (sick,) = [line for line in lines if "sick" in line]
    assert sick.startswith("fail     plugin sick (ganrun-sick 2.0): ModuleNotFoundError")
    assert "ok       patient: fine: all is well" in lines
    assert "missing  patient: weights: weights are absent\n         fetch them" in lines
    assert "fail     patient: crash: RuntimeError: no answer" in lines


def test_packages_and_devices_come_first(lines):
    import torch

    assert lines[0].startswith(f"ok       python {sys.version_info.major}.{sys.version_info.minor}")
    assert f"ok       torch {torch.__version__.partition('+')[0]}" in [line.partition("+")[0] for line in lines]
    (cuda,) = [line for line in lines if "cuda" in line][:1]
    assert cuda.startswith("ok" if torch.cuda.is_available() else "missing")
    assert {line.partition(" ")[0] for line in lines} <= {"ok", "missing", "skip", "fail"}


def _install(folder: Path, name: str, source: str) -> None:
    """Install a package with an entry point, as pip does."""
    (folder / f"{name}_for_doctor.py").write_text(source)
    metadata = folder / f"ganrun_{name}-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ganrun-{name}\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text(f"[ganrun]\n{name} = {name}_for_doctor\n")
