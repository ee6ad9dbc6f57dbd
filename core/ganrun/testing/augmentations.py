"""The conformance of augmentations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ganrun.base.randomness import isolated_random
from ganrun.contracts.augmentations import Augmentation
from ganrun.contracts.specs import DataSpec
from ganrun.rehearsal.augmentations import AugmentationTrial, check_augmentation as check_clauses
from ganrun.rehearsal.beginning import try_begin
from ganrun.testing.clauses import asserted
from ganrun.testing.devices import on_accelerator
from ganrun.testing.losses import IMAGES
from ganrun.testing.trials import CPU, STEPS


def check_augmentation(component: type[Augmentation], settings: Any, spec: DataSpec | None) -> None:
    """It is twice differentiable, takes randomness only from torch's stream, keeps its state in buffers, reports
    scalars, and never waits for the device."""

    def make() -> Augmentation:
        augmentation = component(settings, spec or IMAGES)
        try_begin(augmentation, 0, STEPS, CPU)
        return augmentation

    with asserted(), isolated_random(CPU, 7):
        trial = AugmentationTrial(make(), make, CPU, samples=6)
        check_clauses(trial)
    found: dict[str, Tensor] = {}
    with on_accelerator() as device:
        augmentation = make().to(device)
        augmentation.now = {name: value.to(device) for name, value in augmentation.now.items()}
        augmentation(trial.images().to(device))
        if augmentation.every:
            augmentation.adjust(torch.zeros(6, 1, device=device), 6)
        found.update(augmentation.report())
    stray = [name for name, value in found.items() if value.device == CPU]
    assert not stray, f"its report gives {stray[0]} on the CPU, where its buffers are not; take it from a buffer"
