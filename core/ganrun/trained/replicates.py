"""Replicates of one recipe under several seeds, and the summary of their scores."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from ganrun.base.errors import RequestError
from ganrun.contracts.scores import Score


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` → `(0, 1, 2)`.

    Raises:
        RequestError: if it is no list of different whole numbers from 0 up.
    """
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RequestError(f"--seeds takes different whole numbers from 0 up, such as 0,1,2, not {text}")
    return seeds


def summary_of(replicates: Sequence[Sequence[Score]]) -> list[str]:
    """A line for each score: mean ± standard deviation over the replicates, and the score of real images.

    The deviation is that of the sample, over n - 1: the spread between seeds, not the error of the mean.
    """
    found: dict[str, list[Score]] = defaultdict(list)
    for scores in replicates:
        for score in scores:
            found[score.name].append(score)
    return [_line(name, scores) for name, scores in found.items()]


def _line(name: str, scores: Sequence[Score]) -> str:
    values = [score.value for score in scores]
    spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    floors = {score.floor for score in scores if score.floor is not None}
    floor = f" (real images {statistics.mean(floors):.3g})" if floors else ""
    return f"{name} {statistics.mean(values):.4g}{spread}{floor}, n = {len(values)}"
