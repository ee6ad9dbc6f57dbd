"""The files of scikit-learn's package, found without importing it, which takes more than a second."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def installed_file(name: str) -> Path | None:
    """A file of the package, such as `datasets/images/china.jpg`; None if this release keeps it elsewhere."""
    package = find_spec("sklearn")
    folders = (package and package.submodule_search_locations) or []
    files = (Path(folder, name) for folder in folders)
    return next((file for file in files if file.is_file()), None)
