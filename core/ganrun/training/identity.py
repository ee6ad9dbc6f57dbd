"""Decides whether data is the same as a run's: by its content, regardless of its path and reader."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ganrun.base.errors import RequestError
from ganrun.contracts.data import SPLITS
from ganrun.recipe.recipe import Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.training.continuing import Difference, data_settings, differences

log = logging.getLogger("ganrun")

LISTED = 12
"""Maximum differences that a message lists."""

IDENTITY = ("fingerprint", "fingerprints", "files")
"""Entries of a manifest that are compared separately."""


def check_same_data(directory: RunDirectory, recipe: Recipe, manifest: Mapping[str, Any]) -> None:
    """Check that data is the same as that of the run in a directory.

    Args:
        directory: Holds the run.
        recipe: The recipe that names the data.
        manifest: The data's, as `check_data` returns it.

    Raises:
        RequestError: located at `[data]`, with what differs, if it is not.
    """
    found = data_differences(directory, recipe, manifest)
    if found:
        raise RequestError(
            f"the data differs from that of the run in {directory.path}, so it cannot be continued:\n{_listed(found)}\n"
            "  bring the data back (if it has moved, say where it is now), or choose another --output to train on this",
            where=recipe.where(recipe.data.key),
        )


def warn_if_other_data(directory: RunDirectory, recipe: Recipe, manifest: Mapping[str, Any], *, asked: bool) -> bool:
    """Whether data differs from a run's; with a warning, unless other data was requested."""
    found = data_differences(directory, recipe, manifest)
    if found and not asked:
        text = "the data has changed since the run in %s started, so these scores are named NAME@%s:\n%s"
        log.warning(text, directory.path, recipe.data.use, _listed(found))
    return bool(found)


def data_differences(directory: RunDirectory, recipe: Recipe, manifest: Mapping[str, Any]) -> list[str]:
    """The differences between data and that of the run in a directory; empty if the content is the same.

    The content is compared by the fingerprints of those splits that the run has recorded. A run that has recorded none,
    because its environment.json is absent or damaged, is compared by the settings of `[data]`, with a warning.
    """
    recorded, found = recorded_fingerprints(directory), manifest["fingerprints"]
    settings = data_settings(directory, recipe)
    if not recorded:
        text = "%s has no fingerprint of the data, so only the settings in [data] show whether it is the run's"
        log.warning(text, directory.environment_path)
        return _changed_without_paths(recipe, settings)
    changed = [split for split in SPLITS if split in recorded and recorded[split] != found.get(split)]
    if not changed:
        return []
    prints = [f"{split} split: fingerprint {recorded[split]} in the run, {found.get(split)} now" for split in changed]
    return [*prints, *map(str, settings), *_manifest_differences(manifest, directory.environment().get("data"))]


def recorded_fingerprints(directory: RunDirectory) -> dict[str, str]:
    """The fingerprint of each split when a run first recorded it; ganrun 0.1.0 recorded that of `train` alone."""
    found: dict[str, str] = {}
    for facts in (directory.environment(), *directory.sessions()):
        prints = {"train": facts.get("data_fingerprint"), **_table(_table(facts, "data"), "fingerprints")}
        found = {**{split: text for split, text in prints.items() if isinstance(text, str)}, **found}
    return found


def _changed_without_paths(recipe: Recipe, settings: list[Difference]) -> list[str]:
    paths = {".".join(map(str, key)) for part in recipe.data.with_parts() for key in part.paths()}
    return [str(each) for each in settings if each.key not in paths]


def _manifest_differences(new: Mapping[str, Any], old: object) -> Iterator[str]:
    """The differences between manifests, such as counts; and files, unless they have only moved."""
    then = old if isinstance(old, dict) else {}
    for each in differences(new, then):
        if each.key.partition(".")[0] not in IDENTITY:
            yield str(each)
    here, there = _table(new, "files"), _table(then, "files")
    if sorted(map(str, here.values())) != sorted(map(str, there.values())):
        yield from map(str, differences(here, there, "files"))


def _listed(lines: list[str]) -> str:
    rest = len(lines) - LISTED
    shown = [*lines[:LISTED], *([f"and {rest} more"] if rest > 0 else [])]
    return "\n".join(f"  {line}" for line in shown)


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name)
    return table if isinstance(table, dict) else {}
