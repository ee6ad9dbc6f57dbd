"""The conformance of regularisers: as the only phase of a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ganrun.contracts.losses import Batch, Loss, Nets, Phase, Terms
from ganrun.contracts.networks import Network
from ganrun.contracts.regularizers import Regularizer
from ganrun.contracts.slots import Slot
from ganrun.contracts.specs import DataSpec
from ganrun.testing.losses import IMAGES, check_phases
from ganrun.testing.trials import CPU, Trial


def check_regularizer(
    component: type[Regularizer],
    settings: Any,
    spec: DataSpec | None,
    networks: Mapping[str, type[Network]] | None = None,
) -> None:
    """Its penalty is a scalar ≥ 0 that trains the network in its slot, and keeps the clauses of every objective."""
    trial = _RegularizerTrial(component, settings, spec or IMAGES, networks=networks)
    check_phases(trial)
    (phase,) = trial.loss.phases()
    penalty = float(trial.terms(phase, trial.batch(phase.reads_images)).minimise["penalty"].detach())
    assert penalty >= 0, f"the penalty is {penalty:.3g}; it must not be negative"


class _RegularizerTrial(Trial):
    """A regulariser with a loss that does nothing."""

    def __init__(
        self,
        component: type[Regularizer],
        settings: Any,
        facts: DataSpec,
        device: torch.device = CPU,
        networks: Mapping[str, type[Network]] | None = None,
    ) -> None:
        super().__init__(partial(_Host, component), settings, facts, device, networks)  # type: ignore[arg-type]
        self.again = partial(_RegularizerTrial, component, settings, facts, networks=networks)
        assert isinstance(self.loss, _Host)
        self.remembering = self.loss.regularizer
        self.remembering.prepare(self.nets())
        self.remembering.memory.to(device)
        self.begin(self.remembering)


class _Host(Loss):
    """Has the slot of a regulariser, and one phase: its penalty."""

    latent_size = 16

    def __init__(self, component: type[Regularizer], settings: Any, spec: DataSpec) -> None:
        super().__init__(settings, spec)
        networks = {"generator": Slot("generator"), "discriminator": Slot("discriminator", augmented=True)}
        self.slots = {settings.slot: Slot("discriminator"), **networks}  # type: ignore[misc]
        self.regularizer = component(settings, self)
        self.memory = self.regularizer.memory

    def phases(self) -> Sequence[Phase]:
        reads_images = type(self.regularizer).reads_images
        return (Phase("penalty", self.penalty, trains=(self.settings.slot,), reads_images=reads_images),)

    def penalty(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"penalty": self.regularizer.penalty(nets, batch, self.settings.slot)})
