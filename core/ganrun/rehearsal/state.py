"""Checks a network's state before a run begins: it can be trained, averaged, saved, and fully restored.

Each clause raises an `IncompatibleError` whose sentence names the parameter, buffer or attribute at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from ganrun.base.errors import IncompatibleError
from ganrun.base.modules import copied, overlap, overlaps, to_device
from ganrun.base.randomness import derived_seed, isolated_random
from ganrun.rehearsal.comparison import attributes, differ, finite, same, same_bits, unsaved
from ganrun.rundir.checkpoints import bytes_as_weights, weights_as_bytes

CPU = torch.device("cpu")
OTHER_SEED = derived_seed(0, "a restart")
SHAKE = 0.1
"""How far the weights are moved before the network is called, as a share of their root mean square."""

Make = Callable[[], nn.Module]
Call = Callable[[nn.Module], Any]


class Follower(Protocol):
    """An average of a network's weights."""

    module: nn.Module

    def update(self, step: int) -> None:
        """Follow the network."""


def check_state(
    module: nn.Module,
    make: Make,
    call: Call,
    device: torch.device,
    average: Callable[[nn.Module], Follower] | None = None,
) -> None:
    """Rehearse what a run does to a network's state: averaging, a checkpoint, and a restart in another process.

    The network itself is not changed. It is copied, and built again under another seed, so two more instances are in
    memory for a while; they are called at most five times, without gradients.

    Args:
        module: The network, on the device.
        make: Builds it again on the CPU, under the current random stream: the component's constructor.
        call: Calls a network on a few samples; returns its output: tensors, in tuples, lists and mappings.
        device: The device that the run is on.
        average: Creates an average of a network; None if none is kept.

    Raises:
        IncompatibleError: if a clause is broken, with the names at fault.
    """
    twin = built_again(make)
    check_parameters(twin)
    check_layers(twin)
    twin = to_device(twin, device)
    check_device(module, device)
    with isolated_random(device, OTHER_SEED), torch.no_grad():
        used = _used(module, call)
        if average is not None:
            check_average(used, call, average)
        check_restart(used, twin, call, device)


# ── What was built ────────────────────────────────────────────────────────────────────────────────────────


def built_again(make: Make) -> nn.Module:
    """The network, built under another seed than the run's.

    Raises:
        IncompatibleError: if its constructor seeds the random stream.
    """
    with isolated_random(CPU, OTHER_SEED):
        twin = make()
        if torch.initial_seed() != OTHER_SEED:
            raise IncompatibleError(
                "its constructor seeds torch's random stream, so all seeds give the same weights; leave out"
                " torch.manual_seed: the stream is seeded when the constructor runs"
            )
    return twin


def check_parameters(module: nn.Module) -> None:
    """Whether an optimiser can train the parameters: sized, float32, and without elements that share memory. Two
    updates of the same memory overwrite each other, and may corrupt it. The same parameter in several layers (a tied
    weight) is fine.
    """
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise IncompatibleError(
                f"its parameter {name} takes its size from the first input; take a layer with a fixed size,"
                " such as nn.Linear instead of nn.LazyLinear"
            )
    trained = {name: each.detach() for name, each in module.named_parameters() if each.requires_grad}
    for name, weight in trained.items():
        if weight.dtype != torch.float32:
            raise IncompatibleError(
                f"its parameter {name} is {_type(weight)}, and only float32 is trained; make it float32 (the run"
                ' computes in bfloat16 by [train] precision = "bf16"), or set requires_grad=False'
            )
        if overlaps(weight):
            raise IncompatibleError(
                f"several elements of its parameter {name} share memory, so it cannot be trained; make"
                " them separate by .clone(), or expand the parameter in the forward"
            )
    for one, other in _overlapping(trained):
        raise IncompatibleError(
            f"its parameters {one} and {other} are two views of one memory, which would be trained twice; tie weights"
            " by assigning the same nn.Parameter, or separate them by .clone()"
        )


