"""Views: what an objective gets from a network, at any precision and with any weights."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import ganrun
from ganrun import AdversarialLoss, Generator, Nets, Slot, Terms, View
from ganrun.testing import train

BF16 = torch.bfloat16


class Pair(NamedTuple):
    mean: Tensor
    deviation: Tensor


class Parts(nn.Module):
    """A mapping and a synthesis; it notes the type in which each of its layers answers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.mapping = nn.Linear(4, 4)
        self.synthesis = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(2.0))
        self.name = "parts"
        self.seen: list[torch.dtype] = []
        for layer in (self.mapping, self.synthesis):
            layer.register_forward_hook(lambda _, __, output: self.seen.append(output.dtype))

    def forward(self, latents: Tensor, shift: Tensor | None = None) -> Tensor:
        return self.synthesis(self.mapping(latents) if shift is None else self.mapping(latents) + shift)

    def mixed(self, first: Tensor, second: Tensor, at: float = 0.5) -> Tensor:
        return self.synthesis(at * self.mapping(first) + (1 - at) * self.mapping(second))

    def tree(self, latents: Tensor) -> dict[str, object]:
        output = self.mapping(latents)
        return {"pair": Pair(output, output), "list": [output, (output, output.argmax(1))], "count": len(latents)}


LATENTS = torch.linspace(-1, 1, 24).view(6, 4)


# ── Precision ─────────────────────────────────────────────────────────────────────────────────────────────

