"""The environment of a run: everything needed to reproduce it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from ganrun.base.devices import device_text, precision_on
from ganrun.base.ranks import ranks
from ganrun.base.secrets import command_without_secrets
from ganrun.contracts.data import Data
from ganrun.recipe.recipe import Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.rundir.files import digests_of_files
from ganrun.rundir.records import ENVIRONMENT, RECIPE

HARMLESS = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "protocol.allow=never")
"""Git options for an untrusted folder."""

ALONE = "--ignore-submodules=all"
"""Each repository has its own configuration."""

NOT_FOUND = 1
"""The exit status of `git config` if nothing matches."""


def describe_environment(
    recipe: Recipe,
    data: Data,
    manifest: Mapping[str, Any],
    device: torch.device,
    starts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The facts of one start of a run: versions, git commit, device, plugins and the data's manifest.

    Args:
        recipe: The run's.
        data: Prepared.
        manifest: The data's.
        device: Where the run trains.
        starts: The weights that networks started from, if not from their own initialisation; and the digests of frozen
            networks.
    """
    files = digests_of_files(recipe)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "command": command_without_secrets(sys.argv),
        "packages": package_versions(),
        "git": _recipe_git_state(recipe),
        "device": str(device),
        "device_name": device_text(device, ranks().total),
        "threads": torch.get_num_threads(),
        **({"ranks": ranks().total} if ranks().total > 1 else {}),
        "precision": precision_on(device, recipe.train.precision),
        "plugins": {config.registered.plugin.name: str(config.registered.plugin) for config in recipe.components()},
        **({"starts": dict(starts)} if starts else {}),
        **({"files": files} if files else {}),
        "data_fingerprint": manifest["fingerprint"],
        "data": dict(manifest),
        "problem": {**data.spec().facts(), "class_names": list(data.class_names())},
    }


def required_packages() -> list[str]:
    """ganrun and the packages that its metadata require, without extras."""
    wanted = [Requirement(text) for text in requires("ganrun") or ()]
    return ["ganrun", *(each.name for each in wanted if each.marker is None or each.marker.evaluate())]


def package_versions() -> dict[str, str]:
    """Versions of ganrun and of the installed packages that it requires."""
    found = {package: _version_of(package) for package in required_packages()}
    return {package: text for package, text in found.items() if text is not None}


@cache
def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _recipe_git_state(recipe: Recipe) -> dict[str, Any] | None:
    """The state of the recipe's repository; for a run's own copy of its recipe, the state recorded with that copy."""
    path = recipe.source.path
    if path.name == RECIPE and (path.parent / ENVIRONMENT).is_file():
        return RunDirectory(path.parent).latest_session().get("git")
    return _git_state(path.parent)


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it (None if git gives no answer). None outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = None if _has_filters(folder) else _git(folder, "status", "--porcelain", "--untracked-files=no", ALONE)
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _has_filters(folder: Path) -> bool:
    """Whether a repository's own configuration has filters, which `git status` would run; true if git gives no
    answer."""
    done = _run_git(folder, "config", "--show-scope", "--get-regexp", r"^filter\.")
    if done is None or done.returncode not in (0, NOT_FOUND):
        return True
    return any(line.startswith(("local", "worktree")) for line in done.stdout.splitlines())


def _git(folder: Path, *arguments: str) -> str | None:
    done = _run_git(folder, *arguments)
    return done.stdout.strip() if done is not None and done.returncode == 0 else None


def _run_git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Query git, without running anything that the folder's configuration names and without writing; None without an
    answer."""
    command = ["git", "-C", str(folder), *HARMLESS, *arguments]
    environment = {**os.environ, "GIT_NO_LAZY_FETCH": "1"}
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
