"""InfoGAN: its information bound against theory, its objective and networks against the paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.distributions import Categorical, Normal

import ganrun_infogan
from ganrun import Batch, DataSpec, IncompatibleError, Nets, NetworkSpec, RequestError, Settings
from ganrun.testing import assert_conforms, build, train
from ganrun_infogan.losses import InfoGan, categorical_information, continuous_information
from ganrun_infogan.networks import MnistDiscriminator, MnistGenerator

CPU = torch.device("cpu")
POINT = DataSpec((1,))
SEEDS = st.integers(0, 2**31)
MIXED = {"noise_size": 4, "categorical": (3, 5), "continuous": 2}


def infogan(**table) -> InfoGan:
    return InfoGan(InfoGan.Settings(**{**MIXED, **table}), POINT)


def one_hot(values: torch.Tensor, count: int) -> torch.Tensor:
    return nn.functional.one_hot(values, count).float()


# ── The bound on the information ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("values", [2, 10, 37])
def test_a_recognition_network_that_is_always_right_reports_exactly_ln_k(values):
    codes = one_hot(torch.arange(4 * values) % values, values)
    assert categorical_information(1e4 * codes, codes).item() == pytest.approx(math.log(values), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 12), st.floats(-30, 30), SEEDS)
def test_a_recognition_network_that_knows_nothing_reports_no_information(values, level, seed):
    torch.manual_seed(seed)
    codes = one_hot(torch.randint(values, (16,)), values)
    assert categorical_information(torch.full((16, values), level), codes).item() == pytest.approx(0, abs=1e-5)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 12), st.floats(0.01, 1e4), SEEDS)
def test_categorical_information_is_the_papers_bound_and_never_above_ln_k(values, scale, seed):
    torch.manual_seed(seed)
    drawn = torch.randint(values, (32,))
    logits = scale * torch.randn(32, values)
    found = categorical_information(logits, one_hot(drawn, values)).item()
    assert found <= math.log(values) + 1e-6
    expected = math.log(values) + Categorical(logits=logits.double()).log_prob(drawn).mean().item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 5), SEEDS)
def test_continuous_information_is_the_entropy_plus_the_gaussians_log_likelihood(count, seed):
    torch.manual_seed(seed)
    mean, log_variance, codes = torch.randn(3, 32, count).double()
    expected = math.log(2) + Normal(mean, (0.5 * log_variance).exp()).log_prob(codes).mean(0)
    torch.testing.assert_close(continuous_information(mean, log_variance, codes), expected)


@settings(deadline=None, max_examples=100)
@given(st.floats(-2, 2), st.floats(-6, 4))
def test_a_gaussian_that_does_not_look_at_the_image_reports_no_information(mean, log_variance):
    """Over all of (-1, 1), no constant Q reaches 0; the best one, N(0, 1/3), stays 0.1765 nats below it."""
    codes = (torch.arange(2000)[:, None] + 0.5) / 1000 - 1
    constant = torch.ones_like(codes)
    best = continuous_information(0 * constant, math.log(1 / 3) * constant, codes).item()
    assert best == pytest.approx(math.log(2) - 0.5 * (math.log(2 * math.pi / 3) + 1), abs=1e-5)
    assert continuous_information(mean * constant, log_variance * constant, codes).item() <= best + 1e-5


# ── Latents ───────────────────────────────────────────────────────────────────────────────────────────────


def test_latents_are_noise_then_one_hot_codes_then_continuous_codes():
    torch.manual_seed(0)
    loss = infogan()
    noise, first, second, continuous = loss.latents(30_000, CPU).split([4, 3, 5, 2], dim=1)
    for codes, values in ((first, 3), (second, 5)):
        assert set(codes.unique().tolist()) == {0.0, 1.0} and torch.all(codes.sum(1) == 1)
        assert codes.mean(0).tolist() == pytest.approx([1 / values] * values, abs=0.015)
    joint = first.T @ second / len(first)
    assert joint.flatten().tolist() == pytest.approx([1 / 15] * 15, abs=0.01), "the codes depend on each other"
    for uniform in (noise, continuous):
        assert uniform.abs().max() <= 1
        quarters = torch.stack([torch.histc(column, 4, -1, 1) for column in uniform.T]) / len(uniform)
        assert (quarters - 0.25).abs().max() < 0.015
    correlation = torch.corrcoef(torch.cat([noise, continuous], dim=1).T)
    assert (correlation - torch.eye(6)).abs().max() < 0.03


def test_the_papers_sizes_are_the_defaults():
    loss = InfoGan(InfoGan.Settings(), DataSpec((1, 28, 28)))
    assert loss.latent_size == 74, "62 + 10 + 2: appendix C.1"
    assert loss.ports("discriminator").outputs == (1 + 10 + 2 * 2,)


def test_outputs_are_read_in_the_order_in_which_codes_are_drawn():
    loss = infogan()
    latents = loss.latents(64, CPU)
    _, first, second, continuous = latents.split([4, 3, 5, 2], dim=1)
    told = torch.cat([torch.randn(64, 1), 1e3 * first, 1e3 * second, continuous, torch.full((64, 2), -4.0)], dim=1)
    found = loss.information(latents, told)
    assert found["categorical"].item() == pytest.approx(math.log(3) + math.log(5), abs=1e-5)
    assert found["continuous"].item() == pytest.approx(2 * (math.log(2) - 0.5 * (math.log(2 * math.pi) - 4)), abs=1e-5)


# ── The objective: equation 6 ─────────────────────────────────────────────────────────────────────────────


def test_both_phases_subtract_weighted_information_about_the_samples_codes():
    torch.manual_seed(1)
    loss = infogan(categorical_weight=0.7, continuous_weight=0.2)
    latents, judge = loss.latents(16, CPU), torch.randn(loss.latent_size, 13)
    real = torch.randn(16, loss.latent_size)
    nets = Nets({"generator": lambda z: z, "discriminator": lambda x: x @ judge})
    information = loss.information(latents, latents @ judge)
    expected = 0.7 * information["categorical"] + 0.2 * information["continuous"]
    fake_logits, real_logits = (latents @ judge)[:, 0], (real @ judge)[:, 0]
    adversarial = {
        "discriminator": -(real_logits.sigmoid().log() + (1 - fake_logits.sigmoid()).log()).mean(),
        "generator": -fake_logits.sigmoid().log().mean(),
    }
    for name, objective in (("discriminator", loss.discriminator), ("generator", loss.generator)):
        terms = objective(nets, Batch(latents, real))
        torch.testing.assert_close(sum(terms.minimise.values()), adversarial[name] - expected, rtol=1e-4, atol=1e-4)
        bound = {"mutual_information_bound": torch.tensor(math.log(3) + math.log(5))}
        assert terms.report == {f"mutual_information_{kind}": value for kind, value in information.items()} | bound


@pytest.mark.parametrize(
    ("table", "kinds"), [({"continuous": 0}, ["categorical"]), ({"categorical": ()}, ["continuous"])]
)
def test_a_kind_of_code_that_is_absent_has_no_term(table, kinds):
    loss = infogan(**table)
    latents = loss.latents(8, CPU)
    assert list(loss.information(latents, torch.randn(8, *loss.ports("discriminator").outputs))) == kinds


def test_the_information_trains_the_generator_in_its_phase_and_recognition_and_trunk_in_theirs():
    loss = InfoGan(InfoGan.Settings(**MIXED), DataSpec((1, 8, 8)))
    generator = MnistGenerator(Settings(), NetworkSpec(*loss.ports("generator")))
    judge = MnistDiscriminator(Settings(), NetworkSpec(*loss.ports("discriminator")))
    nets = Nets({"generator": generator, "discriminator": judge})
    batch = Batch(loss.latents(8, CPU), torch.zeros(8, 1, 8, 8))
    trained = {}
    for phase, slot in zip(loss.phases(), (judge, generator), strict=True):
        for network in (generator, judge):
            network.zero_grad()
            network.requires_grad_(network is slot)
        terms = phase.objective(nets, batch).minimise
        torch.autograd.backward(terms["categorical"] + terms["continuous"])
        modules = {"generator": generator, "trunk": judge.trunk, "logit": judge.logit, "recognition": judge.recognition}
        trained[phase.name] = {name for name, module in modules.items() if moves(module)}
    assert trained == {"discriminator": {"trunk", "recognition"}, "generator": {"generator"}}


def moves(module: nn.Module) -> bool:
    gradients = [each.grad for each in module.parameters()]
    return all(each is not None and each.abs().max() > 0 for each in gradients)


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"categorical": [2, 7, 3], "continuous": 0},
        {"categorical": [], "continuous": 3},
        {"noise_size": 0, "continuous_weight": 0.0},
    ],
)
def test_any_mix_of_codes_conforms(table):
    assert_conforms("loss", InfoGan, table)


# ── The paper's networks ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 8)])
def test_the_networks_conform(shape):
    assert_conforms("generator", MnistGenerator, spec=NetworkSpec((74,), shape))
    for outputs in (1, 15):
        assert_conforms("discriminator", MnistDiscriminator, spec=NetworkSpec(shape, (outputs,)))


def test_the_layers_are_those_of_table_1():
    generator = MnistGenerator(Settings(), NetworkSpec((74,), (1, 28, 28)))
    judge = MnistDiscriminator(Settings(), NetworkSpec((1, 28, 28), (15,)))
    assert weights(generator) == [(1024, 74), (7 * 7 * 128, 1024), (128, 64, 4, 4), (64, 1, 4, 4)]
    assert weights(judge.trunk) == [(64, 1, 4, 4), (128, 64, 4, 4), (1024, 7 * 7 * 128)]
    assert weights(judge.logit) == [(1, 1024)] and weights(judge.recognition) == [(128, 1024), (14, 128)]
    kinds = [type(layer).__name__ for layer in judge.recognition]
    assert kinds == ["Linear", "BatchNorm1d", "LeakyReLU", "Linear"]
    leaks = {each.negative_slope for each in judge.modules() if isinstance(each, nn.LeakyReLU)}
    epsilons = {each.eps for net in (generator, judge) for each in net.modules() if "BatchNorm" in type(each).__name__}
    assert leaks == {0.1} and epsilons == {1e-5}


def weights(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(each.weight.shape) for each in module.modules() if hasattr(each, "weight") and each.weight.dim() > 1]


def test_the_first_output_is_the_discriminators_and_the_rest_come_from_recognition():
    judge = MnistDiscriminator(Settings(), NetworkSpec((1, 8, 8), (15,))).eval()
    images = torch.randn(4, 1, 8, 8)
    before = judge(images)
    nn.init.zeros_(judge.recognition[-1].weight)
    after = judge(images)
    assert torch.equal(after[:, 0], before[:, 0]) and torch.all(before[:, 1:] != 0) and torch.all(after[:, 1:] == 0)


@pytest.mark.parametrize(
    ("component", "spec"),
    [
        (MnistGenerator, NetworkSpec((4,), (1, 30, 28))),
        (MnistDiscriminator, NetworkSpec((1, 30, 28), (1,))),
    ],
)
def test_a_size_that_cannot_be_quartered_is_refused(component, spec):
    with pytest.raises(
        IncompatibleError, match=r"^with its two strided convolutions it takes sizes divisible by 4, not 30×28$"
    ):
        component(Settings(), spec)


# ── Real runs ─────────────────────────────────────────────────────────────────────────────────────────────


def recipe(steps: int, loss: dict, **tables) -> dict:
    quiet = dict.fromkeys(("mlflow", "checkpoints", "samples", "progress"), False)
    return {
        "name": "infogan digits 8",
        "train": {"steps": steps, "batch_size": 64, "device": "cpu", **tables.pop("train", {})},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "infogan", **loss},
        "generator": {"use": "infogan-mnist"},
        "discriminator": {"use": "infogan-mnist"},
        "optimizer": {"use": "adam", "lr": 1e-3, "betas": [0.5, 0.999], "discriminator": {"lr": 5e-4}},
        **quiet,
        **tables,
    }


def test_after_a_short_run_codes_can_be_read_off_fresh_samples(tmp_path):
    networks = {
        "generator": {"use": "mlp", "hidden": [64, 128], "norm": "batch"},
        "discriminator": {"use": "mlp", "hidden": [128, 64]},
    }
    run = train(recipe(120, {"noise_size": 16, "continuous_weight": 0.3}, **networks), tmp_path / "run", ganrun_infogan)
    generator, judge = (run.state.slots[name].module.eval() for name in ("generator", "discriminator"))
    torch.manual_seed(5)
    latents = run.model.loss.latents(512, CPU)
    with torch.no_grad():
        outputs = judge(generator(latents))
    information = run.model.loss.information(latents, outputs)
    right = (outputs[:, 1:11].argmax(1) == latents[:, 16:26].argmax(1)).float().mean()
    assert right > 0.7, "of ten values, chance gets a tenth right"
    assert 1.2 < information["categorical"] <= math.log(10)
    assert information["continuous"] > 0.3


def test_the_papers_networks_train_in_bf16_and_by_parts(tmp_path):
    wanted = recipe(2, {}, train={"precision": "bf16", "accumulate": 2, "batch_size": 16})
    run = train(wanted, tmp_path / "run", ganrun_infogan)
    assert run.step == 2 and '"loss/generator.mutual_information_categorical"' in (
        (run.directory / "metrics.jsonl").read_text()
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"categorical": [], "continuous": 0}, 'there are no codes; set categorical or continuous, or say use = "gan"'),
        ({"categorical": [10, 1]}, "categorical"),
        ({"continuous": -1}, "continuous"),
    ],
)
def test_codes_that_make_no_sense_are_refused_at_their_line(tmp_path, table, message):
    with pytest.raises(RequestError, match=message) as refusal:
        build(recipe(1, table), tmp_path / "run", ganrun_infogan)
    assert "run.toml:" in str(refusal.value) and not (tmp_path / "run").exists()
