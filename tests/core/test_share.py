"""A share of the training data: which records it is, who sees it, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from ganrun import DataError, RequestError, Run, Split, to_unit_range
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.training.builder import build_run
from ganrun.training.drawing import Drawing
from ganrun.training.runner import execute
from ganrun.training.share import share_of, share_rows

RECIPE = """\
data = { use = "digits", size = 8 }
loss = { use = "gan", latent_size = 2 }
generator = { use = "mlp", hidden = [2] }
discriminator = { use = "mlp", hidden = [2] }
mlflow = false
samples = false
progress = false
[train]
steps = 2
batch_size = 16
device = "cpu"
"""

PLACE = f"r.toml:{RECIPE.count(chr(10)) + 1}"
"""Of the line after the recipe."""

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80)
SHARES = st.floats(0.01, 1)


def built(folder: Path, *overrides: str, more: str = "", **chosen: Any) -> Run:
    path = folder / "r.toml"
    path.write_text(RECIPE + more)
    return build_run(load_recipe(path, load_registry(), overrides), folder / "run", **chosen)


# ── Which records ─────────────────────────────────────────────────────────────────────────────────────────


@given(LABELS, SHARES, st.integers(0, 5))
def test_a_share_has_its_size_and_of_balanced_classes_the_same_number(labels, share, seed):
    balanced = np.tile(np.arange(5), len(labels))
    rows = share_rows(len(balanced), balanced, share, seed)
    assert len(rows) == round(share * len(balanced)) and (np.diff(rows) > 0).all()
    counts = np.bincount(balanced[rows], minlength=5)
    assert counts.max() - counts.min() <= 1


@given(LABELS, SHARES, st.integers(0, 5))
def test_each_class_keeps_its_proportion(labels, share, seed):
    """Each count is that of one share, rounded, except at the last place, where classes tie."""
    labels = np.array(labels)
    rows = share_rows(len(labels), labels, share, seed)
    kept, sizes = np.bincount(labels[rows], minlength=5), np.bincount(labels, minlength=5)
    present = sizes > 0
    low, high = (kept[present] - 0.5) / sizes[present], (kept[present] + 0.5) / sizes[present]
    assert low.max() <= high.min() + 1e-12
    assert len(rows) == round(share * len(labels))


@given(LABELS, SHARES, SHARES)
def test_a_smaller_share_is_a_part_of_a_larger_one(labels, one, other):
    small, large = sorted((one, other))
    rows = [set(share_rows(len(labels), np.array(labels), share, 3).tolist()) for share in (small, large)]
    assert rows[0] <= rows[1]


def test_rows_are_the_same_everywhere_and_spread_over_the_split():
    assert share_rows(20, None, 0.25, 0).tolist() == [0, 8, 9, 12, 18]
    assert share_rows(20, None, 0.25, 1).tolist() != share_rows(20, None, 0.25, 0).tolist()
    drawn = np.concatenate([share_rows(100, None, 0.1, seed) for seed in range(400)])
    counts = np.bincount(drawn, minlength=100)  # of each row, binomial: 400 draws with p = 0.1, so 40 ± 6
    assert counts.min() > 40 - 5 * 6 and counts.max() < 40 + 5 * 6


def test_records_stay_whole_unless_the_loss_takes_their_parts_separately():
    rows = np.arange(30)
    split = Split(rows[:, None].astype("f4"), rows % 3, {"source": rows[:, None].astype("f4")})
    whole = share_of(split, 0.5, 0)
    assert np.array_equal(whole.images, whole.beside["source"])
    assert np.array_equal(whole.images[:, 0] % 3, whole.labels)
    longer = Split(split.images, split.labels, {"source": np.arange(50, dtype="f4")[:, None]})
    parts = share_of(longer, 0.5, 0, paired=False)
    assert np.array_equal(parts.images, whole.images)
    assert len(parts.beside["source"]) == 25 and not np.array_equal(parts.beside["source"][:15], parts.images)
    assert share_of(split, 1, 0) is split


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_draws_the_share_alone_and_everything_else_sees_the_whole(tmp_path):
    run = built(tmp_path, "train.share=0.1")
    assert len(run.training_split) == 144 and len(run.data.split("train")) == 1437
    assert run.environment["data"]["counts"] == {"train": 1437, "test": 360}
    allowed = {image.tobytes() for image in to_unit_range(torch.from_numpy(run.training_split.images)).numpy()}
    drawing, phase = Drawing(run), run.phases[0]
    drawn = [image.contiguous().numpy().tobytes() for _ in range(9) for image in drawing(phase).images]
    assert len(drawn) == 144 and set(drawn) == allowed


def test_a_run_is_continued_only_on_its_own_share(tmp_path):
    execute(built(tmp_path, "train.share=0.1"))
    for other in ("train.share=0.2", "train.share=1.0", "train.share_seed=1"):
        overrides = ["train.share=0.1", other, "train.steps=3"]
        with pytest.raises(RequestError, match=other.partition("=")[0]):
            built(tmp_path, *overrides, resume=True)
    assert built(tmp_path, "train.share=0.1", "train.steps=3", resume=True).resumed


def test_a_share_smaller_than_a_batch_is_refused_at_its_line(tmp_path):
    with pytest.raises(DataError) as caught:
        built(tmp_path, more="share = 0.01\n")
    text = str(caught.value)
    assert "the share 0.01 of its train split has 14 images, and a batch takes 16 different ones" in text
    assert "lower [train] batch_size to 14, or raise [train] share" in text
    assert str(caught.value.where).endswith(PLACE)
    assert not (tmp_path / "run").exists()


def test_a_class_that_the_share_loses_is_told(tmp_path, caplog):
    built(tmp_path, "train.batch_size=4", more="share = 0.003\n")
    assert f"{PLACE}: the share 0.003 of the train split has no record of 6 classes; the first is " in caplog.text


def test_a_share_smaller_than_the_batch_of_a_later_stage_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        built(tmp_path, more="share = 0.02\n[[stage]]\nfrom = 1\nbatch_size = 64\n")
    assert "has 29 images, and a batch takes 64 different ones; lower [[stage]] batch_size to 29" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", ["0", "1.1", "-0.1", "nan", '"half"'])
def test_a_share_is_above_0_and_up_to_1(tmp_path, share):
    with pytest.raises(RequestError, match=rf"{re.escape(PLACE)}: \[train\] share = .*input should be"):
        built(tmp_path, more=f"share = {share}\n")
    with pytest.raises(RequestError, match="share"):
        built(tmp_path, f"train.share={share}")
