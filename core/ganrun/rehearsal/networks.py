"""Tries a network before a run starts: one list of clauses, shared with the conformance kit.

Clauses look at a *shaken* copy of the network, with perturbed weights. At initialisation, a conditional batch norm of
scale 1 and shift 0 appears to ignore its labels, and a gate that starts at 0 appears constant; after the perturbation,
only a network that really cannot use its inputs does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ganrun.base.errors import IncompatibleError, PluginError
from ganrun.base.frames import is_out_of_memory, method
from ganrun.base.randomness import isolated_random
from ganrun.contracts.beginning import depends_on_step
from ganrun.contracts.losses import Batch
from ganrun.contracts.specs import DataSpec, NetworkSpec
from ganrun.contracts.views import View
from ganrun.rehearsal.beginning import try_begin
from ganrun.rehearsal.comparison import tensors_in
from ganrun.rehearsal.state import check_parameters, copy_of

SHAKE = 0.1
"""Standard deviation of the perturbation of a shaken copy's weights, or 1 / √fan_in if that is less."""

STAGES = 8
"""Equal parts of a run; a network that changes with the step is tried at their ends."""

SHAKES = 4
"""Copies on which a network may show that it uses its inputs; the first is not shaken."""

Example = tuple[Tensor, dict[str, Tensor]]
"""Inputs of a network `(count, …)`, and its conditions by name."""

LABELS = "; take a network that can be conditioned"


