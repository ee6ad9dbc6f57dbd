"""Improved techniques (Salimans et al. 2016) and the latents' distribution, for every adversarial loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ganrun import (
    AdversarialLoss,
    Batch,
    DataSpec,
    Discriminator,
    Loss,
    MinibatchDiscrimination,
    Nets,
    NetworkSpec,
    Phase,
    RequestError,
    View,
    load_registry,
    minibatch_layers,
)
from ganrun.contracts.settings import parse_settings
from ganrun.rehearsal.losses import repeated
from ganrun.testing import assert_conforms, build, train
from ganrun.toolkit.adversarial import LogisticLoss, feature_distance, logistic_terms
from ganrun.toolkit.latents import random_noise, split_latents
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step
from ganrun_conditional.losses import ConditionalGan
from ganrun_dcgan.networks import DcganDiscriminator
from ganrun_regularizers.techniques import FeatureMatching, HistoricalAveraging
from ganrun_vanilla.losses import FeatureMatchingGan, NonSaturatingGan
from ganrun_vanilla.networks import ConvDiscriminator, MlpDiscriminator

CPU = torch.device("cpu")
IMAGES = DataSpec((1, 16, 16), classes=3)
DCGAN = {"use": "dcgan", "feature_maps": 2}


@cache
def adversarial() -> dict[str, type[AdversarialLoss]]:
    """Every adversarial loss of the installed plugins, by name."""
    losses = {each.name: each.cls for each in load_registry().components("loss")}
    return {name: loss for name, loss in losses.items() if issubclass(loss, AdversarialLoss)}


def made(loss: type[Loss], **settings: Any) -> Any:
    return loss(parse_settings(loss.Settings, settings), IMAGES)


def tables(loss: Mapping[str, Any], *regularizers: Mapping[str, Any], **train: Any) -> dict[str, Any]:
    return {
        "train": {"steps": 3, "batch_size": 8, "device": "cpu", "log_every_steps": 1, **train},
        "data": {"use": "digits", "size": 16},
        "loss": {"latent_size": 4, **loss},
        "generator": DCGAN,
        "discriminator": {**DCGAN, "norm": "none"},
        "regularizer": list(regularizers),
        "checkpoints": {"every_steps": 1},
        **dict.fromkeys(("mlflow", "progress", "samples"), False),
    }


# ── The latents' distribution ─────────────────────────────────────────────────────────────────────────────

CUMULATIVE = {"normal": stats.norm, "uniform": stats.uniform(-1, 2), "truncated": stats.truncnorm(-2, 2)}


@pytest.mark.parametrize("distribution", CUMULATIVE)
def test_noise_has_the_distribution_that_it_is_called_by(distribution: Any) -> None:
    torch.manual_seed(0)
    noise = random_noise(200, 100, distribution, CPU)
    assert noise.dtype == torch.float32 and noise.shape == (200, 100)
    distance = stats.kstest(noise.double().flatten().numpy(), CUMULATIVE[distribution].cdf).statistic
    assert distance < 1.63 / len(noise.flatten()) ** 0.5, "Kolmogorov and Smirnov's distance, at 1 %"
    assert noise.abs().max() <= {"normal": 9, "uniform": 1, "truncated": 2}[distribution]


def test_every_adversarial_loss_draws_its_noise_as_the_setting_says() -> None:
    assert len(adversarial()) > 10
    for name, loss in adversarial().items():
        for distribution in CUMULATIVE:
            drawn = made(loss, latents=distribution)
            torch.manual_seed(1)
            latents = drawn.latents(50, CPU)
            factors = [each for each in drawn.factors() if each.kind == "noise"]
            noise = torch.cat([split_latents(latents, drawn.factors())[each.name] for each in factors], dim=1)
            distance = stats.kstest(noise.double().flatten().numpy(), CUMULATIVE[distribution].cdf).statistic
            assert distance < 2 / noise.numel() ** 0.5, (name, distribution)


def test_a_loss_without_the_setting_draws_normal_noise() -> None:
    class Plain(NonSaturatingGan):
        class Settings(Loss.Settings):
            latent_size: int = 5

    torch.manual_seed(2)
    latents = Plain(Plain.Settings(), IMAGES).latents(3, CPU)
    torch.manual_seed(2)
    assert torch.equal(latents, torch.randn(3, 5))


def test_truncation_of_samples_needs_normal_noise(tmp_path: Path) -> None:
    cut = tables({"use": "conditional-hinge"}) | {"sampling": {"truncation": 0.5}}
    cut["loss"] = {"use": "conditional-hinge", "noise_size": 4, "latents": "uniform"}
    with pytest.raises(RequestError, match=r'truncation bounds normal noise, and \[loss\] says latents = "uniform"'):
        build(cut, tmp_path)


# ── One-sided label smoothing ─────────────────────────────────────────────────────────────────────────────


def test_label_smoothing_is_cross_entropy_with_a_target_below_1_for_real_images_alone() -> None:
    real, fake = torch.randn(2, 40, dtype=torch.float64).mul(5)
    terms = logistic_terms(real, fake, 0.1)
    expected = binary_cross_entropy_with_logits(real, torch.full_like(real, 0.9))
    torch.testing.assert_close(terms["real"], expected)
    torch.testing.assert_close(terms["fake"], binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)))
    best = torch.tensor([0.9]).logit()
    assert logistic_terms(best, fake, 0.1)["real"].item() == pytest.approx(0.3251, abs=1e-4), "the entropy of 0.9"


def test_every_logistic_loss_has_label_smoothing_and_uses_it() -> None:
    logistic = {name: loss for name, loss in adversarial().items() if issubclass(loss, LogisticLoss)}
    assert {"gan", "minimax", "cgan", "acgan", "infogan", "stylegan2", "conditional-stylegan2"} <= logistic.keys()
    for name, loss in logistic.items():
        terms = made(loss, label_smoothing=0.2).logistic_terms(torch.tensor([3.0, -1.0]), torch.zeros(2))
        plain = logistic_terms(torch.tensor([3.0, -1.0]), torch.zeros(2))
        assert terms["real"] == plain["real"] + 0.2 * 1.0 and terms["fake"] == plain["fake"], name


@pytest.mark.parametrize("use", ["gan", "cgan", "acgan", "infogan"])
def test_smoothing_reaches_the_discriminators_objective(use: str) -> None:
    spec = {"cgan": {"labels": ()}}.get(use, {})
    found = {}
    for smoothing in (0.0, 0.1):
        loss = made(adversarial()[use], label_smoothing=smoothing)
        outputs = loss.ports("discriminator").outputs[0]

        def judge(images: Tensor, count: int = outputs, **_: Tensor) -> Tensor:
            return images.flatten(1).mean(1, keepdim=True).expand(-1, count)

        nets = Nets({"generator": lambda z, **_: z[:, :1, None, None].expand(-1, 1, 16, 16), "discriminator": judge})
        torch.manual_seed(0)
        batch = Batch(loss.latents(6, CPU), torch.rand(6, 1, 16, 16), torch.arange(6) % 3)
        assert spec.keys() <= loss.ports("discriminator").conditions.keys()
        found[smoothing] = loss.discriminator(nets, batch).minimise
    mean = batch.images.mean()
    torch.testing.assert_close(found[0.1]["real"], found[0.0]["real"] + 0.1 * mean)
    assert found[0.1]["fake"] == found[0.0]["fake"]


# ── Minibatch discrimination ──────────────────────────────────────────────────────────────────────────────


def test_minibatch_discrimination_is_the_papers_sum_over_all_pairs() -> None:
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(6, measures=4, length=3).double()
    features = torch.randn(5, 6, dtype=torch.float64)
    tensor = layer.tensor.detach().numpy()
    rows = np.einsum("na,abc->nbc", features.numpy(), tensor)
    expected = np.zeros((5, 4))
    for i in range(5):
        for j in range(5):
            expected[i] += np.exp(-np.abs(rows[i] - rows[j]).sum(1))
    found = layer(features)
    assert layer.features == 10 and torch.equal(found[:, :6], features)
    np.testing.assert_allclose(found[:, 6:].detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(layer.mean.numpy(), 0.01 * expected.mean(0), rtol=1e-12)
    same = layer(features[:1].expand(5, -1))[:, 6:]
    torch.testing.assert_close(same, torch.full_like(same, 5.0))  # of a generator that makes one sample
    assert torch.autograd.gradcheck(lambda x: layer(x), features.requires_grad_())


def test_in_evaluation_no_sample_sees_another_and_the_tensor_starts_as_documented() -> None:
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(400)
    assert layer.tensor.shape == (400, 100, 5) and layer.tensor.std().item() == pytest.approx(0.05, rel=0.01)
    layer(torch.randn(4, 400))
    layer.eval()
    features = torch.randn(3, 400)
    assert torch.equal(layer(features)[1], layer(features[1:2])[0])


@pytest.mark.parametrize("comparison", ["none", "deviation", "discrimination"])
def test_layers_of_a_comparison_take_vectors_and_maps_and_say_what_they_return(comparison: Any) -> None:
    for shape in ((6,), (6, 2, 2)):
        layers, behind = minibatch_layers(comparison, shape)
        features = torch.randn(8, *shape)
        found = nn.Sequential(*layers)(features)
        assert found.shape == (8, *behind)
        if comparison == "deviation":
            groups = features.reshape(4, 2, -1).std(0, correction=0).mean(1)  # sample i in group i mod 2
            torch.testing.assert_close(
                found[:, 6].flatten(1)[:, 0] if len(shape) > 1 else found[:, 6], groups.repeat(4)
            )


@pytest.mark.parametrize("norm", ["batch", "spectral", "none"])
@pytest.mark.parametrize("minibatch", ["none", "deviation", "discrimination"])
def test_dcgans_discriminator_compares_samples_behind_its_features(norm: str, minibatch: str) -> None:
    settings = {"feature_maps": 2, "norm": norm, "minibatch": minibatch}
    assert_conforms("discriminator", DcganDiscriminator, settings, NetworkSpec((1, 16, 16), (2,), {"labels": ()}, 3))
    network = DcganDiscriminator(parse_settings(DcganDiscriminator.Settings, settings), NetworkSpec((1, 16, 16), (2,)))
    images = torch.rand(6, 1, 16, 16)
    network.eval()
    maps = network.features(images)
    assert maps.shape == (6, 4, 4, 4) and torch.equal(network.layers[network._hidden :](maps), network(images))
    names = {name for name in network.state_dict() if name.endswith("tensor")}
    assert bool(names) == (minibatch == "discrimination")


@pytest.mark.parametrize("minibatch", ["none", "deviation", "discrimination"])
@pytest.mark.parametrize(
    ("network", "settings"),
    [(MlpDiscriminator, {"hidden": [8]}), (ConvDiscriminator, {"feature_maps": 4, "stages": 1})],
)
def test_the_simple_discriminators_compare_samples_behind_their_features(
    network: Any, settings: Any, minibatch: str
) -> None:
    asked = {**settings, "minibatch": minibatch}
    assert_conforms("discriminator", network, asked, NetworkSpec((1, 8, 8), (2,), {"labels": ()}, 3))
    built = network(parse_settings(network.Settings, asked), NetworkSpec((1, 8, 8), (2,))).eval()
    images = torch.rand(6, 1, 8, 8)
    behind, features = built.layers[-1 if minibatch == "none" else -2 :], built.features(images)
    torch.testing.assert_close(behind(features), built(images))


# ── Feature matching ──────────────────────────────────────────────────────────────────────────────────────


def test_feature_matching_is_the_squared_distance_of_mean_features() -> None:
    real, fake = torch.randn(2, 7, 3, 2, 2, dtype=torch.float64)
    means = real.numpy().mean(0), fake.numpy().mean(0)
    assert feature_distance(real, fake).item() == pytest.approx(((means[0] - means[1]) ** 2).sum())
    assert feature_distance(real, real.flip(0)).item() == pytest.approx(0, abs=1e-25), "in any order"


class Doubled(nn.Module):
    """Features are twice the images, plus the label."""

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return 2 * images.flatten(1) + (0 if labels is None else labels[:, None])


class Constant(nn.Module):
    """One weight, and the images that it makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.5))

    def forward(self, latents: Tensor, **_: Tensor) -> Tensor:
        return self.value.expand(len(latents), 1, 16, 16)