CALLS = {
    "the network": lambda view: view(LATENTS),
    "a condition": lambda view: view(LATENTS, shift=LATENTS),
    "a method": lambda view: view.mixed(LATENTS, LATENTS.flip(0), at=0.25),
    "a part": lambda view: view.synthesis(view.mapping(LATENTS)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_outside_a_view_is_float32_and_inside_the_runs_precision(call):
    exact, rough = Parts(), Parts()
    expected, output = call(View(exact)), call(View(rough, BF16))
    assert set(exact.seen) == {torch.float32} and set(rough.seen) == {BF16}
    assert expected.dtype == output.dtype == torch.float32
    assert 0 < (output - expected).abs().max() < 0.05


def test_every_tensor_of_a_tree_comes_out_in_float32_and_the_tree_stays_as_it_is():
    tree = View(Parts(), BF16).tree(LATENTS)
    assert list(tree) == ["pair", "list", "count"] and tree["count"] == 6
    assert type(tree["pair"]) is Pair and type(tree["list"]) is list and type(tree["list"][1]) is tuple
    assert {each.dtype for each in (*tree["pair"], tree["list"][0], tree["list"][1][0])} == {torch.float32}
    assert tree["list"][1][1].dtype == torch.int64


def test_gradients_pass_through_a_view_to_inputs_and_weights():
    for precision in (None, BF16):
        module, latents = Parts(), LATENTS.clone().requires_grad_()
        View(module, precision).mixed(latents, LATENTS).square().sum().backward()
        assert latents.grad.dtype == module.mapping.weight.grad.dtype == torch.float32
        assert latents.grad.abs().min() > 0 and module.mapping.weight.grad.abs().max() > 0


def test_what_is_neither_method_nor_part_is_the_modules():
    module = Parts()
    view = View(module, BF16)
    assert (view.name, view.scale, view.training) == ("parts", module.scale, True)
    with pytest.raises(AttributeError, match="no_such_part"):
        view.no_such_part  # noqa: B018


def test_a_network_is_given_the_layout_of_images_that_it_needs():
    module = nn.Flatten()
    module.forward = lambda images: images.view(len(images), -1)
    images = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size"):
        View(module)(images)
    module.memory_format = torch.contiguous_format
    assert torch.equal(View(module)(images), images.flatten(1))


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_are_the_parameters_by_name_also_of_a_part():
    module = Parts()
    view = View(module)
    assert view.weights().keys() == dict(module.named_parameters()).keys()
    assert all(weight is module.get_parameter(name) for name, weight in view.weights().items())
    assert list(view.mapping.weights()) == ["weight", "bias"]
    assert view.mapping.weights()["weight"] is module.mapping.weight
    view.mapping.weights()["weight"].square().sum().backward()
    assert torch.equal(module.mapping.weight.grad, 2 * module.mapping.weight)
    assert [weight.shape for weight in view.parameters()] == [weight.shape for weight in module.parameters()]


def test_given_weights_replace_some_and_leave_the_network_as_it_is():
    module = Parts()
    view, before = View(module), View(module)(LATENTS)
    zero = torch.zeros(3, 4)
    given = view.given({"synthesis.weight": zero})
    assert torch.equal(given(LATENTS), module.synthesis.bias.expand(6, 3))
    assert given.weights()["synthesis.weight"] is zero and given.synthesis.weights()["weight"] is zero
    assert given.synthesis.weight is zero and given.scale is module.scale
    assert torch.equal(given.mapping(LATENTS), module.mapping(LATENTS)), "all others stay"
    of_the_part = view.synthesis.given({"weight": zero})
    assert torch.equal(of_the_part(LATENTS), given.synthesis(LATENTS))
    both = given.given({"synthesis.bias": torch.ones(3)})
    assert torch.equal(both(LATENTS), torch.ones(6, 3)), "given twice, both hold"
    assert torch.equal(view(LATENTS), before)


def ahead(view: View, lr: float) -> View:
    """The network one step of gradient descent further, differentiably."""
    weights = view.weights()
    objective = view(LATENTS).square().mean()
    gradients = torch.autograd.grad(objective, list(weights.values()), create_graph=True)
    return view.given({name: w - lr * g for (name, w), g in zip(weights.items(), gradients, strict=True)})


def by_hand(module: Parts, lr: float, method: str) -> list[Tensor]:
    """The same look-ahead and its gradient, written out for the two layers."""
    weights = [module.mapping.weight, module.mapping.bias, module.synthesis.weight, module.synthesis.bias]

    def output(given: list[Tensor]) -> Tensor:
        hidden = linear(LATENTS, given[0], given[1])
        if method == "mixed":
            hidden = 0.5 * hidden + 0.5 * hidden.flip(0)
        return linear(hidden, given[2], given[3])

    first = linear(linear(LATENTS, weights[0], weights[1]), weights[2], weights[3]).square().mean()
    gradients = torch.autograd.grad(first, weights, create_graph=True)
    stepped = [w - lr * g for w, g in zip(weights, gradients, strict=True)]
    return list(torch.autograd.grad(output(stepped).pow(3).sum(), weights))


@pytest.mark.parametrize("method", ["forward", "mixed"])
@pytest.mark.parametrize(("precision", "room"), [(None, 1e-5), (BF16, 0.05)])
def test_given_differentiates_through_a_look_ahead_step(precision, room, method):
    module = Parts()
    view = ahead(View(module, precision), lr=0.5)
    output = view(LATENTS) if method == "forward" else view.mixed(LATENTS, LATENTS.flip(0))
    found = torch.autograd.grad(output.pow(3).sum(), list(module.parameters()))
    for one, other in zip(found, by_hand(module, 0.5, method), strict=True):
        assert (one - other).norm() <= room * other.norm()
    assert output.dtype == torch.float32 and set(module.seen) == {precision or torch.float32}


# ── What stands before the network ────────────────────────────────────────────────────────────────────────


def test_what_stands_in_front_changes_the_first_input_of_the_network_alone():
    module = Parts()
    view = View(module, front=lambda images: 3 * images)
    assert torch.equal(view(LATENTS, shift=LATENTS), module(3 * LATENTS, LATENTS))
    assert torch.equal(view.mapping(LATENTS), module.mapping(LATENTS))
    given = view.given(view.weights())
    assert torch.equal(given(LATENTS), view(LATENTS)), "also with other weights"
    latents = LATENTS.clone().requires_grad_()
    (through,) = torch.autograd.grad(view(latents).sum(), latents)
    (direct,) = torch.autograd.grad(module(latents).sum(), latents)
    assert torch.allclose(through, 3 * direct)


# ── In a run ──────────────────────────────────────────────────────────────────────────────────────────────


class Styled(Generator):
    """A mapping network and a synthesis network."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.mapping = nn.Sequential(nn.Linear(*spec.inputs, 8), nn.ReLU())
        self.synthesis = nn.Linear(8, 64)

    def forward(self, latents):
        return self.styled(self.mapping(latents))

    def styled(self, styles):
        return self.synthesis(styles).tanh().unflatten(1, self.spec.outputs)


class StyleMixing(AdversarialLoss):
    """Mixes styles, and penalises weights by name and as a list."""

    slots = {**AdversarialLoss.slots, "generator": Slot("generator", averaged=True, methods=("mapping", "styled"))}
    latent_size = 6

    def discriminator(self, nets: Nets, batch):
        fake = nets.discriminator(nets.generator(batch.latents))
        return Terms({"real": -nets.discriminator(batch.images).tanh().mean(), "fake": fake.tanh().mean()})

    def generator(self, nets: Nets, batch):
        styles = nets.generator.mapping(batch.latents)
        assert styles.dtype == torch.float32
        mixed = nets.generator.styled(torch.where(torch.rand_like(styles) < 0.5, styles, styles.flip(0)))
        listed = sum(weight.square().sum() for weight in nets.generator.parameters())
        named = sum(weight.square().sum() for weight in nets.generator.weights().values())
        return Terms({"fake": -nets.discriminator(mixed).mean(), "decay": 1e-3 * listed}, {"same": listed - named})


class Plugin:
    @ganrun.hookimpl
    def ganrun_generators(self):
        return {"styled": Styled}

    @ganrun.hookimpl
    def ganrun_losses(self):
        return {"style-mixing": StyleMixing}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_an_objective_may_use_parts_methods_and_weights_at_any_precision(tmp_path, precision):
    tables = {
        "train": {"steps": 3, "batch_size": 8, "device": "cpu", "precision": precision, "log_every_steps": 1},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "style-mixing"},
        "generator": {"use": "styled"},
        "discriminator": {"use": "mlp", "hidden": [8]},
        **dict.fromkeys(("mlflow", "checkpoints", "samples", "progress"), False),
    }
    run = train(tables, tmp_path / "run", Plugin())
    values = [record.values for record in run.directory.records()]
    assert all(each["loss/generator.same"] == 0 for each in values if "loss/generator.same" in each)
    assert len({each["loss/generator.decay"] for each in values if "loss/generator.decay" in each}) == 3, "it trains"
