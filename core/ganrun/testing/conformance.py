"""Checks a component against its contract, numerically."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ganrun.base.errors import DataError
from ganrun.base.randomness import isolated_random
from ganrun.contracts.data import Data, Split, to_unit_range
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.metrics import FeatureMetric, Metric
from ganrun.contracts.networks import Discriminator, Generator
from ganrun.contracts.observers import Observer
from ganrun.contracts.optimizers import Optimizer, Schedule
from ganrun.contracts.settings import parse_settings, settings_help
from ganrun.contracts.specs import DataSpec, ModelSpec
from ganrun.inference.evaluation import measured
from ganrun.rehearsal.data import check_data
from ganrun.testing.evaluations import evaluation_on
from ganrun.training.events import Events
from ganrun.training.views import seeded_network

CPU = torch.device("cpu")
IMAGES = ModelSpec(sample_shape=(3, 32, 32), classes=4, latent_size=16, out_features=5)
"""The spec that networks are tried on unless another is given: no dimension equals another."""


def assert_conforms(
    kind: str, component: Any, settings: Mapping[str, Any] | None = None, spec: ModelSpec = IMAGES
) -> None:
    """Assert that a component keeps the contract of its kind.

    Args:
        kind: The kind, as `ganrun list` names it: `generator`, `loss`, `metric`, …
        component: The class.
        settings: Its settings, as in a recipe's table.
        spec: The spec to build it for.

    Raises:
        AssertionError: naming the clause that is broken.
    """
    parsed = parse_settings(component.Settings, settings or {})
    undocumented = [each.name for each in settings_help(component.Settings) if not each.help]
    assert not undocumented, f"settings without a docstring: {undocumented}"
    assert component.summary(), "the class has no docstring, so `ganrun list` has no summary for it"
    _CHECKS[kind](component, parsed, spec)


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


def _check_generator(component: type[Generator], settings: Any, spec: ModelSpec) -> None:
    latents = _noise(6, spec.latent_size)
    samples = _check_network(lambda: component(settings, spec), spec, latents, spec.sample_shape)
    assert samples.abs().max() <= 1, f"samples reach {samples.abs().max():.3f}; they must stay in [-1, 1]"
    assert (samples[0] - samples[1]).abs().max() > 0, "two different latents give the same sample"


def _check_discriminator(component: type[Discriminator], settings: Any, spec: ModelSpec) -> None:
    images = _noise(6, *spec.sample_shape).tanh()
    _check_network(lambda: component(settings, spec), spec, images, (spec.out_features,))
    last = list(component(settings, spec).modules())[-1]
    assert not isinstance(last, nn.Sigmoid | nn.Softmax | nn.LogSoftmax), "losses work on logits: drop the last layer"


def _check_network(make: Callable[[], nn.Module], spec: ModelSpec, inputs: Tensor, expected: tuple[int, ...]) -> Tensor:
    """The checks of both kinds of networks; returns the outputs in evaluation mode."""
    labels = torch.arange(len(inputs)) % spec.classes if spec.labelled else None
    module, twin = seeded_network(make, CPU, 7), seeded_network(make, CPU, 7)
    same = all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), twin.state_dict().values(), strict=True))
    assert same, "two builds under one seed differ: draw from torch's global random stream"
    output = module(inputs, labels)
    assert output.shape == (len(inputs), *expected), f"returns {tuple(output.shape)}, not {(len(inputs), *expected)}"
    assert output.dtype == torch.float32, f"returns {output.dtype}, not float32"
    torch.autograd.backward((output * torch.randn_like(output)).sum())
    idle = [name for name, each in module.named_parameters() if each.grad is None]
    assert not idle, f"parameters that never get a gradient: {idle}"
    module.eval()
    with torch.no_grad():
        whole: Tensor = module(inputs, labels)
        alone = module(inputs[:1], None if labels is None else labels[:1])
        twin.load_state_dict(module.state_dict())
        restored = twin.eval()(inputs, labels)
        others = whole if labels is None else module(inputs, labels.flip(0))
    assert torch.allclose(whole[:1], alone, atol=1e-4), "in evaluation mode, a sample depends on the rest of its batch"
    assert torch.equal(whole, restored), "state_dict does not hold everything: a restored copy gives other outputs"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(inputs, labels).isfinite().all(), "not finite in bf16"
    assert labels is None or not torch.equal(whole, others), "labelled, but other labels change nothing"
    return whole


# ── Losses ────────────────────────────────────────────────────────────────────────────────────────────────


class _Linear(nn.Module):
    """A network of any contract: one dense layer."""

    def __init__(self, fan_in: int, shape: tuple[int, ...], labelled: bool) -> None:
        super().__init__()
        self.shape = shape
        self.labelled = labelled
        self.layer = nn.Linear(fan_in, int(np.prod(shape)))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        assert (labels is not None) == self.labelled, "a slot is called with labels just where it says labelled=True"
        return self.layer(inputs.flatten(1)).tanh().unflatten(1, self.shape)  # type: ignore[no-any-return]


def _check_loss(component: type[Loss], settings: Any, spec: ModelSpec) -> None:
    loss = component(settings, spec)
    latents = loss.latents(6, CPU)
    assert latents.shape == (6, loss.latent_size), f"latents are {tuple(latents.shape)}, not {(6, loss.latent_size)}"
    described = sum(factor.size for factor in loss.factors())
    assert described == loss.latent_size, f"factors() describes {described} latents of {loss.latent_size}"
    networks = {name: _stand_in(loss, name, spec) for name in loss.slots}
    phases = loss.phases()
    names = [phase.name for phase in phases]
    assert phases and len(set(names)) == len(names), f"phases must have different names: {names}"
    trained = {slot for phase in phases for slot in phase.trains}
    assert trained == set(loss.slots), f"slots that no phase trains: {set(loss.slots) - trained}"
    for phase in phases:
        _check_phase(phase, networks, loss, spec)
    samples = loss.generate(Nets(networks), latents)
    assert samples.shape == (6, *spec.sample_shape), f"generate gives {tuple(samples.shape)}"
    read = loss.encode(Nets(networks), samples)
    assert read is None or read.shape == latents.shape, "encode gives something else than latents"


def _stand_in(loss: Loss, slot: str, spec: ModelSpec) -> nn.Module:
    facts = loss.slots[slot]
    if facts.kind == "generator":
        return _Linear(loss.in_features(slot), spec.sample_shape, facts.labelled)
    return _Linear(int(np.prod(spec.sample_shape)), (loss.out_features(slot),), facts.labelled)


def _check_phase(phase: Phase, networks: Mapping[str, nn.Module], loss: Loss, spec: ModelSpec) -> None:
    for slot, network in networks.items():
        network.zero_grad()
        network.requires_grad_(slot in phase.trains)
    batch = _batch(loss, spec, phase.reads_images)
    before = None if batch.real_images is None else batch.real_images.clone()
    terms, again = _objective(phase, networks, batch), _objective(phase, networks, batch)
    values = {**terms.minimise, **terms.report}
    bad = [name for name, value in values.items() if value.dim() or not bool(value.isfinite())]
    assert not bad, f"{phase.name}: terms that are no finite scalars: {bad}"
    assert list(again.minimise) == list(terms.minimise), f"{phase.name}: the terms' names change from call to call"
    if before is not None:
        assert torch.equal(before, batch.images), f"{phase.name}: the objective changes batch.images in place"
    torch.autograd.backward(list(terms.minimise.values()))
    idle = [slot for slot in phase.trains if all(p.grad is None for p in networks[slot].parameters())]
    assert not idle, f"{phase.name}: slots that it trains but that get no gradient: {idle}"


def _objective(phase: Phase, networks: Mapping[str, nn.Module], batch: Batch) -> Terms:
    with isolated_random(CPU, 3):
        return phase.objective(Nets(dict(networks)), batch)


def _batch(loss: Loss, spec: ModelSpec, reads_images: bool) -> Batch:
    latents = loss.latents(6, CPU)
    if not reads_images:
        return Batch(latents)
    labels = torch.arange(6) % spec.classes if spec.classes else None
    beside = {name: _noise(6, *shape).tanh() for name, shape in spec.fields.items()}
    return Batch(latents, _noise(6, *spec.sample_shape).tanh(), labels, beside=beside)


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────


def _check_data(component: type[Data], settings: Any, _: ModelSpec) -> None:
    data, twin = component(settings), component(settings)
    data.prepare()
    twin.prepare()
    try:
        manifest = check_data(data, paired=False)
    except DataError as error:
        raise AssertionError(str(error)) from error
    spec, labels = data.spec(), data.split("train").labels
    assert type(spec).from_facts(json.loads(json.dumps(spec.facts()))) == spec, "the spec's facts do not give it back"
    assert labels is None or len(np.unique(labels)) == spec.classes, "the train split lacks a class of the spec"
    assert len(set(data.class_names())) == spec.classes, "class_names names two classes alike"
    located = data.locate()
    assert located is None or located.exists(), f"locate() says {located}, where nothing is"
    assert manifest["fingerprint"] == data.fingerprint(), "the manifest has another fingerprint"
    assert data.fingerprint() == twin.fingerprint(), "the fingerprint changes from build to build"


# ── Metrics and observers ─────────────────────────────────────────────────────────────────────────────────


class _NoiseData(Data):
    """Labelled records of noise, for metrics to prepare on."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(None)
        self._spec = spec

    def spec(self) -> DataSpec:
        return self._spec

    def prepare(self) -> None:
        return None

    def split(self, name: str) -> Split:
        random = np.random.default_rng(0)
        shapes = (self._spec.sample_shape, *self._spec.fields.values())
        images, *beside = [random.integers(0, 256, (64, *shape), dtype=np.uint8) for shape in shapes]
        labels = np.arange(64) % max(self._spec.classes, 1)
        return Split(images, labels, dict(zip(self._spec.fields, beside, strict=True)))


