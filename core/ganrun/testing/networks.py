"""The conformance of networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError
from ganrun.contracts.networks import Discriminator, Generator, Network
from ganrun.contracts.specs import NetworkSpec
from ganrun.contracts.views import View
from ganrun.rehearsal.beginning import try_begin
from ganrun.rehearsal.networks import NetworkTrial, check_network as check_clauses, uses_conditions
from ganrun.rehearsal.state import check_state
from ganrun.testing.clauses import asserted
from ganrun.testing.devices import on_accelerator
from ganrun.testing.ranks import check_counts
from ganrun.training.averaging import Average
from ganrun.training.views import seeded_network

CPU = torch.device("cpu")

GENERATED = NetworkSpec(inputs=(16,), outputs=(3, 32, 32), classes=4)
JUDGED = NetworkSpec(inputs=(3, 32, 32), outputs=(5,), classes=4)
TRANSLATED = NetworkSpec(inputs=(3, 32, 32), outputs=(3, 32, 32), classes=4)
"""The specs that networks are tried on unless another is given: no dimension equals another."""


def check_generator(component: type[Generator], settings: Any, spec: NetworkSpec | None) -> None:
    """The clauses of every network; and samples in [-1, 1]."""
    for each in _specs(component, settings, spec or GENERATED):
        samples = _check_network(component, settings, each)
        assert samples.abs().max() <= 1, f"samples reach {samples.abs().max():.3f}; they must stay in [-1, 1]"


def check_discriminator(component: type[Discriminator], settings: Any, spec: NetworkSpec | None) -> None:
    """The clauses of every network; and logits, not probabilities."""
    for each in _specs(component, settings, spec or JUDGED):
        _check_network(component, settings, each)
        last = list(component(settings, each).modules())[-1]
        is_squashed = isinstance(last, nn.Sigmoid | nn.Softmax | nn.LogSoftmax)
        assert not is_squashed, "losses work on logits: drop the last layer"


def check_network(component: type[Network], settings: Any, spec: NetworkSpec | None) -> None:
    """The clauses of every network."""
    for each in _specs(component, settings, spec or TRANSLATED):
        _check_network(component, settings, each)


def _specs(component: type[Network], settings: Any, spec: NetworkSpec) -> list[NetworkSpec]:
    """The spec itself; and with labels, for a network that can be conditioned on them."""
    takes_labels = "labels" in inspect.signature(component.forward).parameters
    if spec.labelled or spec.classes < 2 or not takes_labels:
        return [spec]
    labelled = replace(spec, conditions={**spec.conditions, "labels": ()})
    return [spec, labelled] if _can_be_conditioned(component, settings, labelled) else [spec]


def _can_be_conditioned(component: type[Network], settings: Any, spec: NetworkSpec) -> bool:
    """Whether the network uses its labels; if it fails, the clauses say why."""
    try:
        uses_conditions(_trial_of(component, settings, spec))
    except IncompatibleError as error:
        return "ignores its labels" not in error.message
    except Exception:
        return True
    return True


def _trial_of(component: type[Network], settings: Any, spec: NetworkSpec) -> NetworkTrial:
    return NetworkTrial(lambda: seeded_network(_builder(component, settings, spec), CPU, 7), spec, CPU)


def _builder(component: type[Network], settings: Any, spec: NetworkSpec) -> Callable[[], Network]:
    """Builds a network in its state before the first step of a run."""

    def build() -> Network:
        network = component(settings, spec)
        try_begin(network, 0, NetworkTrial.steps, CPU)
        return network

    return build


def _check_network(component: type[Network], settings: Any, spec: NetworkSpec) -> Tensor:
    """Try every clause; returns the outputs in evaluation mode."""
    trial = _trial_of(component, settings, spec)
    with asserted():
        check_clauses(trial)
    return _check_numbers(trial, _builder(component, settings, spec))


def _check_numbers(trial: NetworkTrial, build: Callable[[], nn.Module]) -> Tensor:
    inputs, conditions = trial.example(6)
    module, twin = trial.make(), trial.make()
    same = all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), twin.state_dict().values(), strict=True))
    assert same, "two builds under one seed differ: draw from torch's global random stream"
    _check_state(module, build, lambda network: network(inputs[:2], **{n: each[:2] for n, each in conditions.items()}))
    _check_device(trial.make(), inputs, conditions)
    check_counts(trial.make, inputs, conditions)
    for step in trial.points:
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


def _check_device(module: nn.Module, inputs: Tensor, conditions: dict[str, Tensor]) -> None:
    """In both modes, it neither waits for the device nor makes tensors elsewhere."""
    with on_accelerator() as device:
        module.to(device)
        moved = inputs.to(device), {name: each.to(device) for name, each in conditions.items()}
        for mode in (True, False):
            module.train(mode)(moved[0], **moved[1])


def _check_state(module: nn.Module, make: Callable[[], nn.Module], call: Callable[[nn.Module], Any]) -> None:
    """The clauses that are tried before a run, too."""
    with asserted():
        check_state(module, make, call, CPU, partial(Average, decay=0.5))
