"""Using a model: readings of real records, gradients through samples, changed sampling after training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from pydantic import Field
from tests.core.test_records import Edges
from torch import Tensor

import ganrun
from ganrun import (
    AdversarialLoss,
    Batch,
    Buffer,
    ContractError,
    Evaluation,
    IncompatibleError,
    Loss,
    Metric,
    Nets,
    NonFiniteError,
    Reading,
    RequestError,
    Score,
    Terms,
    find_saved_model,
    hookimpl,
    logistic_terms,
    non_saturating_loss,
    to_unit_range,
)
from ganrun.cli import main
from ganrun.discovery.registry import Registry
from ganrun.testing import assert_conforms, build, evaluation_on, measured, registry_with, train
from ganrun.trained.scoring import Request, score
from ganrun_datasets.digits import Digits

STEPS = 400
"""After which samples are like digits."""


# ── A loss that uses all of it ────────────────────────────────────────────────────────────────────────────


class TruncatedGan(AdversarialLoss):
    """A GAN whose samples are made of latents drawn towards their mean, and that reads real images."""

    class Settings(ganrun.Settings):
        latent_size: int = 6
        """Length of a latent vector."""

    class Sampling(ganrun.Settings):
        psi: float = Field(1.0, ge=0, le=1)
        """Truncation: the share of a latent's distance from the mean that is kept."""

        steps: int = 4
        """Not used."""

    settings: Settings

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms(minimise=logistic_terms(nets.discriminator(batch.images), fake))

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms(minimise={"fake": non_saturating_loss(nets.discriminator(nets.generator(batch.latents)))})

    def generate(self, nets: Nets, latents: Tensor, sampling: Sampling) -> Tensor:
        return nets.generator(sampling.psi * latents)

    def readings(self) -> Mapping[str, Reading]:
        return {"critic": self.critic, "log_likelihood": self.log_likelihood, "labels_seen": self.labels_seen}

    def critic(self, nets: Nets, batch: Batch) -> Tensor:
        return nets.discriminator(batch.images)[:, 0]

    def log_likelihood(self, nets: Nets, batch: Batch) -> Tensor:
        """Of a Gaussian of unit variance around the samples of the batch's latents: log E[p(x|z)], by Monte Carlo."""
        samples = nets.generator(batch.latents).flatten(1)
        distances = torch.cdist(batch.images.flatten(1), samples).square()
        return torch.logsumexp(-0.5 * distances, 1) - torch.tensor(float(batch.size)).log()

    def labels_seen(self, nets: Nets, batch: Batch) -> Tensor:
        return batch.latents.new_zeros(batch.size) if batch.labels is None else batch.labels


class Likelihood(Metric):
    """The mean negative log-likelihood of held-out images."""

    def watch(self, evaluation: Evaluation) -> None:
        self._kept = evaluation.collect_real(Buffer(), "log_likelihood", split="test")

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        (found,) = self._kept.tensors()
        assert found.dtype == torch.float32 and found.shape == (len(found),)
        return [Score("nll", float(-found.mean()), higher_is_better=False, protocol={"real": len(found)})]


class Anomalies(Metric):
    """AnoGAN's score (Schlegl et al. 2017): how far the nearest sample that a search through latents finds is.

    The area under the ROC curve of held-out images against noise.
    """

    steps = 12

    def watch(self, evaluation: Evaluation) -> None:
        self._real = evaluation.collect_real(Buffer(), "images", count=24, split="test")

    def measure(self, evaluation: Evaluation) -> Sequence[Score]:
        assert evaluation.model is not None
        normal = to_unit_range(self._real.tensors()[0])
        noise = torch.rand(normal.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        regular, strange = (self.distance(evaluation.model, each) for each in (normal, noise))
        auroc = float((strange[:, None] > regular).float().mean())
        return [Score("auroc", auroc, higher_is_better=True, protocol={"real": 24, "steps": self.steps})]

    def distance(self, model: ganrun.EvaluatedModel, images: Tensor) -> Tensor:
        latents = torch.zeros(len(images), model.spec.latent_size)
        for _ in range(self.steps):
            latents = latents.detach().requires_grad_()
            errors = (model.decode(latents, gradients=True) - images).square().flatten(1).mean(1)
            (slope,) = torch.autograd.grad(errors.sum(), latents)
            latents = latents - 0.3 * slope / (slope.norm(dim=1, keepdim=True) + 1e-8)
        return (model.decode(latents) - images).square().flatten(1).mean(1)


class Plugin:
    """Offers the loss and both metrics."""

    @hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"truncated": TruncatedGan}

    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[Metric]]:
        return {"nll": Likelihood, "auroc": Anomalies}


