"""The conformance of losses, on networks of one layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.base.randomness import isolated_random
from ganrun.contracts.beginning import depends_on_step
from ganrun.contracts.data import Split, to_uint8
from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.networks import Network
from ganrun.contracts.regularizers import Regularizer
from ganrun.contracts.settings import settings_help
from ganrun.contracts.specs import DataSpec, ModelSpec, NetworkSpec
from ganrun.contracts.views import View
from ganrun.inference.given import with_given
from ganrun.inference.readings import reading_of
from ganrun.rehearsal.beginning import try_begin
from ganrun.rehearsal.comparison import differ
from ganrun.rehearsal.losses import check_loss as check_declared, try_prepare
from ganrun.rehearsal.networks import example_inputs
from ganrun.testing.clauses import asserted
from ganrun.testing.devices import META, on_accelerator
from ganrun.testing.memory import Snapshot
from ganrun.testing.replaying import check_replays

CPU = torch.device("cpu")

STEPS = 1000
"""Of the run that a component is tried for."""

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
    if any("labels" in loss.ports(slot).conditions for slot in loss.slots):
        return True
    try:
        component(settings, replace(facts, classes=0))
    except IncompatibleError:
        return True
    return False


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
        """What has a memory, and changes nothing else."""
        for each in (self.loss, *self.networks.values()):
            self.begin(each)

    def begin(self, component: Any, step: int = 0) -> None:
        """Set what of a component is a function of the step."""
        with asserted():
            try_begin(component, step, STEPS, self.device)

    def _network(self, slot: str, given: Mapping[str, type[Network]]) -> nn.Module:
        spec = NetworkSpec(*self.loss.ports(slot), classes=self.facts.classes)
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
        """What the objective returns, always by the same random numbers."""
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
        beside = {name: made(_records(shape).roll(number, 0)) for number, (name, shape) in fields}
        latents = with_given(latents, ModelSpec(self.facts.sample_shape, factors=tuple(self.loss.factors())), beside)
        if not reads_images:
            return Batch(latents, steps_done=step)
        labels = made(torch.arange(6) % self.facts.classes) if self.facts.classes else None
        return Batch(latents, made(_records(self.facts.sample_shape)), labels, beside, step)


def _records(shape: tuple[int, ...]) -> Tensor:
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
        return outputs.unflatten(1, self.spec.output_shape)  # type: ignore[no-any-return]


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
    """It fills buffers of the memory, from the records alone; the trial goes on with what it has filled."""
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
    records = torch.cat([_records(shape)] * 2)
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
    """Finite scalars of the same names each time, and no change to the batch."""
    batch = trial.batch(phase.reads_images)
    before = None if batch.real_images is None else batch.real_images.clone()
    terms, again = trial.terms(phase, batch), trial.terms(phase, batch)
    bad = [name for name, value in _values(terms).items() if value.dim() or not bool(value.isfinite())]
    assert not bad, f"{phase.name}: terms that are no finite scalars: {bad}"
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
    """An objective changes nothing but buffers of the memory, in place; with these put back, it gives the same."""
    before = Snapshot(trial.remembering)
    terms = _values(trial.terms(phase, trial.batch(phase.reads_images)))
    before.check()
    before.restore()
    again = _values(trial.terms(phase, trial.batch(phase.reads_images)))
    before.restore()
    others = [name for name, value in terms.items() if not torch.equal(value, again[name])]
    assert not others, (
        f"{phase.name}: called again with the same batch, random stream and memory, it gives other values of {others}; "
        "draw from torch's random stream, and keep what changes in buffers of self.memory"
    )


def says_what_is_real(trial: Trial, phase: Phase) -> None:
    """Where a discriminator is called on a part of the records as it is, `real_inputs` does not name another part."""
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
        values[copies] = _values(trial.terms(phase, trial.batch(phase.reads_images, copies)))
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
    """What `begin` sets depends on its arguments alone."""
    if not depends_on_step(trial.remembering):
        return
    before = Snapshot(trial.remembering)
    values = []
    for step in (0, STEPS // 2, STEPS, STEPS // 2, 0):
        trial.begin(trial.remembering, step)
        terms = _values(trial.terms(phase, trial.batch(phase.reads_images)))
        values.append({name: value.clone() for name, value in terms.items()})  # a term may be a tensor of the loss
        before.restore()
    for there, back in ((values[0], values[4]), (values[1], values[3])):
        others = [name for name in there if not torch.equal(there[name], back[name])]
        assert not others, (
            f"{phase.name}: begun again at the same step, it gives other values of {others}; set all that changes from "
            "the arguments of begin alone"
        )


PHASE_CLAUSES: tuple[Callable[[Trial, Phase], None], ...] = (
    remembers_in_buffers,
    gives_scalars,
    trains_its_slots,
    says_what_is_real,
    takes_means,
    begins,
)
"""In the order in which they are tried: what the first call of an objective changes is seen first."""


def _values(terms: Terms) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in {**terms.minimise, **terms.report}.items()}
