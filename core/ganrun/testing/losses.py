"""The conformance of losses, on networks of one layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.base.randomness import isolated_random
from ganrun.contracts.beginning import depends_on_step
from ganrun.contracts.data import Split, to_uint8
from ganrun.contracts.losses import Loss, Phase
from ganrun.contracts.networks import Network
from ganrun.contracts.settings import settings_help
from ganrun.contracts.specs import DataSpec
from ganrun.inference.readings import reading_of
from ganrun.rehearsal.comparison import differ
from ganrun.rehearsal.losses import check_loss as check_declared, try_prepare
from ganrun.testing.clauses import asserted
from ganrun.testing.devices import META, on_accelerator
from ganrun.testing.memory import Snapshot
from ganrun.testing.ranks import check_remembered
from ganrun.testing.replays import check_replays
from ganrun.testing.trials import CPU, STEPS, Trial, example_records_of, values_of

IMAGES = DataSpec(sample_shape=(3, 32, 32), classes=4)
"""The data that losses are tried on unless others are given."""


def check_loss(
    component: type[Loss], settings: Any, spec: DataSpec | None, networks: Mapping[str, type[Network]] | None = None
) -> None:
    """Its memory, latents, factors and phases; with labels and, unless it needs them, without."""
    facts = spec or IMAGES
    _check(Trial(component, settings, facts, networks=networks))
    if facts.classes and not _needs_classes(component, settings, facts):
        _check(Trial(component, settings, replace(facts, classes=0), networks=networks))


def _needs_classes(component: type[Loss], settings: Any, facts: DataSpec) -> bool:
    """Whether the loss cannot be built for the same data without labels."""
    loss = component(settings, facts)
    takes_labels = any("labels" in loss.ports(slot).conditions for slot in loss.slots)
    if takes_labels and loss.classes == facts.classes:
        return True
    try:
        component(settings, replace(facts, classes=0))
    except IncompatibleError:
        return True
    return False


def _check(trial: Trial) -> None:
    loss = trial.loss
    with asserted():
        check_declared(loss)
    _check_prepare(trial)
    phases = loss.phases()
    trained = {slot for phase in phases for slot in phase.trains}
    idle = {name for name, slot in loss.slots.items() if not slot.frozen} - trained
    assert not idle, f"slots that no phase trains: {idle}"
    check_phases(trial)
    _check_samples(trial)
    _check_readings(trial)


def _check_prepare(trial: Trial) -> None:
    """It fills buffers of the memory from the records alone; the trial continues with these."""
    loss, split = trial.loss, _split(trial.facts)
    before, shown = Snapshot(loss, "prepare"), {name: array.copy() for name, array in _arrays(split).items()}
    filled = []
    for _ in range(2):
        with asserted(), isolated_random(CPU, 3):
            try_prepare(loss, split)
        before.check()
        filled.append({name: buffer.clone() for name, buffer in loss.memory.named_buffers()})
    others = [name for name, buffer in filled[0].items() if differ(buffer, filled[1][name])]
    assert not others, f"prepare fills self.memory.{others[0]} otherwise when it is called again; set it by copy_"
    changed = [name for name, array in _arrays(split).items() if not np.array_equal(array, shown[name])]
    assert not changed, f"prepare changes the {changed[0]} of the training records in place"


def _split(facts: DataSpec) -> Split:
    """Twelve made-up records, as uint8 where they are images; more than half are of the first class."""
    images, *beside = [_stored(shape) for shape in (facts.sample_shape, *facts.fields.values())]
    labels = np.maximum(np.arange(12) - 6, 0) % facts.classes if facts.classes else None
    return Split(images, labels, dict(zip(facts.fields, beside, strict=True)))


def _stored(shape: tuple[int, ...]) -> npt.NDArray[Any]:
    records = torch.cat([example_records_of(shape)] * 2)
    return (to_uint8(records) if len(shape) == 3 else records).numpy()


def _arrays(split: Split) -> dict[str, npt.NDArray[Any]]:
    labels = {} if split.labels is None else {"labels": split.labels}
    return {"images": split.images, **labels, **split.beside}


def check_phases(trial: Trial) -> None:
    """Every clause for each phase; and all of them on an accelerator."""
    for phase in trial.loss.phases():
        _freeze_others(trial, phase)
        for clause in PHASE_CLAUSES:
            clause(trial, phase)
    _check_device(trial.again(META))
    for phase in trial.loss.phases():
        _freeze_others(trial, phase)
        check_replays(trial, phase)


def _check_samples(trial: Trial) -> None:
    """Samples have the data's shape, and every setting of the sampling has a docstring."""
    loss = trial.loss
    samples = loss.generate(trial.nets(), trial.batch().latents, loss.Sampling())
    assert samples.shape == (6, *trial.facts.sample_shape), f"generate gives {tuple(samples.shape)}"
    undocumented = [each.name for each in settings_help(loss.Sampling) if not each.help]
    assert not undocumented, f"settings of the sampling without a docstring: {undocumented}"


