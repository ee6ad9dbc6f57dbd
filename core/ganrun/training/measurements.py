"""Scalars summed on the device and read by the host once per logging interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ganrun.base.errors import ContractError
from ganrun.base.ranks import average_over_ranks
from ganrun.contracts.losses import Terms

NOTHING: Mapping[str, Tensor] = MappingProxyType({})

LONGEST_SUM = 1024
"""Most values in a float32 sum, to limit rounding error; it is then added to a float64 total."""


class Measurements:
    """Means of named scalars since the last read.

    They come in groups, such as one phase's terms; a group adds the same names every time, in any order. A sum keeps
    any NaN or infinity that went into it, so the check for non-finite values costs nothing until the read.
    """

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def add(self, name: str, terms: Mapping[str, Tensor], report: Mapping[str, Tensor] = NOTHING) -> None:
        """Add one scalar for each term of the group `name`: work of the device alone, which `count` then counts.

        They are read as `<name>`, the sum of the terms; as `<name>.<term>` where there are several terms; and as
        `<name>.<entry>` for each entry of `report`, which is no part of the sum. Numbers of any type are added, in
        float32 or better.

        Raises:
            ContractError: if the names have changed since the first call, a value is no real scalar, or one would be
                read under the name of another group's.
        """
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = self._checked(_Group(name, terms, report))
        group.add(terms, report)

    def count(self, name: str, times: int = 1) -> None:
        """Count what `add` has added to the group `name` since."""
        self._groups[name].counted(times)

    def read(self, present: Mapping[str, Tensor] = NOTHING) -> dict[str, float]:
        """The means since the last read, over all ranks; the sums start again at 0. A mean is NaN or infinite if one of
        its values was. Waits for the device: the loop's only host sync.

        Args:
            present: Scalars that are read with them, as they are now; over all ranks, their means.
        """
        groups = [group for group in self._groups.values() if group.count]
        sums = [value for group in groups for value in group.folded()]
        sums += [value.to(_kind(value, torch.float64)) for value in present.values()]
        stacked = torch.stack(sums) if sums else torch.zeros(0)
        average_over_ranks([stacked])
        on_host = iter(stacked.tolist())
        means = {name: value for group in groups for name, value in group.take(on_host)}
        return {**means, **dict(zip(present, on_host, strict=True))}

    def reported(self) -> set[str]:
        """The names of values that are only reported and train no network."""
        return {f"{group.name}.{entry}" for group in self._groups.values() for entry in group.report}

    def _checked(self, group: _Group) -> _Group:
        for other in self._groups.values():
            if shared := set(group.names).intersection(other.names):
                text = f"{other.name} and {group.name} would share the curve {min(shared)}"
                raise ContractError(f"{text}; rename one of the phases or terms")
        return group


def curve_of(phase: str) -> str:
    """The name of the group of a phase's terms."""
    return f"loss/{phase}"


def total_of(phase: str, terms: Terms) -> Tensor:
    """The sum of the terms that a phase's objective minimises: a scalar that can be differentiated.

    Raises:
        ContractError: naming the phase and the term, if the objective gave no `Terms`, none to minimise, or one that is
            no tensor, no scalar, or on another device; or if no term depends on a network that the phase trains.
    """
    if not isinstance(terms, Terms):
        raise ContractError(f'the objective of phase "{phase}" returned {type(terms).__name__}, not ganrun.Terms')
    if not terms.minimise:
        raise ContractError(f'the objective of phase "{phase}" returned nothing to minimise')
    device = next((value.device for value in terms.minimise.values() if isinstance(value, Tensor)), None)
    for name, value in (*terms.minimise.items(), *terms.report.items()):
        if not (isinstance(value, Tensor) and not value.dim() and value.device == device and isinstance(name, str)):
            raise ContractError(_fault_of(phase, name, value, device))
    if twice := terms.minimise.keys() & terms.report.keys():
        raise ContractError(f'phase "{phase}" minimises and reports the term "{min(twice)}"; their curves would be one')
    first, *others = terms.minimise.values()
    total = sum(others, first)
    if not total.requires_grad:
        raise ContractError(
            f'no term of phase "{phase}" ({", ".join(terms.minimise)}) depends on a network that the phase trains, so '
            "there is no gradient; were they computed under no_grad, detached, or made of numbers?"
        )
    return total


