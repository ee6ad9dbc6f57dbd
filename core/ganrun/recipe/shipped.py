"""The recipes that are part of ganrun."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_recipes() -> Path:
    """The folder of the recipes: the repository's in an editable install, else the one inside the package."""
    repository = PACKAGE.parents[1]
    return repository / "recipes" if (repository / "pyproject.toml").is_file() else PACKAGE / "recipes"


def find_recipe(path: Path) -> Path:
    """`path` itself where it exists; else the shipped recipe of that file name, if there is one."""
    shipped = shipped_recipes() / path.name
    return shipped if str(path.parent) in (".", "recipes") and not _exists(path) and _exists(shipped) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, a folder that may not be read
        return False
