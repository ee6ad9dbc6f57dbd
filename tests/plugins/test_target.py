"""The verdict on a published score."""

from __future__ import annotations

import json

import pytest

import ganrun
from ganrun import Metric, Score
from ganrun.testing import assert_conforms, train
from ganrun_target.observer import Target


class Fixed(Metric):
    """Two constant scores."""

    def measure(self, evaluation):
        return [Score("distance", 20.0, False, {"n": 1}), Score("quality", 7.0, True, {"n": 1})]


class FixedPlugin:
    @ganrun.hookimpl
    def ganrun_metrics(self):
        return {"fixed": Fixed}


def run_with(tmp_path, **target):
    tables = {
        "train": {"steps": 1, "batch_size": 4, "device": "cpu"},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "gan", "latent_size": 2},
        "generator": {"use": "mlp", "hidden": [4]},
        "discriminator": {"use": "mlp", "hidden": [4]},
        "metric": [{"use": "fixed"}],
        "target": {"source": "Table 1", **target},
        "mlflow": False,
        "progress": False,
        "samples": False,
    }
    run = train(tables, tmp_path / "run", FixedPlugin())
    return run.messages, json.loads((run.directory / "summary.json").read_text()).get("target")


def test_the_observer_conforms():
    assert_conforms("observer", Target, {"metric": "fid", "value": 1.0, "source": "somewhere"})


@pytest.mark.parametrize(
    ("metric", "value", "tolerance", "reached"),
    [
        ("distance", 20.0, 0.0, True),
        ("distance", 19.0, 0.5, False),
        ("distance", 19.5, 0.5, True),
        ("distance", 90.0, 0.0, True),
        ("quality", 7.0, 0.0, True),
        ("quality", 7.5, 0.25, False),
        ("quality", 7.25, 0.25, True),
        ("quality", 1.0, 0.0, True),
    ],
)
def test_worse_by_more_than_the_tolerance_misses_and_better_never_does(tmp_path, metric, value, tolerance, reached):
    messages, summary = run_with(tmp_path, metric=metric, value=value, tolerance=tolerance)
    assert summary["reached"] is reached
    assert summary["measured"] == {"distance": 20.0, "quality": 7.0}[metric]
    (verdict,) = [message for message in messages if message.startswith("target")]
    assert verdict.startswith(f"target {'reached' if reached else 'missed'}: {metric} is") and "(Table 1)" in verdict


def test_a_miss_says_by_how_much(tmp_path):
    messages, _ = run_with(tmp_path, metric="distance", value=17.5, tolerance=1.0)
    assert messages[-1] == (
        "target missed: distance is 20, published distance 17.5 (Table 1); 2.5 worse, where 1 is allowed"
    )


def test_a_score_that_the_run_does_not_measure_is_not_judged(tmp_path, caplog):
    messages, summary = run_with(tmp_path, metric="fid", value=17.5)
    assert summary is None
    assert messages[-1] == "target not judged: fid 17.5 (Table 1) was not measured; the scores are distance, quality"
    warning = "the target cannot be judged: fid is not measured, only distance, quality"
    assert caplog.messages.count(warning) == 1
