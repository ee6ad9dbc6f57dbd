"""A data set that stands in for an absent one."""

from __future__ import annotations

from collections.abc import Callable

from ganrun.contracts.data import Data, Split
from ganrun.contracts.specs import DataSpec


class StandIn(Data):
    """Splits that a function makes.

    Args:
        spec: What `spec()` says.
        split: The split of a name; it raises `DataError` where there is none.
    """

    def __init__(self, spec: DataSpec, split: Callable[[str], Split]) -> None:
        super().__init__(None)
        self._spec = spec
        self._split = split

    def spec(self) -> DataSpec:
        """As given."""
        return self._spec

    def prepare(self) -> None:
        """Nothing to prepare."""

    def split(self, name: str) -> Split:
        """The function's split."""
        return self._split(name)
