"""Metrics that use a model: a likelihood that the loss reads, and a search through latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
import torch
from tests.contract.conftest import Gauge
from torch import Tensor

import ganrun
from ganrun import (
    Batch,
    Buffer,
    Evaluation,
    IncompatibleError,
    Metric,
    Nets,
    Reading,
    Run,
    Score,
    hookimpl,
    to_unit_range,
)
from ganrun.recipe.reader import load_recipe
from ganrun.testing import assert_conforms, build, registry_with
from ganrun.training.assembly import check_recipe
from ganrun_datasets.digits import Digits
from ganrun_vae.losses import VariationalAutoencoder

# ── The plugin ────────────────────────────────────────────────────────────────────────────────────────────


class LikelihoodVae(VariationalAutoencoder):
    """A VAE that estimates the log-likelihood of a record: log E[p(x|z)] over the prior, by Monte Carlo."""

    def readings(self) -> Mapping[str, Reading]:
        """The VAE's, and `log_likelihood`."""
        return {**super().readings(), "log_likelihood": self.log_likelihood}

    def log_likelihood(self, nets: Nets, batch: Batch) -> Tensor:
        """log 1/k Σ p(x|z) over the k latents of the batch, `(size,)`, in nats, for p of unit variance.

        The constant of the Gaussian is left out.
        """
        samples = nets.generator(batch.latents).flatten(1)
        distances = torch.cdist(batch.images.flatten(1), samples).square()
        return torch.logsumexp(-0.5 * distances, 1) - torch.tensor(float(batch.size)).log()


class NegativeLogLikelihood(Metric):
    """The mean negative log-likelihood of held-out images, in nats."""

    def watch(self, evaluation: Evaluation) -> None:
        self._kept = evaluation.collect_real(Buffer(), "log_likelihood", split="test")

    def measure(self, evaluation: Evaluation) -> list[Score]:
        (found,) = self._kept.tensors()
        return [Score("nll", float(-found.mean()), higher_is_better=False, protocol={"real": len(found)})]


class NearestLatents(Metric):
    """The distance of real images to the nearest sample that a descent through latents finds (AnoGAN)."""

    steps = 8

    def watch(self, evaluation: Evaluation) -> None:
        self._real = evaluation.collect_real(Buffer(), "images", count=8, split="test")

    def measure(self, evaluation: Evaluation) -> list[Score]:
        assert evaluation.model is not None
        images = to_unit_range(self._real.tensors()[0])
        distances = [errors.mean().item() for errors in self.descent(evaluation.model, images)]
        assert distances[-1] < distances[0], "the search finds nearer samples"
        protocol = {"real": 8, "steps": self.steps}
        return [Score("latent_distance", distances[-1], higher_is_better=False, protocol=protocol)]

    def descent(self, model: ganrun.EvaluatedModel, images: Tensor) -> list[Tensor]:
        """The errors of each image before every step, and after the last."""
        latents, found = torch.zeros(len(images), model.spec.latent_size), []
        for _ in range(self.steps + 1):
            latents = latents.detach().requires_grad_()
            errors = (model.decode(latents, gradients=True) - images).square().flatten(1).mean(1)
            (slope,) = torch.autograd.grad(errors.sum(), latents)
            latents = latents - 0.3 * slope / (slope.norm(dim=1, keepdim=True) + 1e-8)
            found.append(errors.detach())
        return found


class Plugin:
    """Offers the loss and both metrics."""

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[ganrun.Loss]]:
        return {"likelihood-vae": LikelihoodVae}

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[Metric]]:
        return {"nll": NegativeLogLikelihood, "nearest-latents": NearestLatents}


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_scored_by_likelihood_and_by_a_search_through_latents(journey: Callable[..., Run]) -> None:
    run = journey(
        {
            "loss": {"use": "likelihood-vae", "latent_size": 4},
            "generator": {"use": "mlp", "hidden": [16]},
            "encoder": {"use": "mlp", "hidden": [16]},
            "metric": [{"use": "nll"}, {"use": "nearest-latents"}],
        },
        Plugin(),
    )
    assert set(run.scores) == {"nll", "latent_distance"}
    assert run.scores["nll"].value > 0 and run.scores["latent_distance"].protocol["steps"] == NearestLatents.steps


