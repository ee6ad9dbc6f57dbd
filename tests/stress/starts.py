"""Starts of ganrun in a forked process, each with its own orders for the shim."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from multiprocessing import Pipe
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

HERE = Path(__file__).parent
EVER = 2**40
"""More operations than any start has."""

OVERDUE = -999
"""The status of a start that had to be killed because it did not end."""


class Kind(IntFlag):
    """Kinds of operations, as in shim.c."""

    OPEN, CREATE, WRITE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, TRUNCATE, LINK = (2**n for n in range(10))


class Action(IntEnum):
    """What happens at an operation, as in shim.c."""

    NOTHING, KILL_BEFORE, KILL_TORN, KILL_AFTER, FAIL, FAIL_SHORT, SIGNAL = range(7)


ALL = Kind(2**10 - 1)
SPACE = Kind.CREATE | Kind.WRITE | Kind.SYNC | Kind.MKDIR | Kind.RENAME | Kind.LINK
"""Operations that need space on the disk."""


class Orders(NamedTuple):
    """What the shim is to do: the `first`-th to the `last`-th operation of these kinds meet the action."""

    action: Action = Action.NOTHING
    first: int = 0
    last: int = 0
    number: int = 0
    """The `errno` of a failure, or the signal."""
    kinds: Kind = ALL
    journal: str = ""
    """Where every operation is recorded with its data; nowhere if empty."""

    def __str__(self) -> str:
        till = "on" if self.last >= EVER else str(self.last)
        return f"{self.action.name} {self.first}..{till} number={self.number} kinds={int(self.kinds)}"


UNDISTURBED = Orders()


class Ended(NamedTuple):
    """How one start ended."""

    status: int
    """Its exit status; negative: the signal that killed it."""
    output: str
    """What it printed, on both streams."""
    count: int
    """Operations of the wanted kinds."""
    of_kind: tuple[int, ...]
    """Operations of each kind, in the order of `Kind`."""
    hits: int
    """How many of them met the action."""
    operation: str
    """The first of those."""


def reason_against() -> str | None:
    """Why starts cannot be made here; None if they can."""
    if not sys.platform.startswith("linux"):
        return "the shim is for Linux"
    if not hasattr(os, "pidfd_open"):
        return "this Python has no os.pidfd_open"
    if shutil.which("cc") is None:
        return "there is no C compiler, cc, for the shim"
    return None


class Server:
    """A process with everything imported. Not for several threads at once.

    Args:
        scratch: A folder for the shim, the plugin's installation and outputs; a temporary one that `close` removes
            if None.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        self.scratch = scratch or Path(mkdtemp(prefix="ganrun-stress-"))
        self._is_own = scratch is None
        shim = compiled(self.scratch)
        ours, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(shim), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # signals for a campaign are not for the run
            env={**os.environ, **self._environment(), "LD_PRELOAD": str(shim)},
        )
        theirs.close()
        self._orders = ours

    def _environment(self) -> dict[str, str]:
        paths = [str(_installed_plugin(self.scratch)), os.environ.get("PYTHONPATH", "")]
        return {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "OMP_NUM_THREADS": "1",
            "MPLCONFIGDIR": str(self.scratch / "matplotlib"),
            "XDG_CACHE_HOME": str(self.scratch / "cache"),
            "MLFLOW_TRACKING_URI": "",
            "GIT_PYTHON_REFRESH": "quiet",
        }

    def start(
        self,
        place: Path,
        *arguments: str,
        orders: Orders = UNDISTURBED,
        modules: Path | None = None,
        patience: float = 120,
        **environment: str,
    ) -> Ended:
        """Start `ganrun ARGUMENTS` in a folder, which is also the one that the shim watches."""
        self._orders.send(self._order(place, arguments, orders, modules, patience, environment))
        return self._ended()

    def start_two(
        self, place: Path, first: Sequence[str], at: int, second: Sequence[str]
    ) -> tuple[Ended, Ended | None]:
        """Stop the first start at an operation, make the second from its beginning to its end, and let the first go on.

        Returns:
            How both have ended; for the second None if the first has no such operation.
        """
        stopped = Orders(Action.SIGNAL, at, at, signal.SIGSTOP)
        order = self._order(place, first, stopped, None, 120, {})
        meanwhile = {
            **self._order(place, second, UNDISTURBED, None, 120, {}),
            "shim": (),
            "output": f"{self._output}-2",
        }
        self._orders.send({**order, "meanwhile": meanwhile})
        status, *done, other = self._orders.recv()
        ended = Ended(status, self._output.read_text(encoding="utf-8", errors="replace"), *done)
        if other is None:
            return ended, None
        printed = Path(meanwhile["output"]).read_text(encoding="utf-8", errors="replace")
        return ended, Ended(other, printed, 0, (), 0, "")

    @property
    def _output(self) -> Path:
        return self.scratch / f"output-{os.getpid()}-{id(self)}"

    def _order(
        self,
        place: Path,
        arguments: Sequence[str],
        orders: Orders,
        modules: Path | None,
        patience: float,
        environment: Mapping[str, str],
    ) -> dict[str, Any]:
        path = str(place.resolve())
        shim = (path, orders.kinds, orders.action, orders.first, orders.last, orders.number, orders.journal)
        return {
            "folder": path,
            "arguments": list(arguments),
            "output": str(self._output),
            "environment": dict(environment),
            "shim": tuple(each if isinstance(each, str) else int(each) for each in shim),
            "modules": str(modules or ""),
            "patience": patience,
            "meanwhile": None,
        }

    def _ended(self) -> Ended:
        status, *done, _ = self._orders.recv()
        return Ended(status, self._output.read_text(encoding="utf-8", errors="replace"), *done)

    def learn(self, place: Path, *arguments: str) -> Ended:
        """Start once, and import for all later starts what this one has imported."""
        modules = self.scratch / "modules.json"
        ended = self.start(place, *arguments, modules=modules)
        self.prepare(json.loads(modules.read_text(encoding="utf-8")))
        return ended

    def prepare(self, names: Sequence[str]) -> None:
        """Import modules for all later starts."""
        self._orders.send({"imports": list(names)})
        self._orders.recv()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._orders.close()
        if self._is_own:
            shutil.rmtree(self.scratch, ignore_errors=True)


def compiled(folder: Path) -> Path:
    """The shim, compiled into a folder unless it is there."""
    library = folder / "shim.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = str(HERE / "shim.c")
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), source, "-ldl", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def _installed_plugin(folder: Path) -> Path:
    """A folder in which the plugin of these tests is installed."""
    site = folder / "site"
    facts = site / "ganrun_stress-0.dist-info"
    if not facts.exists():
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: ganrun-stress\nVersion: 0\n")
        (facts / "entry_points.txt").write_text("[ganrun]\nstress = ganrun_stress\n")
        shutil.copy(HERE / "plugin/ganrun_stress.py", site)
    return site


def recipe_text(tables: Mapping[str, Any]) -> str:
    """A recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(dict(tables))
