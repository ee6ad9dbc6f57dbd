"""The verdict on a published score."""

from __future__ import annotations

import json
import math
import tomllib

import pytest
from hypothesis import given, strategies as st

import ganrun
from ganrun import Metric, Score
from ganrun.contracts.settings import parse_settings
from ganrun.recipe.shipped import shipped_recipes
from ganrun.testing import assert_conforms, train
from ganrun_likelihood.metric import DYNAMIC, STATIC
from ganrun_target.observer import Target
from ganrun_target.verdict import ENTRIES, Verdict, facts_of

PROTOCOL = {
    "generated": 50,
    "real": 40,
    "split": "train",
    "extractor": "net",
    "sample_shape": "1×8×8",
    "resize": "none",
}
ALIKE = {
    "data": {"use": "digits", "size": 8},
    "shape": [1, 8, 8],
    "samples": 50,
    "real_samples": 40,
    "split": "train",
    "features": "net",
}
"""What a publication states whose score was measured as `distance` is."""


class Fixed(Metric):
    """Two constant scores."""

    def measure(self, evaluation):
        return [Score("distance", 20.0, False, PROTOCOL), Score("quality", 7.0, True, {"generated": 50})]


class FixedPlugin:
    @ganrun.hookimpl
    def ganrun_metrics(self):
        return {"fixed": Fixed}


TABLES = {
    "train": {"steps": 1, "batch_size": 4, "device": "cpu"},
    "data": {"use": "digits", "size": 8},
    "loss": {"use": "gan", "latent_size": 2},
    "generator": {"use": "mlp", "hidden": [4]},
    "discriminator": {"use": "mlp", "hidden": [4]},
    "metric": [{"use": "fixed"}],
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}


def run_with(tmp_path, **target):
    tables = {**TABLES, "target": {"source": "Table 1", **target}}
    run = train(tables, tmp_path / "run", FixedPlugin())
    return run.messages, json.loads((run.directory / "summary.json").read_text())["target"]


def test_the_observer_conforms():
    assert_conforms("observer", Target, {"metric": "fid", "value": 1.0, "source": "somewhere"})


# ── Measured alike ────────────────────────────────────────────────────────────────────────────────────────


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
def test_worse_by_more_than_the_tolerance_misses_and_better_never_does(metric, value, tolerance, reached):
    (score,) = [score for score in Fixed(None, None).measure(None) if score.name == metric]
    facts = facts_of(score, {"use": "digits"}, {})
    verdict = Verdict(score, value, tolerance, facts, facts)
    assert verdict.comparable is True and verdict.reached is reached
    assert verdict.text("it").startswith(f"target {'reached' if reached else 'missed'}: {metric} is")


def test_a_verdict_is_printed_and_in_the_summary_with_what_the_publication_leaves_open(tmp_path):
    messages, summary = run_with(tmp_path, metric="distance", value=17.5, tolerance=1.0, **ALIKE)
    assert messages[-1] == (
        "target missed: distance is 20, published distance 17.5 (Table 1); 2.5 worse, where 1 is allowed; "
        "not stated: averaged, checkpoint, protocol.resize"
    )
    assert (summary["measured"], summary["reached"], summary["comparable"]) == (20.0, False, True)
    assert summary["differences"] == {} and summary["not_stated"] == ["averaged", "checkpoint", "protocol.resize"]
    assert summary["samples"] == 50 and summary["data"] == {"use": "digits", "size": 8}
    whole = {**ALIKE, "averaged": True, "checkpoint": "last", "protocol": {"resize": "none"}}
    (tmp_path / "whole").mkdir()
    messages, _ = run_with(tmp_path / "whole", metric="distance", value=20.0, **whole)
    assert messages[-1] == "target reached: distance is 20, published distance 20 (Table 1)"


# ── Measured differently, or nobody knows how ─────────────────────────────────────────────────────────────

OTHERS = {
    "data": st.sampled_from(["cifar10", {"use": "mnist"}, {"use": "digits", "size": 16}, {"use": "digits", "no": 1}]),
    "shape": st.sampled_from([[1, 8, 9], [3, 8, 8], [8, 8], [64]]),
    "samples": st.integers(1, 10**6).filter(lambda count: count != 50),
    "real_samples": st.integers(1, 10**6).filter(lambda count: count != 40),
    "split": st.just("test"),
    "features": st.sampled_from(["inception-v3-compat", "Net", "net "]),
    "averaged": st.just(False),
    "checkpoint": st.just("best"),
    "protocol": st.sampled_from([{"resize": "bicubic"}, {"generatd": 50}, {"seed": 3}]),
}
"""Values of each statement that are not true of `distance`."""

