"""The conformance of networks and losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError
from ganrun.base.randomness import isolated_random
from ganrun.contracts.augmentations import Augmentation
from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.networks import Discriminator, Generator, Network
from ganrun.contracts.specs import DataSpec, NetworkSpec
from ganrun.contracts.views import View
from ganrun.rehearsal.augmentations import AUGMENTATION_CLAUSES, AugmentationTrial
from ganrun.rehearsal.beginning import try_begin
from ganrun.rehearsal.networks import NETWORK_CLAUSES, NetworkTrial, example_inputs
from ganrun.rehearsal.state import check_state
from ganrun.training.averaging import Average
from ganrun.training.views import seeded_network

CPU = torch.device("cpu")

GENERATED = NetworkSpec(inputs=(16,), outputs=(3, 32, 32), classes=4)
JUDGED = NetworkSpec(inputs=(3, 32, 32), outputs=(5,), classes=4)
TRANSLATED = NetworkSpec(inputs=(3, 32, 32), outputs=(3, 32, 32), classes=4)
"""The specs that networks are tried on unless another is given: no dimension equals another."""

IMAGES = DataSpec(sample_shape=(3, 32, 32), classes=4)
"""The data that losses are tried on unless others are given."""


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────────────


def check_generator(component: type[Generator], settings: Any, spec: NetworkSpec | None) -> None:
    """The clauses of every network; and samples in [-1, 1]."""
    for each in _specs(component, spec or GENERATED):
        samples = _check_network(component, settings, each)
        assert samples.abs().max() <= 1, f"samples reach {samples.abs().max():.3f}; they must stay in [-1, 1]"


def check_discriminator(component: type[Discriminator], settings: Any, spec: NetworkSpec | None) -> None:
    """The clauses of every network; and logits, not probabilities."""
    for each in _specs(component, spec or JUDGED):
        _check_network(component, settings, each)
        last = list(component(settings, each).modules())[-1]
        is_squashed = isinstance(last, nn.Sigmoid | nn.Softmax | nn.LogSoftmax)
        assert not is_squashed, "losses work on logits: drop the last layer"


def check_network(component: type[Network], settings: Any, spec: NetworkSpec | None) -> None:
    """The clauses of every network."""
    for each in _specs(component, spec or TRANSLATED):
        _check_network(component, settings, each)


def _specs(component: type[Network], spec: NetworkSpec) -> list[NetworkSpec]:
    """The spec itself; and with labels, for a network that can be called with them."""
    takes_labels = "labels" in inspect.signature(component.forward).parameters
    if spec.labelled or spec.classes < 2 or not takes_labels:
        return [spec]
    return [spec, replace(spec, conditions={**spec.conditions, "labels": ()})]


def _check_network(component: type[Network], settings: Any, spec: NetworkSpec) -> Tensor:
    """Try every clause; returns the outputs in evaluation mode."""

    def build() -> Network:
        network = component(settings, spec)
        try_begin(network, 0, NetworkTrial.steps, CPU)
        return network

    def make() -> Network:
        return seeded_network(build, CPU, 7)

    trial = NetworkTrial(make, spec, CPU)
    for clause in NETWORK_CLAUSES:
        try:
            clause(trial)
        except IncompatibleError as error:
            if spec.labelled and "ignores its labels" in error.message:  # it need not be one that can be conditioned
                return View(make().eval())(example_inputs(spec, 6, CPU)[0], labels=torch.arange(6) % spec.classes)
            raise AssertionError(error.message) from error
    return _check_numbers(trial, build, spec)


def _check_numbers(trial: NetworkTrial, build: Callable[[], nn.Module], spec: NetworkSpec) -> Tensor:
    inputs, conditions = example_inputs(spec, 6, CPU)
    module, twin = trial.make(), trial.make()
    same = all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), twin.state_dict().values(), strict=True))
    assert same, "two builds under one seed differ: draw from torch's global random stream"
    _check_state(module, build, lambda network: network(inputs[:2], **{n: each[:2] for n, each in conditions.items()}))
    for step in trial.points(module):
        try_begin(module, step, trial.steps, CPU)
        output = module(inputs, **conditions)
        torch.autograd.backward((output * torch.randn_like(output)).sum())
    idle = [name for name, each in module.named_parameters() if each.grad is None]
    assert not idle, f"parameters that never get a gradient: {idle}"
    module.eval()
    with torch.no_grad():
        whole: Tensor = module(inputs, **conditions)
        alone = module(inputs[:1], **{name: each[:1] for name, each in conditions.items()})
    assert torch.allclose(whole[:1], alone, atol=1e-4), "in evaluation mode, a sample depends on the rest of its batch"
    in_bf16 = View(module, torch.bfloat16)(inputs, **conditions)
    assert in_bf16.isfinite().all(), "not finite in bf16"
    return whole


def _check_state(module: nn.Module, make: Callable[[], nn.Module], call: Callable[[nn.Module], Any]) -> None:
    """The clauses that are tried before a run, too."""
    try:
        check_state(module, make, call, CPU, partial(Average, decay=0.5))
    except IncompatibleError as error:
        raise AssertionError(error.message) from error


# ── Augmentations ─────────────────────────────────────────────────────────────────────────────────────────


def check_augmentation(component: type[Augmentation], settings: Any, spec: DataSpec | None) -> None:
    """The clauses of every augmentation; it can be differentiated twice, since losses may have a gradient penalty."""

    def make() -> Augmentation:
        augmentation = component(settings, spec or IMAGES)
        try_begin(augmentation, 0, NetworkTrial.steps, CPU)
        return augmentation

    with isolated_random(CPU, 7):
        trial = AugmentationTrial(make(), make, CPU)
    for clause in AUGMENTATION_CLAUSES:
        try:
            clause(trial)
        except IncompatibleError as error:
            raise AssertionError(error.message) from error


# ── Losses ────────────────────────────────────────────────────────────────────────────────────────────────


class _Linear(nn.Module):
    """A network for any ports: one dense layer, which its conditions shift."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layer = nn.Linear(prod(spec.inputs), prod(spec.output_shape))

    def forward(self, inputs: Tensor, **conditions: Tensor) -> Tensor:
        given, named = set(conditions), set(self.spec.conditions)
        assert given == named, f"a network is called with {given or 'nothing'} besides its input; its ports say {named}"
        shape = tuple(inputs.shape[1:])
        assert shape == self.spec.inputs, f"a network is called on {shape}; its ports say {self.spec.inputs}"
        shift = sum(each.float().flatten(1).mean(1) if each.dim() > 1 else each.float() for each in conditions.values())
        outputs = self.layer(inputs.flatten(1)).tanh()
        outputs = outputs + 0.01 * shift[:, None] if isinstance(shift, Tensor) else outputs
        return outputs.unflatten(1, self.spec.output_shape)  # type: ignore[no-any-return]


