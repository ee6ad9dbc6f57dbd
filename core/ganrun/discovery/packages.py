"""Finds the installed packages with plugins, by their metadata, and reports damaged, duplicate and outdated metadata.

`importlib.metadata.entry_points` raises for all packages if one is damaged, and takes the first of two with the same
name, even if that is the remainder of an older version and has no plugins.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import NamedTuple

from ganrun.base.frames import in_one_line
from ganrun.contracts.markers import PROJECT

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
"""The project file of an editable install."""


class PluginEntry(NamedTuple):
    """An entry point of the group `ganrun`."""

    package: str
    version: str
    point: EntryPoint


class Installed(NamedTuple):
    """The findings in the metadata of all packages."""

    entries: list[PluginEntry]
    """Sorted by name; for equal names, ganrun's own first, so that no other package can take the name of a built-in
    plugin."""

    faults: list[str]
    """Problems that hide plugins, or may, and their remedies."""

    absent: list[str]
    """Ganrun's own plugins that are missing, and the remedy."""


def installed_plugins() -> Installed:
    """The plugins of every package, even if others are damaged."""
    found: dict[str, list[PluginEntry]] = {}
    faults: list[str] = []
    for distribution in distributions():
        try:
            points = [point for point in distribution.entry_points if point.group == PROJECT]
        except Exception as error:  # a damaged file raises many types
            if _is_of_interest(distribution):
                faults.append(f"the plugins of {_shown(distribution)} cannot be read: {in_one_line(error)}; {_AGAIN}")
            continue
        if points:
            package, version = _origin(distribution)
            found.setdefault(_key(package, distribution), [PluginEntry(package, version, each) for each in points])
    entries = [entry for group in found.values() for entry in group]
    entries.sort(key=lambda each: (each.point.name, each.package != PROJECT, each.package))
    packages = {entry.package for entry in entries} | {PROJECT}
    faults += [fault for package in sorted(packages) for fault in _doubles(package)]
    return Installed(entries, faults, list(_absent({each.point.name for each in entries if each.package == PROJECT})))


_AGAIN = "install it again"


def _key(package: str, distribution: Distribution) -> str:
    """A key that distributions of the same package share; damaged ones share none."""
    return _folder(distribution) if package == "?" else re.sub(r"[-_.]+", "-", package).lower()


def _origin(distribution: Distribution) -> tuple[str, str]:
    """Package and version; placeholders if the metadata are damaged, which must not stop the others."""
    with suppress(Exception):
        metadata = distribution.metadata
        return metadata["Name"] or "?", metadata["Version"] or "0"
    return "?", "0"


def _shown(distribution: Distribution) -> str:
    package, version = _origin(distribution)
    return f"{package} {version} in {_folder(distribution)}"


def _folder(distribution: Distribution) -> str:
    try:
        return str(Path(str(distribution.locate_file(""))).resolve())
    except Exception:
        return "?"


def _is_of_interest(distribution: Distribution) -> bool:
    """Whether a damaged file mentions ganrun; others are not ganrun's concern."""
    try:
        text = distribution.read_text("entry_points.txt")
    except Exception:
        return PROJECT in _shown(distribution)
    return PROJECT in (text or "")


def _doubles(package: str) -> Iterator[str]:
    """Whether a folder holds several versions of a package, all but one of them leftovers."""
    folders: dict[str, set[str]] = {}
    for each in distributions(name=package):
        folders.setdefault(_folder(each), set()).add(_origin(each)[1])
    for folder, versions in folders.items():
        if len(versions) > 1:
            listed = " and ".join(sorted(versions))
            remedy = f"run: pip uninstall {package}, until it is gone, and install it again"
            yield f"{folder} holds {package} {listed}, so its plugins may be those of an old version; {remedy}"


def _absent(names: set[str]) -> Iterator[str]:
    """Whether ganrun's own plugins are missing: all, or those newer than an editable install."""
    if not names:
        yield f"ganrun's own plugins are not installed: its package's metadata is missing or damaged; {_AGAIN}"
    elif missing := sorted(_of_repository() - names):
        listed = ", ".join(missing)
        yield f"{PYPROJECT} has plugins that are not installed: {listed}; run: pip install -e {PYPROJECT.parent}"


def _of_repository() -> set[str]:
    """Names of an editable install's plugins, from its current pyproject.toml; empty for other installs."""
    try:
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        return set(project["entry-points"][PROJECT]) if project["name"] == PROJECT else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