class _PixelMixtures(Extractor):
    """Features for metrics to read: random mixtures of pixels."""

    outputs = ("features", "logits")
    suffix = "mixtures"
    key = "mixtures"
    protocol: ClassVar[Mapping[str, str | int | float | bool]] = {"extractor": "mixtures"}

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        pixels = to_unit_range(images).flatten(1)
        mixtures = torch.randn(pixels.shape[1], 8, generator=torch.Generator().manual_seed(2))
        features = pixels @ mixtures
        return {"features": features, "logits": features[:, : max(self.spec.classes, 2)]}


def _check_metric(component: type[Metric], settings: Any, spec: ModelSpec) -> None:
    data = _NoiseData(spec)
    if issubclass(component, FeatureMetric):
        metric: Metric = component(settings, spec, _PixelMixtures(None, spec))
    else:
        metric = component(settings, spec)
    metric.prepare(data, CPU)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, 2), torch.randn(count, *spec.sample_shape).tanh()

    evaluations = [evaluation_on(data, draw, step=1, reconstruct=lambda images: images / 2) for _ in range(2)]
    scores, again = (measured([metric], evaluation) for evaluation in evaluations)
    assert scores, "measure gives no score"
    bad = [score.name for score in scores if not math.isfinite(score.value)]
    assert not bad, f"scores that are not finite: {bad}"
    same = [score.value for score in scores] == [score.value for score in again]
    assert same, "measured twice on the same samples, the scores differ"
    for score in scores:
        own = score.protocol.keys() - evaluations[0].protocol.keys()
        assert own, f"{score.name} adds nothing to the protocol: say what its value depends on"
        json.dumps(dict(score.protocol))


