"""Replicates of one recipe under several seeds, and the summary of their scores."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ganrun.base.errors import RequestError
from ganrun.base.jsons import json_text
from ganrun.contracts.scores import Score


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` → `(0, 1, 2)`.

    Raises:
        RequestError: if it is not a list of distinct integers ≥ 0.
    """
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RequestError(f"--seeds takes distinct integers of at least 0, such as 0,1,2, not {text}")
    return seeds


def summary_of(replicates: Sequence[Sequence[Score]]) -> list[str]:
    """A line for each score: mean ± standard deviation over the replicates, and the mean score of real images.

    The deviation is the sample standard deviation (n - 1): the spread between seeds, not the error of the mean. Scores
    with different protocols get separate lines that say how they differ. Non-finite values are counted, but not
    averaged.
    """
    found: dict[str, list[Score]] = defaultdict(list)
    for scores in replicates:
        for score in scores:
            found[score.name].append(score)
    return [line for scores in found.values() for line in _lines(scores)]


def _lines(scores: Sequence[Score]) -> list[str]:
    """One for each protocol."""
    groups: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        groups[json_text(_protocol(score), sort_keys=True)].append(score)
    unlike = _unlike([_protocol(group[0]) for group in groups.values()])
    return [_line(group, {key: _protocol(group[0]).get(key) for key in unlike}) for group in groups.values()]


def _protocol(score: Score) -> dict[str, object]:
    """Its protocol, without the seed, which always differs between replicates."""
    return {key: value for key, value in score.protocol.items() if key != "seed"}


def _unlike(protocols: Sequence[Mapping[str, object]]) -> list[str]:
    """The keys of the entries that differ."""
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    return [key for key in keys if len({json_text(protocol.get(key)) for protocol in protocols}) > 1]


def _line(scores: Sequence[Score], about: Mapping[str, object]) -> str:
    values = [score.value for score in scores if math.isfinite(score.value)]
    floors = [score.floor for score in scores if score.floor is not None and math.isfinite(score.floor)]
    parts = [f"{scores[0].name} {_mean(values)}{_floor(floors, len(scores))}", f"n = {len(scores)}"]
    parts += [f"{len(scores) - len(values)} not finite"] if len(values) < len(scores) else []
    return ", ".join([*parts, *(f"{key} {value}" for key, value in about.items())])


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "not a number"
    mean = f"{statistics.mean(values):.4g}"
    with suppress(statistics.StatisticsError, OverflowError):  # of one value, or of very large ones
        return f"{mean} ± {statistics.stdev(values):.3g}"
    return mean


def _floor(floors: Sequence[float], count: int) -> str:
    if not floors:
        return ""
    known = f", n = {len(floors)}" if len(floors) < count else ""
    return f" (real images {statistics.mean(floors):.3g}{known})"
