"""`Loss.prepare` on the training records before a run: when it is called, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ganrun
from ganrun import AdversarialLoss, Batch, IncompatibleError, Nets, RequestError, Run, Split, Terms, hookimpl
from ganrun.recipe.reader import load_recipe
from ganrun.testing import build, registry_with, train
from ganrun.trained.scoring import Request, score
from ganrun.training.assembly import check_recipe


class Centred(AdversarialLoss):
    """Knows the mean image of its training records, and moves it by 1 at each update of the discriminator."""

    class Settings(ganrun.Settings):
        latent_size: int = 3
        """Length of a latent vector."""

    seen: list[int] = []
    """How many records each call showed."""

    def __init__(self, settings: Any, spec: ganrun.DataSpec) -> None:
        super().__init__(settings, spec)
        self.memory.register_buffer("mean", torch.zeros(spec.sample_shape))
        self.memory.register_buffer("drawn", torch.zeros(()))

    def prepare(self, training: Split) -> None:
        self.seen.append(len(training))
        self.memory.mean.copy_(torch.from_numpy(training.images.mean(axis=0)))
        self.memory.drawn.copy_(torch.rand(()))

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        self.memory.mean.add_(1)
        return Terms({"real": (nets.discriminator(batch.images) - 1).square().mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"fake": nets.discriminator(nets.generator(batch.latents)).square().mean()})


class Refusing(Centred):
    """Cannot be trained on anything."""

    def prepare(self, training: Split) -> None:
        raise IncompatibleError("it needs other records")


class Registering(Centred):
    """Makes a buffer where a loaded model would not have it."""

    def prepare(self, training: Split) -> None:
        self.memory.register_buffer("late", torch.zeros(2))


class Resizing(Centred):
    """Gives a buffer another shape."""

    def prepare(self, training: Split) -> None:
        self.memory.register_buffer("mean", torch.zeros(5))


class Plugin:
    """Offers them."""

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {each.__name__.lower(): each for each in (Centred, Refusing, Registering, Resizing)}


def recipe(use: str = "centred", **train_table: Any) -> dict[str, Any]:
    return {
        "train": {"steps": 2, "batch_size": 4, "device": "cpu", "seed": 3, **train_table},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": use},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        "checkpoints": {"every_steps": 1},
        **dict.fromkeys(("mlflow", "progress", "samples"), False),
    }


@pytest.fixture(autouse=True)
def unseen() -> None:
    Centred.seen.clear()


def mean_of(run: Run) -> torch.Tensor:
    return run.state.memory.get_buffer("mean")


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_it_knows_the_records_that_the_run_trains_on_before_the_first_step(tmp_path: Path, share: float) -> None:
    run = build(recipe(share=share), tmp_path / "run", Plugin())
    assert Centred.seen == [len(run.training_split)] == [round(1437 * share)]
    expected = torch.from_numpy(run.training_split.images.mean(axis=0))
    torch.testing.assert_close(mean_of(run), expected, check_dtype=False)
    assert run.step == 0


def test_what_it_draws_follows_the_seed_and_moves_no_other_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, twin = (build(recipe(), tmp_path / name, Plugin()) for name in ("one", "twin"))
    other = build(recipe(seed=4), tmp_path / "other", Plugin())
    first, second, third = (run.state.memory.get_buffer("drawn") for run in (one, twin, other))
    assert first == second != third
    monkeypatch.setattr(Centred, "prepare", lambda self, training: None)
    still = build(recipe(), tmp_path / "still", Plugin())
    for slot in ("generator", "discriminator"):
        ones, twos = (list(run.state.slots[slot].module.parameters()) for run in (one, still))
        assert all(torch.equal(*pair) for pair in zip(ones, twos, strict=True))


def test_a_resumed_run_has_what_its_checkpoint_remembers(tmp_path: Path) -> None:
    whole = train(recipe(), tmp_path / "whole", Plugin())
    train(recipe(steps=1), tmp_path / "parts", Plugin())
    parts = train(recipe(), tmp_path / "parts", Plugin(), resume=True)
    assert torch.equal(mean_of(whole), mean_of(parts))
    known = torch.from_numpy(whole.training_split.images.mean(axis=0))
    torch.testing.assert_close(mean_of(parts), known + 2, check_dtype=False)


def test_a_trained_model_has_its_memory_and_asks_for_no_records(tmp_path: Path) -> None:
    run = train({**recipe(), "metric": [{"use": "mean-square"}]}, tmp_path / "run", Plugin(), Scored())
    Centred.seen.clear()
    registry = registry_with(Plugin(), Scored())
    loaded = ganrun.find_saved_model(tmp_path / "run", registry).model("cpu")
    assert torch.equal(loaded.loss.memory.mean, mean_of(run))
    assert score(Request(tmp_path / "run"), registry)
    assert Centred.seen == []


def test_a_check_asks_for_no_records(tmp_path: Path) -> None:
    build(recipe(), tmp_path / "run", Plugin())
    Centred.seen.clear()
    check_recipe(load_recipe(tmp_path / "run.toml", registry_with(Plugin())))
    assert Centred.seen == []


def test_records_that_fill_no_batch_are_refused_before_a_loss_sees_them(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"the share 0.0001 of its train split has 0 images"):
        build(recipe(share=0.0001), tmp_path / "run", Plugin())
    assert Centred.seen == []


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("refusing", "it needs other records$"),
        ("registering", r'buffer "late" is absent until prepare, and is float32 of shape \(2,\) afterwards; register'),
        ("resizing", r'buffer "mean" is float32 of shape \(1, 8, 8\) until prepare, and is float32 of shape \(5,\)'),
    ],
)
def test_a_loss_that_cannot_be_prepared_is_refused_at_its_line(tmp_path: Path, use: str, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message) as caught:
        build(recipe(use), tmp_path / "run", Plugin())
    line = (tmp_path / "run.toml").read_text().splitlines().index("[loss]") + 1
    assert caught.value.where in (f"{tmp_path / 'run.toml'}:{line}", f"{tmp_path / 'run.toml'}:{line + 1}")
    assert f"[loss] {use} (" in str(caught.value) and not (tmp_path / "run").exists()


class MeanSquare(ganrun.Metric):
    """The mean square of eight samples."""

    def watch(self, evaluation: ganrun.Evaluation) -> None:
        self.made = evaluation.collect(ganrun.Buffer(), "samples", count=8)

    def measure(self, evaluation: ganrun.Evaluation) -> list[ganrun.Score]:
        value = float(np.square(self.made.tensors()[0].numpy().astype(float)).mean())
        return [ganrun.Score("mean_square", value, higher_is_better=True, protocol={"samples": 8})]


class Scored:
    """Offers the metric."""

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[ganrun.Metric]]:
        return {"mean-square": MeanSquare}
