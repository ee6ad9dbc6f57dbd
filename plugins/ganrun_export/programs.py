"""A model's computations as programs that need neither ganrun nor the networks' code: torch.export, and ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from ganrun import Batch, ContractError, IncompatibleError, Model, Nets, RequestError, View, isolated_random

Method = Callable[[Nets, Tensor], Tensor]
"""A computation of a loss with its networks on a batch: samples from latents, or encodings of images."""

EXAMPLES, TRIALS = 3, 2
"""Sizes of the batch from which a program is exported, and of another with which it is checked. Neither is 1, which
torch.export would treat as a constant."""

TOLERANCE = 1e-5
"""Largest difference, absolute and relative, between the outputs of a program and of the model."""

NAMES = {"latents": ("count", "latents"), "generator": ("latents", "samples"), "encoder": ("images", "latents")}
"""Names of each program's input and output in ONNX."""


def latents_of(model: Model) -> ExportedProgram:
    """A count, as an int64 scalar, to that many latents `(count, latent_size)`, drawn from torch's random stream."""
    return _program(_Latents(model), torch.tensor(EXAMPLES), torch.tensor(TRIALS), None, model.device)


def generator_of(model: Model) -> ExportedProgram:
    """`Model.decode`: latents `(count, latent_size)` to samples `(count, *sample_shape)` in [-1, 1]; with the model's
    sampling."""
    loss, sampling = model.loss, model.sampling
    return _batched(
        model, lambda nets, latents: loss.generate(nets, latents, sampling), model.unfilled_latents(EXAMPLES)
    )


def encoder_of(model: Model) -> ExportedProgram | None:
    """`Model.encode`: images `(count, *sample_shape)` in [-1, 1] to latents; None if the model does not encode, or
    needs more of a record than its image. A random encoding is that of latents 0."""
    images = model.decode(model.unfilled_latents(EXAMPLES))
    try:
        if model.encode(images) is None:
            return None
    except (IncompatibleError, ContractError):
        return None
    read, size = model.loss.readings()["encodings"], model.spec.latent_size
    return _batched(model, lambda nets, inputs: read(nets, Batch(inputs.new_zeros(len(inputs), size), inputs)), images)


PROGRAMS: Mapping[str, Callable[[Model], ExportedProgram | None]] = {
    "latents": latents_of,
    "generator": generator_of,
    "encoder": encoder_of,
}
"""Builders by the stems of the files."""


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a program in the format of torch.export.

    Raises:
        OSError: if it cannot be written.
    """
    content = BytesIO()  # torch takes no name that is not UTF-8, and on a full disk its writer ends the process
    with warnings.catch_warnings():
        # Warned about channels-last weights, which are stored correctly.
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


def write_onnx(name: str, program: ExportedProgram, path: Path) -> None:
    """Write one of `PROGRAMS` as ONNX, with its weights, in one file.

    Raises:
        RequestError: if ONNX cannot express it.
    """
    source, result = NAMES[name]
    try:
        torch.onnx.export(
            program,
            f=path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=[source],
            output_names=[result],
        )
    except torch.onnx.OnnxExporterError as error:
        raise RequestError(f"{name} cannot be written as ONNX: {_first_line(error)}; leave out --onnx") from error


def check_onnx() -> None:
    """Make sure that ONNX can be written.

    Raises:
        RequestError: if a package is absent.
    """
    absent = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]
    if absent:
        raise RequestError(f'--onnx needs {" and ".join(absent)}; run: pip install "ganrun[onnx]"')


# ── Exporting ─────────────────────────────────────────────────────────────────────────────────────────────


class _Method(nn.Module):
    """A method as a module, with the networks that it calls."""

    def __init__(self, method: Method, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self._method = method

    def forward(self, inputs: Tensor) -> Tensor:
        return self._method(Nets({name: View(network) for name, network in self.networks.items()}), inputs)


class _Latents(nn.Module):
    """Drawing latents, as a module."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._draw, self._device = model.loss.latents, model.device

    def forward(self, count: Tensor) -> Tensor:
        size: int = count.item()  # type: ignore[assignment]  # int() would make it a constant
        torch._check(size >= 0)
        return self._draw(size, self._device)


def _batched(model: Model, method: Method, inputs: Tensor) -> ExportedProgram:
    """A program for batches of any size."""
    module = _Method(method, _called(model, method, inputs))
    return _program(module, inputs, inputs[:TRIALS], {0: Dim("batch")}, model.device)


def _called(model: Model, method: Method, inputs: Tensor) -> dict[str, nn.Module]:
    """The networks that a method calls, or parts of: a program contains the weights of all networks in its module."""
    nets = _Recording(model.networks)
    with torch.no_grad():
        method(nets, inputs)
    return {name: network for name, network in model.networks.items() if name in nets.called}


class _Recording(Nets):
    """Networks that record which of them are called."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.networks = networks
        self.called: set[str] = set()

    def __getattr__(self, slot: str) -> View:
        self.called.add(slot)
        return View(self.networks[slot])


def _program(
    module: nn.Module, inputs: Tensor, trial: Tensor, sizes: Mapping[int, Dim] | None, device: torch.device
) -> ExportedProgram:
    """The module as a program, checked against the module on `trial`.

    Raises:
        RequestError: if torch.export fails, or the program's output differs.
    """
    try:
        with torch.no_grad():
            # Non-strict export makes len(inputs) a constant; a strict program of a scalar warns when it is loaded.
            is_strict = sizes is not None
            program = torch.export.export(module.eval(), (inputs,), dynamic_shapes=(sizes,), strict=is_strict)
            output, expected = _seeded(program.module(), trial, device), _seeded(module, trial, device)
    except Exception as error:  # any error in a network's code under torch.export
        message = f"torch.export cannot export this model: {_first_line(error)}"
        raise RequestError(f"{message}\n  the code of its networks must not branch on the values of tensors") from error
    _without_traces(program)
    if not torch.allclose(output, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise RequestError("the program that torch.export made of this model does not compute the same as the model")
    return program


def _without_traces(program: ExportedProgram) -> None:
    """Remove the source locations of operations: lines of files on this machine."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)


def _seeded(module: nn.Module, inputs: Tensor, device: torch.device) -> Tensor:
    with isolated_random(device, 0):
        output: Tensor = module(inputs)
    return output


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
