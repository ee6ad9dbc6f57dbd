"""Models whose samples are made from records: which record is in which latent, with the data and without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.core.test_records import Edges, Translation, recipe
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    Buffer,
    ContractError,
    Data,
    DataError,
    IncompatibleError,
    Loss,
    Nets,
    Phase,
    RequestError,
    Terms,
    find_saved_model,
    hookimpl,
    to_unit_range,
)
from ganrun.discovery.registry import Registry
from ganrun.testing import assert_conforms, build, registry_with
from ganrun.training.runner import execute
from ganrun_export import exporting
from ganrun_samples import latents as ways
from ganrun_samples.captions import Grid, captioned
from ganrun_samples.run_pictures import record_sheet

NOISE, SOURCE = slice(0, 2), slice(2, 66)
"""Where they are in a latent vector."""


class Silent(Translation):
    """Reads nothing but its latents in a phase without images; the other phase is the translation's."""

    seen: ClassVar[list[tuple[Tensor, int]]] = []

    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("blind", self.blind, trains=("generator",), reads_images=False),
            Phase("generator", self.generator, trains=("generator",)),
        )

    def blind(self, nets: Nets, batch: Batch) -> Terms:
        self.seen.append((batch.latents[:, SOURCE].detach(), len(batch.beside)))
        with pytest.raises(ContractError):
            batch.images  # noqa: B018
        return Terms(minimise={"size": 0 * nets.generator(batch.latents).square().mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        self.seen.append((batch.latents[:, SOURCE] - batch["source"].flatten(1), 1))
        return Terms(minimise={"distance": (nets.generator(batch.latents) - batch.images).abs().mean()})

    def readings(self) -> dict[str, Any]:
        return {"given": lambda nets, batch: batch.latents[:, SOURCE], "encodings": lambda nets, batch: batch.latents}


class Plugin:
    """Offers both losses."""

    @hookimpl
    def ganrun_data(self) -> dict[str, type[Data]]:
        return {"edges": Edges}

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"translation": Translation, "silent": Silent}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ganrun.Run:
    tables = recipe(steps=3, accumulate=2) | {"loss": {"use": "silent"}}
    run = build(tables, tmp_path_factory.mktemp("runs") / "run", Plugin())
    Silent.seen.clear()  # of what was tried before the run
    execute(run)
    run.notes["seen"] = [*Silent.seen]
    return run


@pytest.fixture(scope="module")
def registry() -> Registry:
    return registry_with(Plugin())


@pytest.fixture
def exported(run: ganrun.Run, registry: Registry, tmp_path: Path) -> tuple[Path, ganrun.Model]:
    folder = exporting.export_run(exporting.Request(str(run.directory.path), tmp_path / "out"), registry=registry)
    return folder, find_saved_model(folder, registry).model("cpu")


def sources(run: ganrun.Run, count: int, split: str = "test") -> Tensor:
    """The sources of the records that metrics read first."""
    moment = run.evaluation()
    kept = moment.collect_real(Buffer(), "images", "source", count=None, split=split)
    moment.run()
    _, found = kept.tensors()
    assert run.model.given is not None
    by_rank = run.model.given.rows("source", 0, count)
    rows = {row.numpy().tobytes() for row in to_unit_range(found)}
    assert all(row.numpy().tobytes() in rows for row in by_rank), f"they are records of the {split} split"
    return by_rank.flatten(1)


def test_the_loss_conforms(run: ganrun.Run) -> None:
    assert_conforms("loss", Silent, spec=run.data.spec())


def test_every_phase_has_its_own_records_in_its_latents(run: ganrun.Run) -> None:
    """The train split's, in the order of the epoch; a phase without images sees no other part of them."""
    seen = run.notes["seen"]
    assert [fields for _, fields in seen] == 3 * [0, 0, 1, 1], "two parts of a batch in each phase"
    assert not any(gap.any() for gap, fields in seen if fields), "each has its own record's"
    train_sources = to_unit_range(torch.from_numpy(run.data.split("train").beside["source"])).flatten(1)
    known = {row.numpy().tobytes() for row in train_sources}
    assert all(row.numpy().tobytes() in known for latents, fields in seen if not fields for row in latents)
    assert run.images_seen == 3 * 2 * 16


def test_wherever_latents_are_drawn_sample_i_has_record_i(run: ganrun.Run) -> None:
    model, expected = run.model, sources(run, 600)
    drawn = torch.cat([latents for latents, _ in model.batches(600)])
    others = torch.cat([latents for latents, _ in model.batches(600, seed=9)])
    assert torch.equal(drawn[:, SOURCE], expected) and torch.equal(others[:, SOURCE], expected)
    assert not torch.equal(drawn[:, NOISE], others[:, NOISE]), "another seed, another noise"
    assert torch.equal(model.fixed_latents(600)[:, SOURCE], expected)
    moment = run.evaluation()
    kept = moment.collect(Buffer(), "latents", "samples", count=300)
    moment.run()
    assert torch.equal(kept.tensors()[0], drawn[:300])
    assert torch.equal(model.sample(5), model.decode(drawn[:5]))


def test_a_reading_has_the_records_in_its_latents(run: ganrun.Run) -> None:
    moment = run.evaluation()
    kept = moment.collect_real(Buffer(), "source", "given", count=90)
    moment.run()
    source, given = kept.tensors()
    assert torch.equal(to_unit_range(source).flatten(1), given)
    images, source = to_unit_range(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)), torch.rand(3, 1, 8, 8)
    assert torch.equal(run.model.read("given", images, beside={"source": source}), source.flatten(1))
    with pytest.raises(IncompatibleError, match='hold the record field "source", which is missing here'):
        run.model.read("given", images)


