"""Tries a loss before a run starts: each phase once, and samples, on made-up records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.base.randomness import isolated_random
from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.specs import ModelSpec
from ganrun.contracts.views import View
from ganrun.inference.given import with_given
from ganrun.inference.model import Model
from ganrun.recipe.recipe import Recipe
from ganrun.rehearsal.losses import check_samples
from ganrun.rehearsal.networks import example_records
from ganrun.rehearsal.state import copy_of
from ganrun.training.components import frame_of
from ganrun.training.measurements import Measurements, curve_of, total_of
from ganrun.training.sizes import smallest_part
from ganrun.training.views import PRECISIONS

SAMPLES = 4
"""Records on which a phase or a penalty is tried, at most."""


def try_phases(
    recipe: Recipe, loss: Loss, networks: Mapping[str, nn.Module], spec: ModelSpec, device: torch.device
) -> None:
    """Compute and differentiate the terms of each of the loss's phases once; changes nothing.

    Raises:
        IncompatibleError: located at the loss's table, if terms are not scalars, none depends on a network that the
            phase trains, or terms of two phases would share a curve. `PluginError` for a foreign exception.
    """
    measurements = Measurements()
    for phase in loss.phases():
        doing = f'the objective of phase "{phase.name}"'
        with frame_of(recipe, recipe.loss, doing), kept(loss.memory), isolated_random(device, 4), torch.enable_grad():
            batch = made_up_batch(recipe, loss, spec, device)
            read = batch if phase.reads_images else Batch(batch.latents)
            try:
                terms = _try(phase, tried_copies(networks, phase.trains), read, PRECISIONS[recipe.train.precision])
                measurements.add(curve_of(phase.name), terms.minimise, terms.report)
            except ContractError as error:
                raise IncompatibleError(error.message) from error


def try_samples(recipe: Recipe, model: Model) -> None:
    """Make two samples.

    Raises:
        IncompatibleError: located at the loss's table, if they are not what the spec says.
    """
    try:
        samples = model.decode(model.unfilled_latents(2))
    except ContractError as error:  # it has the loss's name already
        raise IncompatibleError(error.message, where=error.where) from error
    with frame_of(recipe, recipe.loss, "generate"):
        check_samples(samples, model.spec)


def made_up_batch(recipe: Recipe, loss: Loss, spec: ModelSpec, device: torch.device) -> Batch:
    """Made-up records with latents: as many as in a part of a batch, but at most `SAMPLES`."""
    count = min(SAMPLES, smallest_part(recipe))
    records = example_records(spec, count, device)
    return replace(records, latents=with_given(loss.latents(count, device), spec, records.beside))


def tried_copies(networks: Mapping[str, nn.Module], trained: tuple[str, ...]) -> dict[str, nn.Module]:
    """Copies of the networks; those that are not trained are frozen."""
    copies = {name: copy_of(network) for name, network in networks.items()}
    for name, network in copies.items():
        if name not in trained:
            network.requires_grad_(False)
    return copies


@contextmanager
def kept(*memories: nn.Module) -> Iterator[None]:
    """A block that restores the memories afterwards."""
    values = [{name: value.clone() for name, value in memory.state_dict().items()} for memory in memories]
    try:
        yield
    finally:
        for memory, value in zip(memories, values, strict=True):
            memory.load_state_dict(value)


def _try(phase: Phase, networks: Mapping[str, nn.Module], batch: Batch, precision: torch.dtype | None) -> Terms:
    nets = Nets({name: View(network, precision) for name, network in networks.items()})
    terms = phase.objective(nets, batch)
    total = total_of(phase.name, terms)
    for slot in phase.trains:
        weights = [weight for weight in networks[slot].parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(total, weights, allow_unused=True, retain_graph=True)
        if all(gradient is None for gradient in gradients):
            text = f'phase "{phase.name}" trains the {slot}, and none of its terms depends on that network'
            raise IncompatibleError(f"{text}, so it gets no gradient")
    return terms
