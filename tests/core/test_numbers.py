"""Non-finite numbers and name collisions in a run; and the validity of its JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import ganrun
from ganrun import (
    AdversarialLoss,
    Buffer,
    Data,
    DataSpec,
    Extractor,
    FeatureMetric,
    Metric,
    ModelSpec,
    Observer,
    Score,
    Split,
    Terms,
    hookimpl,
    json_text,
    observes,
)
from ganrun.base.errors import ContractError, IncompatibleError, NonFiniteError
from ganrun.inference.evaluation import measured
from ganrun.testing import build, evaluation_on, train
from ganrun.training.runner import execute


class Odd(AdversarialLoss):
    """A loss whose values are odd from a step on."""

    class Settings(ganrun.Settings):
        latent_size: int = 4
        value: str = "nan"
        minimised: bool = False
        from_step: int = 3

    def discriminator(self, nets, batch):
        score = nets.discriminator(batch.images).mean()
        odd = torch.where(batch.step >= self.settings.from_step, float(self.settings.value), 0.5)
        both = {"plain": score, "odd": odd} if self.settings.minimised else {"plain": score}
        return Terms(both, report={} if self.settings.minimised else {"odd": odd, "right": (score > -1e9)})

    def generator(self, nets, batch):
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents)).mean()})


class Twins(Odd):
    """Two phases, of which one curve would be the other's."""

    def phases(self):
        first, second = super().phases()
        return first, replace(second, name="discriminator.plain")

    def discriminator(self, nets, batch):
        score = nets.discriminator(batch.images).mean()
        return Terms({"plain": score, "other": score * 2})


class Nothing(Metric):
    """A score that is not a number, like everything else about it."""

    def measure(self, evaluation):
        return [Score("nothing", math.nan, False, {"samples": math.inf}, error=math.nan, floor=math.nan)]


class Recorder(Observer):
    """Records a number, and adds to the summary, under a name."""

    class Settings(ganrun.Settings):
        name: str = "mine/value"
        entry: str = "mine"

    @observes
    def measured(self, run):
        run.record({self.settings.name: math.nan})
        run.add_to_summary(self.settings.entry, {"value": math.nan, "values": [np.float32("inf"), torch.tensor(2.0)]})


class Plugin:
    @hookimpl
    def ganrun_losses(self):
        return {"odd": Odd, "twins": Twins}

    @hookimpl
    def ganrun_metrics(self):
        return {"nothing": Nothing}

    @hookimpl
    def ganrun_observers(self):
        return {"recorder": Recorder}


def tables(loss: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "train": {"steps": 6, "batch_size": 4, "device": "cpu", "log_every_steps": 2},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "odd", "latent_size": 4, **loss},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
        **more,
    }


