"""The runner's guarantees to the author of a loss: freezing, accumulation, repeats, precision."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from ganrun import Batch, Loss, Nets, Optimizer, Phase, Slot, Terms, View, load_registry
from ganrun.base.errors import ContractError
from ganrun.contracts.specs import DataSpec
from ganrun.training.measurements import Measurements
from ganrun.training.phases import Update
from ganrun.training.state import SlotState
from ganrun.training.views import PRECISIONS

CPU = torch.device("cpu")


class Dense(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(fan_in, 16), nn.Tanh(), nn.Linear(16, fan_out))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(inputs)


def optimizer(use: str, **settings: float) -> Optimizer:
    registry = load_registry()
    cls, constant = registry.find("optimizer", use).cls, registry.find("schedule", "constant").cls
    return cls(cls.Settings(**settings), constant(constant.Settings()))


def slots(use: str = "sgd", **settings: float) -> dict[str, SlotState]:
    rule = optimizer(use, **settings)
    torch.manual_seed(0)
    modules = {"generator": Dense(4, 6), "discriminator": Dense(6, 1)}
    return {
        name: SlotState(name, module, None, rule.build(module.parameters(), CPU), rule)
        for name, module in modules.items()
    }


class Draws:
    """Batches of noise."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._stream = torch.Generator().manual_seed(3)

    def fetch(self, phase: Phase) -> None:
        return None

    def make(self, phase: Phase, rows: None) -> Batch:
        latents = torch.randn(self._size, 4, generator=self._stream)
        return Batch(latents, torch.randn(self._size, 6, generator=self._stream) if phase.reads_images else None)


def update(phase: Phase, states: dict[str, SlotState], *, size: int = 8, accumulate: int = 1, precision: str = "f32"):
    nets = Nets({name: View(slot.module, PRECISIONS[precision]) for name, slot in states.items()})
    measurements = Measurements()
    return Update(phase, states, nets, Draws(size), measurements, accumulate), measurements


def critic(nets: Nets, batch: Batch) -> Terms:
    samples = nets.generator(batch.latents)
    assert samples.grad_fn is None, "a frozen generator's samples must carry no graph"
    return Terms({"fake": nets.discriminator(samples).mean(), "real": -nets.discriminator(batch.images).mean()})


def generator(nets: Nets, batch: Batch) -> Terms:
    return Terms({"fake": -nets.discriminator(nets.generator(batch.latents)).pow(2).mean()})


def weights(slot: SlotState) -> Tensor:
    return torch.cat([p.detach().flatten() for p in slot.module.parameters()])


@pytest.mark.parametrize(("objective", "trains"), [(critic, "discriminator"), (generator, "generator")])
def test_a_frozen_slot_gets_no_gradient_and_does_not_move(objective, trains):
    states = slots(lr=0.1)
    frozen = states["generator" if trains == "discriminator" else "discriminator"]
    seen = []
    frozen.optimizer.step = lambda: seen.append("stepped")
    before, trained_before = weights(frozen), weights(states[trains])

    update(Phase("phase", objective, trains=(trains,)), states)[0].run(0)

    assert torch.equal(weights(frozen), before) and not seen
    assert all(p.grad is None for p in frozen.module.parameters())
    assert not torch.equal(weights(states[trains]), trained_before)


def test_gradients_of_one_phase_do_not_leak_into_the_next():
    states = slots(lr=0.1)
    for phase in (Phase("d", critic, trains=("discriminator",)), Phase("g", generator, trains=("generator",))):
        update(phase, states)[0].run(0)
        assert all(p.grad is None for slot in states.values() for p in slot.module.parameters())


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_equals_one_big_batch(accumulate):
    whole, parts = slots(lr=0.1), slots(lr=0.1)
    phase = Phase("d", critic, trains=("discriminator",))
    big, big_measured = update(phase, whole)
    small, small_measured = update(phase, parts, accumulate=accumulate)
    big.run(0)
    small.run(0)
    torch.testing.assert_close(weights(parts["discriminator"]), weights(whole["discriminator"]), rtol=0, atol=1e-7)
    assert small_measured.read() == pytest.approx(big_measured.read(), abs=1e-6)


def test_an_update_is_the_gradient_of_the_sum_of_the_terms():
    states = slots(lr=0.5)
    reference = slots(lr=0.5)["discriminator"]
    step, _ = update(Phase("d", critic, trains=("discriminator",)), states)
    stream = torch.Generator().manual_seed(3)
    latents, images = torch.randn(8, 4, generator=stream), torch.randn(8, 6, generator=stream)
    samples = slots()["generator"].module(latents).detach()
    loss = reference.module(samples).mean() - reference.module(images).mean()
    gradients = torch.autograd.grad(loss, list(reference.module.parameters()))
    expected = weights(reference) - 0.5 * torch.cat([g.flatten() for g in gradients])
    step.run(0)
    torch.testing.assert_close(weights(states["discriminator"]), expected, rtol=0, atol=1e-7)


