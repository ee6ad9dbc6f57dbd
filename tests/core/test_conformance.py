"""The testing kit detects every broken clause: each component here breaks one clause of its contract."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import ganrun
from ganrun import (
    Augmentation,
    Data,
    DataSpec,
    Discriminator,
    Generator,
    Loss,
    Metric,
    NetworkSpec,
    Observer,
    Optimizer,
    Phase,
    Regularizer,
    Schedule,
    Score,
    Slot,
    Split,
    Terms,
    load_registry,
    mean_over_ranks,
)
from ganrun.discovery.kinds import KINDS
from ganrun.testing import assert_conforms, conformance


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


class Counting(Sound):
    """Counts what it sees in whole numbers."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.register_buffer("positive", torch.zeros((), dtype=torch.int64))

    def forward(self, latents, labels=None):
        if self.training:
            self.positive.add_((latents > 0).sum())
        return super().forward(latents)


class Switching(Sound):
    """Puts a part of itself into evaluation mode."""

    def forward(self, latents, labels=None):
        self.layer.eval()
        return super().forward(latents)


class Deciding(Sound):
    """Looks at a value."""

    def forward(self, latents, labels=None):
        samples = super().forward(latents)
        return samples if samples.mean() > 2 else -samples


class Listing(Sound):
    """Reads all values."""

    def forward(self, latents, labels=None):
        return super().forward(latents) * (1 + 1e-3 * latents.tolist()[0][0] ** 0)


class Elsewhere(Sound):
    """Makes a tensor on the CPU."""

    def forward(self, latents, labels=None):
        return super().forward(nn.functional.linear(latents, torch.eye(latents.shape[1])))


class OwnStream(Sound):
    """Draws from a generator of the CPU."""

    def forward(self, latents, labels=None):
        stream = torch.Generator().manual_seed(1)
        return super().forward(latents + torch.randn(latents.shape[1], generator=stream, device=latents.device))


class Guarded(Sound):
    """Turns autocast off, and fills a mask: neither waits for anything."""

    def forward(self, latents, labels=None):
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float().clone()
            latents[latents < 0] = 0.1
            return super().forward(latents)


class Masking(Sound):
    """Waits for the number of values under a mask."""

    def forward(self, latents, labels=None):
        return (
            super().forward(latents)
            * latents[latents > -99].view_as(latents).mean(1).exp().clamp_max(1)[:, None, None, None]
        )


class Listed(Sound):
    """Keeps a layer in a list."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.layers = [nn.Linear(*spec.inputs, *spec.inputs)]

    def forward(self, latents, labels=None):
        return super().forward(self.layers[0](latents))


class Seeding(Sound):
    """Sets a seed."""

    def __init__(self, settings, spec):
        torch.manual_seed(3)
        super().__init__(settings, spec)


class BadlyLabelled(Sound):
    """Has a fault where it is given labels alone."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.table = nn.Embedding(spec.classes, *spec.inputs) if spec.labelled else None

    def forward(self, latents, labels=None):
        if self.table is None:
            return super().forward(latents)
        return super().forward(latents + self.table(labels)).flatten(1)


class Undocumented(Sound):
    """Has a setting without a docstring."""

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
        (Counting, r"its buffer positive follows from the input, so it would not be the same on two ranks"),
        (Switching, r"its forward puts its layer layer into another mode"),
        (Deciding, r"on the host, .*: .item\(\), float\(\) or if \(.*test_conformance.py:\d+\)"),
        (Listing, r"on the host, .*: .tolist\(\), .cpu\(\) or .numpy\(\) \(.*test_conformance.py:\d+\)"),
        (Masking, r"on the host, .*: a mask as an index"),
        (OwnStream, "draws from a generator, which has a device; draw from torch's global random stream"),
        (Elsewhere, r"a tensor of the CPU together with .* by device=latents.device \(.*test_conformance.py:\d+\)"),
        (Listed, r"torch does not find its layers\[0\] \(Linear\)"),
        (Seeding, "its constructor seeds torch's random stream"),
        (BadlyLabelled, r"returned shape \(2, 3072\) where"),
        (Undocumented, r"settings without a docstring: \['width'\]"),
    ],
)
def test_a_generator_that_breaks_a_clause_is_named(component, message):
    assert_conforms("generator", Sound)
    assert_conforms("generator", Guarded)
    with pytest.raises(AssertionError, match=message):
        assert_conforms("generator", component)


