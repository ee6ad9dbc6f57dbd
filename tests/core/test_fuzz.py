"""A short form of the fuzzers in tests/stress, where they are documented; and examples of what they found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stress"))

import fuzz_files
import fuzz_recipes

RUN_FILES = ("environment: look", "summary: look", "metrics: look", "mlflow.json", "manifest", "weights")
DATA = (
    "idx, packed",
    "cifar, pickled",
    "cifar, packed",
    "emnist",
    "png",
    "metadata.csv",
    "statistics",
    "cached pixels",
    "pairs",
    "degraded, cached",
)


def test_every_mutated_recipe_is_taken_or_refused_in_words() -> None:
    outcomes, failures = fuzz_recipes.run(60, seed=5)
    assert not failures
    assert {"content", "RecipeError", "RequestError"} <= outcomes.keys()


@pytest.mark.parametrize("names", [RUN_FILES, DATA], ids=["runs", "data"])
def test_every_mutated_file_is_read_or_refused_in_words(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path))  # put back afterwards: the fuzzer has its own
    rows: dict[str, Any]
    rows, failures = fuzz_files.run(list(names), 10, seed=2)
    assert not failures
    assert {outcome for row in rows.values() for outcome in row} >= {"content"}
