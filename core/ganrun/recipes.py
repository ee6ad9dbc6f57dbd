"""The recipes that travel with ganrun."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent


def shipped_recipes() -> Path:
    """The folder of the recipes: the repository's in an editable install, else the one inside the package."""
    repository = HERE.parents[1]
    return repository / "recipes" if (repository / "pyproject.toml").is_file() else HERE / "recipes"


def find_recipe(path: Path) -> Path:
    """`path` itself where it exists; else the shipped recipe of that file name, if there is one."""
    shipped = shipped_recipes() / path.name
    return shipped if not path.exists() and shipped.is_file() and _names_a_shipped_one(path) else path


def _names_a_shipped_one(path: Path) -> bool:
    return str(path.parent) in (".", "recipes")