class Labels(NegativeLogLikelihood):
    """Reads the labels of held-out images."""

    def prepare(self, data: ganrun.Data, device: torch.device) -> None:
        self._split = "test"

    def watch(self, evaluation: Evaluation) -> None:
        self._kept = evaluation.collect_real(Buffer(), "labels", split=self._split)


class Unlabelled(Digits):
    """Digits without their labels."""

    def spec(self) -> ganrun.DataSpec:
        return replace(super().spec(), classes=0)

    def split(self, name: str) -> ganrun.Split:
        return replace(super().split(name), labels=None)

    def class_names(self) -> tuple[str, ...]:
        return ()


class Asking:
    """Offers a metric that asks for labels, and data without any."""

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[Metric]]:
        return {"labels": Labels}

    @hookimpl
    def ganrun_data(self) -> dict[str, type[ganrun.Data]]:
        return {"unlabelled": Unlabelled}


GAN = {
    "train": {"steps": 1, "batch_size": 4, "device": "cpu"},
    "data": {"use": "unlabelled", "size": 16},
    "loss": {"use": "gan", "latent_size": 4},
    "generator": {"use": "mlp", "hidden": [8]},
    "discriminator": {"use": "mlp", "hidden": [8]},
    **dict.fromkeys(("mlflow", "progress", "samples"), False),
}

NOT_THERE = {
    "nll": r'it asks for "log_likelihood" of the test images, and there are only images$',
    "labels": r'it asks for "labels" of the test images, and there are only images$',
    "reconstruction": "this loss has no encoder to reconstruct images with; leave the metric out$",
}


@pytest.mark.parametrize(
    ("metric", "how"), [*((name, "build") for name in NOT_THERE), ("nll", "check"), ("reconstruction", "check")]
)
def test_what_the_model_cannot_give_is_refused_at_the_metrics_line_before_training(
    metric: str, how: str, tmp_path: Path
) -> None:
    tables, path = {**GAN, "metric": [{"use": "brightness"}, {"use": metric}]}, tmp_path / "run.toml"
    plugins = Plugin(), Gauge(), Asking()
    with pytest.raises(IncompatibleError, match=NOT_THERE[metric]) as caught:
        if how == "build":
            build(tables, tmp_path / "run", *plugins)
        path.write_text(tomli_w.dumps(tables), encoding="utf-8")
        check_recipe(load_recipe(path, registry_with(*plugins)))
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if f'"{metric}"' in text)
    assert caught.value.where == f"{path}:{line}"
    assert f"[[metric]] {metric} (" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_check_without_data_leaves_a_metric_alone_that_is_not_prepared(tmp_path: Path) -> None:
    """`labels` needs what its `prepare` sets, and `brightness` samples."""
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps({**GAN, "metric": [{"use": "brightness"}, {"use": "labels"}]}), encoding="utf-8")
    check_recipe(load_recipe(path, registry_with(Gauge(), Asking())))


def test_the_likelihood_is_that_of_the_distance_where_all_samples_are_equal() -> None:
    loss = LikelihoodVae(LikelihoodVae.Settings(latent_size=4), ganrun.DataSpec((1, 2, 2)))
    images = torch.full((3, 1, 2, 2), 0.25)
    batch = Batch(torch.zeros(3, 4), images)
    same = Nets({"generator": lambda latents: images})  # type: ignore[dict-item]
    off = Nets({"generator": lambda latents: images + 1})  # type: ignore[dict-item]
    torch.testing.assert_close(loss.log_likelihood(same, batch), torch.zeros(3))
    torch.testing.assert_close(loss.log_likelihood(off, batch), torch.full((3,), -2.0))


def test_the_loss_keeps_its_contract() -> None:
    assert_conforms("loss", LikelihoodVae)