def test_as_a_loss_and_as_a_penalty_beside_one_with_classes() -> None:
    nets = Nets({"generator": View(Constant()), "discriminator": View(Doubled())})
    images, labels = torch.ones(6, 1, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    alone = made(FeatureMatchingGan, latent_size=3)
    terms = alone.generator(nets, Batch(torch.zeros(6, 3), images)).minimise
    assert terms["features"].item() == 256 * (2 - 1) ** 2
    loss = made(ConditionalGan, noise_size=3)
    latents = torch.cat([torch.zeros(6, 3), torch.eye(3)[[2] * 6]], dim=1)
    penalty = FeatureMatching(FeatureMatching.Settings(), loss).penalty(
        nets, Batch(latents, images, labels), "generator"
    )
    assert penalty.item() == 256 * ((2 + 1) - (1 + 2)) ** 2, "the mean label is 1, that of samples 2"


def test_they_conform_where_the_discriminator_has_features() -> None:
    class Small(Discriminator):
        def __init__(self, settings: Any, spec: NetworkSpec) -> None:
            super().__init__(settings, spec)
            self.hidden, self.last = nn.LazyLinear(4), nn.LazyLinear(spec.out_features)
            self(torch.zeros(2, *spec.inputs))

        def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.last(self.features(images))

        def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.hidden(images.flatten(1)).tanh()

    assert_conforms("loss", FeatureMatchingGan, networks={"discriminator": Small})
    assert_conforms("regularizer", FeatureMatching, networks={"discriminator": Small})
    assert_conforms("regularizer", HistoricalAveraging)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"discriminator": {"use": "sngan", "widths": [4]}}, "no method features; take one that has, such as"),
        ({"regularizer": [{"use": "feature-matching", "discriminator": "critic"}]}, 'has no discriminator "critic"'),
    ],
)
def test_what_has_no_features_is_refused_before_training(change: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=fault):
        build(tables({"use": "gan"}, {"use": "feature-matching"}) | change, tmp_path)


