"""Tries an augmentation before a run starts: one list of clauses, shared with the conformance kit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganrun.base.errors import ContractError, IncompatibleError
from ganrun.base.frames import method
from ganrun.base.modules import copied
from ganrun.base.randomness import isolated_random
from ganrun.contracts.augmentations import Augmentation
from ganrun.contracts.specs import NetworkSpec
from ganrun.rehearsal.comparison import attributes, differ, same_bits
from ganrun.rehearsal.networks import example_inputs
from ganrun.rehearsal.state import built_again, check_device, check_restart

ADJUSTMENTS = 3
"""Calls of `adjust` before an augmentation is tried again, each after `MANY` images that the network knows well."""

MANY = 100_000

SEED = 2


@dataclass(frozen=True)
class AugmentationTrial:
    """An augmentation on trial.

    Args:
        augmentation: As built; the clauses do not change it.
        make: Builds it again, under the current random stream.
        device: Where it runs.
        samples: Images that it gets at once in training.
        outputs: Shape of what `adjust` gets for one image.
        second_order: Whether the loss differentiates a gradient.
    """

    augmentation: Augmentation
    make: Callable[[], Augmentation]
    device: torch.device
    samples: int = 4
    outputs: tuple[int, ...] = (1,)
    second_order: bool = True

    def images(self) -> Tensor:
        """Images to augment, always the same."""
        spec = NetworkSpec(inputs=self.augmentation.spec.sample_shape, outputs=())
        return example_inputs(spec, min(6, self.samples), self.device)[0]

    def adjusted(self) -> Augmentation:
        """A copy that has been adjusted for such a network."""
        adjusted = copied(self.augmentation)
        for _ in range(ADJUSTMENTS):
            self.adjust(adjusted)
        return adjusted

    def adjust(self, augmentation: Augmentation) -> None:
        """Adjust it once, as by a network that knows the images very well, if it is ever adjusted."""
        if not augmentation.every:
            return
        outputs = torch.full((self.samples, *self.outputs), 3.0, device=self.device)
        with isolated_random(self.device, SEED), torch.no_grad(), method("adjust"):
            augmentation.adjust(outputs, MANY)


def check_augmentation(trial: AugmentationTrial) -> None:
    """Try all clauses.

    Raises:
        IncompatibleError: for the first that fails.
    """
    for clause in AUGMENTATION_CLAUSES:
        clause(trial)


# ── Clauses ───────────────────────────────────────────────────────────────────────────────────────────────


def has_no_parameters(trial: AugmentationTrial) -> None:
    """Nothing is trained."""
    for name, _ in trial.augmentation.named_parameters():
        raise IncompatibleError(f"its parameter {name} would never be trained; make it a buffer")
    check_device(trial.augmentation, trial.device)
    every = trial.augmentation.every
    if not isinstance(every, int) or every < 0:
        raise IncompatibleError(f"says every = {every!r}; say the steps between two adjustments, or 0 for never")


def keeps_images(trial: AugmentationTrial) -> None:
    """Before and after adjustments it returns finite float32 images of the shape that it is given, and leaves those
    alone."""
    for augmentation in (copied(trial.augmentation), trial.adjusted()):
        images = trial.images()
        given = images.clone()
        augmented = _augmented(augmentation, images)
        if not isinstance(augmented, Tensor):
            raise IncompatibleError(f"returns {type(augmented).__name__} where a tensor was expected")
        if augmented.shape != given.shape:
            raise IncompatibleError(f"returns shape {tuple(augmented.shape)} for {tuple(given.shape)}; keep the shape")
        if augmented.dtype != torch.float32:
            raise IncompatibleError(f"returns {augmented.dtype} where torch.float32 was expected; end with .float()")
        if not augmented.isfinite().all():
            raise IncompatibleError("returns NaN or infinity for images in [-1, 1]")
        if not torch.equal(images, given):
            raise IncompatibleError("changes the images in place; begin with a copy")


def is_differentiable(trial: AugmentationTrial) -> None:
    """Gradients pass through it, from each image to itself, and twice where the loss differentiates one."""
    for augmentation in (copied(trial.augmentation), trial.adjusted()):
        images = trial.images().requires_grad_()
        try:
            augmented = _augmented(augmentation, images)
            (own,) = torch.autograd.grad(augmented[0].sum(), images, retain_graph=True)
            total = augmented.square().sum()
            (gradient,) = torch.autograd.grad(total, images, create_graph=trial.second_order)
        except RuntimeError as error:
            raise IncompatibleError(
                f"cannot be differentiated, so a generator could not learn through it: {_line(error)}; compute with"
                " torch's functions, without detach or no_grad"
            ) from error
        if own[1:].any():
            raise IncompatibleError("its output for an image depends on the rest of its batch")
        if trial.second_order:
            _differentiate_again(gradient)


def _differentiate_again(gradient: Tensor) -> None:
    try:
        torch.autograd.backward(gradient.square().sum())
    except RuntimeError as error:
        raise IncompatibleError(
            f"cannot be differentiated twice, as the loss's gradient penalty does: {_line(error)}; take another"
            " augmentation, or a loss without such a penalty"
        ) from error


def draws_from_the_stream(trial: AugmentationTrial) -> None:
    """Its random numbers come from torch's global stream, so that a resumed run has the same ones."""
    augmentation = trial.adjusted()
    outputs = [_augmented(augmentation, trial.images()) for _ in range(2)]
    if not torch.equal(*outputs):
        raise IncompatibleError(
            "under one random stream, two calls differ: draw from torch's global stream, and change nothing in forward"
        )


