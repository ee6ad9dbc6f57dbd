"""Chooses the directory of a new run, and opens existing ones."""

from __future__ import annotations

import logging
import re
import secrets
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from ganrun.base.errors import RequestError
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.records import ENVIRONMENT, RECIPE
from ganrun.rundir.sessions import sessions_in

log = logging.getLogger("ganrun")


def new_run_path(name: str, root: Path = Path("runs")) -> Path:
    """`runs/<name>-<time>-<id>`, not yet created."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
    return root / f"{slug[:80]}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def open_run(path: Path) -> RunDirectory:
    """An existing run, with a warning if a newer ganrun wrote it.

    Raises:
        RequestError: if there is none at `path`.
    """
    directory = RunDirectory(path)
    if not directory.holds_run:
        missing = "does not exist" if not path.exists() else f"holds no {RECIPE}"
        raise RequestError(f"{path} is not a run directory: it {missing}{_run_around(path)}")
    warn_if_newer(directory)
    return directory


def warn_if_newer(directory: RunDirectory, facts: str = ENVIRONMENT) -> None:
    """Warn if a newer ganrun wrote the files: what seems wrong in them may only be new.

    Args:
        directory: A run directory or an exported folder.
        facts: The file in it that states the version.
    """
    stored = directory.read_json(facts)
    here = version("ganrun")
    try:
        starts = [stored, *sessions_in(stored)]
        own = [stored] if "ganrun" in stored else [each["packages"] for each in starts if "packages" in each]
        made = max((str(each["ganrun"]) for each in own), key=Version, default=here)
        is_newer = Version(made) > Version(here)
    except (KeyError, TypeError, ValueError):
        return
    if is_newer:
        log.warning("%s was made by ganrun %s, and this is %s: what seems wrong may be new", directory.path, made, here)


def _run_around(path: Path) -> str:
    """A hint for a folder that is part of a run, such as a checkpoint."""
    return next((f"; {each} is one" for each in path.absolute().parents[:2] if (each / RECIPE).is_file()), "")