def _check_readings(trial: Trial) -> None:
    """A row for each record, of the shape that its name promises, and without gradients."""
    shapes = {"encodings": (trial.loss.latent_size,), "reconstructions": trial.facts.sample_shape}
    for name in trial.loss.readings():
        try:
            with torch.no_grad(), isolated_random(CPU, 3):
                rows = reading_of(trial.loss, name, trial.nets(), trial.batch())
        except ContractError as error:
            raise AssertionError(error.message) from error
        shape, found = shapes.get(name), tuple(rows.shape[1:])
        assert shape in (None, found), f'the reading "{name}" gives rows of shape {found}, not {shape}'


def _check_device(trial: Trial) -> None:
    """No phase, nor what makes samples, waits for the device or makes tensors elsewhere."""
    for phase in trial.loss.phases():
        _freeze_others(trial, phase)
        with on_accelerator():
            terms = trial.terms(phase, trial.batch(phase.reads_images))
            torch.autograd.backward(list(terms.minimise.values()))
    with on_accelerator():
        trial.loss.generate(trial.nets(), trial.batch().latents, trial.loss.Sampling())


def _freeze_others(trial: Trial, phase: Phase) -> None:
    for slot, network in trial.networks.items():
        network.zero_grad()
        network.requires_grad_(slot in phase.trains)


# ── Clauses of a phase ────────────────────────────────────────────────────────────────────────────────────


def gives_scalars(trial: Trial, phase: Phase) -> None:
    """Finite scalars with the same names each time, and no change to the batch."""
    batch = trial.batch(phase.reads_images)
    before = None if batch.real_images is None else batch.real_images.clone()
    terms, again = trial.terms(phase, batch), trial.terms(phase, batch)
    bad = [name for name, value in values_of(terms).items() if value.dim() or not bool(value.isfinite())]
    assert not bad, f"{phase.name}: terms that are not finite scalars: {bad}"
    assert list(again.minimise) == list(terms.minimise), f"{phase.name}: the terms' names change from call to call"
    assert before is None or torch.equal(before, batch.images), (
        f"{phase.name}: the objective changes batch.images in place"
    )


def trains_its_slots(trial: Trial, phase: Phase) -> None:
    """Each slot that the phase trains gets a gradient."""
    torch.autograd.backward(list(trial.terms(phase, trial.batch(phase.reads_images)).minimise.values()))
    idle = [slot for slot in phase.trains if all(p.grad is None for p in trial.networks[slot].parameters())]
    assert not idle, f"{phase.name}: slots that it trains but that get no gradient: {idle}"


def remembers_in_buffers(trial: Trial, phase: Phase) -> None:
    """An objective changes only buffers of the memory, in place; with these restored, it returns the same."""
    before = Snapshot(trial.remembering)
    terms = values_of(trial.terms(phase, trial.batch(phase.reads_images)))
    before.check()
    before.restore()
    again = values_of(trial.terms(phase, trial.batch(phase.reads_images)))
    before.restore()
    others = [name for name, value in terms.items() if not torch.equal(value, again[name])]
    assert not others, (
        f"{phase.name}: called again with the same batch, random stream and memory, it gives other values of {others}; "
        "draw from torch's random stream, and keep what changes in buffers of self.memory"
    )