def test_a_saved_run_reads_its_data_only_when_it_is_needed(
    run: ganrun.Run, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = find_saved_model(run.directory.path, registry).model("cpu")
    assert torch.equal(model.sample(300), run.model.sample(300))
    without = find_saved_model(run.directory.path, registry).model("cpu")

    def gone(self: Edges) -> None:
        raise DataError("its files are gone; fetch them")

    monkeypatch.setattr(Edges, "prepare", gone)
    latents = without.latents_of(source=torch.rand(4, 1, 8, 8))
    assert torch.equal(without.decode(latents), run.model.decode(latents))
    with pytest.raises(DataError, match="its files are gone; fetch them"):
        without.sample(3)


def test_an_exported_model_makes_samples_of_records_that_are_handed_to_it(
    run: ganrun.Run, exported: tuple[Path, ganrun.Model]
) -> None:
    _, model = exported
    source = torch.rand(5, 1, 8, 8)
    for draw in (model.sample, model.fixed_latents, lambda count: next(model.batches(count))):
        with pytest.raises(RequestError, match=r"an exported model has no data; .*model.latents_of\(source=…\)"):
            draw(3)
    latents = model.latents_of(source=source)
    assert torch.equal(latents[:, SOURCE], source.flatten(1))
    assert torch.equal(model.decode(latents), run.model.decode(latents))
    with pytest.raises(IncompatibleError, match='"source", which is missing here'):
        model.latents_of(sauce=source)
    with pytest.raises(IncompatibleError, match=r'\(5, 64\) values of the field "source", and it is \(5, 3, 8, 8\)'):
        model.latents_of(source=source.expand(5, 3, 8, 8))
    assert model.latents_of(source=source[:0]).shape == (0, 66)


def test_programs_are_exported_without_data_and_the_card_shows_how_to_use_them(
    run: ganrun.Run, exported: tuple[Path, ganrun.Model]
) -> None:
    folder, model = exported
    generator = torch.export.load(folder / "generator.pt2").module()
    latents = model.latents_of(source=torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(generator(latents), run.model.decode(latents))
    assert not (folder / "encoder.pt2").exists(), "it needs more of a record than its image"
    assert (folder / "samples.png").is_file()
    card, facts = (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())
    assert "| 2 to 65 | source, your own, flattened, in \\[-1, 1\\] |" in card
    assert facts["factors"][1] == {"name": "source", "size": 64, "kind": "given"}
    with_torch = [code.partition("```")[0] for code in card.split("```python\n")[1:]][1]
    assert "drawn[:, 2:66] = torch.zeros(64, 1, 8, 8).flatten(1)  # your own 'source'" in with_torch
    names: dict[str, Any] = {}
    exec(with_torch.replace('load("', f'load("{folder}/'), names)
    assert names["images"].shape == (64, 1, 8, 8)
    with_ganrun = card.split("```python\n")[1].partition("```")[0]
    assert "records = {'source': torch.zeros(64, 1, 8, 8)}  # your own, in [-1, 1]\n" in with_ganrun
    assert "latents = model.latents_of(**records)\nimages = model.decode(latents)" in with_ganrun


def test_an_export_without_data_has_no_picture(
    run: ganrun.Run, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def gone(self: Edges) -> None:
        raise DataError("its files are gone; fetch them")

    monkeypatch.setattr(Edges, "prepare", gone)
    folder = exporting.export_run(exporting.Request(str(run.directory.path), tmp_path / "out"), registry=registry)
    assert not (folder / "samples.png").exists() and "there is no samples.png" in caplog.text
    assert (folder / "generator.pt2").is_file() and "samples.png" not in (folder / "README.md").read_text()


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_picture_shows_source_sample_and_target_in_a_row(run: ganrun.Run) -> None:
    assert run.model.given is not None
    columns = {
        "source": run.model.given.rows("source", 0, 8),
        "made": run.model.decode(run.model.fixed_latents(8)),
        "target": run.model.given.rows("images", 0, 8),
    }
    expected = captioned([Grid(title, ganrun.to_uint8(images), 1) for title, images in columns.items()])
    assert np.array_equal(record_sheet(run, 64), expected)


def test_a_record_is_neither_traversed_nor_blended(run: ganrun.Run) -> None:
    model = run.model
    assert ways.code_traversals(model, 5) == [] and sorted(ways.most_active(model, 10)) == [0, 1]
    with pytest.raises(IncompatibleError, match="latent 2 is part of a record of the data, and cannot be traversed"):
        ways.chosen_traversals(model, [0, 2], 5)
    with pytest.raises(IncompatibleError, match="there is no latent 66; the model has 66, counted from 0"):
        ways.chosen_traversals(model, [66], 5)
    starts, ends = model.fixed_latents(4).chunk(2)
    path = ways.interpolated(model, starts, ends, 3)
    assert torch.equal(path[:, :, SOURCE], starts[:, None, SOURCE].expand(-1, 3, -1))
    assert torch.equal(path[:, -1, NOISE], ends[:, NOISE])