# ── Historical averaging ──────────────────────────────────────────────────────────────────────────────────


def test_historical_averaging_is_the_distance_from_the_mean_over_steps() -> None:
    network = nn.Linear(2, 3).double()
    nets = Nets({"discriminator": View(network)})
    penalty = HistoricalAveraging(HistoricalAveraging.Settings(), made(NonSaturatingGan))
    penalty.prepare(nets)
    penalty.memory.double()
    seen = []
    for step in range(5):
        with torch.no_grad():
            network.weight.normal_()
            network.bias.normal_()
        seen.append(np.concatenate([network.weight.detach().flatten().numpy(), network.bias.detach().numpy()]))
        for _ in range(3):  # parts of a batch, which count once
            batch = Batch(torch.zeros(1, 1), steps_done=torch.tensor(float(step)))
            found = penalty.penalty(nets, batch, "discriminator")
            assert found.item() == pytest.approx(((seen[-1] - np.mean(seen, 0)) ** 2).sum(), rel=1e-9, abs=1e-20)
    network.zero_grad()
    found.backward()
    np.testing.assert_allclose(network.bias.grad.numpy(), 2 * (seen[-1] - np.mean(seen, 0))[6:], rtol=1e-9)


def test_each_player_has_its_own_and_it_is_the_same_for_parts_of_a_batch(tmp_path: Path) -> None:
    both = [{"use": "historical-averaging", "slot": slot, "weight": 0.5} for slot in ("generator", "discriminator")]
    recipe = tables({"use": "gan"}, *both)
    recipe["generator"] = {**DCGAN, "norm": "none"}
    whole, parts = (
        train(recipe, tmp_path / "whole"),
        train(recipe | {"train": {**recipe["train"], "accumulate": 2}}, tmp_path / "parts"),
    )
    for number in (0, 1):
        memories = [run.state.checkpoint().weights[f"regularizer.{number}"] for run in (whole, parts)]
        assert memories[0]["count"] == memories[1]["count"] == 3
        torch.testing.assert_close(memories[0]["mean"], memories[1]["mean"], rtol=0, atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    names = ["loss/discriminator.discriminator.historical-averaging", "loss/generator.generator.historical-averaging"]
    values = [[line[name] for line in lines] for name in names]
    assert all(first == 0 and second > 0 for first, second, *_ in values)


# ── Repeats ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_adversarial_loss_repeats_both_players() -> None:
    for name, loss in adversarial().items():
        phases = made(loss).phases()
        trained = [phase.trains for phase in phases]
        assert sorted(trained) == sorted((slot,) for slot in loss.slots), f"{name}: one phase for each network"
        repeat = {slot: 2 if at.kind == "discriminator" else 3 for slot, at in loss.slots.items()}
        counts = [repeated(phase, repeat) for phase in phases]
        assert counts == [2, 3] * (len(phases) // 2), f"{name}: a discriminator, then its generator"


def test_all_updates_of_the_one_come_before_those_of_the_other_each_on_a_new_batch(tmp_path: Path) -> None:
    run = build(tables({"use": "gan"}, steps=2, repeat={"discriminator": 3, "generator": 2}), tmp_path / "run")
    seen: list[tuple[str, float]] = []

    def noted(phase: Phase) -> Phase:
        def objective(nets: Nets, batch: Batch) -> Any:
            seen.append((phase.name, batch.latents.sum().item()))
            return phase.objective(nets, batch)

        return replace(phase, objective=objective)

    run.phases = tuple(noted(phase) for phase in run.phases)
    take_step = build_step(run, Measurements())
    take_step()
    take_step()
    assert [name for name, _ in seen] == (["discriminator"] * 3 + ["generator"] * 2) * 2
    assert len({latents for _, latents in seen}) == 10
