"""Fills the slots of a loss: builds each network, tries it, and adds its average and optimiser."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.losses import Loss
from ganrun.contracts.specs import ModelSpec
from ganrun.recipe.recipe import Recipe
from ganrun.training.averaging import Average
from ganrun.training.components import build_network, build_optimizer, frame_of, network_spec
from ganrun.training.state import SlotState
from ganrun.training.trials import check_output, mixes_samples

log = logging.getLogger("ganrun")

MIXED = (
    "%s: an output of the %s %s depends on the other samples of its batch, as it does with batch norm, and %s looks at"
    ' each sample alone; take a network without it, by norm = "layer" or "none" where it has that setting'
)


def build_slots(recipe: Recipe, loss: Loss, spec: ModelSpec, device: torch.device) -> dict[str, SlotState]:
    """The state of every slot of the loss: network, average, optimiser.

    Raises:
        IncompatibleError: as `build_networks`.
    """
    networks = build_networks(recipe, loss, spec, device)
    return {name: _slot_state(recipe, loss, name, module, device) for name, module in networks.items()}


def build_networks(recipe: Recipe, loss: Loss, spec: ModelSpec, device: torch.device) -> dict[str, nn.Module]:
    """The networks by slot, each tried on two samples.

    Raises:
        IncompatibleError: located at the network's table, if it cannot be built for the data or breaks its contract.
    """
    return {name: _tried_network(recipe, loss, name, spec, device) for name in loss.slots}


def _tried_network(recipe: Recipe, loss: Loss, name: str, spec: ModelSpec, device: torch.device) -> nn.Module:
    slot, config = loss.slots[name], recipe.networks[name]
    own = network_spec(spec, loss, name)
    seed = derived_seed(recipe.train.seed, "weights", name)
    with frame_of(recipe, config, "__init__"):
        module = build_network(config, own, device, seed)
    with frame_of(recipe, config, "forward"), isolated_random(device, seed):
        if slot.kind == "generator":
            inputs, expected = torch.randn(2, own.latent_size, device=device), own.sample_shape
        else:
            inputs, expected = torch.zeros(2, *own.sample_shape, device=device), (own.out_features,)
        check_output(module, inputs, expected, name, own.labelled)
        if slot.per_sample and mixes_samples(module, torch.randn(4, *own.sample_shape, device=device)):
            log.warning(MIXED, recipe.where(config.key), name, config.registered, recipe.loss.use)
    return module


def _slot_state(recipe: Recipe, loss: Loss, name: str, module: nn.Module, device: torch.device) -> SlotState:
    average = Average(module, recipe.ema.decay) if recipe.ema and loss.slots[name].averaged else None
    config = recipe.optimizers[name]
    with frame_of(recipe, config, "build"):
        rule = build_optimizer(config)
        optimizer = rule.build((p for p in module.parameters() if p.requires_grad), device)
    return SlotState(name, module, average, optimizer, rule)