def recipe(loss: str = "truncated", **tables: Any) -> dict[str, Any]:
    return {
        "name": "truncated",
        "train": {"steps": 4, "batch_size": 16, "device": "cpu", "seed": 3},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": loss},
        "generator": {"use": "mlp", "hidden": [16]},
        "discriminator": {"use": "mlp", "hidden": [16]},
        "optimizer": {"lr": 0.002},
        "sampling": {"psi": 0.7},
        "metric": [{"use": "nll"}, {"use": "auroc"}],
        "checkpoints": {"every_steps": 4},
        **dict.fromkeys(("samples", "progress", "mlflow"), False),
    } | tables


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ganrun.Run:
    tables = recipe(train=recipe()["train"] | {"steps": STEPS})
    return train(tables, tmp_path_factory.mktemp("runs") / "run", Plugin())


@pytest.fixture(scope="module")
def registry() -> Registry:
    return registry_with(Plugin())


def digits(count: int) -> Tensor:
    data = Digits(Digits.Settings(size=8))
    data.prepare()
    return to_unit_range(torch.from_numpy(data.split("test").images[:count]))


# ── Readings ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_loss_and_its_readings_conform() -> None:
    assert_conforms("loss", TruncatedGan)


def test_a_model_reads_records_by_the_readings_name(run: ganrun.Run) -> None:
    images, model = digits(40), run.model
    assert model.spec.readings == ("critic", "log_likelihood", "labels_seen")
    assert torch.equal(model.read("critic", images), model.networks["discriminator"](images)[:, 0].detach())
    assert torch.equal(model.read("labels_seen", images, labels=torch.arange(40)), torch.arange(40))
    before = torch.get_rng_state()
    first, again, other = (model.read("log_likelihood", images, batch=batch) for batch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other), "random numbers follow from the batch's number"
    assert torch.equal(torch.get_rng_state(), before) and not first.requires_grad
    assert model.encode(images) is None and model.reconstruct(images) is None
    with pytest.raises(IncompatibleError, match='no reading "encodings"; it has critic, log_likelihood, labels_seen'):
        model.read("encodings", images)


def test_metrics_score_readings_and_search_latents(run: ganrun.Run) -> None:
    assert run.scores.keys() == {"nll", "auroc"}
    again = measured([Likelihood(None, run.model.spec), Anomalies(None, run.model.spec)], run.evaluation())
    assert [each.value for each in again] == [run.scores[each.name].value for each in again]
    assert run.scores["auroc"].value > 0.9, "a digit is nearer to samples than noise is"


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (lambda nets, batch: nets.discriminator(batch.images)[1:], r"returned shape \(15, 1\) for 16 records"),
        (lambda nets, batch: nets.discriminator(batch.images).mean(), r"returned shape \(\) for 16 records"),
        (lambda nets, batch: [0.0] * 16, "returned list where a tensor was expected"),
        (lambda nets, batch: batch.images.flatten(1) * torch.nan, "is NaN for 16 of"),
    ],
)
def test_a_reading_that_breaks_its_word_is_reported(
    run: ganrun.Run, monkeypatch: pytest.MonkeyPatch, reading: Reading, message: str
) -> None:
    monkeypatch.setattr(TruncatedGan, "readings", lambda _: {"critic": reading})
    with pytest.raises(ContractError, match=rf'reading "critic" of loss TruncatedGan {message}'):
        run.model.read("critic", torch.ones(16, 1, 8, 8))
    moment = run.evaluation()
    moment.collect_real(Buffer(), "critic", count=16)
    with pytest.raises(ContractError, match='reading "critic" of loss TruncatedGan'):
        moment.run()
    with pytest.raises(AssertionError, match='reading "critic"'):
        assert_conforms("loss", TruncatedGan)


