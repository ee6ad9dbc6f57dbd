"""Where ganrun keeps what several runs share: extractors' weights, statistics, decoded data."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_directory(*parts: str) -> Path:
    """A folder of the cache, made if absent: `$GANRUN_CACHE`, else the platform's usual place."""
    root = os.environ.get("GANRUN_CACHE") or platformdirs.user_cache_dir("ganrun")
    folder = Path(root).expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
