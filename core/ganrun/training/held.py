"""What a captured graph holds on to: the tensors of a run where they are, and numbers of the host as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, complex, str, bytes, tuple, type(None))


class _Place(NamedTuple):
    module: str
    name: str
    holder: dict[str, Any]
    """The module's parameters or buffers."""
    tensor: Tensor
    address: int


class HeldTensors:
    """The parameters and buffers of modules, where they are now.

    Args:
        modules: By name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._places = [place for name, module in modules.items() for place in _places(name, module)]

    def fault(self) -> str | None:
        """The first of them that is elsewhere now, as a sentence; None where all are where they were."""
        for module, name, holder, tensor, address in self._places:
            now = holder.get(name)
            if now is not tensor or now.data_ptr() != address:
                return f"the {module} assigns a new tensor to its {name}; change it in place, by copy_"
        return None

    def put_back(self) -> None:
        """Undo assignments of new tensors."""
        for place in self._places:
            place.holder[place.name] = place.tensor


def _places(name: str, module: nn.Module) -> Iterator[_Place]:
    for path, layer in module.named_modules():
        for holder in (layer._parameters, layer._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    yield _Place(name, f"{path}.{key}".lstrip("."), holder, tensor, tensor.data_ptr())


class HostNumbers:
    """The plain numbers and texts that objects and optimisers have on the host now.

    Args:
        objects: Components by name; of modules, all their parts count.
        optimizers: By name; their groups and their state count.
        device: The run's. A tensor elsewhere is a number of the host.
    """

    def __init__(
        self, objects: Mapping[str, object], optimizers: Mapping[str, torch.optim.Optimizer], device: torch.device
    ) -> None:
        self._found: dict[str, Any] = {}
        for name, each in objects.items():
            for path, part in each.named_modules() if isinstance(each, nn.Module) else [("", each)]:
                self._add(name, path, vars(part))
        for name, optimizer in optimizers.items():
            self._add(name, "", vars(optimizer))
            for number, entries in enumerate((*optimizer.param_groups, *optimizer.state.values())):
                self._add(name, f"{number}", _numbers_of(entries, device))

    def _add(self, name: str, path: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, PLAIN):
                self._found[f"the {name} changes its {path}.{key}".replace(" .", " ")] = value

    def fault(self, now: HostNumbers) -> str | None:
        """The first of them that is another now, as a sentence."""
        for what in {**self._found, **now._found}:
            if self._found.get(what) != now._found.get(what):
                return f"{what}, a number of the host, from update to update; keep it in a tensor, changed in place"
        return None


def _numbers_of(entries: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The entries of an optimiser; a learning rate is the engine's."""
    kept = {key: value for key, value in entries.items() if key != "lr"}
    on_host = {key: value for key, value in kept.items() if isinstance(value, Tensor) and value.device != device}
    return {**kept, **{key: tuple(value.flatten().tolist()) for key, value in on_host.items() if value.is_cpu}}


@contextmanager
def drawn_on_host(device: torch.device) -> Iterator[list[str]]:
    """A block that notes whether random numbers are drawn on the host, where the run is elsewhere."""
    drawn: list[str] = []
    before = None if device.type == "cpu" else torch.default_generator.get_state()
    yield drawn
    if before is not None and not torch.equal(before, torch.default_generator.get_state()):
        drawn.append("torch.default_generator")