def _check_extractor(component: type[Extractor], settings: Any, spec: ModelSpec) -> None:
    data = _NoiseData(spec)
    extractor, twin = component(settings, spec), component(settings, spec)
    for each in (extractor, twin):
        each.prepare(data, CPU)
    images = torch.from_numpy(data.split("train").images[:5])
    before = images.clone()
    found, again, alone = extractor(images), twin(images), extractor(images[:1])
    assert torch.equal(images, before), "it changes the images in place"
    assert set(found) >= set(extractor.outputs), f"it gives {set(found)}, and promises {set(extractor.outputs)}"
    assert extractor.key == twin.key, "the key changes from build to build: its features could not be shared"
    assert extractor.protocol, "it has no protocol: say which network, which weights, which resizing"
    json.dumps(dict(extractor.protocol))
    for name in extractor.outputs:
        assert found[name].is_floating_point() and len(found[name]) == len(images), f"{name}: no row for each image"
        assert torch.equal(found[name], again[name]), f"{name}: two builds give other features"
        assert torch.allclose(found[name][:1], alone[name], rtol=1e-3, atol=1e-4), f"{name}: depends on the batch"


def _check_observer(component: type[Observer], settings: Any, _: ModelSpec) -> None:
    events = Events({"it": component(settings)})
    assert any(events.has_listeners(event) for event in events.names()), (
        "it has no events: mark methods with ganrun.observes"
    )


# ── Optimisers and schedules ──────────────────────────────────────────────────────────────────────────────


class _Constant(Schedule):
    """The schedule that an optimiser is tried with."""

    def factor(self, progress: float) -> float:
        return 1.0


def _check_optimizer(component: type[Optimizer], settings: Any, _: ModelSpec) -> None:
    rule = component(settings, _Constant(None))
    start = torch.tensor([3.0, -2.0])
    weight, twin = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, other = rule.build([weight], CPU), rule.build([twin], CPU)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {rule.settings.lr}, f"it starts at the learning rates {rates}, not at settings.lr"
    _descend(optimizer, weight, 3)
    assert (weight.square() < start.square()).all(), "three steps down a parabola do not descend"
    _descend(other, twin, 2)
    state = torch.load(_saved(other.state_dict()), weights_only=True)  # as a checkpoint is read
    other = rule.build([twin], CPU)
    other.load_state_dict(state)
    _descend(other, twin, 1)
    assert torch.equal(weight, twin), "state_dict does not hold everything: a restored optimiser takes other steps"


def _descend(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(weight.square().sum())
        optimizer.step()


def _saved(state: Mapping[str, Any]) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def _check_schedule(component: type[Schedule], settings: Any, _: ModelSpec) -> None:
    progress = [step / 100 for step in range(100)]
    schedule, twin = component(settings), component(settings)
    factors = [schedule.factor(each) for each in progress]
    bad = [each for each, factor in zip(progress, factors, strict=True) if not (math.isfinite(factor) and factor >= 0)]
    assert not bad, f"the learning rate is negative or not finite at a share of {bad[0]} of the run"
    backwards = [twin.factor(each) for each in reversed(progress)][::-1]
    assert factors == backwards, "the factor depends on more than its argument, so a resumed run would differ"
    assert schedule.varies or len(set(factors)) == 1, "it says that it does not vary, and does"


_CHECKS: dict[str, Callable[[Any, Any, ModelSpec], None]] = {
    "generator": _check_generator,
    "discriminator": _check_discriminator,
    "loss": _check_loss,
    "data": _check_data,
    "metric": _check_metric,
    "extractor": _check_extractor,
    "observer": _check_observer,
    "optimizer": _check_optimizer,
    "schedule": _check_schedule,
}


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