def check_loss(component: type[Loss], settings: Any, spec: DataSpec | None) -> None:
    """Its latents, factors and phases, on networks of one layer."""
    facts = spec or IMAGES
    loss = component(settings, facts)
    latents = loss.latents(6, CPU)
    assert latents.shape == (6, loss.latent_size), f"latents are {tuple(latents.shape)}, not {(6, loss.latent_size)}"
    described = sum(factor.size for factor in loss.factors())
    assert described == loss.latent_size, f"factors() describes {described} latents of {loss.latent_size}"
    networks = {name: _Linear(NetworkSpec(*loss.ports(name), classes=facts.classes)) for name in loss.slots}
    phases = loss.phases()
    names = [phase.name for phase in phases]
    assert phases and len(set(names)) == len(names), f"phases must have different names: {names}"
    trained = {slot for phase in phases for slot in phase.trains}
    assert trained == set(loss.slots), f"slots that no phase trains: {set(loss.slots) - trained}"
    for phase in phases:
        _check_phase(phase, networks, loss, facts)
    nets = _nets(networks)
    samples = loss.generate(nets, latents)
    assert samples.shape == (6, *facts.sample_shape), f"generate gives {tuple(samples.shape)}"
    read = loss.encode(nets, samples)
    assert read is None or read.shape == latents.shape, "encode gives something else than latents"


def _nets(networks: Mapping[str, nn.Module]) -> Nets:
    return Nets({name: View(network) for name, network in networks.items()})


def _check_phase(phase: Phase, networks: Mapping[str, nn.Module], loss: Loss, spec: DataSpec) -> None:
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
        return phase.objective(_nets(networks), batch)


def _batch(loss: Loss, spec: DataSpec, reads_images: bool) -> Batch:
    latents = loss.latents(6, CPU)
    if not reads_images:
        return Batch(latents)
    labels = torch.arange(6) % spec.classes if spec.classes else None
    images, *beside = [_example(shape) for shape in (spec.sample_shape, *spec.fields.values())]
    return Batch(latents, images, labels, dict(zip(spec.fields, beside, strict=True)))


def _example(shape: tuple[int, ...]) -> Tensor:
    return example_inputs(NetworkSpec(inputs=shape, outputs=()), 6, CPU)[0]
