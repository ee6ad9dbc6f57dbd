"""Fills the slots of a loss: builds each network, tries it, and adds its average and optimiser."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ganrun.base.randomness import derived_seed
from ganrun.contracts.losses import Loss, Slot
from ganrun.recipe.recipe import ComponentConfig, Recipe
from ganrun.rehearsal.networks import NetworkTrial, check_network, mixes_samples
from ganrun.training.averaging import Average
from ganrun.training.components import build_network, build_optimizer, error_context, network_spec
from ganrun.training.state import SlotState
from ganrun.training.views import PRECISIONS

log = logging.getLogger("ganrun")

MIXED = (
    "%s: an output of the %s %s depends on the other samples of its batch, as it does with batch norm, and %s looks at"
    ' each sample alone; take a network without it, by norm = "layer" or "none" where it has that setting'
)

CUT = (
    "%s: an output of the %s %s depends on the other samples of its batch, as it does with batch norm; with accumulate"
    " these are %d samples, and not the whole batch of %d"
)


def build_slots(recipe: Recipe, loss: Loss, device: torch.device) -> dict[str, SlotState]:
    """The state of every slot of the loss: network, average, optimiser.

    Raises:
        IncompatibleError: as `build_networks`.
    """
    networks = build_networks(recipe, loss, device)
    return {name: _slot_state(recipe, loss, name, module, device) for name, module in networks.items()}


def build_networks(recipe: Recipe, loss: Loss, device: torch.device) -> dict[str, nn.Module]:
    """The networks by slot, each tried.

    Raises:
        IncompatibleError: located at the network's table, if it cannot be built for the data or breaks its contract.
    """
    return {name: _tried_network(recipe, loss, name, device) for name in loss.slots}


def _tried_network(recipe: Recipe, loss: Loss, name: str, device: torch.device) -> nn.Module:
    config, train = recipe.networks[name], recipe.train
    seed = derived_seed(train.seed, "weights", name)
    with error_context(recipe, config):
        spec = network_spec(loss, name)
        trial = NetworkTrial(
            make=lambda: build_network(config, spec, device, seed),
            spec=spec,
            device=device,
            methods=loss.slots[name].methods,
            precision=PRECISIONS[train.precision],
            samples=train.batch_size // train.accumulate,
        )
        check_network(trial)
        _warn_of_mixing(recipe, loss.slots[name], config, trial)
    return trial.make()


def _warn_of_mixing(recipe: Recipe, slot: Slot, config: ComponentConfig, trial: NetworkTrial) -> None:
    """Say where an output that depends on other samples of its batch is not what the recipe seems to ask for."""
    is_cut = recipe.train.accumulate > 1
    if (slot.per_sample or is_cut) and mixes_samples(trial):
        place = (recipe.where(config.key), ".".join(map(str, config.key)), config.registered)
        if slot.per_sample:
            log.warning(MIXED, *place, recipe.loss.use)
        if is_cut:
            log.warning(CUT, *place, trial.samples, recipe.train.batch_size)


def _slot_state(recipe: Recipe, loss: Loss, name: str, module: nn.Module, device: torch.device) -> SlotState:
    average = Average(module, recipe.ema.decay) if recipe.ema and loss.slots[name].averaged else None
    config = recipe.optimizers[name]
    with error_context(recipe, config):
        rule = build_optimizer(config)
        optimizer = rule.build((p for p in module.parameters() if p.requires_grad), device)
    return SlotState(name, module, average, optimizer, rule)