def test_repeat_and_every_count_updates():
    calls = []

    def objective(nets: Nets, batch: Batch) -> Terms:
        calls.append(batch.latents.sum().item())
        return critic(nets, batch)

    states = slots("adam")
    step, _ = update(Phase("d", objective, trains=("discriminator",), repeat=5, every=4), states)
    for number in range(9):
        step.run(number)
    assert len(calls) == 5 * 3, "steps 0, 4 and 8, five times each"
    assert len(set(calls)) == len(calls), "each repeat has latents of its own"


def test_clipping_scales_the_whole_gradient_to_the_norm_and_reports_the_norm_before():
    clipped, free = slots(lr=1.0, clip_norm=1e-3), slots(lr=1.0)
    phase = Phase("d", critic, trains=("discriminator",))
    before = weights(clipped["discriminator"])
    with_clip, measured = update(phase, clipped)
    with_clip.run(0)
    update(phase, free)[0].run(0)
    moved, full = weights(clipped["discriminator"]) - before, weights(free["discriminator"]) - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(moved / moved.norm(), full / full.norm(), rtol=0, atol=1e-3)
    assert measured.read()["grad/discriminator"] == pytest.approx(full.norm().item(), rel=1e-5)


def penalised(nets: Nets, batch: Batch) -> Terms:
    """A gradient penalty: its square root and its double backward are what bf16 around an objective breaks."""
    images = batch.images.requires_grad_()
    (gradient,) = torch.autograd.grad(nets.discriminator(images).sum(), images, create_graph=True)
    assert gradient.dtype == torch.float32
    return Terms({"penalty": (gradient.square().sum(1).add(1e-12).sqrt() - 1).square().mean()})


def test_bf16_stays_inside_the_networks_so_that_a_double_backward_works():
    exact, rough = slots(lr=0.1), slots(lr=0.1)
    phase = Phase("d", penalised, trains=("discriminator",), second_order=True)
    start = weights(exact["discriminator"])
    update(phase, exact)[0].run(0)
    update(phase, rough, precision="bf16")[0].run(0)
    step, step_in_bf16 = weights(exact["discriminator"]) - start, weights(rough["discriminator"]) - start
    assert 0 < (step - step_in_bf16).norm() < 0.05 * step.norm(), "bf16 was used, and agrees to its precision"
    assert all(p.dtype == torch.float32 for p in rough["discriminator"].parameters)


def test_an_objective_may_not_use_images_that_its_phase_does_not_read():
    states = slots()
    step, _ = update(Phase("d", critic, trains=("discriminator",), reads_images=False), states)
    with pytest.raises(ContractError, match="reads_images=False"):
        step.run(0)


@pytest.mark.parametrize(
    ("terms", "message"),
    [(Terms({}), "nothing to minimise"), (Terms({"a": torch.ones(3, requires_grad=True)}), "scalar")],
)
def test_an_objective_that_breaks_its_contract_is_reported(terms, message):
    states = slots()
    step, _ = update(Phase("d", lambda nets, batch: terms, trains=("discriminator",)), states)
    with pytest.raises((ContractError, RuntimeError), match=message):
        step.run(0)


def test_a_phase_that_trains_an_unknown_slot_is_refused():
    with pytest.raises(ContractError, match='phase "d" trains'):
        update(Phase("d", critic, trains=("critic",)), slots())


class Minimal(Loss):
    """A loss with one slot."""

    slots = {"generator": Slot("generator")}

    def phases(self) -> Sequence[Phase]:
        return (Phase("all", generator, trains=("generator",)),)


def test_the_default_latents_are_standard_normal():
    class Sized(Minimal):
        latent_size = 3

    latents = Sized(None, DataSpec((1,))).latents(20_000, CPU)
    assert latents.shape == (20_000, 3)
    torch.testing.assert_close(latents.mean(0), torch.zeros(3), rtol=0, atol=0.03)
    torch.testing.assert_close(latents.T.cov(), torch.eye(3), rtol=0, atol=0.04)


def test_weights_are_projected_after_each_update_of_the_trained_networks_only():
    states = slots(lr=1.0)

    def clip(module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.clamp_(-0.01, 0.01)

    before = weights(states["generator"])
    update(Phase("d", critic, trains=("discriminator",), repeat=2, project=clip), states)[0].run(0)
    assert weights(states["discriminator"]).abs().max() == pytest.approx(0.01)
    assert torch.equal(weights(states["generator"]), before)


def test_a_batch_tells_the_step_to_each_of_its_parts():
    batch = Batch(torch.zeros(4, 2), steps_done=torch.tensor(7.0))
    assert [part.step.item() for part in batch.chunks(2)] == [7.0, 7.0]
