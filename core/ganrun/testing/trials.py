"""A loss on trial: with networks for its slots, on made-up records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.randomness import isolated_random
from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.networks import Network
from ganrun.contracts.regularizers import Regularizer
from ganrun.contracts.specs import DataSpec, ModelSpec, NetworkSpec
from ganrun.contracts.views import View
from ganrun.inference.given import with_given
from ganrun.rehearsal.beginning import try_begin
from ganrun.rehearsal.networks import example_inputs
from ganrun.testing.clauses import asserted

CPU = torch.device("cpu")

STEPS = 1000
"""Of the run that a component is tried for."""


class Trial:
    """A loss with networks for its slots, on a device.

    Args:
        component: The loss's class.
        settings: Its settings.
        facts: The data's.
        device: Where it runs; on `meta`, nothing is computed.
        networks: Components for some of its slots; in all others are networks of one layer.
    """

    def __init__(
        self,
        component: type[Loss],
        settings: Any,
        facts: DataSpec,
        device: torch.device = CPU,
        networks: Mapping[str, type[Network]] | None = None,
    ) -> None:
        self.facts, self.device = facts, device
        self.again: Callable[[torch.device], Trial] = partial(Trial, component, settings, facts, networks=networks)
        with isolated_random(CPU, 3):
            self.loss = component(settings, facts)
            self.networks = {slot: self._network(slot, networks or {}).to(device) for slot in self.loss.slots}
        self.loss.memory.to(device)
        self.remembering: Loss | Regularizer = self.loss
        """The components that have a memory, and must change nothing else."""
        for each in (self.loss, *self.networks.values()):
            self.begin(each)

    def begin(self, component: Any, step: int = 0) -> None:
        """Set what of a component is a function of the step."""
        with asserted():
            try_begin(component, step, STEPS, self.device)

    def _network(self, slot: str, given: Mapping[str, type[Network]]) -> nn.Module:
        spec = NetworkSpec(*self.loss.ports(slot), classes=self.loss.classes)
        if slot in given:
            return given[slot](given[slot].Settings(), spec)
        methods = self.loss.slots[slot].methods
        assert not methods, (
            f"it calls {', '.join(methods)} of the network in its slot {slot}; name one to try it on: "
            f'assert_conforms("loss", …, networks={{"{slot}": …}})'
        )
        return _Linear(spec)

    def nets(self) -> Nets:
        """Views of the networks, in float32."""
        return Nets({name: View(network) for name, network in self.networks.items()})

    def terms(self, phase: Phase, batch: Batch) -> Terms:
        """The objective's result, always with the same random numbers."""
        with isolated_random(CPU, 3):
            return phase.objective(self.nets(), batch)

    def batch(self, reads_images: bool = True, copies: int = 1) -> Batch:
        """Six made-up records, each as often as there are copies."""

        def made(values: Tensor) -> Tensor:
            return torch.cat([values] * copies).to(self.device)

        with isolated_random(CPU, 4):
            latents = torch.cat([self.loss.latents(6, self.device)] * copies)
        step = torch.tensor(100.0, device=self.device)
        fields = enumerate(self.facts.fields.items(), start=1)
        beside = {name: made(example_records_of(shape).roll(number, 0)) for number, (name, shape) in fields}
        latents = with_given(latents, ModelSpec(self.facts.sample_shape, factors=tuple(self.loss.factors())), beside)
        if not reads_images:
            return Batch(latents, steps_done=step)
        labels = made(torch.arange(6) % self.facts.classes) if self.facts.classes else None
        return Batch(latents, made(example_records_of(self.facts.sample_shape)), labels, beside, step)


def example_records_of(shape: tuple[int, ...]) -> Tensor:
    """Six made-up records of a shape."""
    return example_inputs(NetworkSpec(inputs=shape, outputs=()), 6, CPU)[0]


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
        for name, value in conditions.items():
            found, dtype = (value.dtype, *value.shape[1:]), torch.int64 if name == "labels" else torch.float32
            expected = (dtype, *self.spec.conditions[name])
            assert found == expected, f"a network is called with {name} of type and shape {found}, not {expected}"
        shift = sum(each.float().flatten(1).mean(1) if each.dim() > 1 else each.float() for each in conditions.values())
        outputs = self.layer(inputs.flatten(1)).tanh()
        outputs = outputs + 0.01 * shift[:, None] if isinstance(shift, Tensor) else outputs
        return outputs.unflatten(1, self.spec.output_shape or (1,))  # type: ignore[no-any-return]


def values_of(terms: Terms) -> dict[str, Tensor]:
    """The terms that an objective minimises and reports, by name."""
    return {name: value.detach() for name, value in {**terms.minimise, **terms.report}.items()}
