"""The phases of a run: the loss's, with the recipe's repeats and penalties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError, GanrunError, IncompatibleError
from ganrun.base.frames import called
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.contracts.losses import Batch, Loss, Nets, Objective, Phase, Terms
from ganrun.contracts.regularizers import Regularizer
from ganrun.contracts.specs import ModelSpec
from ganrun.contracts.views import View
from ganrun.recipe.recipe import ComponentConfig, Recipe
from ganrun.recipe.source import header
from ganrun.rehearsal.losses import check_memory, check_regularized, check_repeats, repeated
from ganrun.training.components import frame_of, run_frames
from ganrun.training.trying import kept, made_up_batch, tried_copies
from ganrun.training.views import PRECISIONS


class Penalties:
    """The regularisers of a recipe, built for its loss.

    Each is built under a separate random stream, so adding one changes nothing else.

    Args:
        recipe: The recipe.
        loss: Its loss.
        networks: Its freshly initialised networks.
        device: Where their memories are kept.

    Raises:
        IncompatibleError: located at the regulariser's table, if it does not fit the loss, or acts on a slot that no
            phase trains.
    """

    def __init__(self, recipe: Recipe, loss: Loss, networks: Mapping[str, nn.Module], device: torch.device) -> None:
        self._recipe, self._loss, self._device = recipe, loss, device
        nets = Nets({name: View(network) for name, network in networks.items()})
        self._built = [(config, self._prepared(config, nets)) for config in recipe.regularizers]

    def _prepared(self, config: ComponentConfig, nets: Nets) -> Regularizer:
        seed = derived_seed(self._recipe.train.seed, *map(str, config.key))
        with frame_of(self._recipe, config, "__init__"):
            check_regularized(self._loss, config.settings.slot)  # type: ignore[attr-defined]
            with isolated_random(torch.device("cpu"), seed):
                regularizer: Regularizer = config.build(self._loss)
        with frame_of(self._recipe, config, "prepare"), isolated_random(self._device, seed), torch.no_grad():
            regularizer.prepare(nets)
            check_memory(regularizer.memory)
        regularizer.memory.to(self._device)
        return regularizer

    def memories(self) -> dict[str, nn.Module]:
        """Each one's memory, by the name of its file in a checkpoint: `regularizer.<number>`."""
        return {f"regularizer.{number}": each.memory for number, (_, each) in enumerate(self._built)}

    def components(self) -> list[tuple[ComponentConfig, Regularizer]]:
        """Each with its table."""
        return list(self._built)

    def applied(self, phases: Sequence[Phase]) -> list[Phase]:
        """The phases, with the penalties added.

        A penalty of every step becomes a further term of each phase that trains its slot, under its own name or, if the
        loss has such a term, `<slot>.<name>`. A penalty of every n steps becomes a phase after the last one that trains
        its slot, and is scaled by n.

        Raises:
            IncompatibleError: if two penalties, or a penalty and a phase, would have the same name.
        """
        found = list(phases)
        names = self._names([phase.name for phase in phases])
        for name, (config, regularizer) in zip(names, self._built, strict=True):
            penalty = _Penalty(name, regularizer, run_frames(self._recipe, config)("penalty"))
            places = [place for place, phase in enumerate(found) if penalty.slot in phase.trains]
            if regularizer.settings.every > 1:
                found.insert(places[-1] + 1, penalty.phase())
            else:
                for place in places:
                    found[place] = penalty.joined(found[place])
        return found

    def try_on(self, networks: Mapping[str, nn.Module], spec: ModelSpec) -> None:
        """Call each penalty once, on made-up records and copies of the networks; nothing is changed by it.

        Raises:
            IncompatibleError: located at the regulariser's table, if it does not suit the networks, or does not return
                a scalar that trains its slot. `PluginError` for a foreign exception.
        """
        precision = PRECISIONS[self._recipe.train.precision]
        for config, regularizer in self._built:
            copies = tried_copies(networks, (regularizer.settings.slot,))
            nets = Nets({name: View(network, precision) for name, network in copies.items()})
            memories, stream = kept(regularizer.memory, self._loss.memory), isolated_random(self._device, 4)
            with frame_of(self._recipe, config, "penalty"), memories, stream, torch.enable_grad():
                try:
                    _penalty(regularizer, nets, made_up_batch(self._recipe, self._loss, spec, self._device))
                except ContractError as error:
                    raise IncompatibleError(error.message) from error

    def _names(self, taken: list[str]) -> list[str]:
        """The component's name, or `<slot>.<name>` if that is ambiguous."""
        short = [config.use for config, _ in self._built]
        names: list[str] = []
        for config, regularizer in self._built:
            clashes = config.use in taken or short.count(config.use) > 1
            name = f"{regularizer.settings.slot}.{config.use}" if clashes else config.use
            if name in (*taken, *names):
                what = f"{header(config.key)} {config.use}: the {regularizer.settings.slot}"
                text = f'{what} has that penalty already, or the loss has a phase "{name}"; leave one of them out'
                raise IncompatibleError(text, where=self._recipe.where(config.key))
            names.append(name)
        return names


