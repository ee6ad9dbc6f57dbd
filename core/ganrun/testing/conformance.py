"""Checks a component against its contract, numerically."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ganrun.base.errors import DataError, PluginError
from ganrun.base.suggestions import did_you_mean
from ganrun.contracts.data import Data, Split, to_unit_range
from ganrun.contracts.extractors import Extractor
from ganrun.contracts.metrics import FeatureMetric, Metric
from ganrun.contracts.networks import Network
from ganrun.contracts.observers import Observer
from ganrun.contracts.optimizers import Optimizer, Schedule
from ganrun.contracts.settings import parse_settings, settings_help
from ganrun.contracts.specs import DataSpec, ModelSpec, NetworkSpec
from ganrun.discovery.kinds import KINDS
from ganrun.inference.evaluation import measured
from ganrun.rehearsal.data import check_data
from ganrun.rehearsal.stand_in import StandIn
from ganrun.testing.augmentations import check_augmentation
from ganrun.testing.evaluations import evaluation_on
from ganrun.testing.losses import check_loss
from ganrun.testing.networks import check_discriminator, check_generator, check_network
from ganrun.testing.regularizers import check_regularizer
from ganrun.training.events import Events

CPU = torch.device("cpu")
IMAGES = ModelSpec(sample_shape=(3, 32, 32), classes=4, latent_size=16)
"""The spec that metrics and extractors are tried on unless another is given: no dimension equals another."""


def assert_conforms(
    kind: str,
    component: Any,
    settings: Mapping[str, Any] | None = None,
    spec: NetworkSpec | DataSpec | None = None,
    networks: Mapping[str, type[Network]] | None = None,
) -> None:
    """Assert that a component keeps the contract of its kind.

    Args:
        kind: The kind, as `ganrun list` names it: `generator`, `loss`, `metric`, …
        component: The class.
        settings: Its settings, as in a recipe's table.
        spec: The spec to build it for: a `NetworkSpec` for a network, a `DataSpec` for a loss, an augmentation or a
            regulariser, a `ModelSpec` for a metric or an extractor; one of images unless given.
        networks: For a loss or a regulariser that calls methods of networks: the components to try it on, by slot, with
            their default settings. In all other slots are networks of one layer.

    Raises:
        AssertionError: naming the clause that is broken.
        ValueError: if there is no such kind.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"; the kinds are {', '.join(KINDS)}"
        raise ValueError(f'unknown kind of component "{kind}"{hint}')
    _check_class(kind, component)
    parsed = parse_settings(component.Settings, settings or {})
    undocumented = [each.name for each in settings_help(component.Settings) if not each.help]
    assert not undocumented, f"settings without a docstring: {undocumented}"
    assert component.summary(), "the class has no docstring, so `ganrun list` has no summary for it"
    check: Callable[..., None] = partial(_CHECKS[kind], networks=networks) if networks else _CHECKS[kind]
    check(component, parsed, spec)


def _check_class(kind: str, component: Any) -> None:
    """The checks of a class when a plugin offers it."""
    contract = KINDS[kind].contract
    is_one = isinstance(component, type) and issubclass(component, contract)
    assert is_one, f"{getattr(component, '__name__', component)} is not a subclass of ganrun.{contract.__name__}"
    fault = component.class_fault()
    assert fault is None, f"{component.__name__} is a class {fault}"


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────


def _check_data(component: type[Data], settings: Any, _: object) -> None:
    stand_in = StandIn(IMAGES, lambda name: _noise(IMAGES))
    data, twin = (component(settings, **dict.fromkeys(component.parts, stand_in)) for _ in range(2))
    data.prepare()
    twin.prepare()
    try:
        manifest = check_data(data, paired=False)
    except DataError as error:
        raise AssertionError(str(error)) from error
    _check_spec(data)
    located = data.locate()
    assert located is None or located.exists(), f"locate() says {located}, where nothing is"
    assert manifest["fingerprint"] == data.fingerprint(), "the manifest has another fingerprint"
    assert data.fingerprint() == twin.fingerprint(), "the fingerprint changes from build to build"
    checked = twin.check_files()
    is_text = isinstance(checked, Mapping) and all(isinstance(text, str) for pair in checked.items() for text in pair)
    assert is_text, f"check_files() returns {checked!r}, not texts by file"


def _check_spec(data: Data) -> None:
    spec, labels = data.spec(), data.split("train").labels
    assert type(spec).from_facts(json.loads(json.dumps(spec.facts()))) == spec, "the spec's facts do not give it back"
    assert labels is None or len(np.unique(labels)) == spec.classes, "the train split lacks a class of the spec"
    assert len(set(data.class_names())) == spec.classes, "class_names gives two classes the same name"


# ── Metrics and observers ─────────────────────────────────────────────────────────────────────────────────


def _noise(spec: DataSpec) -> Split:
    """Labelled records of noise, for metrics to prepare on."""
    random = np.random.default_rng(0)
    shapes = (spec.sample_shape, *spec.fields.values())
    images, *beside = [random.integers(0, 256, (64, *shape), dtype=np.uint8) for shape in shapes]
    labels = np.arange(64) % max(spec.classes, 1)
    return Split(images, labels, dict(zip(spec.fields, beside, strict=True)))


