"""Augmentations before any adversarial loss: DiffAugment, and the pipeline of ADA with an adaptive or a set p."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Augmentation


@hookimpl
def ganrun_augmentations() -> Mapping[str, type[Augmentation]]:
    """`diffaugment` and `ada`."""
    from ganrun_augmentations.ada import Ada
    from ganrun_augmentations.diffaugment import DiffAugment

    return {"diffaugment": DiffAugment, "ada": Ada}