def test_a_network_that_ignores_labels_conforms_where_none_are_asked_for():
    spec = NetworkSpec((6,), (3, 8, 8), classes=4)
    assert_conforms("generator", Sound, spec=spec)
    with pytest.raises(AssertionError, match="ignores its labels"):
        assert_conforms("generator", Sound, spec=dataclasses.replace(spec, conditions={"labels": ()}))


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


class Reading(Pair):
    """Reads a value on the host."""

    def second(self, nets, batch):
        fake = nets.discriminator(nets.generator(batch.latents)).mean()
        return Terms({"fake": -fake / abs(float(fake.detach()))})


class Misplaced(Pair):
    """Makes a tensor on the CPU."""

    def first(self, nets, batch):
        noise = torch.randn(batch.images.shape)
        return Terms({"real": -nets.discriminator(batch.images + noise).mean()})


class Summing(Pair):
    """Takes a sum for a mean."""

    def first(self, nets, batch):
        return Terms({"real": -nets.discriminator(batch.images).sum()})


class DividedTwice(Pair):
    """Divides by the batch once more."""

    def second(self, nets, batch):
        return Terms({"fake": -nets.discriminator(nets.generator(batch.latents)).mean() / batch.size})


class CountingSteps(Pair):
    """Counts its calls."""

    calls = 0

    def first(self, nets, batch):
        self.calls += 1
        return super().first(nets, batch)


class Pooling(Pair):
    """Keeps earlier samples in a list."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.pool = []

    def first(self, nets, batch):
        self.pool.append(batch.images)
        return Terms({"real": -nets.discriminator(self.pool[0]).mean()})


class Hidden(Pair):
    """Keeps state in a separate object."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.numbers = np.random.default_rng(0)

    def first(self, nets, batch):
        return Terms({"real": -nets.discriminator(batch.images).mean() * self.numbers.random()})


