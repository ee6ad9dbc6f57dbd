"""Networks compiled by torch.compile. Importing this takes more than a second, so it is imported only to compile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from types import FunctionType
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

log = logging.getLogger("ganrun")

MOST_WAYS = 16
"""Ways of calling a network, or a part of it, that are compiled per structure."""

MOST_GRAPHS = 6
"""Times that one way is compiled, which should be once. Beyond torch's own limit of 8, torch warns itself."""

BACKEND = "inductor"
"""Torch's compiler loggers, by name."""

AS_IT_IS = "%s: torch.compile cannot handle the network, which runs uncompiled from here on: %s"

AGAIN = (
    "%s: the network was compiled again in step %d, and each time costs seconds: something that it is called with or"
    " reads changes from call to call, such as a shape or a number; TORCH_LOGS=recompiles shows what"
)

MANY_WAYS = f"it is called in more than {MOST_WAYS} ways, with other shapes"

MANY_GRAPHS = f"it was compiled {MOST_GRAPHS} times, as something that it reads changes from call to call"

Situation = tuple[int, Hashable]
"""Steps done, and everything that may change a step's computation: structures, batch size."""


class Compiler:
    """Compiles the networks of a run.

    The first steps, and those after a change of the situation, are warm-up: every phase runs for the first time.

    Args:
        situation: Returns the current one.
        warm_up: Steps of the warm-up.
    """

    def __init__(self, situation: Callable[[], Situation], warm_up: int) -> None:
        self.situation = situation
        self._warm_up = warm_up
        self._since, self._known = situation()

    def is_warm(self) -> bool:
        """Whether nothing should be compiled any more. Checked after each compilation."""
        step, known = self.situation()
        if known != self._known:
            self._since, self._known = step, known
        return step - self._since >= self._warm_up

    def calls(self, module: nn.Module, where: str) -> CompiledCalls:
        """The call function for a network's view.

        Args:
            module: The network.
            where: Prefix of messages about it.
        """
        return CompiledCalls(self, module, where)


class CompiledCalls:
    """Calls a network, its methods and its parts for a view, each compiled on its first call in a new way. A way is
    everything that decides which operations are executed: shapes, whether gradients are needed, the mode. Each way has
    separate compiled code. So recompiling a way indicates a fault, and many networks together do not reach torch's
    limit, which counts per code object.
    """

    def __init__(self, compiler: Compiler, module: nn.Module, where: str) -> None:
        self._compiler = compiler
        self._module = module
        self._where = where
        self._weight = next(module.parameters(), None)
        self._structure: Hashable = None
        self._ways: dict[Hashable, _Way] = {}
        self._is_told = False
        self._is_off = False

    def __call__(
        self, path: tuple[str, ...], function: Callable[..., Any], inputs: tuple[Any, ...], conditions: dict[str, Any]
    ) -> Any:
        """`function(*inputs, **conditions)`, compiled where possible."""
        if self._is_off:
            return function(*inputs, **conditions)
        way = self._way(path, function, inputs, conditions)
        if way is None:
            self._give_up(MANY_WAYS)
            return function(*inputs, **conditions)
        graphs = way.graphs
        try:
            output = way.compiled(*inputs, **conditions)
        except Exception as error:
            reason = _first_line(error)
        else:
            if way.graphs > graphs:
                self._watch(way)
            return output
        output = function(*inputs, **conditions)  # if the error is the author's, it is raised here
        self._give_up(reason)
        return output

    def _way(
        self,
        path: tuple[str, ...],
        function: Callable[..., Any],
        inputs: tuple[Any, ...],
        conditions: Mapping[str, Any],
    ) -> _Way | None:
        _, structure = self._compiler.situation()
        if structure != self._structure:
            self._structure = structure
            self._ways.clear()
        needs_gradients = self._weight is not None and self._weight.requires_grad, torch.is_grad_enabled()
        given = (*map(_kind, inputs), *((name, _kind(value)) for name, value in conditions.items()))
        key = path, self._module.training, needs_gradients, given
        if key not in self._ways and len(self._ways) < MOST_WAYS:
            self._ways[key] = _Way(function)
        return self._ways.get(key)

    def _watch(self, way: _Way) -> None:
        """After a compilation: warn if it was unexpected."""
        if way.graphs >= MOST_GRAPHS:
            self._give_up(MANY_GRAPHS)
        elif self._compiler.is_warm() and not self._is_told:
            self._is_told = True
            log.warning(AGAIN, self._where, self._compiler.situation()[0] + 1)

    def _give_up(self, reason: str) -> None:
        self._is_off = True
        self._ways.clear()
        log.warning(AS_IT_IS, self._where, reason)


class _Way:
    """A function compiled for one way of calling it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.graphs = 0
        """Times that it was compiled."""
        self.compiled = torch.compile(_alone(function), fullgraph=True, dynamic=False, backend=self._compile)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        compiled: Callable[..., Any] = torch._dynamo.lookup_backend(BACKEND)(graph, inputs)
        return compiled


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls another one. Its code object is a new one, because torch counts compilations by code."""

    def call(*inputs: Any, **conditions: Any) -> Any:
        return function(*inputs, **conditions)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)


def _kind(value: Any) -> Any:
    """The properties of an argument that affect compilation and are cheap to read; torch checks the rest."""
    return (tuple(value.shape), value.dtype, value.requires_grad) if isinstance(value, Tensor) else type(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
