"""Everything that training changes and a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.errors import NonFiniteError, RequestError
from ganrun.base.frames import Frame, in_one_line
from ganrun.contracts.augmentations import Augmentation
from ganrun.contracts.optimizers import Optimizer
from ganrun.rundir.checkpoints import Checkpoint
from ganrun.training.averaging import Average, averaged_tensors
from ganrun.training.optimizer_states import checked_state
from ganrun.training.rates import DeviceRates

MEMORY = "loss"
"""The loss's memory among the files of a checkpoint; no slot may have that name."""

UNFIT = (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)
"""Errors that torch raises for a mismatched state."""


@dataclass
class SlotState:
    """One slot of the loss, filled: the network, its average and its optimiser."""

    name: str
    module: nn.Module
    average: Average | None
    optimizer: torch.optim.Optimizer | None
    """None for a frozen slot."""
    rule: Optimizer | None
    """The component that built the optimiser, with its settings."""
    augmentation: Augmentation | None = None
    """The augmentation applied before the network in training."""
    frame: Frame = nullcontext
    """The frame of calls into the optimiser."""
    parameters: list[nn.Parameter] = field(init=False)
    entries: Mapping[str, Any] = field(init=False, default_factory=dict)
    """Current values of the optimiser's group entries, other than the learning rate, that follow a schedule."""
    rates: DeviceRates | None = field(init=False, default=None)
    """Its learning rates, where steps are captured as graphs."""

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]

    @property
    def shown(self) -> nn.Module:
        """The network that is scored and shown: the average where there is one."""
        return self.module if self.average is None else self.average.module

    @property
    def varies(self) -> bool:
        """Whether its learning rate follows a schedule."""
        return self.rule is not None and self.rule.varies

    @property
    def clip_norm(self) -> float | None:
        """The norm that its gradients are clipped to."""
        return None if self.rule is None else self.rule.settings.clip_norm

    def freeze(self, frozen: bool) -> None:
        """Exclude the weights from differentiation, or include them again."""
        for parameter in self.parameters:
            parameter.requires_grad = not frozen

    def set_rates(self, step: int, steps: int, lr: float | None = None) -> None:
        """Apply the schedules for step `step`, counted from 0; `lr` is the learning rate that a stage has set."""
        if self.rule is None or self.optimizer is None:
            return
        with self.frame("its schedules"):
            self.entries = self.rule.scheduled(step, steps)
            entries = dict(self.entries)
            if self.rule.varies or lr is not None:
                entries["lr"] = self.rule.learning_rate(step, steps, lr)
        if self.rates is not None and "lr" in entries:
            self.rates.set(entries.pop("lr"))
        for group in self.optimizer.param_groups if entries else ():
            group.update(entries)

    def use_device_rates(self, device: torch.device) -> None:
        """Keep learning rates on the device from now on, so that a captured step can read them."""
        if self.rates is None and self.optimizer is not None:
            self.rates = DeviceRates(self.optimizer, device)

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's part of a checkpoint."""
        assert self.optimizer is not None
        state = self.optimizer.state_dict()
        return state if self.rates is None else self.rates.portable(state)

    def load_optimizer(self, state: Any) -> None:
        """Load the optimiser's part of a checkpoint."""
        if self.optimizer is not None:
            self.optimizer.load_state_dict(checked_state(self.optimizer, state))
        if self.rates is not None:
            self.rates.take_up()

    def reset_optimizer(self) -> None:
        """Reset the optimiser: its running means and counts start again, as in a new one."""
        if self.optimizer is not None:
            self.optimizer.state.clear()

    def learning_rate(self) -> float:
        """The current learning rate of a slot that is trained."""
        assert self.optimizer is not None
        if self.rates is not None:
            return self.rates.first()
        return float(self.optimizer.param_groups[0]["lr"])

    def apply_gradients(self) -> Tensor | None:
        """Clip the gradients, take one optimiser step and drop them; returns their norm before clipping, if clipped."""
        assert self.optimizer is not None, "no phase trains a frozen slot"
        norm = None
        if self.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        with self.frame("step"):
            self.optimizer.step()
        self.drop_gradients()
        return norm

    def drop_gradients(self) -> None:
        """Drop the gradients: a fraction of what `Optimizer.zero_grad` costs."""
        for parameter in self.parameters:
            parameter.grad = None


