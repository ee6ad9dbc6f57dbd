"""The testing kit for authors of plugins.

    from ganrun.testing import assert_conforms, build, train

    def test_my_generator():
        assert_conforms("generator", StyleGenerator)

    def test_it_trains(tmp_path):
        run = train({"train": {"steps": 2}, "generator": {"use": "style"}, …}, tmp_path / "run", my_plugin)

`assert_conforms` checks a component against its contract, numerically; `build` and `train` make real runs of small
recipes, with plugins that need not be installed; `evaluation_on` and `measured` score made-up samples with a metric.
`RecordedGraph` stands for a CUDA graph on the CPU.
"""

from __future__ import annotations

from ganrun.inference.evaluation import measured
from ganrun.testing.conformance import assert_conforms
from ganrun.testing.evaluations import evaluation_on
from ganrun.testing.recording import RecordedGraph
from ganrun.testing.runs import build, registry_with, train

__all__ = ["RecordedGraph", "assert_conforms", "build", "evaluation_on", "measured", "registry_with", "train"]
