"""The cache of files that runs share: extractors' weights, statistics, decoded data."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from ganrun.base.errors import RequestError


def cache_directory(*parts: str) -> Path:
    """A folder of the cache, created if missing. The cache is `$GANRUN_CACHE`, or else the platform's usual place.

    Args:
        parts: The folder's path within the cache.

    Raises:
        RequestError: if `$GANRUN_CACHE` starts with the home directory of an unknown user, `~nobody/…`.
    """
    root = os.environ.get("GANRUN_CACHE") or platformdirs.user_cache_dir("ganrun")
    try:
        folder = Path(root).expanduser().joinpath(*parts)
    except RuntimeError as error:
        raise RequestError(f"GANRUN_CACHE={root}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    return folder
