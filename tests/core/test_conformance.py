"""The testing kit finds what it promises to find: each component here breaks one clause of its contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import ganrun
from ganrun import (
    Data,
    DataSpec,
    Discriminator,
    Generator,
    Loss,
    Metric,
    Observer,
    Optimizer,
    Phase,
    Schedule,
    Score,
    Slot,
    Split,
    Terms,
)
from ganrun.testing import assert_conforms


class Sound(Generator):
    """A generator without fault."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layer = nn.Linear(*spec.inputs, math.prod(spec.outputs))

    def forward(self, latents, labels=None):
        return self.layer(latents).tanh().unflatten(1, self.spec.outputs)


class Loud(Sound):
    """Leaves [-1, 1]."""

    def forward(self, latents, labels=None):
        return 3 * super().forward(latents)


class Flat(Sound):
    """Forgets the shape."""

    def forward(self, latents, labels=None):
        return super().forward(latents).flatten(1)


class Deaf(Sound):
    """Ignores its latents."""

    def forward(self, latents, labels=None):
        return super().forward(0 * latents)


class Idle(Sound):
    """Has a layer that it does not use."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.unused = nn.Linear(2, 2)


class Unseeded(Sound):
    """Draws its weights from somewhere else."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layer.weight.data = torch.from_numpy(np.random.default_rng().normal(size=self.layer.weight.shape)).float()


class Crowd(Sound):
    """Lets a sample depend on the rest of its batch."""

    def forward(self, latents, labels=None):
        return super().forward(latents - latents.mean(0))


class Undocumented(Sound):
    """Has a setting that nobody explains."""

    class Settings(ganrun.Settings):
        width: int = 3


