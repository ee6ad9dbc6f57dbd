"""The stand-in for a CUDA graph does what a CUDA graph does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ganrun.testing import RecordedGraph


def captured(work) -> RecordedGraph:
    graph = RecordedGraph()
    graph.capture(work)
    return graph


def test_a_capture_changes_nothing_and_a_replay_works_on_the_same_tensors() -> None:
    value, other = torch.ones(3), torch.zeros(3)
    before = torch.get_rng_state()

    def work() -> None:
        value.mul_(2)
        other[1:].add_(value[:2] + torch.rand(2))
        value.view(3, 1).t()[0, 1:].neg_()

    graph = captured(work)
    assert value.tolist() == [1, 1, 1] and other.tolist() == [0, 0, 0] and torch.equal(before, torch.get_rng_state())
    expected = value.clone(), other.clone()
    for seed in (1, 2):
        torch.manual_seed(seed)
        graph.replay()
        torch.manual_seed(seed)
        value_now, other_now = value.clone(), other.clone()
        value.copy_(expected[0]), other.copy_(expected[1])
        work()
        assert torch.equal(value, value_now) and torch.equal(other, other_now)
        expected = value.clone(), other.clone()


def test_numbers_of_the_host_stay_as_they_were() -> None:
    total, host = torch.zeros(()), {"rate": 1.0}
    graph = captured(lambda: total.add_(host["rate"] * torch.tensor(2.0)))
    host["rate"] = 100.0
    graph.replay()
    graph.replay()
    assert total == 4


def test_a_view_of_a_result_stays_one() -> None:
    out, source = torch.zeros(4), torch.arange(4.0)

    def work() -> None:
        doubled = source * 2
        doubled.view(2, 2)[1].add_(10)
        out.copy_(doubled)

    graph = captured(work)
    source.add_(1)
    graph.replay()
    assert out.tolist() == [2, 4, 16, 18]


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_with_a_gradient_penalty_and_batch_norm_is_the_same_as_without_it(fused: bool) -> None:
    def trained(graph: RecordedGraph | None) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(net.parameters(), fused=fused, lr=0.1) if fused else None
        inputs = torch.randn(5, 3)

        def work() -> None:
            images = inputs + torch.randn(5, 3)
            images.requires_grad_()
            (slope,) = torch.autograd.grad(net(images).sum(), images, create_graph=True)
            for _ in range(2):
                (net(images).square().mean() + slope.square().sum()).backward(retain_graph=True)
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            if optimizer is not None:
                optimizer.step()
            else:
                with torch.no_grad():
                    torch._foreach_sub_(list(net.parameters()), [0.1 * each.grad for each in net.parameters()])
            for each in net.parameters():
                each.grad = None

        work()
        if graph is not None:
            graph.capture(work)
        for seed in range(3):
            torch.manual_seed(seed)
            inputs.copy_(torch.randn(5, 3))
            work() if graph is None else graph.replay()
        return [each.detach().clone() for each in (*net.parameters(), *net.buffers())]

    for mine, theirs in zip(trained(RecordedGraph()), trained(None), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "read",
    [
        lambda value: value.sum().item(),
        lambda value: float(value[0]),
        lambda value: 1 if value[0] > 0 else 2,
        lambda value: value[value > 0],
        lambda value: value.nonzero(),
        lambda value: torch.equal(value, value),
    ],
)
def test_what_the_host_reads_is_refused_and_nothing_has_changed(read) -> None:
    value = torch.ones(3)

    def work() -> None:
        value.add_(1)
        read(value)

    with pytest.raises(RuntimeError, match="the host reads a value"):
        captured(work)
    assert value.tolist() == [1, 1, 1]
