"""Records beside images: batches, flips, unpaired data, metrics, given latents, and whole runs of a translation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    Buffer,
    ContractError,
    Data,
    DataError,
    DataSpec,
    Evaluation,
    Extractor,
    Factor,
    IncompatibleError,
    Loss,
    Metric,
    ModelSpec,
    Nets,
    Phase,
    RequestError,
    Score,
    Slot,
    Split,
    Terms,
    find_saved_model,
    hookimpl,
    join_latents,
    real_images,
    split_latents,
    to_unit_range,
)
from ganrun.inference.given import GivenRecords
from ganrun.testing import assert_conforms, build, evaluation_on, registry_with, train
from ganrun.training.batches import RealBatches, Shuffle
from ganrun_datasets.digits import Digits

CPU = torch.device("cpu")


def edges_of(images: Any) -> Any:
    """Where grey changes to the right, uint8."""
    return np.abs(np.diff(images.astype(np.int16), axis=3, append=0)).astype(np.uint8)


class Edges(Digits):
    """Digits, each with its edges and its mean grey."""

    def spec(self) -> DataSpec:
        plain = super().spec()
        return DataSpec(plain.sample_shape, plain.classes, {"source": plain.sample_shape, "grey": (1,)})

    def split(self, name: str) -> Split:
        plain = super().split(name)
        grey = (plain.images.mean((1, 2, 3)) / 127.5 - 1).astype(np.float32)[:, None]
        return Split(plain.images, plain.labels, {"source": edges_of(plain.images), "grey": grey})


def edges(size: int = 8) -> Edges:
    data = Edges(Edges.Settings(size=size))
    data.prepare()
    return data


class Translation(Loss):
    """Pix2pix in its smallest form: the generator sees the source, and is to paint its target."""

    class Settings(ganrun.Settings):
        latent_size: int = 66
        """2 of noise, and 8×8 edges."""

    slots: ClassVar = {"generator": Slot("generator", averaged=True)}

    def factors(self) -> tuple[Factor, ...]:
        return (Factor("noise", self.latent_size - 64, "noise"), Factor("source", 64, "given"))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("generator", self.generator, trains=("generator",)),)

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        noise = split_latents(batch.latents, self.factors())["noise"]
        made = nets.generator(join_latents({"noise": noise, "source": batch["source"].flatten(1)}, self.factors()))
        return Terms(minimise={"distance": (made - batch.images).abs().mean()})


class SourceGap(Metric):
    """How much brighter real images are than their sources."""

    def watch(self, evaluation: Evaluation) -> None:
        self._kept = evaluation.collect_real(Buffer(), "images", "source", count=50)

    def measure(self, evaluation: Evaluation) -> list[Score]:
        images, source = self._kept.tensors()
        gap = images.float().mean() - source.float().mean() + 0 * evaluation.generated(8).float().mean()
        return [Score("source_gap", float(gap), higher_is_better=False, protocol={"real": 50})]


class Plugin:
    """Offers both."""

    @hookimpl
    def ganrun_data(self) -> dict[str, type[Data]]:
        return {"edges": Edges}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"translation": Translation}


def recipe(**train: Any) -> dict[str, Any]:
    return {
        "name": "translation",
        "train": {"steps": 6, "batch_size": 16, "device": "cpu", "seed": 3, **train},
        "data": {"use": "edges", "size": 8},
        "loss": {"use": "translation"},
        "generator": {"use": "mlp", "hidden": [16]},
        "optimizer": {"lr": 0.01},
        "checkpoints": {"every_steps": 3},
        **dict.fromkeys(("samples", "progress", "mlflow"), False),
    }


def numbered(count: int, *sides: int) -> Any:
    """Row i holds the number i; the first column of an image also says which side is left."""
    rows = np.tile(np.arange(count, dtype=np.uint8).reshape(-1, *(1 for _ in sides)), (1, *sides))
    if len(sides) == 3:
        rows[..., 0] += 100
    return rows


def values(rows: Tensor) -> Tensor:
    """Pixels 0…255."""
    return rows.add(1).mul(127.5).round().long()


# ── The built-in rules ────────────────────────────────────────────────────────────────────────────────────


def test_data_with_records_conforms() -> None:
    assert_conforms("data", Edges, {"size": 8})
    bare = edges()
    assert_conforms("loss", Translation, spec=ModelSpec.from_facts(bare.spec().facts()))
    assert_conforms("metric", SourceGap, spec=ModelSpec.from_facts(bare.spec().facts()))
    assert bare.fingerprint() != Digits(bare.settings).fingerprint(), "the records are part of the fingerprint"


def test_facts_give_back_every_fact_of_a_spec() -> None:
    """A new fact of `DataSpec` that `facts` leaves out would be lost when a run is loaded."""
    spec = DataSpec((3, 8, 4), 5, {"source": (1, 8, 4), "pose": (7,), "time": ()})
    facts = json.loads(json.dumps(spec.facts()))
    assert DataSpec.from_facts(facts) == spec
    assert facts.keys() == {each.name for each in dataclasses.fields(DataSpec)}
    assert DataSpec.from_facts({"sample_shape": [2], "classes": 0, "later": 1}) == DataSpec((2,)), (
        "older and newer files"
    )
    assert ModelSpec.from_facts(facts) == ModelSpec((3, 8, 4), 5, spec.fields)
    assert len({spec, DataSpec.from_facts(facts)}) == 1, "a spec can be a key, as before"


@pytest.mark.parametrize(
    "facts",
    [
        {"sample_shape": [2]},
        {"sample_shape": ["2"], "classes": 0},
        {"sample_shape": [float("inf")], "classes": 0},
        {"sample_shape": [-1], "classes": 0},
        {"sample_shape": [2], "classes": 0, "fields": ["source"]},
        {"sample_shape": [2], "classes": 0, "fields": {"source": 2}},
    ],
)
def test_damaged_facts_are_an_error_that_loading_reports(facts: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        DataSpec.from_facts(facts)


# ── Batches ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_holds_whole_records() -> None:
    split = Split(
        numbered(20, 3, 4, 4),
        np.arange(20),
        {"source": numbered(20, 1, 4, 6), "pose": numbered(20, 5).astype("f4") / 20},
    )
    images, labels, beside = RealBatches(split, CPU, seed=2).take(13, 30)
    assert labels is not None and beside["source"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(values(images[:, 0, 0, -1]), labels) and torch.equal(
        values(beside["source"])[:, 0, 0, -1], labels
    )
    torch.testing.assert_close(beside["pose"], labels[:, None].expand(-1, 5) / 20)


def test_records_change_neither_order_nor_flips_of_the_images() -> None:
    images, source = numbered(20, 1, 4, 4), numbered(20, 1, 4, 4)
    drawn = []
    for split in (Split(images), Split(images, beside={"source": source})):
        torch.manual_seed(5)
        taken, *_ = RealBatches(split, CPU, seed=2, horizontal_flip=True).take(7, 64)
        drawn.append((taken, torch.rand(1)))
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    torch.manual_seed(5)
    mirrored = torch.rand(64, 1, 1, 1) < 0.5
    expected = to_unit_range(torch.from_numpy(images)[Shuffle(20, 2).indices(7, 64)])
    assert torch.equal(drawn[0][0], torch.where(mirrored, expected.flip(3), expected)), "the stream of 0.1.0"


def test_a_record_is_mirrored_as_one_and_only_what_is_an_image() -> None:
    pose = np.arange(40, dtype=np.float32).reshape(20, 2) / 40
    split = Split(numbered(20, 3, 4, 4), beside={"source": numbered(20, 1, 4, 6), "pose": pose})
    images, _, beside = RealBatches(split, CPU, seed=0, horizontal_flip=True).take(0, 400)
    is_left = [values(each)[:, 0, 0, 0] >= 100 for each in (images, beside["source"])]
    assert torch.equal(*is_left) and 0.4 < is_left[0].float().mean() < 0.6
    assert (beside["pose"][:, 1] - beside["pose"][:, 0]).allclose(torch.tensor(1 / 40))


def test_unpaired_parts_are_shuffled_and_mirrored_separately_and_may_differ_in_length() -> None:
    split = Split(numbered(20, 1, 4, 4), np.arange(20), {"source": numbered(33, 1, 4, 4)})
    data = RealBatches(split, CPU, seed=4, horizontal_flip=True, paired=False)
    images, labels, beside = data.take(0, 660)
    assert labels is not None
    own, other = values(images)[:, 0, 0], values(beside["source"])[:, 0, 0]
    assert torch.equal(own.min(1).values, labels), "labels stay with their images"
    assert torch.bincount(other.min(1).values).tolist() == [20] * 33, "each as often as the others"
    assert not torch.equal(own[:, 0] >= 100, other[:, 0] >= 100)
    same = RealBatches(Split(numbered(20, 1, 4, 4), beside={"source": numbered(20, 1, 4, 4)}), CPU, 4, paired=False)
    images, _, beside = same.take(0, 20)
    assert not torch.equal(images, beside["source"])
    parts = [data.take(start, 10).beside["source"].abs() for start in (300, 310)]
    assert torch.equal(torch.cat(parts)[:, 0, 1, 1], data.take(300, 20).beside["source"].abs()[:, 0, 1, 1])


def keys_filter(side: int, larger: int) -> Tensor:
    """Resizes an axis by Keys's cubic, a = -1/2, whose weights are those within the image: `(larger, side)`."""
    centres = (torch.arange(larger, dtype=torch.float64) + 0.5) * side / larger - 0.5
    x = (centres[:, None] - torch.arange(side)).abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdim=True)