def _overlapping(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    storages: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            storages.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    for names in storages.values():
        pairs = combinations(names, 2)
        yield from ((one, other) for one, other in pairs if overlap(tensors[one], tensors[other]))


def check_layers(module: nn.Module) -> None:
    """Whether torch finds all layers and parameters, including those in lists and dicts."""
    known = {id(each) for each in (*module.modules(), *module.parameters())}
    for path, value in attributes(module):
        if id(value) not in known and _is_part(value):
            raise IncompatibleError(
                f"torch does not find its {path} ({type(value).__name__}), which is thus neither trained nor saved;"
                " instead of a list or dict, keep layers in nn.ModuleList or nn.ModuleDict, and parameters in"
                " nn.ParameterList or nn.ParameterDict"
            )


def _is_part(value: object) -> bool:
    """Whether a value is a layer, with tensors or a mode, or a parameter."""
    if isinstance(value, nn.Module):
        tensors = (*value.parameters(), *value.buffers())
        return bool(tensors) or any(isinstance(each, _DropoutNd) for each in value.modules())
    return isinstance(value, nn.Parameter)


def check_device(module: nn.Module, device: torch.device) -> None:
    """Whether parameters and buffers are on the run's device."""
    place = torch.empty(0, device=device).device  # "cuda" is "cuda:0" in a tensor
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device != place:
            raise IncompatibleError(
                f"its {name} is on {tensor.device}, and the run on {device}; leave the choice of a device to the run"
            )


# ── What is done to it ────────────────────────────────────────────────────────────────────────────────────


def copy_of(module: nn.Module) -> nn.Module:
    """A copy of a network.

    Raises:
        IncompatibleError: if it cannot be copied.
    """
    try:
        return copied(module)
    except Exception as error:  # any, from an attribute
        raise IncompatibleError(f"copy.deepcopy cannot copy it: {_line(error)}") from error


def _used(module: nn.Module, call: Call) -> nn.Module:
    """A copy of the network, called once in training mode with shaken weights."""
    used = copy_of(module).train()
    _shake(used)
    with torch.enable_grad():
        call(used)
    kept = [name for name, buffer in used.named_buffers() if buffer.grad_fn is not None]
    if kept:
        raise IncompatibleError(
            f"its buffer {kept[0]} is computed with gradients, so the graph of every step stays in memory; assign it"
            " from a value.detach(), or change it in place under torch.no_grad()"
        )
    return used


def _shake(module: nn.Module) -> None:
    """Move all weights: w ← w + 0.1 rms(w) U(-1, 1), with rms 1 for zeros, so that a gain of 0 hides nothing."""
    for parameter in _floats(module):
        size = parameter.square().mean().sqrt()
        parameter.add_(torch.rand_like(parameter).mul_(2).sub_(1).mul_(SHAKE * size.where(size > 0, 1.0)))


def _floats(module: nn.Module) -> Iterator[nn.Parameter]:
    return (each for each in module.parameters() if each.is_floating_point())


def check_average(used: nn.Module, call: Call, average: Callable[[nn.Module], Follower]) -> None:
    """Whether an average of the network can be kept, and gives finite outputs. Moves the network's weights."""
    try:
        follower = average(used)
        for parameter in _floats(used):
            parameter.mul_(1 + SHAKE)
        follower.update(1)
        outputs = call(follower.module)
    except Exception as error:  # any, from an attribute or a forward
        raise IncompatibleError(f"no average of it can be kept: {_line(error)}; [ema] turns averages off") from error
    if not finite(outputs) and finite(call(used.eval())):
        raise IncompatibleError("an average of it gives outputs that are not finite; [ema] turns averages off")


def check_restart(used: nn.Module, twin: nn.Module, call: Call, device: torch.device) -> None:
    """Whether a checkpoint restores a new build to the same network, bit for bit."""
    state = used.state_dict()
    restored = _saved_and_read(state)
    try:
        twin.load_state_dict(restored)
    except Exception as error:  # torch's own, and those of a network's hooks
        raise IncompatibleError(
            "a new build cannot load its state; layers and shapes must follow from the settings and the spec:\n"
            f"  {error}"
        ) from error
    loaded = twin.state_dict()
    changed = [name for name in state if name not in loaded or not same_bits(state[name], loaded[name])]
    if changed:
        raise IncompatibleError(f"saved and loaded again, {_listed(changed)} of its state differ from what they were")
    outputs = _seeded(call, used.eval(), device)
    try:
        others = _seeded(call, twin.eval(), device)
    except Exception as error:  # of its forward
        raise IncompatibleError(f"restored from a checkpoint, its forward fails: {_line(error)}") from error
    if not same(outputs, others):
        raise IncompatibleError(_lost(used, twin, same(outputs, _seeded(call, used, device))))


def _saved_and_read(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state, written in the format of a checkpoint's files and read again, in memory."""
    _check_tensors(state)
    try:
        return bytes_as_weights(weights_as_bytes(state))
    except Exception as error:  # safetensors raises a KeyError for an unknown type
        name = next((name for name in state if not _writable(state[name])), "state")
        kind = f" ({_type(state[name])})" if name in state else ""
        raise IncompatibleError(
            f"its {name}{kind} cannot be saved: {_line(error)}; take a dense tensor of a type that safetensors has"
        ) from error


def _check_tensors(state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise IncompatibleError(
                f"its state holds {name}, which is a {type(value).__name__}, and a checkpoint holds tensors only; keep"
                " it in a buffer, by self.register_buffer"
            )


def _writable(value: Tensor) -> bool:
    try:
        weights_as_bytes({"one": value})
    except Exception:  # as above
        return False
    return True


def _seeded(call: Call, module: nn.Module, device: torch.device) -> Any:
    with isolated_random(device, OTHER_SEED):
        return call(module)


# ── What was lost ─────────────────────────────────────────────────────────────────────────────────────────


def _lost(used: nn.Module, twin: nn.Module, steady: bool) -> str:
    """Why a restored network computes different outputs."""
    if not steady:
        return (
            "in evaluation mode, the same input gives another output at each call; draw from torch's random stream, and"
            " change nothing there"
        )
    kept, others = dict(unsaved(used)), dict(unsaved(twin))
    names = [name for name, value in kept.items() if name in others and differ(value, others[name])]
    if not names:
        return (
            "restored from a checkpoint, it computes something else: its output depends on something that state_dict"
            " does not hold; keep it in a buffer, by self.register_buffer"
        )
    return (
        f"restored from a checkpoint, it computes something else, since state_dict does not hold {_listed(names)}; keep"
        " it in a buffer, by self.register_buffer and without persistent=False"
    )


# ── Words ─────────────────────────────────────────────────────────────────────────────────────────────────


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
