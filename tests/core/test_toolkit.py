"""The toolkit: public parts that losses and networks share, against closed forms and through third-party losses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import Field
from torch import nn

import ganrun
from ganrun import (
    AdversarialLoss,
    Batch,
    ClassInLatents,
    ContractError,
    DataSpec,
    Factor,
    IncompatibleError,
    ModelSpec,
    Nets,
    Slot,
    Terms,
    dcgan_init,
    float32_tanh,
    halved_shape,
    join_latents,
    labels_of,
    logistic_terms,
    non_saturating_loss,
    random_one_hot,
    split_latents,
)
from ganrun.testing import assert_conforms, train

CPU = torch.device("cpu")
LOGITS = st.lists(st.floats(-30, 30), min_size=1, max_size=9)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ── Logistic terms ────────────────────────────────────────────────────────────────────────────────────────


@given(real=LOGITS, fake=LOGITS)
def test_the_logistic_terms_are_means_of_the_papers_logarithms(real, fake):
    logits = [torch.tensor(each, dtype=torch.float64) for each in (real, fake)]
    terms = logistic_terms(*logits)
    assert list(terms) == ["real", "fake"]
    log_real = sum(math.log(sigmoid(x)) for x in real) / len(real)
    log_not_fake = sum(math.log(sigmoid(-x)) for x in fake) / len(fake)  # 1 − σ(x) = σ(−x)
    log_fake = sum(math.log(sigmoid(x)) for x in fake) / len(fake)
    assert terms["real"].item() == pytest.approx(-log_real, rel=1e-9)
    assert terms["fake"].item() == pytest.approx(-log_not_fake, rel=1e-9)
    assert non_saturating_loss(logits[1]).item() == pytest.approx(-log_fake, rel=1e-9)


def test_at_the_games_equilibrium_they_are_log_2():
    undecided = torch.zeros(4, 1)
    values = [*logistic_terms(undecided, undecided).values(), non_saturating_loss(undecided)]
    assert [value.item() for value in values] == pytest.approx([math.log(2)] * 3)


def test_their_gradients_are_sigmoids_and_extreme_logits_stay_finite():
    logits = torch.tensor([-1e4, -2.0, 0.0, 3.0, 1e4], dtype=torch.float64, requires_grad=True)
    share = logits.detach().sigmoid()
    for term, expected in (
        (logistic_terms(logits, logits)["real"], share - 1),
        (logistic_terms(logits, logits)["fake"], share),
        (non_saturating_loss(logits), share - 1),
    ):
        (gradient,) = torch.autograd.grad(term, logits)
        assert term.isfinite() and torch.allclose(gradient * 5, expected)


# ── Adversarial losses ────────────────────────────────────────────────────────────────────────────────────


class Hinge(AdversarialLoss):
    """A third party's loss, with repeated updates under its own phase name."""

    class Settings(ganrun.Settings):
        latent_size: int = 5
        """Length of a latent vector."""

        updates: int = Field(3, ge=1)
        """Critic updates per generator update."""

    def discriminator_phase(self):
        return dataclasses.replace(super().discriminator_phase(), name="critic", repeat=self.settings.updates)

    def discriminator(self, nets, batch):
        real, fake = nets.discriminator(batch.images), nets.discriminator(nets.generator(batch.latents))
        return Terms({"real": (1 - real).relu().mean(), "fake": (1 + fake).relu().mean()})

    def generator(self, nets, batch):
        return Terms({"fake": -nets.discriminator(nets.generator(batch.latents)).mean()})


class ConditionalHinge(ClassInLatents, AdversarialLoss):
    """A third party's loss with the class in its latents."""

    class Settings(ClassInLatents.Settings):
        margin: float = 1.0
        """Beyond it, samples are ignored."""

    def ports(self, slot):
        return super().ports(slot)._replace(conditions={"labels": ()})

    def discriminator(self, nets, batch):
        noise, classes = self.noise_and_classes(batch.latents)
        real = nets.discriminator(batch.images, labels=labels_of(batch))
        fake = nets.discriminator(nets.generator(noise, labels=classes), labels=classes)
        margin = self.settings.margin
        return Terms({"real": (margin - real).relu().mean(), "fake": (margin + fake).relu().mean()})

    def generator(self, nets, batch):
        noise, classes = self.noise_and_classes(batch.latents)
        return Terms({"fake": -nets.discriminator(nets.generator(noise, labels=classes), labels=classes).mean()})


class Plugin:
    @ganrun.hookimpl
    def ganrun_losses(self):
        return {"hinge-test": Hinge, "conditional-hinge-test": ConditionalHinge}