def cut_by_hand(images: Tensor, jitter: int, places: Tensor, mirrored: Tensor) -> Tensor:
    """Each image enlarged, cut at its place and mirrored, in float64."""
    height, width = images.shape[2:]
    down, across = (keys_filter(side, side + jitter) for side in (height, width))
    found = []
    for image, row, column, turn in zip(images.double(), *places.tolist(), mirrored.flatten().tolist(), strict=True):
        part = (down @ image @ across.T)[:, row : row + height, column : column + width]
        found.append((part.flip(2) if turn else part).clip(-1, 1))
    return torch.stack(found)


@pytest.mark.parametrize("paired", [True, False])
def test_jitter_cuts_a_part_of_the_enlarged_record_as_by_hand(paired: bool) -> None:
    random = np.random.default_rng(0)
    images, source = (random.integers(0, 256, (20, channels, 6, 9), np.uint8) for channels in (3, 1))
    pose = random.uniform(-1, 1, (20, 2)).astype(np.float32)
    fields = {"pose": pose, "source": source}
    options: dict[str, Any] = {"horizontal_flip": True, "paired": paired}
    plain = RealBatches(Split(images, beside=fields), CPU, seed=2, **{**options, "horizontal_flip": False}).take(5, 16)
    torch.manual_seed(5)
    found = RealBatches(Split(images, beside=fields), CPU, seed=2, jitter=3, **options).take(5, 16)
    torch.manual_seed(5)
    for name, rows, before in (
        ("images", found.images, plain.images),
        ("pose", found.beside["pose"], plain.beside["pose"]),
        ("source", found.beside["source"], plain.beside["source"]),
    ):
        if name == "images" or not paired:
            mirrored, places = torch.rand(16, 1, 1, 1) < 0.5, torch.randint(4, (2, 16))
            assert {*places.flatten().tolist()} == {0, 1, 2, 3}
        expected = before if name == "pose" else cut_by_hand(before, 3, places, mirrored)
        torch.testing.assert_close(rows.double(), expected.double(), rtol=0, atol=2e-6)
    assert found.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"use": "gaussians", "count": 64}, "its samples are not images, so .train. jitter cannot enlarge them"),
        ({"use": "degraded", "of": "digits", "downsample": 2}, "its source is 16×16 and its images 32×32, so .train."),
    ],
)
def test_jitter_is_refused_at_its_line_where_records_cannot_be_cut_alike(
    tmp_path: Path, data: dict[str, Any], text: str
) -> None:
    tables = {
        "train": {"jitter": 2, "steps": 1, "batch_size": 4, "device": "cpu"},
        "data": data,
        "loss": {"use": "gan", "latent_size": 2},
        **{slot: {"use": "mlp", "hidden": [2]} for slot in ("generator", "discriminator")},
    }
    with pytest.raises(IncompatibleError, match=rf"run\.toml:2: .*{text}"):
        build(tables, tmp_path / "run")