def _fault_of(phase: str, name: object, value: object, device: torch.device | None) -> str:
    if not isinstance(name, str):
        return f'phase "{phase}" names a term {name!r}; a name must be a string'
    term = f'the term "{name}" of phase "{phase}"'
    if not isinstance(value, Tensor):
        hint = "; leave the sums in tensors, without item() or float()" if isinstance(value, float | int) else ""
        return f"{term} is a {type(value).__name__}, and not a tensor{hint}"
    if value.dim():
        return f"{term} has the shape {tuple(value.shape)}; it must be a scalar, such as a mean()"
    return f"{term} is on {value.device}, and the others are on {device}"


class _Group:
    """Sums of one group's scalars, on their device."""

    def __init__(self, name: str, terms: Mapping[str, Tensor], report: Mapping[str, Tensor]) -> None:
        values = {**terms, **report}
        odd = {key: tuple(value.shape) for key, value in values.items() if value.dim() or value.is_complex()}
        if odd:
            raise ContractError(f"{name}: terms must be real scalars, but these are not: {odd}")
        self.name = name
        self.terms, self.report = list(terms), list(report)
        shown = [*(self.terms if len(terms) > 1 else []), *self.report]
        self.names = [name, *(f"{name}.{key}" for key in shown)]
        """Under which the means are read."""
        self.sums = [_zero(value, torch.float32) for value in values.values()]
        self.totals = [_zero(value, torch.float64) for value in values.values()]
        self.count = self._pending = 0

    def add(self, terms: Mapping[str, Tensor], report: Mapping[str, Tensor]) -> None:
        if list(terms) != self.terms or list(report) != self.report:
            terms, report = self._ordered(terms, report)
        torch._foreach_add_(self.sums, [value.detach() for value in (*terms.values(), *report.values())])

    def counted(self, times: int) -> None:
        """Count what was added, and fold sums into totals before they grow long enough to lose digits."""
        self.count += times
        self._pending += times
        if self._pending >= LONGEST_SUM:
            self.folded()

    def folded(self) -> list[Tensor]:
        """The totals, with the sums moved into them."""
        torch._foreach_add_(self.totals, self.sums)
        torch._foreach_zero_(self.sums)
        self._pending = 0
        return self.totals

    def take(self, on_host: Iterator[float]) -> Iterator[tuple[str, float]]:
        """Names and means, from the next of the totals read by the host; the totals are then reset to 0."""
        means = [next(on_host) / self.count for _ in self.totals]
        torch._foreach_zero_(self.totals)
        self.count = 0
        each = means if len(self.terms) > 1 else means[len(self.terms) :]
        return zip(self.names, [sum(means[: len(self.terms)]), *each], strict=True)

    def _ordered(self, terms: Mapping[str, Tensor], report: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], ...]:
        """The terms in their order at first."""
        if terms.keys() != set(self.terms) or report.keys() != set(self.report):
            first, now = ", ".join(self.terms + self.report), ", ".join((*terms, *report))
            raise ContractError(f"{self.name}: the terms changed; at first they were {first}, and now they are {now}")
        return {name: terms[name] for name in self.terms}, {name: report[name] for name in self.report}


def _zero(value: Tensor, least: torch.dtype) -> Tensor:
    return torch.zeros((), dtype=_kind(value, least), device=value.device)


def _kind(value: Tensor, least: torch.dtype) -> torch.dtype:
    """The value's type or `least`, whichever has more digits."""
    kind = torch.float32 if value.device.type == "mps" else least  # which has no float64
    return torch.promote_types(value.dtype, kind)
