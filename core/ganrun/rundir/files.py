"""Digests of the files, other than data, that settings point at: a run continues only with the same content, at any
path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ganrun.base.reading import opened
from ganrun.contracts.settings import dump_settings
from ganrun.recipe.recipe import ComponentConfig, Recipe


def digests_of_files(recipe: Recipe) -> dict[str, str]:
    """The SHA-256 of each file that decides the weights by its content, by the key of its setting: `loss.weights`.

    Folders and unreadable files have none: the component itself reports those.
    """
    components = (each for each in recipe.deciding_components() if each.key[0] != recipe.data.key[0])
    paths = {key: path for component in components for key, path in _paths_of(component)}
    digests = {key: _digest(path) for key, path in paths.items()}
    return {key: digest for key, digest in digests.items() if digest is not None}


def _paths_of(component: ComponentConfig) -> Iterator[tuple[str, Path]]:
    settings = dump_settings(component.settings)
    for key in component.paths():
        if isinstance(path := settings.get(str(key[-1])), str):
            yield ".".join(map(str, key)), Path(path)


def _digest(path: Path) -> str | None:
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