class Probability(Discriminator):
    """Ends in a sigmoid."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        size = math.prod(spec.inputs)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, spec.out_features), nn.Sigmoid())

    def forward(self, images, labels=None):
        return self.layers(images)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Loud, r"must stay in \[-1, 1\]"),
        (Flat, r"returned shape \(2, 3072\) where \(2, 3, 32, 32\) was expected"),
        (Deaf, "gives the same output for different inputs"),
        (Idle, r"never get a gradient: \['unused.weight', 'unused.bias'\]"),
        (Unseeded, "two builds under one seed differ"),
        (Crowd, "depends on the rest of its batch"),
        (Undocumented, r"settings without a docstring: \['width'\]"),
    ],
)
def test_a_generator_that_breaks_a_clause_is_named(component, message):
    assert_conforms("generator", Sound)
    with pytest.raises(AssertionError, match=message):
        assert_conforms("generator", component)


def test_a_discriminator_that_ends_in_a_sigmoid_is_reported():
    with pytest.raises(AssertionError, match="losses work on logits"):
        assert_conforms("discriminator", Probability)


class Pair(Loss):
    """A loss without fault."""

    slots = {"generator": Slot("generator"), "discriminator": Slot("discriminator")}
    latent_size = 4
    trains = ("discriminator",)

    def phases(self):
        return (
            Phase("discriminator", self.first, trains=self.trains),
            Phase("generator", self.second, trains=("generator",), reads_images=False),
        )

    def first(self, nets, batch):
        return Terms({"real": -nets.discriminator(batch.images).mean()})

    def second(self, nets, batch):
        return Terms({"fake": -nets.discriminator(nets.generator(batch.latents)).mean()})


class Vector(Pair):
    """Returns no scalar."""

    def first(self, nets, batch):
        return Terms({"real": -nets.discriminator(batch.images)})


class InPlace(Pair):
    """Changes the batch."""

    def first(self, nets, batch):
        batch.images.add_(1)
        return super().first(nets, batch)


class Detached(Pair):
    """Trains a network that its objective does not reach."""

    def second(self, nets, batch):
        return Terms({"fake": nets.generator(batch.latents).detach().mean().requires_grad_()})


class Forgotten(Pair):
    """Never trains one of its slots."""

    def phases(self):
        return super().phases()[:1]


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Vector, r"no finite scalars: \['real'\]"),
        (InPlace, "changes batch.images in place"),
        (Detached, r"get no gradient: \['generator'\]"),
        (Forgotten, r"no phase trains: \{'generator'\}"),
    ],
)
def test_a_loss_that_breaks_a_clause_is_named(component, message):
    assert_conforms("loss", Pair)
    with pytest.raises(AssertionError, match=message):
        assert_conforms("loss", component)


class Dots(Data):
    """Labelled dots, with one fault or none."""

    class Settings(ganrun.Settings):
        fault: str = ""
        """What is wrong."""

    def spec(self):
        return DataSpec((1, 4, 4), classes=2)

    def prepare(self):
        pass

    def split(self, name):
        images = np.zeros((6, 1, 4, 4), dtype=np.float64 if self.settings.fault == "type" else np.uint8)
        labels = np.arange(6) % {"label": 3, "class": 1}.get(self.settings.fault, 2)
        return Split(images, labels[:5] if self.settings.fault == "count" else labels)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("type", "float64, not uint8 or float32"),
        ("label", "reach from 0 to 2"),
        ("count", "5 for 6 images"),
        ("class", "lacks a class"),
    ],
)
def test_data_that_breaks_a_clause_is_named(fault, message):
    assert_conforms("data", Dots)
    with pytest.raises(AssertionError, match=message):
        assert_conforms("data", Dots, {"fault": fault})


class Mean(Metric):
    """Mean brightness, with one fault or none."""

    class Settings(ganrun.Settings):
        fault: str = ""
        """What is wrong."""

    def measure(self, evaluation):
        value = evaluation.generated(8).float().mean().item()
        value += {"random": np.random.default_rng().random(), "nan": math.nan}.get(self.settings.fault, 0.0)
        protocol = {} if self.settings.fault == "protocol" else {"samples": 8}
        return [Score("mean", value, higher_is_better=True, protocol=protocol)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("random", "the scores differ"), ("nan", "not finite"), ("protocol", "adds nothing to the protocol")],
)
def test_a_metric_that_breaks_a_clause_is_named(fault, message):
    assert_conforms("metric", Mean)
    with pytest.raises(AssertionError, match=message):
        assert_conforms("metric", Mean, {"fault": fault})


class Silent(Observer):
    """Hears nothing: the mark is missing."""

    def step_ended(self, step):
        pass


def test_an_observer_that_has_no_events_is_reported():
    with pytest.raises(AssertionError, match=r"step_ended lacks the decorator @ganrun.observes"):
        assert_conforms("observer", Silent)


# ── Optimisers and schedules ──────────────────────────────────────────────────────────────────────────────


class Descent(Optimizer):
    """Gradient descent."""

    def build(self, parameters, device):
        return torch.optim.SGD(parameters, lr=self.settings.lr)


class Ascent(Optimizer):
    """In the wrong direction."""

    def build(self, parameters, device):
        return torch.optim.SGD(parameters, lr=self.settings.lr, maximize=True)


class OtherRate(Optimizer):
    """At a learning rate of its choice."""

    def build(self, parameters, device):
        return torch.optim.SGD(parameters, lr=0.5)


class Forgetful(Optimizer):
    """Keeps its momentum where no checkpoint finds it."""

    def build(self, parameters, device):
        return _Forgetful(parameters, {"lr": self.settings.lr})


class _Forgetful(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        self.velocity = getattr(self, "velocity", 0) + self.param_groups[0]["params"][0].grad
        self.param_groups[0]["params"][0].sub_(self.velocity, alpha=self.param_groups[0]["lr"])


def test_an_optimizer_is_tried_on_a_parabola():
    assert_conforms("optimizer", Descent)
    faults = {
        Ascent: "do not descend",
        OtherRate: "not at settings.lr",
        Forgetful: "state_dict does not hold everything",
    }
    for component, message in faults.items():
        with pytest.raises(AssertionError, match=message):
            assert_conforms("optimizer", component)


class Falling(Schedule):
    """To zero."""

    def factor(self, progress):
        return 1 - progress


class Negative(Schedule):
    """Below zero."""

    def factor(self, progress):
        return 0.5 - progress


class Counting(Schedule):
    """Counts its calls."""

    calls = 0

    def factor(self, progress):
        self.calls += 1
        return 1 / self.calls


class Hidden(Falling):
    """Says that it is constant."""

    varies = False


def test_a_schedule_is_a_function_of_the_share_of_the_run():
    assert_conforms("schedule", Falling)
    faults = {Negative: "negative or not finite", Counting: "more than its argument", Hidden: "does not vary, and does"}
    for component, message in faults.items():
        with pytest.raises(AssertionError, match=message):
            assert_conforms("schedule", component)
