"""The protocol of a score: how it was measured. Scores are ranked together only if their protocols are equal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ganrun import Score
from ganrun_report.text import value_text

MODEL_ENTRIES = ("seed", "ema_decay")
"""Entries of `Score.protocol` that identify the scored model rather than the measurement."""

ScoreProtocol = Mapping[str, str | int | float | bool]
"""The entries of `Score.protocol` without `MODEL_ENTRIES`; and `better`, `higher` or `lower`."""


def protocol_of(score: Score) -> ScoreProtocol:
    """How a score was measured."""
    measurement = {key: value for key, value in score.protocol.items() if key not in MODEL_ENTRIES}
    return {**measurement, "better": "higher" if score.higher_is_better else "lower"}


def protocol_key(protocol: ScoreProtocol) -> str:
    """A text that is equal for equal protocols."""
    return _canonical(protocol)


def protocol_difference(these: ScoreProtocol, those: ScoreProtocol) -> str:
    """`generated 1000 ≠ 2000, torch 2.14.1 ≠ 2.15.0`; empty for equal protocols."""
    keys = [key for key in {**these, **those} if _canonical(these.get(key)) != _canonical(those.get(key))]
    return ", ".join(f"{key} {value_text(these.get(key))} ≠ {value_text(those.get(key))}" for key in keys)


def most_common(protocols: Sequence[ScoreProtocol]) -> ScoreProtocol:
    """The protocol that occurs most often; of several, the first."""
    counts = Counter(map(protocol_key, protocols))
    return max(protocols, key=lambda each: counts[protocol_key(each)])


def _canonical(value: Any) -> str:
    """JSON, in which 1 and true differ."""
    return json.dumps(value, sort_keys=True, default=str)
