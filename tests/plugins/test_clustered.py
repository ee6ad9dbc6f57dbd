"""The clustered GAN: k-means on data whose clusters are known, the objective against cgan's, and whole runs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import ganrun
from ganrun import Batch, DataSpec, IncompatibleError, Nets, Split
from ganrun.rehearsal.losses import try_prepare
from ganrun.testing import assert_conforms, train
from ganrun_conditional.clusters import ClusteredGan
from ganrun_conditional.losses import ConditionalGan

CPU = torch.device("cpu")
CENTRES = np.array([[-3.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
COUNTS = (50, 30, 20)
NETS = Nets(
    {
        "discriminator": lambda x, labels: x.flatten(1)[:, :1] + 10 * labels[:, None],
        "generator": lambda z, labels: z - labels[:, None],
    }
)


def clustered(spec: DataSpec, clusters: int = 3, **settings) -> ClusteredGan:
    return ClusteredGan(ClusteredGan.Settings(noise_size=2, clusters=clusters, **settings), spec)


def three_groups() -> Split:
    """Points around three centres, of which each has its own number."""
    noise = np.random.default_rng(5).normal(0, 0.2, (sum(COUNTS), 2))
    return Split((np.repeat(CENTRES, COUNTS, axis=0) + noise).astype(np.float32))


def prepared(**settings) -> ClusteredGan:
    loss = clustered(DataSpec((2,)), **settings)
    try_prepare(loss, three_groups())
    return loss


@pytest.mark.parametrize("spec", [DataSpec((3, 8, 8)), DataSpec((1, 40, 20), classes=4), DataSpec((2,))])
def test_the_loss_conforms_with_labels_and_without(spec):
    assert_conforms("loss", ClusteredGan, {"noise_size": 5, "clusters": 4}, spec)


def test_separate_groups_are_the_clusters_and_drawn_as_often_as_they_occur():
    loss = prepared()
    own = loss.clusters_of(torch.from_numpy(CENTRES).float())
    assert sorted(own.tolist()) == [0, 1, 2]
    assert torch.allclose(loss.memory.means[own], torch.from_numpy(CENTRES).float(), atol=0.2)
    groups = loss.clusters_of(torch.from_numpy(three_groups().images)).tolist()
    assert groups == np.repeat(own.numpy(), COUNTS).tolist()
    assert loss.memory.class_counts[own].tolist() == list(COUNTS)
    drawn = loss.latents(20_000, CPU)[:, 2:].mean(0)[own]
    assert torch.allclose(drawn, torch.tensor(COUNTS) / sum(COUNTS), atol=0.02)
    assert [factor.name for factor in loss.factors()] == ["noise", "cluster"], "which is no class of the data's"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(2,), (1, 6, 6), (3, 40, 24)]))
def test_an_image_belongs_to_the_nearest_mean(seed, shape):
    """Also in bf16, whose eight bits would not tell near ones apart."""
    random = np.random.default_rng(seed)
    loss = clustered(DataSpec(shape), clusters=7)
    loss.memory.means.copy_(torch.from_numpy(random.normal(size=loss.memory.means.shape)))
    images = random.normal(size=(9, *shape))
    seen = images
    if len(shape) == 3 and shape[1] == 40:  # 40×24 are compared as 16×16
        rows, columns = averaging(40), averaging(24)
        seen = np.einsum("ih,nchw,jw->ncij", rows, images, columns)
    distances = ((seen.reshape(9, 1, -1) - loss.memory.means.double().numpy()) ** 2).sum(-1)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss.clusters_of(torch.from_numpy(images).float()).tolist() == distances.argmin(1).tolist()


def averaging(side: int) -> np.ndarray:
    """Rows of weights that average `side` pixels down to 16 parts, which may overlap by a pixel."""
    weights = np.zeros((16, side))
    for part in range(16):
        first, last = part * side // 16, -((part + 1) * side // -16)
        weights[part, first:last] = 1 / (last - first)
    return weights


def test_the_objective_is_cgans_with_the_clusters_as_labels():
    loss = prepared()
    images = torch.from_numpy(three_groups().images[::17])
    batch = Batch(loss.latents(len(images), CPU), images, torch.zeros(len(images), dtype=torch.int64))
    cgan = ConditionalGan(ConditionalGan.Settings(noise_size=2), DataSpec((2,), classes=3))
    labelled = replace(batch, real_labels=loss.clusters_of(images))
    assert len(labelled.labels.unique()) == 3
    assert loss.discriminator(NETS, batch) == cgan.discriminator(NETS, labelled)
    assert loss.generator(NETS, batch) == cgan.generator(NETS, labelled)
    for slot in ("real_inputs", "generated_inputs"):
        given = () if slot == "real_inputs" else (NETS,)
        own = getattr(loss, slot)("discriminator", *given, batch)
        other = getattr(cgan, slot)("discriminator", *given, labelled)
        assert torch.equal(own.inputs, other.inputs)
        assert torch.equal(own.conditions["labels"], other.conditions["labels"]), "as regularisers see it"


def test_too_few_different_images_are_refused():
    same = Split(np.repeat(three_groups().images[:2], 50, axis=0))
    with pytest.raises(IncompatibleError, match=r"^clusters = 3 are more than the 2 different images; set fewer$"):
        clustered(DataSpec((2,))).prepare(same)


TABLES = {
    "data": {"use": "gaussians", "count": 400},
    "loss": {"use": "clustered-gan", "noise_size": 2, "clusters": 8},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    "checkpoints": {"every_steps": 1, "keep": 2},
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}


def test_data_without_labels_has_clusters_from_the_first_step_to_the_loaded_model(tmp_path):
    """Another seed finds them in another order; a resumed run and a loaded model have those of the run."""
    tables = TABLES | {"train": {"steps": 2, "batch_size": 8, "device": "cpu", "seed": 3}}
    first = train(tables, tmp_path / "run").model
    means, counts = first.loss.memory.means, first.loss.memory.class_counts
    assert counts.sum() == 400 and counts.min() > 0
    assert torch.allclose(means.norm(dim=1), torch.tensor(means.norm(dim=1).mean().item()), rtol=0.05), "of the ring"
    shutil.rmtree(ganrun.checkpoints_in(tmp_path / "run")[-1])
    resumed = train(tables, tmp_path / "run", resume=True).model
    loaded = ganrun.load(tmp_path / "run", device="cpu")
    assert torch.equal(resumed.loss.memory.means, means) and torch.equal(loaded.loss.memory.means, means)
    assert torch.equal(loaded.loss.memory.class_counts, counts)
    assert torch.equal(loaded.sample(5), resumed.sample(5))


def test_more_clusters_than_records_are_refused_at_the_loss(tmp_path):
    tables = TABLES | {"loss": {**TABLES["loss"], "clusters": 401}, "train": {"steps": 1, "batch_size": 8}}
    with pytest.raises(IncompatibleError) as caught:
        train(tables, tmp_path / "run")
    assert "[loss]" in str(caught.value) and "401" in str(caught.value)