def keeps_its_buffers(trial: AugmentationTrial) -> None:
    """Buffers are changed in place, by `adjust` alone."""
    augmentation = copied(trial.augmentation)
    before, places = copy.deepcopy(dict(attributes(augmentation))), _places(augmentation)
    state = _buffers(augmentation)
    _augmented(augmentation, trial.images())
    _check_unchanged(augmentation, state, "forward")
    trial.adjust(augmentation)
    kept = [name for name, each in attributes(augmentation) if name not in before or differ(before[name], each)]
    if kept:
        raise IncompatibleError(f"adjust changes {kept[0]}, which no checkpoint holds; keep it in a buffer")
    for name, place in _places(augmentation).items():
        if places.get(name) != place:
            raise IncompatibleError(f"adjust assigns a new tensor to {name}; change the buffer in place")


def reports_scalars(trial: AugmentationTrial) -> None:
    """It reports scalars under the same names before and after adjustments; reporting changes no buffer."""
    names = []
    for augmentation in (copied(trial.augmentation), trial.adjusted()):
        state = _buffers(augmentation)
        try:
            with isolated_random(trial.device, SEED), torch.no_grad(), method("report"):
                names.append(list(reported(augmentation, trial.device)))
        except ContractError as error:
            raise IncompatibleError(error.message) from error
        _check_unchanged(augmentation, state, "report")
    if set(names[0]) != set(names[1]):
        raise IncompatibleError(other_names(*names))


def is_restored(trial: AugmentationTrial) -> None:
    """A checkpoint restores a new build of it to the same augmentation."""
    twin = built_again(trial.make).to(trial.device)
    check_restart(trial.adjusted(), twin, lambda module: module(trial.images()), trial.device)


AUGMENTATION_CLAUSES = (
    has_no_parameters,
    keeps_images,
    is_differentiable,
    draws_from_the_stream,
    keeps_its_buffers,
    reports_scalars,
    is_restored,
)
"""In the order in which they are tried; each raises `IncompatibleError`, with the end of a sentence about the
augmentation."""


# ── What it reports ───────────────────────────────────────────────────────────────────────────────────────


def reported(augmentation: Augmentation, device: torch.device) -> dict[str, Tensor]:
    """An augmentation's report, checked to hold scalars on the device.

    Raises:
        ContractError: with the name at fault.
    """
    found = augmentation.report()
    if not isinstance(found, Mapping):
        raise ContractError(f"its report gives {type(found).__name__}; return a mapping of names to scalar tensors")
    for name, value in found.items():
        if fault := _fault_of(name, value, device):
            raise ContractError(f"reports {fault}")
    return dict(found)


def other_names(first: Iterable[str], now: Iterable[str]) -> str:
    """The fault of an augmentation whose report has changed its names, as the end of a sentence about it."""
    before, after = (", ".join(names) or "nothing" for names in (first, now))
    return f"at first reports {before}, and later {after}; report the same names always, and NaN for what is not known"


def _fault_of(name: object, value: object, device: torch.device) -> str | None:
    if not isinstance(name, str) or not name:
        return f"under the name {name!r}; a name must be a string"
    if not isinstance(value, Tensor):
        hint = "; leave it in a tensor, without item() or float()" if isinstance(value, float | int) else ""
        return f"{name} as {type(value).__name__}, and not as a tensor{hint}"
    if value.dim() or value.is_complex():
        return f"{name} of the shape {tuple(value.shape)} and type {value.dtype}; it must be a real scalar"
    if value.device.type != device.type:
        return f"{name} on {value.device}, and the run is on {device}; keep it there"
    return None


# ── Helpers ───────────────────────────────────────────────────────────────────────────────────────────────


def _augmented(augmentation: nn.Module, images: Tensor) -> Tensor:
    with isolated_random(images.device, SEED), method("forward"):
        augmented: Tensor = augmentation(images)
        return augmented


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def _check_unchanged(augmentation: Augmentation, state: Mapping[str, Tensor], doing: str) -> None:
    for name, value in augmentation.named_buffers():
        if not same_bits(value, state.get(name, value)):
            raise IncompatibleError(f"its {doing} changes the buffer {name}; change buffers in adjust alone")


def _places(module: nn.Module) -> dict[str, int]:
    return {name: buffer.data_ptr() for name, buffer in module.named_buffers()}


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