def test_a_batch_is_cut_with_its_records_and_names_the_known_fields() -> None:
    batch = Batch(torch.zeros(6, 2), torch.zeros(6, 1), beside={"source": torch.arange(6.0)[:, None]})
    assert [part["source"].flatten().tolist() for part in batch.chunks(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ContractError, match="source"):
        batch["sauce"]


# ── Evaluation ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_metric_reads_the_fields_of_the_records_it_reads() -> None:
    data = edges()
    moment = evaluation_on(data, lambda count: (torch.zeros(count, 2), torch.zeros(count, 1, 8, 8)))
    kept = moment.collect_real(Buffer(), "images", "source", "grey", "labels", count=300, split="test")
    moment.run()
    images, source, grey, _ = kept.tensors()
    assert source.dtype == torch.uint8 and np.array_equal(source.numpy(), edges_of(images.numpy()))
    torch.testing.assert_close(grey[:, 0], images.float().mean((1, 2, 3)) / 127.5 - 1)
    assert torch.equal(images, real_images(data, 300, "test"))
    with pytest.raises(IncompatibleError, match=r'"sauce" of the train images, .* only grey, images, labels, source$'):
        moment.collect_real(Buffer(), "sauce")


class Floating(Digits):
    """The same digits, as float32."""

    def split(self, name: str) -> Split:
        plain = super().split(name)
        return Split((plain.images / 127.5 - 1).astype(np.float32), plain.labels)


class Seen(Extractor):
    """The pixels as an extractor sees them."""

    suffix, key, protocol = "seen", "seen", None  # type: ignore[assignment]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        assert images.dtype == torch.uint8
        return {"features": images.flatten(1).float()}


def test_metrics_see_the_same_pictures_of_float_and_uint8_data() -> None:
    seen = []
    for component in (Digits, Floating):
        data = component(component.Settings(size=8))
        data.prepare()
        moment = evaluation_on(
            data,
            lambda count: (torch.zeros(count, 2), torch.zeros(count, 1, 8, 8)),
            readings={"reconstructions": lambda images: -images},
        )
        extractor = Seen(None, moment.spec)
        kept = moment.collect_real(Buffer(), "images", "reconstructions", "features", count=90, extractor=extractor)
        moment.run()
        seen.append([*kept.tensors(), real_images(data, 70), moment.real(50)])
    assert all(torch.equal(first, second) for first, second in zip(*seen, strict=True))


# ── Given factors ─────────────────────────────────────────────────────────────────────────────────────────

FACTORS = (Factor("noise", 2, "noise"), Factor("source", 64, "given"), Factor("grey", 1, "given"))


def spec_with(factors: tuple[Factor, ...]) -> ModelSpec:
    size = sum(factor.size for factor in factors)
    return dataclasses.replace(ModelSpec.from_facts(edges().spec().facts()), latent_size=size, factors=factors)


def test_given_factors_are_the_records_by_rank_and_begin_again_after_the_last() -> None:
    data = edges()
    given = GivenRecords(data, spec_with(FACTORS), CPU)
    latents = torch.randn(500, 67)
    before = latents.clone()
    filled = given.fill(latents, 100)
    assert torch.equal(latents, before) and torch.equal(filled[:, :2], latents[:, :2]), "noise is left alone"
    images = given.rows("images", 100, 500)
    assert torch.equal(values(filled[:, 2:66]), torch.from_numpy(edges_of(values(images).numpy())).flatten(1))
    torch.testing.assert_close(filled[:, 66], images.mean((1, 2, 3)), atol=1e-5, rtol=0)
    assert torch.equal(filled[260:], given.fill(latents[260:], 0).where(torch.arange(67) > 1, latents[260:]))
    parts = [given.fill(latents[:300], 100), given.fill(latents[300:], 400)]
    assert torch.equal(torch.cat(parts), filled), "however they are cut"
    first = {tuple(row) for row in values(given.rows("images", 0, 40)).flatten(1).tolist()}
    chosen = {tuple(row) for row in real_images(data, 40, "test").flatten(1).tolist()}
    assert first == chosen, "those that a metric reads"


class Train(Edges):
    """Without a test split."""

    def split(self, name: str) -> Split:
        if name != "train":
            raise DataError("has no such split")
        return super().split(name)


def test_without_a_test_split_the_training_records_are_given_and_without_factors_nothing() -> None:
    data = Train(Train.Settings(size=8))
    data.prepare()
    assert len(set(GivenRecords(data, spec_with(FACTORS), CPU).rows("grey", 0, 1437).flatten().tolist())) > 360
    latents = torch.randn(3, 2)
    unread = Digits(Digits.Settings())
    unread.split = None  # type: ignore[assignment]
    assert GivenRecords(unread, spec_with(FACTORS[:1]), CPU).fill(latents, 0) is latents


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (
            Factor("sauce", 64, "given"),
            'hold the record field "sauce", which the data does not have; its fields are so',
        ),
        (Factor("source", 65, "given"), '"source" has 65 latents, and the data\'s field of that name has 64 values'),
    ],
)
def test_a_given_factor_must_fit_the_data(factor: Factor, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        GivenRecords(edges(), spec_with((factor,)), CPU)


# ── Whole runs ────────────────────────────────────────────────────────────────────────────────────────────


def weights(run: ganrun.Run) -> Tensor:
    return torch.cat([each.flatten() for each in run.model.networks["generator"].state_dict().values()])


def test_a_translation_learns_and_does_not_depend_on_how_a_batch_is_cut(tmp_path: Path) -> None:
    run = train(recipe(steps=300), tmp_path / "run", Plugin())
    given = GivenRecords(run.data, run.model.spec, CPU)
    made, targets = run.model.decode(given.fill(run.model.fixed_latents(64), 0)), given.rows("images", 0, 64)
    own, others = ((made - each).abs().mean() for each in (targets, targets.roll(1, 0)))
    assert own < 0.7 * others, "what is made is the target of its source"
    whole = weights(train(recipe(), tmp_path / "one", Plugin()))
    cut = weights(train(recipe(accumulate=4), tmp_path / "four", Plugin()))
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)