class WithMean(Pair):
    """Remembers a mean, soundly."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.memory.register_buffer("mean", torch.zeros(()))

    def first(self, nets, batch):
        value = nets.discriminator(batch.images).mean()
        self.remember(value)
        return Terms({"real": -value * (1 + self.memory.mean.detach())})

    def remember(self, value):
        self.memory.mean.lerp_(mean_over_ranks(value), 0.1)


class Assigning(WithMean):
    """Assigns a new tensor."""

    def remember(self, value):
        self.memory.mean = 0.9 * self.memory.mean + 0.1 * value.detach()


class Chained(WithMean):
    """Keeps the graph."""

    def remember(self, value):
        self.memory.mean.lerp_(value, 0.1)


class Parting(WithMean):
    """Remembers what one rank alone has seen."""

    def remember(self, value):
        self.memory.mean.lerp_(value.detach(), 0.1)


class Growing(WithMean):
    """Adds a buffer when it is called."""

    def remember(self, value):
        self.memory.register_buffer("last", value.detach())


class Prepared(WithMean):
    """Fills its memory beforehand, from every part of the records."""

    def prepare(self, training):
        parts = [training.images, *([] if training.labels is None else [training.labels]), *training.beside.values()]
        self.memory.mean.fill_(float(sum(part.mean() for part in parts)))


class Attributed(Prepared):
    """Keeps what it learns where no checkpoint has it."""

    def prepare(self, training):
        self.records = len(training)


class Accumulating(Prepared):
    """Adds to what it has learned before."""

    def prepare(self, training):
        self.memory.mean.add_(len(training))


class Spoiling(Prepared):
    """Centres the records in place."""

    def prepare(self, training):
        training.images[...] = 0


class Late(Prepared):
    """Makes its buffer when it sees the records."""

    def prepare(self, training):
        self.memory.register_buffer("late", torch.zeros(len(training)))


class Replacing(Prepared):
    """Puts another tensor in the place of its buffer."""

    def prepare(self, training):
        self.memory.mean = torch.full_like(self.memory.mean, len(training))


class OneHotLabels(Pair):
    """Passes labels that are no int64."""

    def ports(self, slot):
        return super().ports(slot)._replace(conditions={} if slot == "generator" else {"labels": ()})

    def first(self, nets, batch):
        return Terms({"real": -nets.discriminator(batch.images, labels=batch.labels.float()).mean()})


class Unannounced(Pair):
    """Passes labels of which its ports say nothing."""

    def first(self, nets, batch):
        return Terms({"real": -nets.discriminator(batch.images, labels=batch.labels).mean()})


class OnlyWithClasses(Pair):
    """Breaks where the data has no labels."""

    def first(self, nets, batch):
        assert batch.labels is not None, "no labels"
        return super().first(nets, batch)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Reading, r"on the host, .*: .item\(\), float\(\) or if \(.*test_conformance.py:\d+\)"),
        (Misplaced, r"a tensor of the CPU together with .* \(.*test_conformance.py:\d+\)"),
        (Summing, "the term real is not a mean over the batch: where the batch is doubled, it is multiplied by 2"),
        (DividedTwice, "the term fake is not a mean .* multiplied by 0.5"),
        (CountingSteps, r"the objective changes self.calls, which no checkpoint holds; make it a buffer"),
        (Pooling, r"the objective changes self.pool\[0\], which no checkpoint holds"),
        (Hidden, r"gives other values of \['real'\]; draw from torch's random stream"),
        (Assigning, r"assigns a new tensor to self.memory.mean; change the buffer in place"),
        (Parting, r"self.memory.mean follows from the part of a batch .*; remember ganrun.mean_over_ranks"),
        (Chained, r"self.memory.mean is computed with gradients"),
        (Growing, r"come or go in the objective: \['last'\]; register them in __init__"),
        (Attributed, r"prepare changes self.records, which no checkpoint holds; make it a buffer"),
        (Accumulating, r"prepare fills self.memory.mean otherwise when it is called again; set it by copy_"),
        (Spoiling, r"prepare changes the images of the training records in place"),
        (Late, r'its memory.s buffer "late" is absent until prepare, .*; register its final shape'),
        (Replacing, r"prepare assigns a new tensor to self.memory.mean; change the buffer in place"),
        (OneHotLabels, r"with labels of type and shape \(torch.float32,\), not \(torch.int64,\)"),
        (Unannounced, r"called with \{'labels'\} besides its input; its ports say set\(\)"),
        (OnlyWithClasses, "no labels"),
        (Vector, r"not finite scalars: \['real'\]"),
        (InPlace, "changes batch.images in place"),
        (Detached, r"get no gradient: \['generator'\]"),
        (Forgotten, r"no phase trains: \{'generator'\}"),
    ],
)
def test_a_loss_that_breaks_a_clause_is_named(component, message):
    assert_conforms("loss", Pair)
    assert_conforms("loss", WithMean)
    assert_conforms("loss", Prepared)
    with pytest.raises(AssertionError, match=message):
        assert_conforms("loss", component)


class Styled(Sound):
    """Has a method besides."""

    def mapping(self, latents):
        return latents.tanh()


class Mixing(Pair):
    """Calls a method of its generator."""

    slots = {"generator": Slot("generator", methods=("mapping",)), "discriminator": Slot("discriminator")}

    def second(self, nets, batch):
        return Terms({"fake": -nets.discriminator(nets.generator(nets.generator.mapping(batch.latents))).mean()})


def test_a_loss_that_calls_methods_is_tried_on_networks_that_have_them():
    assert_conforms("loss", Mixing, networks={"generator": Styled})
    with pytest.raises(AssertionError, match=r'calls mapping .* slot generator; .*networks=\{"generator": …\}\)$'):
        assert_conforms("loss", Mixing)


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


class CountingCalls(Schedule):
    """Counts its calls."""

    calls = 0

    def factor(self, progress):
        self.calls += 1
        return 1 / self.calls


class Unsaid(Falling):
    """Says that it is constant."""

    varies = False


def test_a_schedule_is_a_function_of_the_share_of_the_run():
    assert_conforms("schedule", Falling)
    faults = {
        Negative: "negative or not finite",
        CountingCalls: "more than its argument",
        Unsaid: "claims not to vary, but does",
    }
    for component, message in faults.items():
        with pytest.raises(AssertionError, match=message):
            assert_conforms("schedule", component)


# ── Augmentations and regularisers ────────────────────────────────────────────────────────────────────────


class Noise(Augmentation):
    """Adds noise, with one fault or none."""

    class Settings(ganrun.Settings):
        fault: str = ""
        """What is wrong."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.register_buffer("strength", torch.full((), 0.1))
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0
        self.every = -1 if settings.fault == "every" else 4
        if settings.fault == "parameter":
            self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        fault = self.settings.fault
        noise = torch.randn(images.shape, device="cpu" if fault == "device" else images.device)
        if fault == "stream":
            noise = torch.from_numpy(np.random.default_rng().normal(size=images.shape)).float()
        if fault == "graph":
            return images.detach() + self.strength * noise
        if fault == "in place":
            images = images.data.mul_(0.5)
        mixed = images - images.mean(0) if fault == "batch" else images
        if fault == "forward":
            self.seen.add_(1)
        outputs = mixed + self.strength * noise
        others = {"shape": outputs[:, :1], "double": outputs.double(), "NaN": outputs * math.nan, "several": (outputs,)}
        return others.get(fault, outputs)

    def adjust(self, outputs, images):
        if self.settings.fault == "assigned":
            self.strength = self.strength + 0.1
        elif self.settings.fault == "counted":
            self.calls += 1
        else:
            self.strength.add_(0.01 * outputs.sign().mean())

    def report(self):
        fault = self.settings.fault
        if fault == "report draws":
            self.seen.add_(1)
        if fault == "report waits":
            return {"strength": torch.tensor(self.strength.item())}
        if fault == "names":
            return {"strength": self.strength} if self.strength < 0.11 else {"later": self.strength}
        if fault == "raises":
            raise ValueError("no such thing")
        others = {
            "number": {"strength": 0.1},
            "vector": {"strength": self.strength[None]},
            "complex": {"strength": self.strength * 1j},
            "name": {3: self.strength},
            "list": [self.strength],
            "report on CPU": {"strength": torch.zeros(())},
        }
        return others.get(fault, {"strength": self.strength})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("parameter", "its parameter weight would never be trained"),
        ("every", "says every = -1"),
        ("double", r"returns torch\.float64 where torch\.float32 was expected"),
        ("NaN", r"returns NaN or infinity for images in \[-1, 1\]"),
        ("several", "returns tuple where a tensor was expected"),
        ("forward", "its forward changes the buffer seen"),
        ("device", "a tensor of the CPU together with"),
        ("stream", "two calls differ: draw from torch's global stream"),
        ("graph", "cannot be differentiated, so a generator"),
        ("in place", "changes the images in place"),
        ("batch", "depends on the rest of its batch"),
        ("shape", r"returns shape \(6, 1, 32, 32\) for \(6, 3, 32, 32\)"),
        ("assigned", "adjust assigns a new tensor to strength"),
        ("counted", "adjust changes calls, which no checkpoint holds"),
        ("report draws", "its report changes the buffer seen"),
        ("report waits", "reads values of a tensor on the host"),
        ("report on CPU", "its report gives strength on the CPU"),
        ("names", "at first reports strength, and later later; report the same names always"),
        ("raises", "report fails: ValueError: no such thing"),
        ("number", "reports strength as float, and not as a tensor; leave it in a tensor"),
        ("vector", r"reports strength of the shape \(1,\) .*must be a real scalar"),
        ("complex", r"reports strength of the shape \(\) and type torch.complex64"),
        ("name", "reports under the name 3; a name must be a string"),
        ("list", "its report gives list; return a mapping of names to scalar tensors"),
    ],
)
def test_an_augmentation_that_breaks_a_clause_is_named(fault, message):
    assert_conforms("augmentation", Noise)
    with pytest.raises(AssertionError, match=message):
        assert_conforms("augmentation", Noise, {"fault": fault})