@dataclass(frozen=True)
class NetworkTrial:
    """A network on trial.

    Args:
        make: Builds the network, always with the same weights, on the device.
        spec: What it is built for.
        device: Where it runs.
        methods: Methods that the loss calls besides the network itself.
        precision: The type of its arithmetic in training; float32 unless given.
        samples: Samples that it gets at once in training.
        is_trained: Whether any phase trains it.
        steps: Steps of the run.
    """

    make: Callable[[], nn.Module]
    spec: NetworkSpec
    device: torch.device
    methods: tuple[str, ...] = ()
    precision: torch.dtype | None = None
    samples: int = 2
    is_trained: bool = True
    steps: int = 1000

    @cached_property
    def module(self) -> nn.Module:
        """The network, built once. The clauses work on copies, which cost less than building it again."""
        return self.make()

    def copy(self) -> nn.Module:
        """A copy of the network, to work on."""
        return copy_of(self.module)

    def shaken(self, number: int) -> nn.Module:
        """A copy in evaluation mode: unshaken for 0, and for 1, 2, … shaken in different directions."""
        module = self.copy().eval()
        with torch.no_grad(), isolated_random(self.device, number):
            for weight in module.parameters() if number else ():
                if weight.is_floating_point():
                    fan_in = weight[0].numel() if weight.dim() > 1 else 1
                    weight.add_(torch.randn_like(weight), alpha=min(SHAKE, fan_in**-0.5))
        return module

    def tells_apart(self, one: Example, other: Example) -> bool:
        """Whether the network, or a shaken copy of it, answers two inputs differently.

        A narrow network may be dead after one perturbation, so several are tried.
        """
        for number in range(SHAKES):
            module = self.shaken(number)
            if not torch.equal(self._answer(module, *one), self._answer(module, *other)):
                return True
        return False

    @cached_property
    def points(self) -> dict[int, Hashable]:
        """Steps at which the network is tried, each with the structure that `begin` names: spread over the run, if it
        is a function of the step, else only 0. For each structure, which runs the same operations, the first and last
        step.
        """
        module = self.copy()
        parts = range(STAGES + 1) if depends_on_step(module) else (0,)
        steps = sorted({self.steps * part // STAGES for part in parts})
        found = {step: try_begin(module, step, self.steps, self.device) for step in steps}
        first, last = {found[step]: step for step in reversed(steps)}, {found[step]: step for step in steps}
        return {step: each for step, each in found.items() if each is None or step in (first[each], last[each])}

    def example(self, count: int) -> Example:
        """Inputs and conditions of `count` samples."""
        return example_inputs(self.spec, count, self.device)

    @torch.no_grad()
    def _answer(self, module: nn.Module, inputs: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The network's output, with the same random numbers at every call."""
        with isolated_random(self.device, 2):
            return View(module)(inputs, **conditions)


def example_inputs(spec: NetworkSpec, count: int, device: torch.device) -> Example:
    """Inputs that a network for this spec must take, with its conditions: always the same.

    Latents are from N(0, I), images (channels last) and points in [-1, 1], labels all different if there are enough
    classes, and other conditions in [0, 1].
    """
    with isolated_random(device, 3):
        inputs = torch.randn(count, *spec.inputs, device=device)
        if inputs.dim() == 4:
            inputs = inputs.tanh().contiguous(memory_format=torch.channels_last)
        conditions = {name: _condition(name, shape, spec, count, device) for name, shape in spec.conditions.items()}
    return inputs, conditions


def example_records(spec: DataSpec, count: int, device: torch.device) -> Batch:
    """Made-up records of the data, without latents."""
    images, *beside = [
        example_inputs(NetworkSpec(inputs=shape, outputs=()), count, device)[0]
        for shape in (spec.sample_shape, *spec.fields.values())
    ]
    labels = torch.arange(count, device=device) % spec.classes if spec.classes else None
    return Batch(images.new_empty(count, 0), images, labels, dict(zip(spec.fields, beside, strict=True)))


def _condition(name: str, shape: tuple[int, ...], spec: NetworkSpec, count: int, device: torch.device) -> Tensor:
    if name == "labels":
        return torch.arange(count, device=device) % spec.classes
    return torch.rand(count, *shape, device=device)


# ── Clauses ───────────────────────────────────────────────────────────────────────────────────────────────


def has_sound_parameters(trial: NetworkTrial) -> None:
    """An optimiser can train its parameters."""
    check_parameters(trial.module)


def has_weights(trial: NetworkTrial) -> None:
    """A network that is trained has something to train."""
    if trial.is_trained and not any(weight.requires_grad for weight in trial.module.parameters()):
        raise IncompatibleError("has no weights to train; give it a parameter whose requires_grad is True")


def has_methods(trial: NetworkTrial) -> None:
    """The loss's slot names methods; the network has them."""
    module = trial.copy()
    absent = [name for name in trial.methods if not callable(getattr(module, name, None))]
    if absent:
        raise IncompatibleError(f'lacks "{absent[0]}", which the loss calls; take a network that has it')


def answers_as_declared(trial: NetworkTrial) -> None:
    """In evaluation mode, it returns a new float32 tensor of the declared shape, and leaves its input alone."""
    module = trial.copy().eval()
    inputs, conditions = trial.example(2)
    given = inputs.clone()
    output = _tried(lambda: _raw(module, inputs, conditions), trial)
    if trial.spec.outputs == (...,):
        return
    _check_tensor(output, trial.spec)
    if not torch.equal(inputs, given):
        raise IncompatibleError("changes its input in place; begin with a copy")
    if output.untyped_storage().data_ptr() == inputs.untyped_storage().data_ptr():
        raise IncompatibleError("returns its input itself, or a view of it; return a new tensor")
    if output.dtype != torch.float32:
        raise IncompatibleError(f"returns {output.dtype} where torch.float32 was expected; end with .float()")
    if not output.isfinite().all():
        raise IncompatibleError("returns NaN or infinity when freshly initialised")


def uses_inputs(trial: NetworkTrial) -> None:
    """Different inputs give different outputs."""
    inputs, conditions = trial.example(4)
    if trial.spec.outputs != (...,) and not trial.tells_apart((inputs, conditions), (inputs.flip(0), conditions)):
        raise IncompatibleError("gives the same output for different inputs")


def uses_conditions(trial: NetworkTrial) -> None:
    """Different labels, and different values of every other condition, give different outputs."""
    inputs, conditions = trial.example(4)
    for name, values in conditions.items():
        others = {**conditions, name: values.flip(0)}
        if trial.spec.outputs != (...,) and not trial.tells_apart((inputs, conditions), (inputs, others)):
            raise IncompatibleError(f"ignores its {name}{LABELS}")


def learns(trial: NetworkTrial) -> None:
    """In training mode and at the run's precision, it can be differentiated and take a step on a part of a batch, in
    each structure that its `begin` names."""
    tried: set[Hashable] = set()
    for step, structure in trial.points.items() if trial.is_trained else ():
        if structure is None or structure not in tried:
            _learns_at(trial, step)
            tried.add(structure)


@torch.enable_grad()
def _learns_at(trial: NetworkTrial, step: int) -> None:
    module = trial.copy().train()
    try_begin(module, step, trial.steps, trial.device)
    inputs, conditions = trial.example(min(2, trial.samples))
    output = _tried(lambda: View(module, trial.precision)(inputs, **conditions), trial)
    if not isinstance(output, Tensor):
        return
    _check_tensor(output, trial.spec)
    parameters = [each for each in module.parameters() if each.requires_grad]
    if parameters and not output.requires_grad:
        raise IncompatibleError(
            "its output has no gradient with respect to its weights; compute it without no_grad or detach"
        )
    if parameters:
        _tried(lambda: _step(output, parameters), trial)
    if not output.isfinite().all():
        raise IncompatibleError(f"returns NaN or infinity in training mode{_at(trial.precision)}")


def keeps_its_mode(trial: NetworkTrial) -> None:
    """A call does not change its mode, or any layer's: training or evaluation."""
    inputs, conditions = trial.example(min(2, trial.samples))
    for mode in (False, True) if trial.is_trained else (False,):
        module = trial.copy().train(mode)
        before = {name: layer.training for name, layer in module.named_modules()}
        _tried(partial(_raw, module, inputs, conditions), trial)
        changed = [name for name, layer in module.named_modules() if layer.training != before.get(name, layer.training)]
        if changed:
            layer = f"its layer {changed[0]}" if changed[0] else "it"
            raise IncompatibleError(f"its forward puts {layer} into another mode; leave train() and eval() to the run")


def begins(trial: NetworkTrial) -> None:
    """At every step its output is as declared, and depends on the step alone, as a resumed run requires."""
    module = trial.copy().eval()
    if trial.spec.outputs == (...,) or not depends_on_step(module):
        return
    points = trial.points
    there = {step: _begun_answer(trial, module, step) for step in points}
    back = {step: _begun_answer(trial, module, step) for step in reversed(points)}
    direct = {step: _begun_answer(trial, trial.copy().eval(), step) for step in points}
    for step in points:
        if not (torch.equal(there[step], back[step]) and torch.equal(there[step], direct[step])):
            raise IncompatibleError(
                f"at step {step}, its answer depends on the calls of begin before it, and a resumed run has none; set"
                " all that changes from the arguments of begin alone"
            )


def _begun_answer(trial: NetworkTrial, module: nn.Module, step: int) -> Tensor:
    shapes = _shapes(module)
    try_begin(module, step, trial.steps, trial.device)
    if _shapes(module) != shapes:
        raise IncompatibleError(f"begin changes its parameters or buffers at step {step}; build all of them at once")
    inputs, conditions = trial.example(2)
    output: Tensor = _tried(lambda: trial._answer(module, inputs, conditions), trial)
    _check_tensor(output, trial.spec)
    if not output.isfinite().all():
        raise IncompatibleError(f"returns NaN or infinity at step {step}")
    return output


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: (value.shape, value.dtype, value.data_ptr()) for name, value in module.state_dict().items()}


NETWORK_CLAUSES = (
    has_sound_parameters,
    has_weights,
    has_methods,
    answers_as_declared,
    uses_inputs,
    uses_conditions,
    learns,
    keeps_its_mode,
    begins,
)
"""In the order in which they are tried; each raises `IncompatibleError`, with the end of a sentence about the
network."""


def check_network(trial: NetworkTrial) -> None:
    """Try all clauses.

    Raises:
        IncompatibleError: for the first that fails.
    """
    for clause in NETWORK_CLAUSES:
        clause(trial)


# ── Other questions ───────────────────────────────────────────────────────────────────────────────────────


def mixes_samples(trial: NetworkTrial) -> bool:
    """Whether, in training mode, an output depends on other samples of its batch, as it does with batch norm.

    Needs at least three samples: of two, batch norm makes ±1.
    """
    inputs, conditions = trial.example(4)
    inputs = inputs.requires_grad_()
    with isolated_random(trial.device, 2):
        found = View(trial.copy().train())(inputs, **conditions)
    outputs = [each for each in tensors_in(found) if each.requires_grad and each.shape[:1] == inputs.shape[:1]]
    if not outputs:
        return False
    (gradient,) = torch.autograd.grad([each[0].sum() for each in outputs], inputs, allow_unused=True)
    return gradient is not None and bool(gradient[1:].any())


def needs_contiguous_images(module: nn.Module, spec: NetworkSpec, device: torch.device) -> bool:
    """Whether a network fails only on channels-last images, as one does that calls `view` after a convolution."""
    inputs, conditions = example_inputs(spec, 2, device)
    was_training = module.training
    try:
        with torch.no_grad(), isolated_random(device, 2):
            module.eval()(inputs, **conditions)
    except RuntimeError as error:
        return "view size is not compatible" in str(error)
    except Exception:  # the clauses report it
        return False
    finally:
        module.train(was_training)
    return False


# ── Helpers ───────────────────────────────────────────────────────────────────────────────────────────────


def _raw(module: nn.Module, inputs: Tensor, conditions: Mapping[str, Tensor]) -> Any:
    """The module's raw output, not converted to float32."""
    is_contiguous = getattr(module, "memory_format", None) is torch.contiguous_format
    with torch.no_grad():
        return module(inputs.contiguous() if is_contiguous else inputs, **conditions)


def _tried(call: Callable[[], Any], trial: NetworkTrial) -> Any:
    """The result of a call into the network's code, whose errors about its input become one sentence."""
    try:
        with isolated_random(trial.device, 2), method("forward"):
            return call()
    except PluginError as error:
        cause = error.__cause__
        if not isinstance(cause, RuntimeError | ValueError | IndexError | TypeError) or is_out_of_memory(cause):
            raise
        raise IncompatibleError(_refusal(cause, trial)) from cause


def _refusal(error: Exception, trial: NetworkTrial) -> str:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if "unexpected keyword argument" in text:
        name = text.rpartition("argument ")[2].strip("'")
        return f"ignores its {name}{LABELS}"
    if "Expected more than 1 value per channel" in text:
        return (
            "has batch norm, which cannot train on 1 sample at a time; take a larger batch_size, a smaller accumulate, "
            'or norm = "none" where it has that setting'
        )
    shape = (trial.samples, *trial.spec.inputs)
    return f"cannot take an input of shape {shape}{_at(trial.precision)}: {text}"


def _step(output: Tensor, parameters: list[nn.Parameter]) -> None:
    gradients = torch.autograd.grad((output * torch.randn_like(output)).sum(), parameters, allow_unused=True)
    with torch.no_grad():
        for weight, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                weight.sub_(gradient, alpha=1e-6)


def _check_tensor(output: Any, spec: NetworkSpec) -> None:
    if not isinstance(output, Tensor):
        raise IncompatibleError(f"returned {type(output).__name__} where a tensor was expected")
    shape = tuple(output.shape)
    if not spec.fits(shape[1:]):
        expected = ", ".join("…" if side is ... else str(side) for side in (shape[0], *spec.outputs))
        raise IncompatibleError(f"returned shape {shape} where ({expected}) was expected")


def _at(precision: torch.dtype | None) -> str:
    return "" if precision is None else f" in {str(precision).removeprefix('torch.')}"