def strictly(text: str) -> Any:
    """The content of JSON without the words NaN and Infinity, which are none of JSON's."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


# ── What is not finite ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_only_reported_ends_no_run_and_is_named_once(tmp_path: Path, value: str, caplog: Any) -> None:
    run = train(tables({"value": value}), tmp_path / "run", Plugin())
    records = [record for record in run.directory.records() if "loss/discriminator" in record.values]
    odd = [record.values["loss/discriminator.odd"] for record in records]
    assert [math.isfinite(value) for value in odd] == [True, False, False]
    assert [record.values["loss/discriminator.right"] for record in records] == [1.0] * 3
    assert caplog.text.count("loss/discriminator.odd is") == 1
    lines = [strictly(line) for line in run.directory.metrics_path.read_text().splitlines()]
    assert lines[-1]["loss/discriminator.odd"] is None


@pytest.mark.parametrize("every, kept", [(2, "step_00000002"), (100, "no checkpoint")])
def test_what_is_minimised_ends_the_run_and_is_recorded_before(tmp_path: Path, every: int, kept: str) -> None:
    run = build(tables({"minimised": True}, checkpoints={"every_steps": every}), tmp_path / "run", Plugin())
    with pytest.raises(NonFiniteError, match=rf"after step 2 and by step 4: .*discriminator\.odd = nan(.|\n)*{kept}"):
        execute(run)
    last = run.directory.records()[-1]
    assert last.step == 4 and math.isnan(last.values["loss/discriminator"]) and "loss/generator" in last.values


def test_all_json_of_a_run_is_json(tmp_path: Path) -> None:
    run = train(tables({}, metric=[{"use": "nothing"}], recorder={}, checkpoints={}), tmp_path / "run", Plugin())
    for path in run.directory.path.rglob("*.json"):
        strictly(path.read_text())
    for line in run.directory.metrics_path.read_text().splitlines():
        strictly(line)
    summary = run.directory.summary()
    assert summary["scores"] == {"nothing": None} and summary["mine"] == {"value": None, "values": [None, 2.0]}
    assert str(run.scores["nothing"]) == "nothing not a number"
    (score,) = run.directory.records()[-1].evaluation
    assert math.isnan(score.value) and score.error is score.floor is None and score.protocol["samples"] == "inf"


CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.builds(Path, st.just("a")),
    lambda each: st.lists(each) | st.dictionaries(st.text(st.characters()), each),
)


@given(CONTENT)
def test_any_content_becomes_json_that_can_be_written(content: Any) -> None:
    text = json_text(content)
    read = strictly(text.encode().decode())
    assert json_text(read) == text, "finite numbers, texts, lists and tables are what they were"


class Grey(Data):
    """Pictures of one grey each; the first of 300 is black, as are all held-out ones."""

    def spec(self) -> DataSpec:
        return DataSpec((1, 4, 4))

    def prepare(self) -> None:
        pass

    def split(self, name: str) -> Split:
        shades = np.r_[0, np.full(299, 100)] if name == "train" else np.zeros(10)
        return Split(
            np.broadcast_to(
                shades.astype(np.uint8)[:, None, None, None], (300 if name == "train" else 10, 1, 4, 4)
            ).copy()
        )


class Inverse(Extractor):
    """One over the brightness: infinite for a black picture. Its logits are always finite."""

    outputs = ("features", "logits")
    suffix, key, protocol = "inverse", "inverse", {"extractor": "inverse"}

    def __call__(self, images):
        shade = images.flatten(1).float().mean(1, keepdim=True)
        return {"features": (1 / shade).half(), "logits": shade}


class Mean(FeatureMetric):
    """The mean of an output, on samples or real images."""

    def __init__(self, split: str | None, output: str) -> None:
        super().__init__(None, ModelSpec((1, 4, 4)), Inverse(None, ModelSpec((1, 4, 4))))
        self.split, self.output = split, output

    def watch(self, evaluation):
        if self.split is None:
            self.found = evaluation.collect(Buffer(), self.output, count=300, extractor=self.extractor)
        else:
            self.found = evaluation.collect_real(Buffer(), self.output, split=self.split, extractor=self.extractor)

    def measure(self, evaluation):
        return [Score("mean", float(self.found.tensors()[0].mean()), True, {})]


@pytest.mark.parametrize(
    "split, shade, message",
    [
        ("train", 1.0, r"features that are not finite for 1 of \d+ pictures in a batch of train images"),
        ("test", 1.0, r"for 10 of 10 pictures in a batch of test images"),
        (None, -1.0, r"its extractor Inverse.*for 256 of 256 pictures in a batch of samples.*float32"),
    ],
)
def test_features_that_are_not_finite_are_never_scored(split: str | None, shade: float, message: str) -> None:
    def evaluation():
        return evaluation_on(
            Grey(None), lambda count: (torch.zeros(count, 1), torch.full((count, 1, 4, 4), shade)), step=1
        )

    with pytest.raises(NonFiniteError, match=message):
        measured([Mean(split, "features")], evaluation())
    assert measured([Mean(split, "logits")], evaluation())[0].value >= 0, "what no metric reads is not looked at"


# ── Names that are taken ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["loss/generator", "grad/mine", "augmentation/d.p", "perf/mine", "lr/x", "eval/fid", "step", "mine"]
)
def test_an_observer_records_in_no_section_of_the_engine(tmp_path: Path, name: str, caplog: Any) -> None:
    run = train(tables({}, recorder={"name": name}), tmp_path / "run", Plugin())
    assert f'records "{name}"' in caplog.text and "is left out" in caplog.text
    assert len(run.directory.records()) == 3, "its own numbers are whole"


def test_two_phases_of_one_curve_are_refused_before_the_run(tmp_path: Path) -> None:
    both = r"loss/discriminator and loss/discriminator\.plain would share the curve loss/discriminator\.plain"
    with pytest.raises(IncompatibleError, match=both):
        build(tables({"use": "twins"}), tmp_path / "run", Plugin())


def test_an_observer_replaces_no_entry_of_the_summary(tmp_path: Path, caplog: Any) -> None:
    run = train(tables({}, recorder={"entry": "status"}), tmp_path / "run", Plugin())
    assert 'adds "status" to the summary' in caplog.text and run.directory.status == "finished"
    with pytest.raises(ContractError):
        run.add_to_summary("error", "none")


def test_two_metrics_of_one_score_are_both_named() -> None:
    evaluation = evaluation_on(Grey(None), lambda count: (torch.zeros(count, 1), torch.ones(count, 1, 4, 4)), step=1)
    with pytest.raises(ContractError, match=r"metric\.1: .*named mean, as metric\.0 does"):
        measured([Mean("train", "logits"), Mean(None, "logits")], evaluation)


@pytest.mark.parametrize("value", ["high", None, 10**400, [1.0, 2.0]], ids=["text", "none", "huge", "list"])
def test_a_score_that_is_no_number_is_its_metrics_fault(value: Any) -> None:
    class Wordy(ganrun.Metric):
        def measure(self, evaluation: Any) -> list[ganrun.Score]:
            return [ganrun.Score("quality", value, True, {})]

    evaluation = evaluation_on(Grey(None), lambda count: (torch.zeros(count, 1), torch.ones(count, 1, 4, 4)), step=1)
    with pytest.raises(ContractError, match=r"metric\.0: .*the score quality is not a number"):
        measured([Wordy(None, ModelSpec((1, 4, 4)))], evaluation)