@dataclass
class TrainingState:
    """The networks with their optimisers, and the progress of training."""

    slots: dict[str, SlotState]
    memory: nn.Module = field(default_factory=nn.Module)
    """The loss's memory."""
    penalties: dict[str, nn.Module] = field(default_factory=dict)
    """Each regulariser's memory, by the name of its file in a checkpoint."""
    step: int = 0
    """Steps done."""
    images_seen: int = 0
    """Real images consumed: the position in the data's stream."""
    images_adjusted: int = 0
    """Value of `images_seen` when augmentations were last adjusted."""
    seconds: float = 0.0
    """Time spent in steps, over all sessions of the run."""
    renewals: int = 0
    """How often optimisers' state tensors were replaced: by a reset, or from a checkpoint."""
    attempt: int = 0
    """How often the run has gone back to an earlier state. Each attempt has other random numbers."""
    whole: bool = True
    """False within a step, while some phases are done and others are not: such a state must not be saved."""

    @property
    def images_per_second(self) -> float:
        """Mean speed over all of the run's steps."""
        return self.images_seen / self.seconds if self.seconds else 0.0

    @property
    def turn(self) -> tuple[str | int, ...]:
        """What seeds of steps are derived from, besides the step: nothing in the first attempt."""
        return ("attempt", self.attempt) if self.attempt else ()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Parameters and buffers by file: `{"generator": …, "generator.averaged": …, "loss": …}`.

        Raises:
            NonFiniteError: if a weight or a norm's statistic is NaN or infinite; such a state is not worth keeping.
                Waits for the device.
        """
        modules = self.modules()
        for name, module in modules.items():
            # Not every buffer: a mask may hold -inf.
            if not all(bool(tensor.isfinite().all()) for tensor in averaged_tensors(module).values()):
                raise NonFiniteError(f"the weights of {name} are no longer finite")
        weights = {name: _state_of(module) for name, module in modules.items()}
        return {name: tensors for name, tensors in weights.items() if tensors or name in self.slots}

    def modules(self) -> dict[str, nn.Module]:
        """Everything with weights or buffers that a checkpoint holds, by the name of its file."""
        modules = {slot.name: slot.module for slot in self.slots.values()}
        averages = {slot.name: slot.average.module for slot in self.slots.values() if slot.average is not None}
        fronts = {slot.name: slot.augmentation for slot in self.slots.values() if slot.augmentation is not None}
        return {
            **modules,
            **{f"{name}.averaged": each for name, each in averages.items()},
            **{f"{name}.augmentation": each for name, each in fronts.items()},
            MEMORY: self.memory,
            **self.penalties,
        }

    def _trained(self) -> dict[str, SlotState]:
        return {name: slot for name, slot in self.slots.items() if slot.optimizer is not None}

    def reset_optimizers(self) -> None:
        """Reset every optimiser."""
        for slot in self.slots.values():
            slot.reset_optimizer()
        self.renewals += 1

    def progress(self) -> dict[str, Any]:
        """Optimisers, step, images seen and seconds, in types that `torch.load(weights_only=True)` reads."""
        return {
            "optimizers": {name: slot.optimizer_state() for name, slot in self._trained().items()},
            "step": self.step,
            "images_seen": self.images_seen,
            "images_adjusted": self.images_adjusted,
            "seconds": self.seconds,
            **({"attempt": self.attempt} if self.attempt else {}),
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
            for name, module in self.modules().items():
                module.load_state_dict(weights[name] if module.state_dict() else {})
            for name, slot in self._trained().items():
                slot.load_optimizer(progress["optimizers"][name])
            self.renewals += 1
            self.step, self.images_seen = int(progress["step"]), int(progress["images_seen"])
            self.images_adjusted = int(progress.get("images_adjusted", 0))  # 0.1.0 had no augmentations
            self.seconds = float(progress["seconds"])
            self.attempt = int(progress.get("attempt", 0))  # written only by a run that has gone back
        except UNFIT as error:
            text = f"the checkpoint does not match the recipe's networks: {in_one_line(error)}"
            raise RequestError(text) from error


def _state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.state_dict().items()}