def test_an_adversarial_loss_has_two_slots_and_two_phases():
    loss = Hinge(Hinge.Settings(), DataSpec((1,)))
    assert loss.slots == {
        "generator": Slot("generator", averaged=True),
        "discriminator": Slot("discriminator", augmented=True),
    }
    critic, generator = loss.phases()
    assert (critic.name, critic.trains, critic.repeat, critic.reads_images) == ("critic", ("discriminator",), 3, True)
    assert (generator.name, generator.trains, generator.repeat) == ("generator", ("generator",), 1)
    assert not generator.reads_images and not generator.second_order
    plain = AdversarialLoss.discriminator_phase(loss)
    assert (plain.name, plain.repeat, plain.objective) == ("discriminator", 1, loss.discriminator)


def test_an_adversarial_loss_without_an_objective_cannot_be_built():
    incomplete = type("Incomplete", (AdversarialLoss,), {"generator": Hinge.generator})
    with pytest.raises(TypeError, match=r"abstract method '?discriminator"):
        incomplete(Hinge.Settings(), DataSpec((1,)))


@pytest.mark.parametrize("component", [Hinge, ConditionalHinge])
def test_third_party_losses_conform(component):
    assert_conforms("loss", component, {}, DataSpec((3, 8, 8), classes=4))
    assert_conforms("loss", component, {}, DataSpec((2,), classes=2))


@pytest.mark.parametrize(("use", "phase"), [("hinge-test", "critic"), ("conditional-hinge-test", "discriminator")])
def test_third_party_losses_train(tmp_path, use, phase):
    tables = {
        "train": {"steps": 2, "batch_size": 8, "device": "cpu", "log_every_steps": 1},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": use},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        **dict.fromkeys(("mlflow", "checkpoints", "samples", "progress"), False),
    }
    run = train(tables, tmp_path / "run", Plugin())
    assert (run.step, run.images_seen) == (2, 2 * 8 * (3 if phase == "critic" else 1))
    assert f'"loss/{phase}.real"' in (run.directory / "metrics.jsonl").read_text(encoding="utf-8")


# ── Latents by factor ─────────────────────────────────────────────────────────────────────────────────────


@st.composite
def factors(draw) -> tuple[Factor, ...]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    kinds = st.sampled_from(["noise", "categorical", "continuous"])
    return tuple(Factor(f"factor_{number}", size, draw(kinds)) for number, size in enumerate(sizes))


def latents_of(parts: tuple[Factor, ...], count: int = 3) -> torch.Tensor:
    size = sum(factor.size for factor in parts)
    return torch.arange(float(count * size)).view(count, size)


@given(parts=factors())
def test_a_part_is_where_the_spec_places_its_factor(parts):
    spec = ModelSpec((1,), latent_size=sum(factor.size for factor in parts), factors=parts)
    latents = latents_of(parts)
    found = split_latents(latents, parts)
    assert list(found) == [factor.name for factor in parts]
    for factor in parts:
        assert torch.equal(found[factor.name], latents[:, spec.place(factor)])


@given(parts=factors(), data=st.data())
def test_joining_undoes_splitting_in_any_order_and_leaves_0_for_absent_parts(parts, data):
    latents = latents_of(parts)
    shuffled = dict(data.draw(st.permutations(list(split_latents(latents, parts).items()))))
    assert torch.equal(join_latents(shuffled, parts), latents)
    absent = data.draw(st.sampled_from(parts))
    some = {name: part for name, part in shuffled.items() if name != absent.name}
    if some:
        joined = split_latents(join_latents(some, parts), parts)
        assert not joined[absent.name].any()
        assert all(torch.equal(joined[name], part) for name, part in some.items())


def test_a_part_without_a_factor_is_refused():
    with pytest.raises(ContractError, match=r"^the latents have no factor clas, code$"):
        join_latents({"code": torch.zeros(2, 3), "clas": torch.zeros(2, 3)}, [Factor("class", 3, "categorical")])


def test_latents_of_another_length_are_not_split():
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        split_latents(torch.zeros(2, 4), [Factor("noise", 3, "noise")])


@settings(max_examples=25)
@given(values=st.integers(2, 12), seed=st.integers(0, 2**31))
def test_a_random_one_hot_row_is_one_equally_likely_value(values, seed):
    torch.manual_seed(seed)
    drawn = random_one_hot(4000, values, CPU)
    assert drawn.shape == (4000, values) and drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and bool((drawn.sum(1) == 1).all())
    spread = math.sqrt((values - 1) / values**2 / 4000)
    assert (drawn.mean(0) - 1 / values).abs().max() < 6 * spread, "six standard errors"


