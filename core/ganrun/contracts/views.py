"""Views: the only way in which an objective, a reading or a regulariser reaches a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.frames import Frame

Call = Callable[[tuple[str, ...], Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""`call(path, function, inputs, conditions)`, as a view takes it."""


class View:
    """A network as an objective calls it: at the run's precision inside, float32 outside.

        samples = nets.generator(latents, labels=classes)
        samples = nets.generator.synthesis(nets.generator.mapping(latents))

    Methods and parts are views too, so what holds for the network holds for them. Other attributes, such as `settings`,
    are those of the module.

    Autocast is active only inside the call. Around a whole objective it would also affect penalties, norms and
    logarithms, which need float32.

    Args:
        module: The network.
        precision: The type of its arithmetic, by autocast; float32 unless given.
        front: Applied to the first argument when the network itself is called: an augmentation.
        frame: `frame(method)` is a block around each call, in which errors get the network's name.
        call: `call(path, function, inputs, conditions)` calls the network, or the method or part of it at `path`;
            `function(*inputs, **conditions)` unless given. Not used for weights that are given.
    """

    def __init__(
        self,
        module: nn.Module,
        precision: torch.dtype | None = None,
        front: Callable[[Tensor], Tensor] | None = None,
        frame: Frame | None = None,
        *,
        call: Call | None = None,
        path: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._module = module
        self._precision = precision
        self._front = front
        self._frame = frame
        self._through = call
        self._path = path
        self._given = given
        self._device = next((each.device.type for each in chain(module.parameters(), module.buffers())), "cpu")
        self._is_contiguous = getattr(module, "memory_format", None) is torch.contiguous_format

    def __call__(self, *inputs: Any, **conditions: Any) -> Tensor:
        """The network's output, float32; typed as a tensor, but may be any tree of tensors that the network returns.

        Args:
            inputs: The input, as the slot's ports say, or the arguments of a method or part.
            conditions: By the names in the slot's ports: `labels=…`.
        """
        if self._front is not None:
            inputs = (self._front(inputs[0]), *inputs[1:])
        if self._frame is None:
            return self._output(*inputs, **conditions)
        with self._frame(".".join(self._path) or "forward"):
            return self._output(*inputs, **conditions)

    def __getattr__(self, part: str) -> Any:
        if part.startswith("_"):
            raise AttributeError(part)
        found = getattr(_reached(self._module, self._path), part)
        if isinstance(found, Tensor):
            return (self._given or {}).get(".".join((*self._path, part)), found)
        if not callable(found):
            return found
        path = (*self._path, part)
        return View(self._module, self._precision, None, self._frame, call=self._through, path=path, given=self._given)

    def weights(self) -> dict[str, Tensor]:
        """Its parameters by name, for penalties on weights; those of `given` instead, where they were given."""
        start = "".join(f"{part}." for part in self._path)
        found = {**dict(self._module.named_parameters()), **(self._given or {})}
        return {name.removeprefix(start): weight for name, weight in found.items() if name.startswith(start)}

    def given(self, weights: Mapping[str, Tensor]) -> View:
        """The same network with these weights instead of its parameters; gradients flow to where they come from.

            weights = {n: w.detach().requires_grad_() for n, w in nets.discriminator.weights().items()}
            objective = nets.discriminator.given(weights)(samples).mean()
            gradients = torch.autograd.grad(objective, list(weights.values()), create_graph=True)
            ahead = nets.discriminator.given({n: w - lr * g for (n, w), g in zip(weights.items(), gradients)})

        Weights of a network that the phase does not train are frozen: to differentiate with respect to them, take
        copies, as here.

        Args:
            weights: By the names of `weights`; all others stay.
        """
        start = "".join(f"{part}." for part in self._path)
        whole = {**(self._given or {}), **{f"{start}{name}": weight for name, weight in weights.items()}}
        return View(self._module, self._precision, self._front, self._frame, path=self._path, given=whole)

    def _output(self, *inputs: Any, **conditions: Any) -> Tensor:
        if self._is_contiguous:
            inputs = tuple(each.contiguous() if isinstance(each, Tensor) else each for each in inputs)
        if self._precision is None:
            return in_float32(self._call(*inputs, **conditions))  # type: ignore[no-any-return]
        with torch.autocast(self._device, dtype=self._precision):
            outputs = self._call(*inputs, **conditions)
        return in_float32(outputs)  # type: ignore[no-any-return]

    def _call(self, *inputs: Any, **conditions: Any) -> Any:
        if self._given is None:
            function = _reached(self._module, self._path)
            if self._through is None:
                return function(*inputs, **conditions)
            return self._through(self._path, function, inputs, conditions)
        weights = {f"module.{name}": weight for name, weight in self._given.items()}
        return torch.func.functional_call(_Call(self._module, self._path), weights, inputs, conditions)


class _Call(nn.Module):
    """A method or part of a network as a module, so that it can be called with other weights."""

    def __init__(self, module: nn.Module, path: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self._path = path

    def forward(self, *inputs: Any, **conditions: Any) -> Any:
        return _reached(self.module, self._path)(*inputs, **conditions)


def _reached(module: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        module = getattr(module, part)
    return module


def in_float32(tree: Any) -> Any:
    """A tree of tensors, tuples, lists and dicts with every floating-point tensor in float32."""
    if isinstance(tree, Tensor):
        return tree.float() if tree.is_floating_point() else tree
    if isinstance(tree, dict):
        return {name: in_float32(each) for name, each in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [in_float32(each) for each in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree
