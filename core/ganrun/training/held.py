"""What a captured graph depends on: the storage of a run's tensors, and the values of numbers on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, complex, str, bytes, tuple, type(None))

Owners = Mapping[str, object]
"""Components and optimisers by name; a module includes all its layers."""


class _Place(NamedTuple):
    what: str
    """Such as `the generator assigns a new tensor to its layers.0.weight`."""
    holder: dict[str, Any]
    """The attributes, parameters or buffers of a layer, or the state of a weight in an optimiser."""
    name: str
    tensor: Tensor
    address: int


class HeldTensors:
    """The tensors of components and optimisers, where they are now."""

    def __init__(self, owners: Owners) -> None:
        by_owner = {name: list(_places(name, owner)) for name, owner in owners.items()}
        self._places = [place for places in by_owner.values() for place in places]
        components = [name for name, owner in owners.items() if not isinstance(owner, torch.optim.Optimizer)]
        self._settable = [
            place for name in components for place in by_owner[name] if not isinstance(place.tensor, nn.Parameter)
        ]

    def fault(self) -> str | None:
        """The first of them that has moved, as a sentence; None if none has."""
        return _fault(self._places)

    def fault_between_steps(self) -> str | None:
        """The same for those that components may set between steps, as in `begin`; cheap."""
        return _fault(self._settable)

    def put_back(self) -> None:
        """Undo assignments of new tensors."""
        for place in self._places:
            place.holder[place.name] = place.tensor


def _fault(places: list[_Place]) -> str | None:
    for what, holder, name, tensor, address in places:
        now = holder.get(name)
        if now is not tensor or now.data_ptr() != address:
            return f"{what}; change it in place, by copy_"
    return None


def _places(owner: str, of: object) -> Iterator[_Place]:
    for path, holder in _holders(of):
        for name, value in holder.items():
            if isinstance(value, Tensor):
                what = f"the {owner} assigns a new tensor to its {path}{name}"
                yield _Place(what, holder, name, value, value.data_ptr())


def _holders(of: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dictionaries in which an owner keeps tensors and numbers, each with the prefix of its names."""
    if isinstance(of, torch.optim.Optimizer):
        yield from (("", entries) for entries in (vars(of), *of.param_groups, *of.state.values()))
        return
    for path, layer in of.named_modules() if isinstance(of, nn.Module) else [("", of)]:
        start = f"{path}." if path else ""
        kept = (vars(layer), *(vars(layer).get(name) for name in ("_parameters", "_buffers", "now")))
        yield from ((start, each) for each in kept if isinstance(each, dict))


class HostNumbers:
    """The current plain numbers and strings of components and optimisers on the host.

    Args:
        owners: Their owners.
        device: The run's. An optimiser's tensor on another device counts as a number on the host.
    """

    def __init__(self, owners: Owners, device: torch.device) -> None:
        self._found: dict[str, Any] = {}
        for owner, of in owners.items():
            for number, (path, holder) in enumerate(_holders(of)):
                for name, value in holder.items():
                    if (plain := _plain(value, device)) is not _ELSE:
                        self._found[f"{number} the {owner} changes its {path}{name}"] = plain

    def fault(self, now: HostNumbers) -> str | None:
        """The first of them that has changed, as a sentence."""
        for key in {**self._found, **now._found}:
            if self._found.get(key) != now._found.get(key):
                what = key.partition(" ")[2]
                return f"{what}, a number of the host, from update to update; keep it in a tensor, changed in place"
        return None


_ELSE = object()


def _plain(value: Any, device: torch.device) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor) and value.is_cpu and device.type != "cpu":
        return tuple(value.flatten().tolist())
    return _ELSE


@contextmanager
def drawn_on_host(device: torch.device) -> Iterator[list[str]]:
    """A block that detects random numbers drawn on the host, if the run is on another device."""
    drawn: list[str] = []
    before = None if device.type == "cpu" else torch.default_generator.get_state()
    yield drawn
    if before is not None and not torch.equal(before, torch.default_generator.get_state()):
        drawn.append("torch.default_generator")