# ── The class in the latents ──────────────────────────────────────────────────────────────────────────────


@given(noise_size=st.integers(1, 9), classes=st.integers(2, 9), seed=st.integers(0, 99))
def test_noise_and_classes_come_back_from_the_latents(noise_size, classes, seed):
    loss = ConditionalHinge(ConditionalHinge.Settings(noise_size=noise_size), DataSpec((1,), classes))
    torch.manual_seed(seed)
    latents = loss.latents(7, CPU)
    assert latents.shape == (7, loss.latent_size) == (7, noise_size + classes)
    assert loss.ports("generator") == ((noise_size,), (1,), {"labels": ()})
    assert loss.factors() == (Factor("noise", noise_size, "noise"), Factor("class", classes, "categorical"))
    noise, labels = loss.noise_and_classes(latents)
    assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() < classes
    one_hot = nn.functional.one_hot(labels, classes).float()
    assert torch.equal(join_latents({"class": one_hot, "noise": noise}, loss.factors()), latents)


def test_noise_is_drawn_before_classes_so_that_stored_seeds_keep_their_samples():
    loss = ConditionalHinge(ConditionalHinge.Settings(noise_size=3), DataSpec((1,), 4))
    torch.manual_seed(5)
    latents = loss.latents(6, CPU)
    torch.manual_seed(5)
    noise, classes = torch.randn(6, 3), torch.randint(4, (6,))
    assert torch.equal(latents, torch.cat([noise, nn.functional.one_hot(classes, 4).float()], dim=1))


def test_the_noise_is_standard_normal():
    torch.manual_seed(0)
    loss = ConditionalHinge(ConditionalHinge.Settings(noise_size=4), DataSpec((1,), 3))
    noise, _ = loss.noise_and_classes(loss.latents(10_000, CPU))
    assert noise.mean(0).abs().max() < 5 / 100 and (noise.std(0) - 1).abs().max() < 5 / math.sqrt(2 * 10_000)


def test_the_generator_gets_the_class_as_a_label():
    loss = ConditionalHinge(ConditionalHinge.Settings(noise_size=1), DataSpec((1,), 3))
    nets = Nets({"generator": lambda noise, labels: noise + 10 * labels[:, None]})
    latents = torch.tensor([[0.5, 0, 0, 1], [-2.0, 1, 0, 0]])
    assert loss.generate(nets, latents, loss.Sampling()).tolist() == [[20.5], [-2.0]]


def test_labels_of_a_batch_are_the_real_images_labels_or_an_error():
    labels = torch.tensor([1, 0])
    assert labels_of(Batch(torch.zeros(2, 1), torch.zeros(2, 1), labels)) is labels
    with pytest.raises(ContractError, match="declares classes, but its training images have no labels"):
        labels_of(Batch(torch.zeros(2, 1), torch.zeros(2, 1)))


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(300, 400), nn.Conv2d(30, 40, 8), nn.ConvTranspose2d(30, 40, 8), nn.Linear(300, 400, bias=False)],
    ids=lambda layer: type(layer).__name__,
)
def test_dcgans_weights_are_normal_with_deviation_0_02_and_biases_0(layer):
    torch.manual_seed(0)
    dcgan_init(layer)
    weights = layer.weight.detach().flatten().double() / 0.02
    count = len(weights)
    assert weights.mean().abs() < 5 / math.sqrt(count)
    assert (weights.var() - 1).abs() < 5 * math.sqrt(2 / count)
    assert (weights.pow(4).mean() - 3).abs() < 5 * math.sqrt(96 / count), "a normal distribution's kurtosis"
    assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(50_000), nn.BatchNorm2d(50_000)], ids=["1d", "2d"])
def test_dcgans_scales_of_batch_norm_are_normal_around_1(layer):
    torch.manual_seed(0)
    dcgan_init(layer)
    scales = layer.weight.detach()
    assert (scales.mean() - 1).abs() < 5 * 0.02 / math.sqrt(50_000)
    assert scales.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * 50_000))
    assert not layer.bias.any()