SCORE = Score("distance", 20.0, False, {**PROTOCOL, "ema_decay": "0.999"})


def judged(score: Score = SCORE, *, files: bool | None = None, value: float = 1e9, **stated) -> Verdict:
    """The verdict on a target that any score would reach."""
    settings = parse_settings(Target.Settings, {"metric": "distance", "value": value, "source": "", **stated})
    facts = facts_of(score, {"use": "digits", "size": 8}, {} if files is None else {"published": files})
    return Verdict(score, value, 0.0, settings.statements(), facts)


@given(st.data())
def test_one_statement_that_is_not_true_of_the_score_is_named_and_leaves_no_verdict(data):
    name = data.draw(st.sampled_from(sorted(OTHERS)))
    verdict = judged(**{**ALIKE, name: data.draw(OTHERS[name])})
    assert verdict.reached is None and verdict.comparable is False
    ((differing, values),) = verdict.differences.items()
    assert differing.partition(".")[0] == name
    assert f"{differing}: " in verdict.text("it") and verdict.text("it").startswith("target not comparable: ")
    assert values["published"] != values["measured"] and json.dumps(verdict.to_json(), allow_nan=False)


@given(st.sets(st.sampled_from(sorted(ALIKE)), min_size=1))
def test_without_a_necessary_statement_there_is_no_verdict_and_the_message_names_it(absent):
    verdict = judged(**{name: value for name, value in ALIKE.items() if name not in absent})
    assert verdict.reached is None and verdict.comparable is None and set(verdict.missing) == absent
    assert verdict.text("it").startswith("target not judged: ") and all(
        f"{name} (" in verdict.text("it") for name in absent
    )


@pytest.mark.parametrize("entry", ENTRIES.values())
def test_only_what_the_score_depends_on_has_to_be_stated(entry):
    """An Inception Score has no real images; the accuracy of a code has no generated ones."""
    (setting,) = [name for name, of in ENTRIES.items() if of == entry]
    score = Score("distance", 20.0, False, {name: value for name, value in PROTOCOL.items() if name != entry})
    assert judged(score, **{name: value for name, value in ALIKE.items() if name != setting}).reached is True
    assert judged(score, **ALIKE).differences == {setting: {"published": judged().facts[setting], "measured": None}}, (
        "a statement about what the score has not"
    )


def test_files_that_are_not_the_published_ones_are_other_data():
    assert judged(**ALIKE, files=True).reached is True and judged(**ALIKE, files=None).reached is True
    assert judged(**{**ALIKE, "data": "ganrun:digits"}).reached is True, "the data's full name"
    verdict = judged(**ALIKE, files=False)
    assert verdict.reached is None
    assert "data files: the published ones published, other ones here" in verdict.text("it")


def test_statistics_in_place_of_real_images_are_known_by_their_digest_alone():
    protocol = {**PROTOCOL, "real": "not stated", "real_statistics": "abc"}
    del protocol["split"]
    score = Score("distance", 20.0, False, protocol)
    stated = {name: value for name, value in ALIKE.items() if name not in ("real_samples", "split")}
    assert judged(score, **stated).missing == ["protocol.real_statistics"]
    assert judged(score, **stated, protocol={"real_statistics": "abc"}).reached is True
    assert judged(score, **stated, protocol={"real_statistics": "abd"}).comparable is False
    assert judged(score, **ALIKE, protocol={"real_statistics": "abc"}).comparable is False, "nobody knows how many"


def test_networks_that_have_not_grown_to_their_full_structure_reach_nothing():
    score = Score("distance", 1.0, False, {**PROTOCOL, "structure.generator": "4×4"})
    settings = parse_settings(Target.Settings, {"metric": "distance", "value": 20.0, "source": "x", **ALIKE})
    verdict = Verdict(score, 20.0, 0.0, settings.statements(), facts_of(score, {"use": "digits", "size": 8}, {}))
    assert verdict.reached is None and "structure.generator: the full one published, 4×4 here" in verdict.text("x")


def test_a_nan_reaches_nothing():
    verdict = judged(Score("distance", math.nan, False, PROTOCOL), **ALIKE)
    assert verdict.reached is None and verdict.comparable is True and verdict.to_json()["measured"] is None
    assert verdict.text("it").startswith("target not judged: distance is nan, published it")


