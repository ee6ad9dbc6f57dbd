"""Checks that an update can be captured as a graph: a replay gives the same results as a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ganrun.base.randomness import isolated_random
from ganrun.contracts.beginning import begin
from ganrun.contracts.losses import Batch, Phase
from ganrun.testing.memory import Snapshot
from ganrun.testing.recording import RecordedGraph
from ganrun.testing.trials import CPU, STEPS, Trial, values_of


def check_replays(trial: Trial, phase: Phase) -> None:
    """Captured as a graph, an update is the same on another batch, at another step of the same structure."""
    batch, graph, found = trial.batch(phase.reads_images), RecordedGraph(), dict[str, Tensor]()
    structure = begin(trial.remembering, 0, STEPS, trial.device)
    try:
        graph.capture(lambda: found.update(_differentiated(trial, phase, batch)))
    except RuntimeError:  # torch reads values on the CPU that it does not read elsewhere
        return
    _change(batch)
    if begin(trial.remembering, STEPS // 2, STEPS, trial.device) != structure:
        begin(trial.remembering, 0, STEPS, trial.device)
    with isolated_random(CPU, 5), _state_kept(trial):
        graph.replay()
    with isolated_random(CPU, 5), _state_kept(trial):
        called = _differentiated(trial, phase, batch)
    trial.begin(trial.remembering)
    others = [name for name, value in called.items() if not torch.allclose(value, found[name], equal_nan=True)]
    assert not others, (
        f"{phase.name}: captured as a graph, and replayed on another batch at another step, it gives other values of "
        f"{others} than when it is called. A graph keeps numbers of the host: take batch.step, self.now and buffers "
        "for what changes, draw from torch's random stream, and let begin return what names another structure"
    )


def _differentiated(trial: Trial, phase: Phase, batch: Batch) -> dict[str, Tensor]:
    """The terms and the gradients of an update."""
    terms = phase.objective(trial.nets(), batch)
    torch.autograd.backward(list(terms.minimise.values()))
    weights = {f"{slot}.{name}": p for slot in phase.trains for name, p in trial.networks[slot].named_parameters()}
    gradients = {f"the gradient of {name}": p.grad for name, p in weights.items() if p.grad is not None}
    for network in trial.networks.values():
        network.zero_grad()
    found = {**values_of(terms), **gradients}
    return {name: value.detach().clone() for name, value in found.items()}  # a term may be a tensor of the loss


@contextmanager
def _state_kept(trial: Trial) -> Iterator[None]:
    """A block after which the memory and the networks' buffers are what they were."""
    memory = Snapshot(trial.remembering)
    buffers = [(each, each.clone()) for network in trial.networks.values() for each in network.buffers()]
    yield
    memory.restore()
    for buffer, value in buffers:
        buffer.copy_(value)


def _change(batch: Batch) -> None:
    """Give a batch other values, in place."""
    parts = (batch.latents, batch.real_images, batch.real_labels, *batch.beside.values())
    for part in parts:
        if part is not None:
            part.copy_(part.roll(1, 0))
    batch.step.fill_(200.0)
