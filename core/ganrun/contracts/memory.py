"""State that a component keeps from step to step."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class Memory(nn.Module):
    """Buffers that a loss or a regulariser changes in place: `self.memory.path_mean.lerp_(…)`."""

    def __getattr__(self, name: str) -> Tensor:
        """The buffer of that name; for type checkers, which take what a module holds for tensors or modules."""
        return cast(Tensor, super().__getattr__(name))