def test_a_target_of_earlier_versions_gives_no_verdict_and_says_what_to_add(tmp_path):
    messages, summary = run_with(tmp_path, metric="distance", value=90.0, tolerance=1.0)
    assert messages[-1] == (
        "target not judged: distance is 20, published distance 90 (Table 1); "
        "[target] does not state data (digits here), shape (1×8×8 here), samples (50 here), real_samples (40 here), "
        "split (train here), features (net here): add what was published"
    )
    assert summary["reached"] is None and summary["comparable"] is None and summary["measured"] == 20.0


def test_a_score_that_the_run_does_not_measure_is_not_judged(tmp_path, caplog):
    messages, summary = run_with(tmp_path, metric="fid", value=17.5)
    assert summary["reached"] is None and summary["measured"] is None
    assert messages[-1] == "target not judged: fid 17.5 (Table 1) was not measured; the scores are distance, quality"
    warning = "the target cannot be judged: fid is not measured, only distance, quality"
    assert caplog.messages.count(warning) == 1


def test_a_resumed_run_without_new_scores_keeps_its_verdict(tmp_path):
    settings = {"metric": "distance", "value": 25.0, "source": "", **ALIKE}
    run = train({**TABLES, "target": settings}, tmp_path / "run", FixedPlugin())
    judged_then = run.notes.pop("target")
    Target(parse_settings(Target.Settings, settings)).run_started(run)
    assert run.notes["target"] == judged_then and judged_then["reached"] is True


# ── The targets of the recipes that come with ganrun ──────────────────────────────────────────────────────

SHIPPED = {
    path.name: tables
    for path in sorted(shipped_recipes().glob("*.toml"))
    if "target" in (tables := tomllib.loads(path.read_text(encoding="utf-8")))
}

BEST_OF_RUN = (
    "biggan_cifar10.toml",
    "biggan_diffaugment_cifar10.toml",
    "biggan_diffaugment_cifar10_10percent.toml",
    "sagan_cifar10.toml",
    "stylegan2_ada_cifar10.toml",
    "stylegan2_cifar10.toml",
)
TRANSLATIONS = tuple(name for name in SHIPPED if name.startswith(("pix2pix_", "cyclegan_")))
COMPARABLE = {
    "lsgan_celeba.toml": False,
    **dict.fromkeys(TRANSLATIONS, None),
    "infogan_mnist.toml": None,
    "stylegan2_ffhq256.toml": None,
    **dict.fromkeys(BEST_OF_RUN, False),
}
"""Whether a shipped recipe's score is measured as its target was, where it is not: other data or the best of several
checkpoints; or nobody says how, by which network's features, or whose the pictures in a folder are."""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_target_states_what_was_published_and_its_recipe_measures_alike(name):
    recipe = SHIPPED[name]
    settings = parse_settings(Target.Settings, recipe["target"])
    counts = {
        "cifar10": ({"train": 50_000, "test": 10_000}, "3×32×32"),
        "celeba": ({"train": 202_599}, "3×64×64"),
        "image-folder": ({"train": 70_000}, "3×256×256"),
        "mnist": ({"train": 10_000}, "1×28×28"),
        "paired-folders": ({"train": 0, "test": {"pix2pix_facades.toml": 106}.get(name, 200)}, "3×256×256"),
        "unpaired-folders": ({"train": 0, "test": {"cyclegan_horse2zebra.toml": 140}.get(name, 238)}, "3×256×256"),
    }
    real, shape = counts[recipe["data"]["use"]]
    decay = 0.0 if recipe.get("ema") is False else 0.999
    protocol = {"real": real["train"], "split": "train", "sample_shape": shape, "ema_decay": decay}
    if settings.metric == "fid":
        (fid,) = [metric for metric in recipe["metric"] if metric["use"] == "fid"]
        split = fid.get("split", "train")
        protocol |= {"split": split, "real": real[split]}
        protocol |= {"generated": fid["samples"], "extractor": "inception-v3-compat"}
    if settings.metric == "log_likelihood":
        (metric,) = [metric for metric in recipe["metric"] if metric["use"] == "log-likelihood"]
        pixels = (DYNAMIC if metric["binarize"] else STATIC).pixels
        protocol |= {"split": "test", "pixels": pixels, "importance_samples": metric["importance_samples"]}
    facts = facts_of(Score(settings.metric, 0.0, False, protocol), recipe["data"], {"published": True})
    verdict = Verdict(Score(settings.metric, 0.0, False, protocol), 1.0, 0.0, settings.statements(), facts)
    assert verdict.comparable is COMPARABLE.get(name, True), verdict.text("it")
    assert set(verdict.differences) <= {"checkpoint"} or name not in BEST_OF_RUN, "nothing else differs"
    assert "shape" in verdict.stated and ("data" in verdict.stated or recipe["data"]["use"] == "image-folder")
