"""Numbers that may change during a run: what a recipe may say, and their value at a step."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import Field, ValidationError

import ganrun
from ganrun import Scheduled
from ganrun.contracts.scheduled import schedules_in
from ganrun.contracts.settings import dump_settings, parse_settings, settings_help


class Weights(ganrun.Settings):
    gamma: Scheduled = Field(Scheduled(start=1.0), ge=0, lt=10)
    """Weight of the penalty."""


def gamma(value: Any) -> Scheduled:
    return parse_settings(Weights, {"gamma": value}).gamma


def test_a_plain_number_holds_for_the_whole_run() -> None:
    assert Weights().gamma.at(7, 10) == 1.0
    assert [gamma(5).at(step, 10) for step in (0, 9, 1000)] == [5.0] * 3
    assert not gamma(5).follows_run


@pytest.mark.parametrize(
    ("schedule", "middle"), [("linear", 2.5), ("cosine", 2.5), ("exponential", math.sqrt(4.0 * 1.0))]
)
def test_a_schedule_goes_from_start_to_end_and_stays_there(schedule: str, middle: float) -> None:
    over_run = gamma({"schedule": schedule, "start": 4, "end": 1})
    assert over_run.at(0, 10) == 4.0 and over_run.at(10, 10) == 1.0
    assert over_run.at(5, 10) == pytest.approx(middle)
    assert over_run.follows_run
    fixed = gamma({"schedule": schedule, "start": 4, "end": 1, "steps": 4})
    assert fixed.at(2, 1000) == pytest.approx(middle) and fixed.at(4, 1000) == fixed.at(999, 1000) == 1.0
    assert not fixed.follows_run


def test_cosine_is_slow_at_both_ends() -> None:
    values = [gamma({"schedule": "cosine", "start": 0, "end": 1}).at(step, 4) for step in range(5)]
    assert values[1] == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert values[1] + values[3] == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-1, "greater than or equal to 0"),
        (10, "less than 10"),
        (float("nan"), "finite number"),
        (True, "a number, or a schedule such as"),
        ("x", "a number, or a schedule such as"),
        ({"schedule": "linear", "start": 1, "end": -1}, "greater than or equal to 0"),
        ({"schedule": "linear", "start": 11, "end": 1}, "less than 10"),
        ({"schedule": "linear", "start": 1}, "needs end"),
        ({"start": 1, "end": 2}, 'needs schedule = "linear"'),
        ({"schedule": "exponential", "start": 1, "end": 0}, "above 0"),
        ({"schedule": "linear", "start": 1, "end": 2, "steps": 0}, "greater than or equal to 1"),
        ({"schedule": "lienar", "start": 1, "end": 2}, "'constant', 'linear', 'cosine' or 'exponential'"),
    ],
)
def test_what_is_wrong_is_refused_with_a_reason(value: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        gamma(value)
    assert reason in str(caught.value)


@given(st.sampled_from(["linear", "cosine", "exponential"]), st.floats(0.01, 9.9), st.floats(0.01, 9.9), st.data())
def test_every_value_lies_between_the_ends_and_survives_a_recipe(
    schedule: str, start: float, end: float, data: st.DataObject
) -> None:
    steps, value = data.draw(st.integers(1, 10**6)), gamma({"schedule": schedule, "start": start, "end": end})
    at = value.at(data.draw(st.integers(0, steps)), steps)
    assert min(start, end) * (1 - 1e-12) <= at <= max(start, end) * (1 + 1e-12)
    table = dump_settings(Weights(gamma=value))
    assert parse_settings(Weights, table).gamma == value


def test_show_and_search_find_it() -> None:
    (shown,) = settings_help(Weights)
    assert (shown.type, shown.default, shown.bounds) == ("number | { schedule, start, end, steps }", "1.0", "≥ 0 < 10")

    class Outer(ganrun.Settings):
        all: tuple[Weights, ...] = (Weights(), Weights())

    assert list(schedules_in(Outer())) == [Scheduled(start=1.0)] * 2