class _PixelMixtures(Extractor):
    """Features for metrics to read: random mixtures of pixels."""

    outputs = ("features", "logits")
    takes_floats = True
    suffix = "mixtures"
    key = "mixtures"
    protocol: ClassVar[Mapping[str, str | int | float | bool]] = {"extractor": "mixtures"}

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        pixels = to_unit_range(images).flatten(1)
        mixtures = torch.randn(pixels.shape[1], 8, generator=torch.Generator().manual_seed(2))
        features = pixels @ mixtures
        return {"features": features, "logits": features[:, : max(self.spec.classes, 2)]}


def _check_metric(component: type[Metric], settings: Any, spec: ModelSpec | None) -> None:
    spec = spec or IMAGES
    data = StandIn(spec, lambda name: _noise(spec))
    if issubclass(component, FeatureMetric):
        metric: Metric = component(settings, spec, _PixelMixtures(None, spec))
    else:
        metric = component(settings, spec)
    metric.prepare(data, CPU)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, 2), torch.randn(count, *spec.sample_shape).tanh()

    def decode(latents: Tensor) -> Tensor:
        patterns = torch.randn(latents.shape[1], *spec.sample_shape, generator=torch.Generator().manual_seed(3))
        return torch.einsum("bn,n...->b...", latents, patterns).tanh()

    readings = {"reconstructions": lambda images: images / 2, "encodings": lambda images: images.flatten(1)[:, :2]}
    evaluations = [evaluation_on(data, draw, spec=spec, step=1, readings=readings, decode=decode) for _ in range(2)]
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


def _check_extractor(component: type[Extractor], settings: Any, spec: ModelSpec | None) -> None:
    spec = spec or IMAGES
    data = StandIn(spec, lambda name: _noise(spec))
    extractor, twin = component(settings, spec), component(settings, spec)
    for each in (extractor, twin):
        each.prepare(data, CPU)
    images = torch.from_numpy(data.split("train").images[:5])
    before = images.clone()
    found, again, alone = extractor(images), twin(images), extractor(images[:1])
    assert torch.equal(images, before), "it changes the images in place"
    assert set(found) >= set(extractor.outputs), f"it returns {set(found)}, but declares {set(extractor.outputs)}"
    assert extractor.key == twin.key, "the key changes from build to build: its features could not be shared"
    assert extractor.protocol, "it has no protocol: say which network, which weights, which resizing"
    json.dumps(dict(extractor.protocol))
    for name in extractor.outputs:
        assert found[name].is_floating_point() and len(found[name]) == len(images), f"{name}: not one row per image"
        assert torch.equal(found[name], again[name]), f"{name}: two builds give different features"
        assert torch.allclose(found[name][:1], alone[name], rtol=1e-3, atol=1e-4), f"{name}: depends on the batch"
    if extractor.takes_floats:
        _check_floats(extractor, images, found)


def _check_floats(extractor: Extractor, images: Tensor, found: Mapping[str, Tensor]) -> None:
    floats = to_unit_range(images)
    same, moved = extractor(floats), extractor(floats * 0.9999)
    for name in extractor.outputs:
        assert torch.allclose(found[name], same[name], rtol=1e-3, atol=1e-4), f"{name}: differs for images as floats"
        assert not torch.equal(same[name], moved[name]), f"{name}: it takes floats, but rounds them"


def _check_observer(component: type[Observer], settings: Any, _: object) -> None:
    try:
        events = Events({"it": component(settings)})
    except PluginError as error:
        raise AssertionError(str(error)) from error
    assert any(events.has_listeners(event) for event in events.names()), (
        "it has no events: mark methods with ganrun.observes"
    )


# ── Optimisers and schedules ──────────────────────────────────────────────────────────────────────────────


class _Constant(Schedule):
    """The schedule that an optimiser is tried with."""

    def factor(self, progress: float) -> float:
        return 1.0


def _check_optimizer(component: type[Optimizer], settings: Any, _: object) -> None:
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


def _check_schedule(component: type[Schedule], settings: Any, _: object) -> None:
    progress = [step / 100 for step in range(100)]
    schedule, twin = component(settings), component(settings)
    factors = [schedule.factor(each) for each in progress]
    bad = [each for each, factor in zip(progress, factors, strict=True) if not (math.isfinite(factor) and factor >= 0)]
    assert not bad, f"the learning rate is negative or not finite at a share of {bad[0]} of the run"
    backwards = [twin.factor(each) for each in reversed(progress)][::-1]
    assert factors == backwards, "the factor depends on more than its argument, so a resumed run would differ"
    assert schedule.varies or len(set(factors)) == 1, "it claims not to vary, but does"


_CHECKS: dict[str, Callable[..., None]] = {
    "generator": check_generator,
    "discriminator": check_discriminator,
    "network": check_network,
    "loss": check_loss,
    "augmentation": check_augmentation,
    "regularizer": check_regularizer,
    "data": _check_data,
    "metric": _check_metric,
    "extractor": _check_extractor,
    "observer": _check_observer,
    "optimizer": _check_optimizer,
    "schedule": _check_schedule,
}
