"""Everything that training changes, and that a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.errors import NonFiniteError, RequestError
from ganrun.contracts.optimizers import Optimizer
from ganrun.rundir.checkpoints import Checkpoint
from ganrun.training.averaging import Average, averaged_tensors


@dataclass
class SlotState:
    """One slot of the loss, filled: the network, its average and its optimiser."""

    name: str
    module: nn.Module
    average: Average | None
    optimizer: torch.optim.Optimizer
    rule: Optimizer
    """The component that built the optimiser, with its settings."""
    parameters: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]

    @property
    def shown(self) -> nn.Module:
        """The network that is scored and shown: the average where there is one."""
        return self.module if self.average is None else self.average.module

    def freeze(self, frozen: bool) -> None:
        """Exclude the weights from differentiation, or include them again."""
        for parameter in self.parameters:
            parameter.requires_grad = not frozen

    def set_learning_rate(self, step: int, steps: int) -> None:
        """Apply the schedule for step `step`, counted from 0."""
        if self.rule.varies:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rule.learning_rate(step, steps)

    def learning_rate(self) -> float:
        """The current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def apply_gradients(self) -> Tensor | None:
        """Clip the gradients, take one optimiser step and drop them; returns their norm before clipping, if clipped."""
        norm = None
        if self.rule.settings.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.rule.settings.clip_norm)
        self.optimizer.step()
        for parameter in self.parameters:  # a fraction of what Optimizer.zero_grad costs
            parameter.grad = None
        return norm


@dataclass
class TrainingState:
    """The networks with their optimisers, and how far training has come."""

    slots: dict[str, SlotState]
    step: int = 0
    """Steps done."""
    images_seen: int = 0
    """Real images consumed: the position in the data's stream."""
    seconds: float = 0.0
    """Time spent in steps, over all sessions of the run."""
    whole: bool = True
    """False within a step, where some phases are done and others are not: such a state must not be saved."""

    @property
    def images_per_second(self) -> float:
        """Mean speed over all of the run's steps."""
        return self.images_seen / self.seconds if self.seconds else 0.0

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Parameters and buffers by network: `{"generator": …, "generator.averaged": …}`.

        Raises:
            NonFiniteError: if a weight or a norm's statistic is NaN or infinite; such a state is not worth keeping.
                Waits for the device.
        """
        networks = {slot.name: slot.module for slot in self.slots.values()}
        averages = {f"{slot.name}.averaged": slot.average.module for slot in self.slots.values() if slot.average}
        for name, module in {**networks, **averages}.items():
            # Not every buffer: a mask may hold -inf.
            if not all(bool(tensor.isfinite().all()) for tensor in averaged_tensors(module).values()):
                raise NonFiniteError(f"the weights of {name} are no longer finite")
        return {name: _state_of(module) for name, module in {**networks, **averages}.items()}

    def progress(self) -> dict[str, Any]:
        """Optimisers, step, images seen and seconds, in types that `torch.load(weights_only=True)` reads."""
        return {
            "optimizers": {name: slot.optimizer.state_dict() for name, slot in self.slots.items()},
            "step": self.step,
            "images_seen": self.images_seen,
            "seconds": self.seconds,
        }

    def checkpoint(self) -> Checkpoint:
        """Weights and progress, as `ganrun.save_checkpoint` writes them.

        Raises:
            NonFiniteError: if a weight is NaN or infinite.
        """
        return Checkpoint(self.weights(), self.progress())

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint.

        Raises:
            RequestError: if it belongs to other networks.
        """
        weights, progress = checkpoint
        try:
            for name, slot in self.slots.items():
                slot.module.load_state_dict(weights[name])
                if slot.average is not None:
                    slot.average.module.load_state_dict(weights[f"{name}.averaged"])
                slot.optimizer.load_state_dict(progress["optimizers"][name])
            self.step, self.images_seen = int(progress["step"]), int(progress["images_seen"])
            self.seconds = float(progress["seconds"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise RequestError(f"the checkpoint belongs to other networks than the recipe's: {error}") from error


def _state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.state_dict().items()}
