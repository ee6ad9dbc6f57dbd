"""Fills the slots of a loss: builds and checks each network, and adds its average and optimiser."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from ganrun.base.randomness import derived_seed
from ganrun.base.ranks import ranks
from ganrun.contracts.losses import Loss
from ganrun.contracts.networks import Network
from ganrun.contracts.slots import Slot
from ganrun.contracts.views import View
from ganrun.recipe.recipe import ComponentConfig, Recipe
from ganrun.rehearsal.networks import NetworkTrial, check_network, mixes_samples
from ganrun.rehearsal.state import check_state
from ganrun.training.augmenting import build_augmentations
from ganrun.training.averaging import Average
from ganrun.training.components import build_like, build_network, build_optimizer, frame_of, framed_spec, run_frames
from ganrun.training.sizes import check_weights, parts_of, smallest_part
from ganrun.training.state import SlotState
from ganrun.training.views import PRECISIONS

log = logging.getLogger("ganrun")

MIXED = (
    "%s: an output of the %s %s depends on the other samples of its batch, as it does with batch norm, and %s looks at"
    ' each sample alone; take a network without it, by norm = "layer" or "none" where it has that setting'
)

CUT = (
    "%s: by %s, a batch of %d is split into parts of %d, and %s across a batch, as batch norm does. Each part is"
    " normalised separately, so results differ from those with whole batches; take fewer parts, or a network that"
    ' looks at each sample alone, by norm = "layer" or "none" where it has that setting'
)


def build_slots(
    recipe: Recipe, loss: Loss, networks: Mapping[str, nn.Module], device: torch.device
) -> dict[str, SlotState]:
    """The state of every slot of the loss: network, average, optimiser, augmentation.

    An average starts as a copy of its network.

    Raises:
        IncompatibleError: as `build_augmentations`.
    """
    slots = {name: _slot_state(recipe, loss, name, module, device) for name, module in networks.items()}
    for name, augmentation in build_augmentations(recipe, loss, device).items():
        slots[name].augmentation = augmentation
    return slots


def build_networks(recipe: Recipe, loss: Loss, device: torch.device) -> dict[str, nn.Module]:
    """The networks by slot, each checked.

    Raises:
        IncompatibleError: located at the network's table, if it cannot be built for the data or breaks its contract.
    """
    mixing: list[str] = []
    networks = {name: _tried_network(recipe, loss, name, device, mixing) for name in loss.slots}
    train, size = recipe.train, min(recipe.batch_sizes)
    if mixing and parts_of(recipe) > 1:
        place = recipe.where(("train", "accumulate" if train.accumulate > 1 else "batch_size"))
        who = f"{' and '.join(mixing)} {'looks' if len(mixing) == 1 else 'look'}"
        log.warning(CUT, place, _cutting(recipe), size, smallest_part(recipe), who)
    return networks


def _cutting(recipe: Recipe) -> str:
    accumulate, total = recipe.train.accumulate, ranks().total
    said = [*([f"{total} processes"] if total > 1 else []), *([f"accumulate = {accumulate}"] if accumulate > 1 else [])]
    return " and ".join(said)


def _tried_network(recipe: Recipe, loss: Loss, name: str, device: torch.device, mixing: list[str]) -> nn.Module:
    """A network, checked. `mixing` gets its name if it was found to look across a batch."""
    config, train = recipe.networks[name], recipe.train
    seed = derived_seed(train.seed, "weights", name)
    spec = framed_spec(recipe, loss, name)
    with frame_of(recipe, config, "__init__"):
        check_weights(recipe, config, spec)
        slot = loss.slots[name]
        trial = NetworkTrial(
            make=lambda: _prepared(recipe, config, build_network(config, spec, device, seed, train.steps), device),
            spec=spec,
            device=device,
            methods=slot.methods,
            precision=PRECISIONS[train.precision],
            samples=smallest_part(recipe),
            steps=train.steps,
            is_trained=not slot.frozen,
        )
        check_network(trial)
        if trial.is_trained and _mixes(recipe, slot, config, trial):
            mixing.append(f"the {name} {config.use}")
        module = trial.module
        inputs, conditions = trial.example(2)
        check_state(
            module,
            lambda: build_like(module, config, spec, train.steps),
            lambda network: View(network)(inputs, **conditions),
            device,
            _average_of(recipe, loss, name),
        )
    return module.requires_grad_(False).eval() if slot.frozen else module


def _prepared(recipe: Recipe, config: ComponentConfig, network: Network, device: torch.device) -> Network:
    with frame_of(recipe, config, "prepare"):
        network.prepare(device)
    return network


def _mixes(recipe: Recipe, slot: Slot, config: ComponentConfig, trial: NetworkTrial) -> bool:
    """Whether an output depends on other samples of its batch, although the recipe does not seem to want that."""
    strict = [recipe.loss.use] if slot.per_sample else []
    strict += [each.use for each in recipe.regularizers if _looks_at_each_sample(each, config)]
    if not (strict or parts_of(recipe) > 1) or not mixes_samples(trial):
        return False
    is_meant = getattr(trial.module, "compares_samples", False)
    for name in () if is_meant else strict:
        log.warning(MIXED, recipe.where(config.key), ".".join(map(str, config.key)), config.registered, name)
    return True


def _looks_at_each_sample(regularizer: ComponentConfig, network: ComponentConfig) -> bool:
    slot: str = regularizer.settings.slot  # type: ignore[attr-defined]
    return bool(regularizer.registered.cls.per_sample) and (slot,) == network.key


def _average_of(recipe: Recipe, loss: Loss, name: str) -> Callable[[nn.Module], Average] | None:
    """Creates the average of a slot's network; None if none is kept."""
    return (
        partial(Average, decay=recipe.ema.decay, steps=recipe.train.steps, half_life=recipe.ema.half_life)
        if recipe.ema and loss.slots[name].averaged
        else None
    )


def _slot_state(recipe: Recipe, loss: Loss, name: str, module: nn.Module, device: torch.device) -> SlotState:
    if loss.slots[name].frozen:
        return SlotState(name, module, average=None, optimizer=None, rule=None)
    average = _average_of(recipe, loss, name)
    config = recipe.optimizers[name]
    with frame_of(recipe, config, "build"):
        rule = build_optimizer(config)
        optimizer = rule.build((p for p in module.parameters() if p.requires_grad), device)
    return SlotState(name, module, average and average(module), optimizer, rule, frame=run_frames(recipe, config))
