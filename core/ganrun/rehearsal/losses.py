"""Checks a loss's declarations before a run: latents, factors, phases and readings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError
from ganrun.base.frames import method
from ganrun.base.randomness import isolated_random
from ganrun.base.suggestions import did_you_mean
from ganrun.contracts.data import Split
from ganrun.contracts.losses import Loss, Phase
from ganrun.contracts.slots import Slot
from ganrun.contracts.specs import DataSpec, Factor

T = TypeVar("T")

RESERVED = ("images", "labels", "samples", "latents")
"""Names that metrics request, so that no reading may have them."""


def check_loss(loss: Loss) -> None:
    """Try every clause on a loss that has been built.

    Raises:
        IncompatibleError: for the first clause that it breaks.
    """
    for clause in CLAUSES:
        clause(loss)


def has_latents(loss: Loss) -> None:
    """The latent vector has at least one entry."""
    size = loss.latent_size
    if not _is_count(size):
        raise IncompatibleError(f"the latent size is {size!r}; a generator needs at least 1")


def factors_are_the_latents(loss: Loss) -> None:
    """The factors have different names, and their sizes sum to the latent size."""
    with method("factors"):
        declared = loss.factors()
    factors = _sequence_of(Factor, declared, "factors()")
    for factor in factors:
        if not _is_count(factor.size):
            raise IncompatibleError(f'the factor "{factor.name}" has the size {factor.size!r}; it must be at least 1')
    _check_names([factor.name for factor in factors], "factors")
    described = sum(factor.size for factor in factors)
    if described != loss.latent_size:
        sizes = ", ".join(f"{factor.name} {factor.size}" for factor in factors)
        raise IncompatibleError(f"its factors ({sizes}) describe {described} latents of {loss.latent_size}")


def draws_its_latents(loss: Loss) -> None:
    """It draws as many latents as requested: float32 and finite."""
    tried, cpu = copy.copy(loss), torch.device("cpu")
    tried.memory = copy.deepcopy(loss.memory)
    with isolated_random(cpu, 0), method("latents"):
        found = tried.latents(3, cpu)
    expected = f"float32 of shape {(3, loss.latent_size)}"
    if not isinstance(found, Tensor):
        raise IncompatibleError(f"latents(3, …) gives {type(found).__name__}; it must give a tensor, {expected}")
    if found.dtype != torch.float32 or tuple(found.shape) != (3, loss.latent_size):
        text = f"latents(3, …) gives {str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}"
        raise IncompatibleError(f"{text}; it must give {expected}")
    if not found.isfinite().all():
        raise IncompatibleError("latents(3, …) gives NaN or infinity")


def phases_are_sound(loss: Loss) -> None:
    """There are phases with distinct names; each trains slots of the loss, and is executed."""
    with method("phases"):
        declared = loss.phases()
    phases = _sequence_of(Phase, declared, "phases()")
    _check_names([phase.name for phase in phases], "phases")
    for phase in phases:
        _check_occurrence(phase)
        _check_functions(phase)
        _check_trained(phase, loss.slots)


def memory_holds_buffers(loss: Loss) -> None:
    """The memory is a module of buffers, without parameters."""
    check_memory(loss.memory)


def try_prepare(loss: Loss, training: Split) -> None:
    """Fill the memory by `prepare`, without gradients.

    Raises:
        IncompatibleError: if buffers appear, disappear or change shape or type: a loaded model has those of `__init__`.
    """
    before = _kinds(loss.memory)
    with torch.no_grad():
        loss.prepare(training)
    check_memory(loss.memory)
    after = _kinds(loss.memory)
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            made = f"is {before[name]}" if name in before else "is absent"
            left = f"is {after[name]}" if name in after else "is absent"
            text = f'its memory\'s buffer "{name}" {made} until prepare, and {left} afterwards'
            raise IncompatibleError(
                f"{text}; register its final shape and type in __init__, and fill it by copy_ in prepare"
            )


def frozen_slots_stay(loss: Loss) -> None:
    """A frozen slot has no average."""
    for name, slot in loss.slots.items():
        if slot.frozen and slot.averaged:
            raise IncompatibleError(f'its slot "{name}" is frozen, so there is nothing to average')


def readings_are_functions(loss: Loss) -> None:
    """Readings are functions by name, and no name has another meaning for metrics."""
    with method("readings"):
        readings = loss.readings()
    if not isinstance(readings, Mapping):
        raise IncompatibleError(f"readings() gives {readings!r}; it must give functions by name")
    for name, reading in readings.items():
        if not isinstance(name, str) or not callable(reading):
            raise IncompatibleError(f"readings() gives {name!r}: {reading!r}; it must give functions by name")
        if name in RESERVED or name in loss.spec.fields:
            what = "outputs of every evaluation" if name in RESERVED else "fields of the data"
            raise IncompatibleError(f'it has a reading "{name}", which is one of the {what}; rename the reading')


def check_samples(samples: object, spec: DataSpec) -> None:
    """Samples are finite, of the data's shape and, if they are images, in [-1, 1].

    Raises:
        IncompatibleError: if they are not.
    """
    if not isinstance(samples, Tensor) or tuple(samples.shape[1:]) != spec.sample_shape:
        found = tuple(samples.shape[1:]) if isinstance(samples, Tensor) else type(samples).__name__
        raise IncompatibleError(f"generate gives samples of {found} where {spec.sample_shape} was expected")
    if not samples.isfinite().all():
        raise IncompatibleError("generate gives NaN or infinity")
    if len(spec.sample_shape) == 3 and samples.abs().max() > 1:
        reach = float(samples.abs().max())
        raise IncompatibleError(f"generate gives images that reach {reach:.3g}; they must stay in [-1, 1]")


CLAUSES: tuple[Callable[[Loss], None], ...] = (
    has_latents,
    factors_are_the_latents,
    draws_its_latents,
    phases_are_sound,
    memory_holds_buffers,
    frozen_slots_stay,
    readings_are_functions,
)
"""The clauses of every loss; each raises `IncompatibleError` with the sentence that the user reads."""


# ── What a recipe adds to a loss ──────────────────────────────────────────────────────────────────────────


def check_memory(memory: object) -> None:
    """The memory of a loss or a regulariser is a module of buffers, all of them in checkpoints, without parameters.

    Raises:
        IncompatibleError: if it is not.
    """
    if not isinstance(memory, nn.Module):
        raise IncompatibleError(f"its memory is a {type(memory).__name__}, not an nn.Module; add buffers to it")
    for name, _ in memory.named_parameters():
        raise IncompatibleError(f'its memory holds the parameter "{name}"; what is trained is a slot')
    saved = memory.state_dict().keys()
    for name, _ in memory.named_buffers():
        if name not in saved:
            raise IncompatibleError(
                f'its memory holds the buffer "{name}" with persistent=False, so no checkpoint would have it;'
                " leave that out"
            )


def check_regularized(loss: Loss, slot: str) -> None:
    """A regulariser acts on a slot that is trained.

    Raises:
        IncompatibleError: if no phase trains it.
    """
    if loss.slots[slot].frozen:
        raise IncompatibleError(f"acts on the {slot}, which is frozen in this loss; take another slot")
    if not any(slot in phase.trains for phase in loss.phases()):
        raise IncompatibleError(f"acts on the {slot}, which no phase of the loss trains; take another slot")


def check_repeats(phases: Sequence[Phase], repeat: Mapping[str, int]) -> None:
    """Each slot that is trained several times per step is trained.

    Raises:
        IncompatibleError: if no phase trains one of them.
    """
    for slot in repeat:
        if not any(slot in phase.trains for phase in phases):
            raise IncompatibleError(f"[train] repeat names the {slot}, which no phase trains; leave it out")


def repeated(phase: Phase, repeat: Mapping[str, int]) -> int:
    """Updates per step of a phase: those of the slots that it trains, else its own.

    Raises:
        IncompatibleError: if these slots say different numbers.
    """
    said = {slot: repeat[slot] for slot in phase.trains if slot in repeat}
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{slot} = {times}" for slot, times in said.items())
        text = f'the phase "{phase.name}" trains {" and ".join(said)} by the same updates'
        raise IncompatibleError(f"{text}, but [train] repeat says {listed}; give them the same number")
    return next(iter(said.values()), phase.repeat)


# ── Phases ────────────────────────────────────────────────────────────────────────────────────────────────


def _check_occurrence(phase: Phase) -> None:
    for name, value, unit in (("every", phase.every, "step"), ("repeat", phase.repeat, "update")):
        if not _is_count(value):
            text = f'the phase "{phase.name}" says {name} = {value!r}; it must be a whole number of at least 1 {unit}'
            raise IncompatibleError(text)


def _check_functions(phase: Phase) -> None:
    if not callable(phase.objective):
        raise IncompatibleError(f'the objective of phase "{phase.name}" is {phase.objective!r}, not a function')
    if phase.project is not None and not callable(phase.project):
        raise IncompatibleError(f'project of phase "{phase.name}" is {phase.project!r}, not a function')


def _check_trained(phase: Phase, slots: Mapping[str, Slot]) -> None:
    trained = phase.trains
    if isinstance(trained, str):
        raise IncompatibleError(f'the phase "{phase.name}" says trains = "{trained}"; say ("{trained}",)')
    if not trained:
        raise IncompatibleError(f'the phase "{phase.name}" trains no slot; its slots are {", ".join(slots)}')
    for name in trained:
        if name not in slots:
            hint = did_you_mean(str(name), slots) or f"; its slots are {', '.join(slots)}"
            raise IncompatibleError(f'the phase "{phase.name}" trains "{name}", which is not a slot of the loss{hint}')
        if slots[name].frozen:
            text = f'the phase "{phase.name}" trains "{name}", whose slot says frozen=True'
            raise IncompatibleError(f"{text}; leave one of them out")
    if len(set(trained)) < len(trained):
        raise IncompatibleError(f'the phase "{phase.name}" names a slot twice in trains: {", ".join(trained)}')


# ── What they share ───────────────────────────────────────────────────────────────────────────────────────


def _sequence_of(kind: type[T], found: object, source: str) -> Sequence[T]:
    """A method's result, if it is a non-empty sequence of `kind`."""
    if not isinstance(found, Sequence) or not found or not all(isinstance(each, kind) for each in found):
        text = f"{source} gives {found!r}; it must give a list of ganrun.{kind.__name__}, at least one"
        raise IncompatibleError(text)
    return found


def _check_names(names: list[str], of: str) -> None:
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise IncompatibleError(f"one of its {of} has the name {name!r}; a name must be a non-empty string")
        if name in names[:place]:
            raise IncompatibleError(f'two of its {of} have the name "{name}"')


def _kinds(memory: nn.Module) -> dict[str, str]:
    """Type and shape of each buffer: `float32 of shape (10,)`."""
    return {
        name: f"{str(buffer.dtype).removeprefix('torch.')} of shape {tuple(buffer.shape)}"
        for name, buffer in memory.named_buffers()
    }


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
