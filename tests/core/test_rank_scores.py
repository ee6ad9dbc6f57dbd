"""What two ranks measure together is what one process measures, by every installed metric."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.families import BASE, ENCODED, FAMILIES, MLP, POINTS, gan
from tests.pair import Pair, one_thread

from ganrun import load_registry, ranks
from ganrun.testing import build, measured

SAMPLES = 1100
"""More than two batches of an evaluation."""

DRAWN = {"data": {"use": "synthetic", "size": 8, "classes": 3, "count": 1200, "test_count": 600}}
WITH_FEATURES = ("fid", "kid", "precision-recall", "density-coverage", "inception-score", "nearest-neighbours")
SMALL = {"kid": {"subset_size": 100, "subsets": 5}}

PAIRED = FAMILIES["pix2pix"]

CASES: dict[str, dict[str, Any]] = {
    "features, and codes that are read": {
        **DRAWN,
        **MLP,
        "loss": {"use": "infogan", "noise_size": 4, "categorical": [3]},
        "metric": [
            *(
                {"use": use, "features": "classifier", "samples": SAMPLES, **SMALL.get(use, {})}
                for use in WITH_FEATURES
            ),
            {"use": "code-accuracy", "samples": SAMPLES},
        ],
    },
    "pixels, paths, reconstructions and likelihoods": {
        "data": {**DRAWN["data"], "size": 32},
        **gan("vae", likelihood="bernoulli"),
        **ENCODED,
        "metric": [
            {"use": "reconstruction"},
            {"use": "ms-ssim", "samples": 600},
            {"use": "sliced-wasserstein", "samples": 600},
            {"use": "perceptual-path-length", "features": "classifier", "samples": 300},
            {"use": "log-likelihood", "binarize": True, "importance_samples": 3, "real_samples": 520},
        ],
    },
    "targets": {**PAIRED.tables, "data": {"use": "edges", "size": 16}, "metric": [{"use": "paired"}]},
    "modes": {**gan(), **MLP, **POINTS, "metric": [{"use": "modes-covered", "samples": SAMPLES}]},
}


def scores(tables: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """The scores of the weights that training begins with, as the first rank has them."""
    run = build({**BASE, **tables}, folder / f"rank{ranks().number}", *PAIRED.plugins)
    return {score.name: score.value for score in measured(run.metrics, run.evaluation(ranks()))}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_measure_what_one_does(case: str, pair: Pair, tmp_path: Path) -> None:
    first, second = pair(scores, CASES[case], tmp_path)
    with one_thread():
        assert scores(CASES[case], tmp_path / "alone") == first
    assert len(first) >= len(CASES[case]["metric"]) and not second


def test_no_metric_is_forgotten() -> None:
    tried = {metric["use"] for case in CASES.values() for metric in case["metric"]}
    assert {each.name for each in load_registry().components("metric")} == tried