def test_a_resumed_run_sees_the_same_records(tmp_path: Path) -> None:
    whole = train(recipe(), tmp_path / "whole", Plugin())
    train(recipe(steps=3), tmp_path / "cut", Plugin())
    assert torch.equal(weights(train(recipe(), tmp_path / "cut", Plugin(), resume=True)), weights(whole))


def test_a_run_and_its_export_know_the_fields(tmp_path: Path) -> None:
    run = train(recipe(), tmp_path / "run", Plugin())
    problem = json.loads((run.directory.path / "environment.json").read_text())["problem"]
    assert problem["fields"] == {"source": [1, 8, 8], "grey": [1]} and len(problem["class_names"]) == 10
    registry = registry_with(Plugin())
    saved = find_saved_model(run.directory.path, registry)
    folder = tmp_path / "exported"
    folder.mkdir()
    saved.save(folder, {})
    for each in (saved, find_saved_model(folder, registry)):
        model = each.model("cpu")
        assert each.spec == run.data.spec() and model.spec == run.model.spec
        given = GivenRecords(run.data, model.spec, CPU)
        made = model.decode(given.fill(model.unfilled_latents(40), 0))
        assert torch.equal(made, run.model.decode(given.fill(run.model.fixed_latents(40), 0)))


def test_a_loss_that_needs_records_refuses_data_without(tmp_path: Path) -> None:
    tables = recipe() | {"data": {"use": "digits", "size": 8}}
    with pytest.raises(RequestError, match=r"\[loss\] translation.*which the data does not have; it has none"):
        build(tables, tmp_path / "run", Plugin())
    assert not (tmp_path / "run").exists()
