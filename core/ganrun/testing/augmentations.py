"""The conformance of augmentations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ganrun.base.randomness import isolated_random
from ganrun.contracts.augmentations import Augmentation
from ganrun.contracts.specs import DataSpec, NetworkSpec
from ganrun.rehearsal.comparison import attributes, differ
from ganrun.rehearsal.networks import example_inputs
from ganrun.rehearsal.state import check_state
from ganrun.testing.clauses import asserted
from ganrun.testing.devices import on_accelerator
from ganrun.testing.losses import CPU, IMAGES


def check_augmentation(component: type[Augmentation], settings: Any, spec: DataSpec | None) -> None:
    """It is differentiable, random by torch's stream alone, and keeps its state in buffers."""
    facts = spec or IMAGES
    images, _ = example_inputs(NetworkSpec(inputs=facts.sample_shape, outputs=()), 6, CPU)
    module = component(settings, facts)
    parameters = [name for name, _ in module.named_parameters()]
    assert not parameters, f"its parameter {parameters[0]} would never be trained; make it a buffer"
    _check_images(module, images)
    _check_adjustment(module)
    with asserted():
        check_state(module, lambda: component(settings, facts), lambda each: each(images), CPU)
    with on_accelerator() as device:
        augmentation = component(settings, facts).to(device)
        augmentation(images.to(device))
        augmentation.adjust(torch.zeros(6, 1, device=device), 6)


def _check_images(module: Augmentation, images: Tensor) -> None:
    before, given = images.clone(), images.clone().requires_grad_()
    outputs, again = _seeded(module, given), _seeded(module, images)
    assert torch.equal(images, before), "it changes the images in place; begin with a copy"
    assert outputs.shape == images.shape, f"it returns shape {tuple(outputs.shape)} for {tuple(images.shape)}"
    assert outputs.dtype == torch.float32, f"it returns {outputs.dtype}, not torch.float32"
    assert outputs.isfinite().all(), "it returns NaN or infinity"
    assert torch.equal(outputs, again), "under one random stream, two calls differ: draw from torch's global stream"
    assert outputs.requires_grad, "it cannot be differentiated, so a generator could not learn through it"
    (gradient,) = torch.autograd.grad(outputs[0].sum(), given)
    assert not gradient[1:].any(), "what it makes of an image depends on the rest of its batch"


def _seeded(module: Augmentation, images: Tensor) -> Tensor:
    with isolated_random(CPU, 3):
        outputs: Tensor = module(images)
    return outputs


def _check_adjustment(module: Augmentation) -> None:
    before = copy.deepcopy(dict(attributes(module)))
    buffers = dict(module.named_buffers())
    places = {name: each.untyped_storage().data_ptr() for name, each in buffers.items()}
    module.adjust(torch.ones(6, 1), 6)
    changed = [name for name, each in attributes(module) if name not in before or differ(before[name], each)]
    assert not changed, f"adjust changes {changed[0]}, which no checkpoint holds; keep it in a buffer"
    for name, buffer in module.named_buffers():
        assert buffer is buffers.get(name) and buffer.untyped_storage().data_ptr() == places[name], (
            f"adjust assigns a new tensor to {name}; change the buffer in place"
        )