class _Penalty:
    """A regulariser as a term or a phase."""

    def __init__(self, name: str, regularizer: Regularizer, frame: called) -> None:
        self._name = name
        self._regularizer = regularizer
        self._frame = frame
        self.slot = regularizer.settings.slot

    def phase(self) -> Phase:
        every, of = self._regularizer.settings.every, type(self._regularizer)
        return Phase(
            self._name,
            lambda nets, batch: Terms({"penalty": self(nets, batch) * every}),
            trains=(self.slot,),
            every=every,
            reads_images=of.reads_images,
            second_order=of.second_order,
        )

    def joined(self, phase: Phase) -> Phase:
        """A phase with this penalty as a further term."""
        of = type(self._regularizer)
        return replace(
            phase,
            objective=self._beside(phase.objective),
            reads_images=phase.reads_images or of.reads_images,
            second_order=phase.second_order or of.second_order,
        )

    def _beside(self, objective: Objective) -> Objective:
        def both(nets: Nets, batch: Batch) -> Terms:
            terms = objective(nets, batch)
            if not isinstance(terms, Terms):  # reported by the update
                return terms
            is_taken = self._name in terms.minimise or self._name in terms.report
            name = f"{self.slot}.{self._name}" if is_taken else self._name
            if name in terms.minimise:  # reported beside a term of that name, it would be refused by the update
                raise ContractError(
                    f'the loss has the terms "{self._name}" and "{name}", as the penalty would be called'
                )
            return replace(terms, minimise={**terms.minimise, name: self(nets, batch)})

        return both

    def __call__(self, nets: Nets, batch: Batch) -> Tensor:
        with self._frame:
            found = _penalty(self._regularizer, nets, batch)
        plain: Any = self._regularizer.settings.weight  # of a class that declares a number, and no schedule
        weighted: Tensor = self._regularizer.now.get("weight", plain) * found
        return weighted


def _penalty(regularizer: Regularizer, nets: Nets, batch: Batch) -> Tensor:
    """The penalty, not weighted, if it is one."""
    slot = regularizer.settings.slot
    found = regularizer.penalty(nets, batch, slot)
    if not isinstance(found, Tensor) or found.dim():
        raise ContractError("does not return a scalar tensor; take a mean over the batch")
    if not found.requires_grad:
        raise ContractError(f"depends on no weight of the {slot}, so it would change nothing")
    return found


def run_phases(recipe: Recipe, loss: Loss, penalties: Penalties) -> tuple[Phase, ...]:
    """The phases of a step.

    Raises:
        IncompatibleError: located in the recipe, as `Penalties.applied`, or if `[train] repeat` is impossible.
    """
    with frame_of(recipe, recipe.loss, "phases"):
        phases = loss.phases()
    return tuple(_repeated(recipe, penalties.applied(phases), recipe.train.repeat))


def _repeated(recipe: Recipe, phases: Sequence[Phase], repeat: Mapping[str, int]) -> list[Phase]:
    try:
        check_repeats(phases, repeat)
        return [replace(phase, repeat=repeated(phase, repeat)) for phase in phases]
    except GanrunError as error:
        raise error.located(recipe.where(("train", "repeat"))) from None
