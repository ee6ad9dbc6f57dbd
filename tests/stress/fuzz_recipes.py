"""Mutated recipes and `--set`s, through what `ganrun check` does up to the validated recipe.

    python tests/stress/fuzz_recipes.py --trials 100000 --seed 7

Each trial takes a shipped recipe, changes its tables, writes them as TOML, sometimes damages the text, and adds some
overrides. Right is a recipe, or an error of ganrun within seconds; anything else is a failure, and the exit status 1.
"""

from __future__ import annotations

import copy
import random
import sys
import tempfile
import time
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
from fuzzing import (
    NUMBERS,
    TEXTS,
    Failure,
    arguments,
    fuzz,
    judged,
    mutate,
    mutated_bytes,
    odd_bytes,
    odd_value,
    places_in,
    print_failures,
    print_table,
)

from ganrun.discovery.registry import Registry, load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import shipped_recipes
from ganrun.recipe.source import read_source

registry: Any = cache(load_registry)


@cache
def recipes() -> list[tuple[str, dict[str, Any]]]:
    """The shipped ones: text and tables."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(shipped_recipes().glob("*.toml"))]
    return [(text, tomllib.loads(text)) for text in texts]


@cache
def settings() -> list[list[str]]:
    """The dotted names of everything in each of them."""
    return [[_path(tables, container, key) for container, key in places_in(tables)] for _, tables in recipes()]


def document(chance: random.Random) -> bytes:
    """The content of a recipe's file."""
    kind, (text, tables) = chance.random(), chance.choice(recipes())
    if kind < 0.02:
        return odd_bytes(chance)
    if kind < 0.2:
        return mutated_bytes(text.encode(), chance)
    tables = copy.deepcopy(tables)
    mutate(tables, chance, dates=True)
    try:
        content = tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):  # not TOML
        return text.encode()
    return mutated_bytes(content, chance) if kind < 0.3 else content


def override(chance: random.Random) -> str:
    """What follows `--set`."""
    key = chance.choice(chance.choice(settings())) if chance.random() < 0.8 else chance.choice(TEXTS)
    if chance.random() < 0.2:
        key += chance.choice((".x", ".0", ".1", ".use", ".", "..", ".-1", "." + "a." * 40 + "b", ".99999999999"))
    if chance.random() < 0.03:
        return chance.choice((key, f"={key}", "", "=", ".=1", key + "=" + "[" * 5_000, f"{key}=\udcff\udc80"))
    value = chance.choice((*NUMBERS, *TEXTS)) if chance.random() < 0.8 else _inline(odd_value(chance))
    return f"{key}={value}"


def _path(tables: Any, container: Any, key: Any, prefix: str = "") -> str:
    items = tables.items() if isinstance(tables, dict) else enumerate(tables) if isinstance(tables, list) else ()
    for name, each in items:
        here = f"{prefix}.{name}".lstrip(".")
        if tables is container and name == key:
            return here
        if found := _path(each, container, key, here):
            return found
    return ""


def _inline(value: Any) -> str:
    try:
        return tomli_w.dumps({"v": [value]}).partition("=")[2].strip().replace("\n", " ")
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def trial(chance: random.Random, folder: Path, components: Registry) -> tuple[str, str]:
    """One recipe."""
    path = folder / "fuzzed.toml"
    path.write_bytes(document(chance))
    overrides = [override(chance) for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 4)))]

    def check() -> None:
        read_source(path, overrides)
        load_recipe(path, components, overrides)

    outcome, details = judged(check)
    return outcome, f"{overrides!r:.2000}\n{details}"


def run(trials: int, seed: int) -> tuple[Counter[str], list[Failure]]:
    """The outcomes, and the failures among them."""
    components = registry()
    with tempfile.TemporaryDirectory() as name:
        return fuzz(lambda chance: trial(chance, Path(name), components), trials, seed)


def main() -> int:
    """The command line."""
    options = arguments(__doc__).parse_args()
    if options.show is not None:
        chance = random.Random(f"{options.seed} {options.show}")
        with tempfile.TemporaryDirectory() as name:
            found = trial(chance, Path(name), registry())
            print((Path(name) / "fuzzed.toml").read_bytes().decode(errors="backslashreplace")[:20_000])
        print(*found, sep="\n")
        return 0
    started = time.perf_counter()
    outcomes, failures = run(options.trials, options.seed)
    print_table({"recipes and --set": outcomes}, time.perf_counter() - started)
    print_failures(failures)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