@pytest.mark.parametrize("name", ["images", "latents", "source"])
def test_a_readings_name_means_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Data:
        @hookimpl
        def ganrun_data(self) -> dict[str, type[ganrun.Data]]:
            return {"edges": Edges}

    monkeypatch.setattr(TruncatedGan, "readings", lambda _: {name: lambda nets, batch: batch.images})
    with pytest.raises(RequestError, match=rf'run.toml:\d+: \[loss\] truncated .*: it has a reading "{name}", which'):
        build(recipe(data={"use": "edges", "size": 8}), tmp_path / "run", Plugin(), Data())
    assert not (tmp_path / "run").exists()


def test_made_up_readings_serve_tests_of_metrics() -> None:
    data = Digits(Digits.Settings(size=8))
    data.prepare()
    moment = evaluation_on(data, lambda _: (), readings={"log_likelihood": lambda images: -images.flatten(1).sum(1)})  # type: ignore[arg-type,return-value]
    (nll,) = measured([Likelihood(None, moment.spec)], moment)
    assert nll.value == pytest.approx(float(digits(10**6).flatten(1).sum(1).mean()), rel=1e-5)
    infinite = evaluation_on(data, lambda _: (), readings={"reconstructions": lambda images: images / 0})  # type: ignore[arg-type,return-value]
    infinite.collect_real(Buffer(), "reconstructions")
    with pytest.raises(NonFiniteError, match="reconstructions at step 0 are not finite"):
        infinite.run()


# ── Gradients through samples ─────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_decode_differentiates_samples_by_latents_and_nothing_else(tmp_path: Path) -> None:
    model = build(recipe(ema=False), tmp_path / "run", Plugin()).model
    network = model.networks["generator"].train()
    weights = list(network.parameters())
    weights[0].requires_grad_(False)
    latents = torch.randn(5, 6).requires_grad_()
    samples = model.decode(latents, gradients=True)
    assert torch.equal(samples, model.decode(latents)) and samples.requires_grad
    assert [each.requires_grad for each in weights] == [False, *[True] * (len(weights) - 1)] and network.training
    with torch.enable_grad():
        torch.autograd.backward(samples.square().sum())
    assert latents.grad is not None and latents.grad.abs().sum() > 0 and all(each.grad is None for each in weights)
    assert not model.decode(latents).requires_grad


def test_a_run_in_bf16_is_scored_in_float32(tmp_path: Path) -> None:
    tables = recipe()
    tables["train"]["precision"] = "bf16"
    run = train(tables, tmp_path / "run", Plugin())
    loaded = find_saved_model(run.directory.path, registry_with(Plugin())).model("cpu")
    for model in (run.model, loaded):
        critic = model.read("critic", digits(16))
        assert torch.equal(critic, model.networks["discriminator"](digits(16))[:, 0])
        assert not torch.equal(critic, critic.bfloat16().float()), "not rounded"
    assert run.scores["nll"].protocol["precision"] == "f32"