def test_dcgans_initialisation_leaves_other_layers_alone_and_follows_the_random_stream():
    others = [nn.GroupNorm(1, 4), nn.InstanceNorm2d(4, affine=True), nn.Embedding(3, 4), nn.LayerNorm(4)]
    before = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in others]
    first, second = nn.Linear(2, 3), nn.Conv2d(2, 3, 1)
    torch.manual_seed(3)
    nn.Sequential(*others, first, second).apply(dcgan_init)
    for layer, state in zip(others, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    torch.manual_seed(3)
    assert torch.equal(first.weight, torch.empty(3, 2).normal_(0, 0.02))
    assert torch.equal(second.weight, torch.empty(3, 2, 1, 1).normal_(0, 0.02))


def test_the_tanh_is_taken_in_float32():
    outputs = torch.tensor([0.0, 1.0, 4.0, 5.0, -5.0], dtype=torch.bfloat16)
    samples = float32_tanh(outputs)
    assert samples.dtype == torch.float32 and torch.equal(samples, outputs.float().tanh())
    assert 0 < 1 - samples[3] < 2**-8, "bf16 has no number there"


@given(channels=st.integers(1, 4), height=st.integers(1, 80), width=st.integers(1, 80), halvings=st.integers(0, 5))
def test_a_shape_is_halved_exactly_or_refused(channels, height, width, halvings):
    shape, factor = (channels, height, width), 2**halvings
    if height % factor or width % factor:
        refusal = f"^with n = {halvings} it takes sizes divisible by {factor}, not {height}×{width}; change n$"
        with pytest.raises(IncompatibleError, match=refusal):
            halved_shape(shape, halvings, f"n = {halvings}", "change n")
    else:
        _, low, narrow = halved_shape(shape, halvings, "n")
        assert (low << halvings, narrow << halvings) == (height, width)


def test_points_have_no_shape_to_halve_and_advice_is_optional():
    with pytest.raises(IncompatibleError, match="works on images"):
        halved_shape((2,), 1, "n = 1")
    with pytest.raises(IncompatibleError, match=r"not 3×4$"):
        halved_shape((1, 3, 4), 1, "n = 1")


# ── Spectral norm ─────────────────────────────────────────────────────────────────────────────────────────

SPECTRAL_LAYERS = {
    "dense": (ganrun.SpectralLinear, (5, 7), lambda: torch.randn(3, 5)),
    "convolution": (ganrun.SpectralConv2d, (3, 6, 4), lambda: torch.randn(2, 3, 8, 8)),
    "table": (ganrun.SpectralEmbedding, (4, 6), lambda: torch.tensor([0, 3, 1])),
}


@pytest.mark.parametrize("kind", SPECTRAL_LAYERS)
def test_a_spectral_layer_settles_at_norm_1_and_is_then_the_plain_layer_with_these_weights(kind):
    cls, arguments, inputs = SPECTRAL_LAYERS[kind]
    torch.manual_seed(0)
    layer = cls(*arguments).double()
    given = inputs()
    given = given if given.dtype == torch.int64 else given.double()
    before = layer.u.clone()
    for _ in range(500):
        layer(given)
    assert not torch.equal(layer.u, before)
    sigma = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
    plain = cls.__mro__[2](*arguments).double()
    plain.load_state_dict({**layer.state_dict(), "weight": layer.weight / sigma}, strict=False)
    torch.testing.assert_close(layer.eval()(given), plain(given), rtol=1e-6, atol=1e-8)


def test_a_spectral_convolution_takes_every_argument_of_a_plain_one():
    arguments = {"stride": 2, "padding": 2, "dilation": 2, "groups": 3, "padding_mode": "reflect", "bias": False}
    layer, plain = ganrun.SpectralConv2d(3, 6, 3, **arguments).eval(), torch.nn.Conv2d(3, 6, 3, **arguments)
    plain.weight.data = layer.normalised_weight().detach()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(layer(images), plain(images))


@pytest.mark.parametrize("kind", SPECTRAL_LAYERS)
def test_a_spectral_layers_gradient_holds_the_singular_vectors_fixed(kind):
    """d(W / σ) with σ = uᵀWv: (G − ⟨G, W/σ⟩ u vᵀ) / σ, equation 12."""
    cls, arguments, _ = SPECTRAL_LAYERS[kind]
    layer = cls(*arguments).double().eval()
    matrix = layer.weight.detach().flatten(1)
    v = torch.nn.functional.normalize(matrix.T @ layer.u, dim=0)
    u = torch.nn.functional.normalize(matrix @ v, dim=0)
    sigma, gradient = u @ matrix @ v, torch.randn_like(matrix)
    (layer.normalised_weight().flatten(1) * gradient).sum().backward()
    expected = (gradient - (gradient * matrix / sigma).sum() * torch.outer(u, v)) / sigma
    torch.testing.assert_close(layer.weight.grad.flatten(1), expected)