class NeverAdjusted(Noise):
    """Cannot be adjusted."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.every = 0

    def adjust(self, outputs, images):
        raise NotImplementedError


def test_an_augmentation_that_is_never_adjusted_is_not_tried_so():
    assert_conforms("augmentation", NeverAdjusted)


class Slope(Regularizer):
    """The squared gradient at real images, with one fault or none."""

    class Settings(ganrun.RegularizerSettings):
        fault: str = ""
        """What is wrong."""

    def __init__(self, settings, spec):
        super().__init__(settings, spec)
        self.memory.register_buffer("mean", torch.zeros(()))

    def penalty(self, nets, batch, slot):
        fault = self.settings.fault
        network = nets.discriminator if fault == "slot" else getattr(nets, slot)
        images = batch.images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        penalty = slope.square().flatten(1).sum(1)
        if fault == "state":
            self.last = penalty.detach()
        else:
            self.memory.mean.lerp_(mean_over_ranks(penalty.mean()), 0.1)
        if fault == "host":
            penalty = penalty / float(penalty.detach().mean())
        return {"sum": penalty.sum(), "sign": -penalty.mean(), "vector": penalty}.get(fault, penalty.mean())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("slot", r"slots that it trains but that get no gradient: \['critic'\]"),
        ("state", "changes self.last, which no checkpoint holds"),
        ("host", "on the host, for which a GPU stalls"),
        ("sum", "the term penalty is not a mean over the batch"),
        ("sign", "it must not be negative"),
        ("vector", r"not finite scalars: \['penalty'\]"),
    ],
)
def test_a_regularizer_that_breaks_a_clause_is_named(fault, message):
    assert_conforms("regularizer", Slope)
    with pytest.raises((AssertionError, RuntimeError), match=message):
        assert_conforms("regularizer", Slope, {"fault": fault, "slot": "critic"})


# ── Kinds and classes ─────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_kind_gets_a_sentence():
    with pytest.raises(ValueError, match=r'^unknown kind of component "generater"; did you mean "generator"\?$'):
        assert_conforms("generater", Sound)
    with pytest.raises(ValueError, match=r'^unknown kind of component "x"; the kinds are generator, discrim'):
        assert_conforms("x", Sound)


def test_a_class_of_another_kind_is_named():
    with pytest.raises(AssertionError, match=r"^Sound is not a subclass of ganrun.Discriminator$"):
        assert_conforms("discriminator", Sound)


def test_every_kind_has_a_check():
    assert conformance._CHECKS.keys() == KINDS.keys()


# ── What is built in ──────────────────────────────────────────────────────────────────────────────────────

MODELS = ("generator", "discriminator", "network", "loss", "augmentation", "regularizer")
BUILT_IN = [(kind, each) for kind in MODELS for each in load_registry().components(kind)]

IMAGES = (3, 16, 16)
SMALL = {
    "generator": NetworkSpec((6,), IMAGES, classes=4),
    "discriminator": NetworkSpec(IMAGES, (5,), classes=4),
    "network": NetworkSpec(IMAGES, IMAGES, classes=4),
}
MAPS = (8, 4, 4)
REFINED = NetworkSpec((1, 16, 16), IMAGES, {"coarse": IMAGES})
TIMED = NetworkSpec(IMAGES, IMAGES, {"time": ()})
ONE_NUMBER = NetworkSpec(IMAGES, (1,), classes=4)
FEATURES = NetworkSpec(IMAGES, (...,))
PAIRS = DataSpec(IMAGES, fields={"source": IMAGES})
FILLED = DataSpec(IMAGES, fields={"source": IMAGES, "mask": (1, 16, 16)})
FITTING = {
    **{("loss", name): {"spec": PAIRS} for name in ("cyclegan", "pix2pix", "restoration", "srgan")},
    ("loss", "context-encoder"): {"spec": FILLED},
    ("loss", "clustered-gan"): {"settings": {"clusters": 4}},
    ("network", "efficientnet-lite0"): {"settings": {"layer": "stage1"}, "spec": FEATURES},
    ("network", "vgg19"): {"settings": {"layer": "conv1_1"}, "spec": FEATURES},
    ("discriminator", "patch"): {"settings": {"layers": 1, "feature_maps": 4}, "spec": NetworkSpec(IMAGES, (1, ...))},
    ("network", "time-mlp"): {"settings": {"hidden": [8, 8]}, "spec": TIMED},
    ("network", "time-unet"): {"settings": {"widths": [4, 8]}, "spec": TIMED},
    ("network", "vq-vae"): {"settings": {"width": 8}, "spec": NetworkSpec(IMAGES, MAPS)},
    ("generator", "vq-vae"): {"settings": {"width": 8}, "spec": NetworkSpec(MAPS, IMAGES)},
    ("generator", "lapgan"): {"settings": {"widths": [8]}, "spec": REFINED},
    ("generator", "biggan"): {"settings": {"widths": [8, 8, 8], "class_size": 8, "attention_size": 8}},
    ("generator", "progressive"): {"settings": {"widths": [8, 8, 8]}},
    ("generator", "r3gan"): {"settings": {"widths": [8, 8, 8], "cardinality": 2}},
    ("generator", "sagan"): {"settings": {"widths": [8, 8, 8], "attention_size": 8}},
    ("generator", "sngan"): {"settings": {"widths": [8, 8, 8]}},
    ("generator", "stylegan"): {"settings": {"widest": 8, "style_size": 8}},
    ("generator", "stylegan2"): {"settings": {"widest": 8, "style_size": 8}},
    ("discriminator", "progressive"): {"settings": {"widths": [8, 8, 8]}},
    ("discriminator", "r3gan"): {"settings": {"widths": [8, 8, 8], "cardinality": 2}},
    ("discriminator", "sagan"): {"settings": {"widths": [8, 8], "attention_size": 8}, "spec": ONE_NUMBER},
    ("discriminator", "sngan"): {"settings": {"widths": [8, 8]}, "spec": ONE_NUMBER},
    ("discriminator", "stylegan2"): {"settings": {"widest": 8}},
}
"""What fits 16×16 images, where the defaults do not or take long."""


def small(kind, name, **defaults):
    """A built-in network with other defaults."""
    network = load_registry().find(kind, name).cls
    types = {setting: network.Settings.model_fields[setting].annotation for setting in defaults}
    settings = type("Settings", (network.Settings,), {"__annotations__": types, **defaults})
    return type("Small", (network,), {"__doc__": network.__doc__, "Settings": settings})


WITH_FEATURES = {"discriminator": ("vae-gan", {"feature_maps": 4, "stages": 2, "hidden": 8})}
STYLED = {"generator": ("stylegan2", {"style_size": 8, "widest": 6})}
NAMED = {
    "feature-matching": WITH_FEATURES,
    "vae-gan": WITH_FEATURES,
    "stylegan2": STYLED,
    "conditional-stylegan2": STYLED,
}
"""Networks for a loss or a regulariser that calls methods of one."""


@pytest.mark.parametrize(("kind", "component"), BUILT_IN, ids=lambda each: str(each))
def test_what_is_built_in_conforms(kind, component):
    fitting = {"spec": SMALL.get(kind, DataSpec(IMAGES, classes=4))} | FITTING.get((kind, component.name), {})
    named = NAMED.get(component.name, {}) if kind in ("loss", "regularizer") else {}
    networks = {slot: small(slot, name, **defaults) for slot, (name, defaults) in named.items()}
    assert_conforms(kind, component.cls, **fitting, networks=networks or None)