def test_a_folder_of_pictures_has_no_model(run: ganrun.Run, registry: Registry, tmp_path: Path) -> None:
    assert run.evaluation().model is run.model
    assert evaluation_on(run.data, lambda _: (), model=run.model).model is run.model  # type: ignore[arg-type,return-value]
    seen: list[object] = []

    class Looks(Metric):
        """Looks at the model."""

        def watch(self, evaluation: Evaluation) -> None:
            seen.append(evaluation.model)

        def measure(self, evaluation: Evaluation) -> Sequence[Score]:
            return []

    class Wants(Looks):
        """Asks for the latents of samples."""

        def watch(self, evaluation: Evaluation) -> None:
            evaluation.collect(Buffer(), "latents", count=2)

    class Looking:
        @hookimpl
        def ganrun_metrics(self) -> dict[str, type[Metric]]:
            return {"looks": Looks, "wants": Wants}

    runner = CliRunner().invoke(main, ["sample", str(ordinary(tmp_path)), "-n", "3", "-o", str(tmp_path / "pictures")])
    assert runner.exit_code == 0, runner.output
    settings = ["data.size=8"]
    score(Request(tmp_path / "pictures", "digits", ["looks"], settings, "cpu"), registry_with(Looking()))
    assert seen == [None]
    with pytest.raises(IncompatibleError, match=r'"latents" of the samples, and there are only samples$'):
        score(Request(tmp_path / "pictures", "digits", ["wants"], settings, "cpu"), registry_with(Looking()))


def ordinary(folder: Path) -> Path:
    """A run of installed components alone."""
    tables = recipe("gan", metric=[])
    del tables["sampling"]
    return train(tables, folder / "ordinary").directory.path


# ── Sampling ──────────────────────────────────────────────────────────────────────────────────────────────


