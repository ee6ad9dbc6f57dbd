"""In no step does the host wait for the device: real steps of every family on torch's meta device, without values.

Torch's fake tensors of CUDA cannot be differentiated without a GPU; those of the meta device can. What an optimiser
does on CUDA is tried on fake ones.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import FAMILIES, MLP, Family
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

import ganrun
from ganrun import Batch, Nets, Terms, hookimpl, load_registry
from ganrun.contracts.losses import Loss
from ganrun.contracts.networks import Network
from ganrun.inference.model import Model
from ganrun.recipe.recipe import Recipe
from ganrun.rundir.directory import RunDirectory
from ganrun.testing.devices import META, watched
from ganrun.training import slots as slots_room
from ganrun.training.assembly import Assembly
from ganrun.training.augmenting import build_augmentations
from ganrun.training.beginning import Beginning
from ganrun.training.builder import build_events
from ganrun.training.components import build_loss, build_network, build_optimizer, framed_spec, prepared_data
from ganrun.training.measurements import Measurements
from ganrun.training.phasing import Penalties, run_phases
from ganrun.training.preparing import prepare_loss, training_split
from ganrun.training.run import Run
from ganrun.training.state import SlotState, TrainingState
from ganrun.training.step import build_step

ONCE = {"discriminator": 1}
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

CASES: dict[str, dict[str, Any]] = {
    **{name: {"steps": 2, "repeat": ONCE if "discriminator" in FAMILIES[name].tables else {}} for name in FAMILIES},
    "gan, clipped gradients": {"accumulate": 2},
    "wgan-gp": {"precision": "bf16", "accumulate": 2, "steps": 2},
    "progressive": {},
    "ada": {},  # adjusted after four steps
    "stylegan2, ada": {"precision": "bf16"},
}
"""Each family with settings of `[train]`; logging, evaluation and the rest are on their own intervals."""


# ── A run without values ──────────────────────────────────────────────────────────────────────────────────


def built(recipe: Recipe, folder: Path) -> Run:
    """The run of a recipe on the meta device, without the trials of its components, which read values."""
    data = prepared_data(recipe)
    spec, loss = build_loss(recipe, data)
    training = training_split(recipe, data, loss)
    prepare_loss(recipe, loss, training)
    loss.memory.to(META)
    penalties, state = state_of(recipe, loss)
    beginning = Beginning(recipe, loss, penalties.components(), state, META)
    beginning.at(0)
    model = Model(spec, loss, {name: slot.shown for name, slot in state.slots.items()}, META, recipe.train.seed)
    phases = run_phases(recipe, loss, penalties)
    parts = Assembly(recipe, data, training, model, state, phases, beginning, (), {})
    return Run(parts, RunDirectory(folder / "run"), build_events(recipe), resumed=False)


def state_of(recipe: Recipe, loss: Loss) -> tuple[Penalties, TrainingState]:
    networks = {name: network_of(recipe, loss, name) for name in loss.slots}
    augmentations = {name: each.to(META) for name, each in build_augmentations(recipe, loss, CPU).items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots_room, "build_augmentations", lambda *_: augmentations)
        slots = slots_room.build_slots(recipe, loss, networks, META)
    penalties = Penalties(recipe, loss, networks, META)
    return penalties, TrainingState(slots, loss.memory, penalties.memories())


def network_of(recipe: Recipe, loss: Loss, name: str) -> Network:
    spec, train = framed_spec(recipe, loss, name), recipe.train
    network = build_network(recipe.networks[name], spec, CPU, train.seed, train.steps)
    network.prepare(CPU)
    return network.to(META).requires_grad_(not loss.slots[name].frozen)


class Uploads(TorchFunctionMode):  # type: ignore[no-untyped-call]
    """Notes where numbers of the host go to the device, for which torch waits until all work before is done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        of_numbers = func in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
        source = args[1] if func is Tensor.copy_ else args[0] if func is Tensor.to else None
        if (of_numbers or (source is not None and source.device == CPU)) and found.device == META:
            self.lines.append("{0.filename}:{0.lineno}".format(traceback.extract_stack()[-2]))
        return found


def steps_taken(run: Run) -> list[str]:
    """Takes all steps of a run; where numbers were uploaded in them."""
    take_step = build_step(run, Measurements())
    with watched(), Uploads() as uploads:
        while not run.done:
            take_step()
    return uploads.lines


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CASES)
def test_the_host_never_waits_in_a_step(name: str, tmp_path: Path) -> None:
    """But for the order of the data, which goes to the device once in an epoch."""
    uploads = steps_taken(built(FAMILIES[name].loaded(tmp_path, **CASES[name]), tmp_path))
    assert not [line for line in uploads if "training/batches.py" not in line]
    assert len(uploads) <= 4


class Waiting(ganrun.AdversarialLoss):
    """Waits for the device in its second phase, in one of several ways."""

    class Settings(ganrun.Settings):
        latent_size: int = 4
        """Length of a latent vector."""
        by: str = "item"
        """What it does."""

    def discriminator(self, nets: Nets, batch: Batch) -> Terms:
        return Terms({"real": nets.discriminator(batch.images).square().mean()})

    def generator(self, nets: Nets, batch: Batch) -> Terms:
        fake, by = nets.discriminator(nets.generator(batch.latents)), self.settings.by
        factor = torch.tensor(2.0, device=fake.device) if by == "upload" else fake.mean().item() if by == "item" else 1
        return Terms({"fake": (fake[fake > 0] if by == "mask" else fake).mean() * factor})


class Plugin:
    @hookimpl
    def ganrun_losses(self) -> dict[str, type[Loss]]:
        return {"waiting": Waiting}


def waiting(by: str, folder: Path) -> Run:
    family = Family({"loss": {"use": "waiting", "by": by}, **MLP}, (Plugin(),))
    return built(family.loaded(folder, steps=1), folder)


@pytest.mark.parametrize("by", ["item", "mask"])
def test_a_read_in_a_step_is_found(by: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ganrun.GanrunError)) as found:
        steps_taken(waiting(by, tmp_path))
    assert "reads values" in str(found.value)


def test_an_upload_in_a_step_is_found(tmp_path: Path) -> None:
    (line,) = [line for line in steps_taken(waiting("upload", tmp_path)) if "batches.py" not in line]
    assert "test_host_reads.py" in line


# Torch works out no shapes for its fused SGD.
@pytest.mark.parametrize("use", [each.name for each in load_registry().components("optimizer") if each.name != "sgd"])
def test_no_optimiser_reads_from_the_device(use: str, tmp_path: Path) -> None:
    optimizer = {"use": use, "lr": 0.1, "clip_norm": 1.0, "schedule": "linear"}
    family = Family({**FAMILIES["gan"].tables, "optimizer": optimizer})
    rule = build_optimizer(family.loaded(tmp_path).optimizers["generator"])
    with FakeTensorMode():  # refuses to give values
        weights = nn.ParameterList([torch.empty(3, 4, device=CUDA), torch.empty(2, device=CUDA)])
        slot = SlotState("generator", weights, None, rule.build(weights, CUDA), rule)
        for step in range(2):
            for weight in weights:
                weight.grad = torch.empty_like(weight)
            slot.set_rates(step, 4)
            assert slot.apply_gradients().device == CUDA
