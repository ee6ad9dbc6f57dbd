"""The kinds of components: the hook and the base class of each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ganrun.contracts.components import Component


class Kind(NamedTuple):
    """One kind of component."""

    hook: str
    """The hook with which plugins offer components of this kind."""

    module: str
    """The module of the base class, within `ganrun.contracts`."""

    contract_name: str
    """The base class's name."""

    @property
    def contract(self) -> type[Component]:
        """The base class; imports torch."""
        contract: type[Component] = getattr(import_module(f"ganrun.contracts.{self.module}"), self.contract_name)
        return contract


KINDS = {
    "generator": Kind("ganrun_generators", "networks", "Generator"),
    "discriminator": Kind("ganrun_discriminators", "networks", "Discriminator"),
    "network": Kind("ganrun_networks", "networks", "Network"),
    "loss": Kind("ganrun_losses", "losses", "Loss"),
    "augmentation": Kind("ganrun_augmentations", "augmentations", "Augmentation"),
    "regularizer": Kind("ganrun_regularizers", "regularizers", "Regularizer"),
    "data": Kind("ganrun_data", "data", "Data"),
    "metric": Kind("ganrun_metrics", "metrics", "Metric"),
    "extractor": Kind("ganrun_extractors", "extractors", "Extractor"),
    "optimizer": Kind("ganrun_optimizers", "optimizers", "Optimizer"),
    "schedule": Kind("ganrun_schedules", "optimizers", "Schedule"),
    "observer": Kind("ganrun_observers", "observers", "Observer"),
}
"""By the name that `ganrun list` and messages use, in the order of the list."""

RESERVED = frozenset(
    {"name", "requires", "train", "ema", "data", "loss", "optimizer", "metric"}
    | {"augmentation", "regularizer", "sampling", "stage"}
)
"""Top-level keys of a recipe that belong to ganrun, so that no slot and no observer can have such a name."""