def says_what_is_real(trial: Trial, phase: Phase) -> None:
    """If a discriminator is called on an unchanged part of the records, `real_inputs` names that part."""
    for slot in phase.trains if phase.reads_images else ():
        if trial.loss.slots[slot].augmented:
            _check_real_inputs(trial, phase, slot)


def _check_real_inputs(trial: Trial, phase: Phase, slot: str) -> None:
    batch, before, calls = trial.batch(), Snapshot(trial.remembering), list[Tensor]()
    with trial.networks[slot].register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0])):
        trial.terms(phase, batch)
    before.restore()
    try:
        said = trial.loss.real_inputs(slot, batch).inputs
    except ContractError:  # it takes no part of the records, and the loss does not say what else
        return
    parts = {".images": batch.images, **{f'["{name}"]': part for name, part in batch.beside.items()}}
    called = [name for name, part in parts.items() if _is_among(part, calls)]
    assert not called or _is_among(said, calls), (
        f'{phase.name}: real_inputs("{slot}", batch) gives something else than the {slot} is called on, which is '
        f"batch{called[0]}; define real_inputs and generated_inputs"
    )


def _is_among(tensor: Tensor, calls: list[Tensor]) -> bool:
    return any(each.shape == tensor.shape and torch.equal(each, tensor) for each in calls)


def takes_means(trial: Trial, phase: Phase) -> None:
    """No term grows or falls with the size of the batch: with each record several times, its value stays."""
    before = Snapshot(trial.remembering)
    values = {}
    for copies in (1, 2, 4):
        values[copies] = values_of(trial.terms(phase, trial.batch(phase.reads_images, copies)))
        before.restore()
    for name, value in values[1].items():
        power = _power(value, values[2][name], 2)
        assert power == 0 or power != _power(value, values[4][name], 4), (
            f"{phase.name}: the term {name} is not a mean over the batch: where the batch is doubled, it is multiplied "
            f"by {2.0**power:g}"
        )


def _power(value: Tensor, other: Tensor, copies: int) -> int:
    """The whole number k for which other = value · copiesᵏ, about; 0 where there is none."""
    ratio = float(other / value) if abs(float(value)) > 1e-6 else 0.0
    power = math.log(ratio, copies) if 0 < ratio < math.inf else 0.0
    return round(power) if abs(power - round(power)) < 0.25 else 0


def begins(trial: Trial, phase: Phase) -> None:
    """The effect of `begin` depends only on its arguments."""
    if not depends_on_step(trial.remembering):
        return
    before = Snapshot(trial.remembering)
    values = []
    for step in (0, STEPS // 2, STEPS, STEPS // 2, 0):
        trial.begin(trial.remembering, step)
        terms = values_of(trial.terms(phase, trial.batch(phase.reads_images)))
        values.append({name: value.clone() for name, value in terms.items()})  # a term may be a tensor of the loss
        before.restore()
    for there, back in ((values[0], values[4]), (values[1], values[3])):
        others = [name for name in there if not torch.equal(there[name], back[name])]
        assert not others, (
            f"{phase.name}: begun again at the same step, it gives other values of {others}; set all that changes from "
            "the arguments of begin alone"
        )


def remembers_alike(trial: Trial, phase: Phase) -> None:
    """Ranks that see different parts of a batch remember the same."""
    parts = trial.batch(phase.reads_images).chunks(2)
    check_remembered(trial.remembering, parts, lambda part: phase.objective(trial.nets(), part), phase.name)


PHASE_CLAUSES: tuple[Callable[[Trial, Phase], None], ...] = (
    remembers_in_buffers,
    gives_scalars,
    trains_its_slots,
    says_what_is_real,
    takes_means,
    begins,
    remembers_alike,
)
"""In the order in which they are tried: changes by an objective's first call are detected first."""