def test_samples_follow_the_sampling_and_a_change_shares_the_networks(run: ganrun.Run) -> None:
    model, latents = run.model, torch.randn(7, 6)
    assert model.sampling == TruncatedGan.Sampling(psi=0.7)
    narrow = model.with_sampling(psi=0.2)
    torch.testing.assert_close(narrow.decode(3.5 * latents), model.decode(latents))
    assert narrow.networks["generator"] is model.networks["generator"] and model.sampling.psi == 0.7  # type: ignore[attr-defined]
    assert torch.equal(narrow.with_sampling(psi=0.7).sample(5), model.sample(5))
    torch.testing.assert_close(narrow.sample(5), narrow.decode(next(iter(narrow.batches(5)))[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"psi": 1.5}, r"\[sampling\] psi = 1.5: input should be less than or equal to 1"),
        ({"psj": 0.5}, r'\[sampling\] has no key "psj"; did you mean "psi"\?(.|\n)*takes: psi, steps'),
        ({"psi": torch.tensor(0.5)}, r"\[sampling\] takes numbers"),
    ],
)
def test_a_sampling_that_cannot_be_is_refused(run: ganrun.Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run.model.with_sampling(**changes)


def test_every_score_says_how_samples_are_made_and_a_sweep_has_another_protocol(
    run: ganrun.Run, registry: Registry
) -> None:
    path = run.directory.path
    assert run.scores["nll"].protocol.items() >= {"sampling.psi": 0.7, "sampling.steps": 4}.items()
    before = run.directory.summary()
    swept = score(Request(path, metrics=["auroc"], overrides=["sampling.psi=0.5"], device="cpu"), registry)
    assert swept[0].protocol["sampling.psi"] == 0.5
    assert run.directory.records()[-1].evaluation[0].protocol["sampling.psi"] == 0.5
    assert run.directory.summary() == before, "the summary has the scores of the run's own sampling"
    own = score(Request(path, metrics=["auroc"], device="cpu"), registry)
    assert own[0] == run.scores["auroc"]
    with pytest.raises(RequestError, match=r"\[sampling\] psi = 3"):
        score(Request(path, overrides=["sampling.psi=3"], device="cpu"), registry)


def test_a_run_goes_on_under_another_sampling(tmp_path: Path) -> None:
    weights = [_weight(tmp_path, *each) for each in (("whole", 0.7, 6), ("cut", 0.7, 4), ("cut", 0.3, 6))]
    assert torch.equal(weights[0], weights[2]), "sampling is no part of training"


def _weight(folder: Path, name: str, psi: float, steps: int) -> Tensor:
    tables = recipe(sampling={"psi": psi}, train=recipe()["train"] | {"steps": steps}, metric=[])
    run = train(tables, folder / name, Plugin(), resume=True)
    return torch.cat([each.flatten() for each in run.model.networks["generator"].parameters()])


def test_a_saved_model_takes_another_sampling_and_nothing_else(run: ganrun.Run, registry: Registry) -> None:
    saved = find_saved_model(run.directory.path, registry)
    assert torch.equal(saved.model("cpu").sample(5), run.model.sample(5))
    swept = saved.model("cpu", ["sampling.psi=0.25"])
    assert torch.equal(swept.sample(5), run.model.with_sampling(psi=0.25).sample(5))
    with pytest.raises(RequestError, match=r"--set train\.steps=3: only the sampling of a trained model can change"):
        saved.model("cpu", ["train.steps=3"])
    with pytest.raises(RequestError, match='has no key "psj"'):
        saved.model("cpu", ["sampling.psj=3"])


def test_pictures_are_drawn_with_the_sampling_that_is_asked_for(tmp_path: Path) -> None:
    run = ordinary(tmp_path)
    for command in ("sample", "interpolate", "traverse"):
        refused = CliRunner().invoke(main, [command, str(run), "--set", "generator.hidden=[3]"])
        assert refused.exit_code == 2 and "only the sampling of a trained model can change" in refused.output
        absent = CliRunner().invoke(main, [command, str(run), "-s", "sampling.psi=0.5"])
        assert absent.exit_code == 2 and 'has no key "psi"' in absent.output


def test_pictures_of_a_sampling_have_a_file_of_their_own(
    run: ganrun.Run, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganrun_samples import making

    monkeypatch.setattr(making, "find_saved_model", lambda what: find_saved_model(what, registry))
    maker = making.Maker(str(run.directory.path), "cpu", ["sampling.psi=0.5"])
    target = maker.target("sample", None, seed=2)
    assert target.path.name == f"sample_step_{STEPS:08d}_seed_2_psi_0.5.png"


class Required(ganrun.Settings):
    psi: float
    """Without a default."""


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (TruncatedGan.Sampling, None),
        (dict, "whose Sampling is not a subclass of ganrun.Settings"),
        (Required, "whose Sampling.psi has no default"),
    ],
)
def test_a_loss_whose_sampling_no_recipe_could_hold_is_refused(sampling: type, message: str | None) -> None:
    assert type("Faulty", (TruncatedGan,), {"Sampling": sampling}).class_fault() == message  # type: ignore[attr-defined]


def test_an_export_has_its_sampling_built_in_and_its_card_says_so(
    run: ganrun.Run, registry: Registry, tmp_path: Path
) -> None:
    from ganrun_export import exporting

    score(Request(run.directory.path, metrics=["auroc"], overrides=["sampling.psi=0.1"], device="cpu"), registry)
    folder = exporting.export_run(exporting.Request(str(run.directory.path), tmp_path / "out"), registry=registry)
    program = torch.export.load(folder / "generator.pt2").module()
    latents = torch.randn(5, 6)
    torch.testing.assert_close(program(latents), run.model.decode(latents))
    model = find_saved_model(folder, registry).model("cpu")
    assert model.sampling == run.model.sampling and torch.equal(model.sample(5), run.model.sample(5))
    card, facts = (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())
    assert "Samples are made with psi 0.7, steps 4; `model.with_sampling(psi=…, steps=…)` returns" in card
    assert "and always make samples with psi 0.7, steps 4." in card
    assert facts["sampling"] == {"psi": 0.7, "steps": 4}
    assert facts["scores"]["auroc"]["protocol"]["sampling.psi"] == 0.7, "no score of other samples"
