"""Flow matching: solvers by their order, the loss where the best velocity is known, networks against torch composed
another way, and guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm

from ganrun import Batch, DataSpec, IncompatibleError, Nets, NetworkSpec
from ganrun.testing import assert_conforms
from ganrun_flow.layers import SelfAttention, sinusoids_of
from ganrun_flow.losses import ClassConditionalFlowMatching, FlowMatching
from ganrun_flow.networks import TimeMlp, TimeUNet
from ganrun_flow.solvers import Solver, integrate

POINT = DataSpec((1,))
DIGITS = DataSpec((1, 8, 8), classes=10)
TIME = {"time": ()}
MEAN, SIGMA = 0.7, 0.4
"""Of the data whose best velocity is known."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow(spec: DataSpec = POINT) -> FlowMatching:
    return FlowMatching(FlowMatching.Settings(), spec)


def with_classes(spec: DataSpec = DIGITS, **settings: Any) -> ClassConditionalFlowMatching:
    return ClassConditionalFlowMatching(ClassConditionalFlowMatching.Settings(**settings), spec)


# ── The solvers ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_halving_the_step_divides_the_error_by_two_to_the_order(solver: Solver, order: int) -> None:
    """On dx/dt = x cos t, whose solution is x₀ exp(sin t)."""
    start = torch.tensor([0.5, -2.0], dtype=torch.float64)

    def error(steps: int) -> float:
        found = integrate(lambda x, t: x * math.cos(t), start, (0.0, 2.0), steps, solver)
        return float((found - start * math.exp(math.sin(2.0))).abs().max())

    orders = [math.log2(error(steps) / error(2 * steps)) for steps in (64, 128, 256)]
    assert orders == pytest.approx([order] * 3, abs=0.1)


@pytest.mark.parametrize(("solver", "area"), [("euler", 0.0), ("midpoint", 1 / 4), ("heun", 1 / 2)])
def test_one_step_is_the_quadrature_of_its_name(solver: Solver, area: float) -> None:
    """Of t² over [0, 1]: the left end, the middle, the trapezium."""
    found = integrate(lambda x, t: torch.full_like(x, t**2), torch.zeros(3, dtype=torch.float64), (0.0, 1.0), 1, solver)
    assert found.tolist() == [area] * 3


# ── The loss, where the best velocity is known ────────────────────────────────────────────────────────────


def best_velocity(states: Tensor, time: Tensor) -> Tensor:
    """E[x₁ − x₀ | x_t] for x₁ ~ N(MEAN, SIGMA²) and x₀ ~ N(0, 1), which are jointly Gaussian with x_t."""
    t = time[:, None]
    covariance, variance = t * SIGMA**2 - (1 - t), (1 - t) ** 2 + t**2 * SIGMA**2
    return MEAN + covariance / variance * (states - t * MEAN)


def test_the_best_velocity_of_gaussian_data_carries_noise_to_the_data_and_back() -> None:
    """Its flow is x₀ → MEAN + SIGMA x₀."""
    loss, nets, latents = flow(), Nets({"velocity": best_velocity}), noise(6, 1)
    samples = loss.generate(nets, latents, loss.Sampling(steps=200))
    torch.testing.assert_close(samples, MEAN + SIGMA * latents, rtol=0, atol=1e-4)
    back = loss.readings()["encodings"](nets, Batch(latents, MEAN + SIGMA * latents))
    torch.testing.assert_close(back, latents, rtol=0, atol=2e-2)


def test_no_velocity_has_a_lower_objective_than_the_best_one_and_its_value_is_known() -> None:
    """1 + σ² − ∫ cov²/var dt, the mean of the conditional variance; and the objective is flat there in all directions
    that are tried."""
    count = 400_000
    batch = Batch(noise(count, 1), MEAN + SIGMA * noise(count, 1, seed=1))
    shifts = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def velocity(states: Tensor, time: Tensor) -> Tensor:
        t = time[:, None]
        away = torch.cat([torch.ones_like(t), t, states, t * states.square()], 1)
        return best_velocity(states, time) + (away * shifts).sum(1, keepdim=True)

    torch.manual_seed(3)
    error = flow().objective(Nets({"velocity": velocity}), batch).minimise["error"]
    times = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    explained = (times * SIGMA**2 - (1 - times)) ** 2 / ((1 - times) ** 2 + times**2 * SIGMA**2)
    assert error.item() == pytest.approx(1 + SIGMA**2 - explained.mean().item(), rel=0.01)
    (slope,) = torch.autograd.grad(error, shifts)
    assert slope.abs().max() < 0.02, "by chance alone"


def test_the_objective_is_that_of_a_loop_written_by_hand() -> None:
    loss, images, latents = flow(DataSpec((2, 3, 4))), noise(5, 2, 3, 4).tanh(), noise(5, 24, seed=1)
    torch.manual_seed(7)
    times = torch.rand(5, dtype=torch.float64).tolist()
    errors = []
    for image, latent, t in zip(images, latents, times, strict=True):
        start = latent.view(2, 3, 4)
        guess = 2 * ((1 - t) * start + t * image) + t
        errors.append((guess - (image - start)).square().mean().item())
    torch.manual_seed(7)
    nets = Nets({"velocity": lambda x, time: 2 * x + time[:, None, None, None]})
    terms = loss.objective(nets, Batch(latents, images))
    assert terms.minimise["error"].item() == pytest.approx(sum(errors) / 5, rel=1e-12)


def test_images_are_clipped_and_points_are_not() -> None:
    far = Nets({"velocity": lambda x, time: torch.full_like(x, 9.0)})
    for spec, reach in ((DataSpec((2, 3, 4)), 1.0), (DataSpec((3,)), 9.0)):
        loss = flow(spec)
        samples = loss.generate(far, torch.zeros(2, loss.latent_size), loss.Sampling(steps=3, solver="euler"))
        assert samples.max().item() == pytest.approx(reach)


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────


def told(x: Tensor, time: Tensor, classes: Tensor) -> Tensor:
    """A velocity that is 10 + c for class c, and 1 without a class."""
    named = (classes * torch.arange(10.0, 10.0 + classes.shape[1])).sum(1)
    return torch.where(classes.sum(1) > 0, named, 1.0)[:, None].expand_as(x)


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 1.0), (1.0, 13.0), (2.5, 31.0)])
def test_guidance_goes_from_no_class_through_the_class(guidance: float, expected: float) -> None:
    calls: list[int] = []

    def counted(x: Tensor, **conditions: Tensor) -> Tensor:
        calls.append(len(x))
        return told(x, **conditions)

    loss = with_classes(DataSpec((2,), classes=4))
    latents = torch.tensor([[0.5, -0.5, 0, 0, 0, 1]])
    sampling = loss.Sampling(steps=4, solver="euler", guidance=guidance)
    samples = loss.generate(Nets({"velocity": counted}), latents, sampling)
    torch.testing.assert_close(samples, latents[:, :2] + expected)
    assert len(calls) == (4 if guidance == 1 else 8)


def test_classes_of_real_images_are_told_but_for_the_share_that_is_left_out() -> None:
    count, seen = 4000, []

    def velocity(x: Tensor, time: Tensor, classes: Tensor) -> Tensor:
        seen.append(classes)
        return x

    loss = with_classes(DataSpec((2,), classes=4), drop_classes=0.25)
    labels = torch.arange(count) % 4
    torch.manual_seed(0)
    batch = Batch(loss.latents(count, torch.device("cpu")), torch.zeros(count, 2), labels)
    assert (batch.latents[:, 2:].argmax(1) != labels).any(), "the classes in latents are others"
    loss.objective(Nets({"velocity": velocity}), batch)
    (classes,) = seen
    left_out = classes.sum(1) == 0
    assert left_out.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(classes[~left_out], torch.eye(4)[labels[~left_out]])


def test_guidance_by_a_velocity_that_is_not_trained_is_refused() -> None:
    loss = with_classes(DataSpec((2,), classes=4), drop_classes=0.0)
    latents = loss.latents(2, torch.device("cpu"))
    loss.generate(Nets({"velocity": told}), latents, loss.Sampling())
    with pytest.raises(IncompatibleError, match="which drop_classes = 0 leaves untrained; train with drop_classes"):
        loss.generate(Nets({"velocity": told}), latents, loss.Sampling(guidance=2.0))


def test_data_without_classes_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="needs data with classes; take flow-matching for data without"):
        with_classes(DataSpec((1, 8, 8)))


# ── The networks ──────────────────────────────────────────────────────────────────────────────────────────


def shaken(network: nn.Module) -> Any:
    """In float64, away from where it starts, so that every layer counts."""
    for weight in network.double().parameters():
        weight.data.add_(0.3 * noise(*weight.shape))
    return network


def unet(spec: NetworkSpec | None = None, **settings: Any) -> TimeUNet:
    small = {"widths": (8, 12), "attention": 0, **settings}
    return TimeUNet(TimeUNet.Settings(**small), spec or NetworkSpec((1, 8, 8), (1, 8, 8), TIME))


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def embedded(weights: Callable[[], Tensor], time: Tensor, count: int) -> Tensor:
    """The vectors of the U-Net's `embedding`, from its weights in order."""
    rates = [10_000 ** (-k / (count // 2 - 1)) for k in range(count // 2)]
    waves = [[f(1000 * t * rate) for f in (math.cos, math.sin) for rate in rates] for t in time.tolist()]
    hidden = silu(torch.tensor(waves, dtype=torch.float64) @ weights().T + weights())
    return silu(hidden @ weights().T + weights())


def block_by_hand(x: Tensor, e: Tensor, weights: Callable[[], Tensor], width: int) -> Tensor:
    """A residual block, from its weights in order."""
    before, after = (weights(), weights()), (weights(), weights())
    inner = conv2d(silu(group_norm(x, math.gcd(32, x.shape[1] // 4), *before)), weights(), weights(), padding=1)
    scale, shift = (e @ weights().T + weights())[:, :, None, None].split(width, 1)
    inner = silu(group_norm(inner, math.gcd(32, width // 4), *after) * (1 + scale) + shift)
    inner = conv2d(inner, weights(), weights(), padding=1)
    return inner + (x if x.shape[1] == width else conv2d(x, weights(), weights()))


def test_the_unet_goes_down_and_up_with_skips() -> None:
    """Widths 8 and 12, 2 blocks at each: by hand, from the weights in order."""
    spec = NetworkSpec((3, 8, 8), (3, 8, 8), TIME)
    network, images, time = shaken(unet(spec, blocks=2)), noise(3, 3, 8, 8), torch.tensor([0.0, 0.3, 1.0])
    order = ("embedding", "first", "down", "middle", "up", "last")
    names = sorted(dict(network.named_parameters()), key=lambda name: order.index(name.partition(".")[0]))
    stack = [dict(network.named_parameters())[name] for name in names]
    weights = iter(stack).__next__
    e = embedded(weights, time, 16)
    x = conv2d(images, weights(), weights(), padding=1)
    a = block_by_hand(x, e, weights, 8)
    b = block_by_hand(a, e, weights, 8)
    c = block_by_hand(b.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)), e, weights, 12)
    d = block_by_hand(c, e, weights, 12)
    x = block_by_hand(block_by_hand(d, e, weights, 12), e, weights, 12)
    x = block_by_hand(torch.cat([x, d], 1), e, weights, 12)
    x = block_by_hand(torch.cat([x, c], 1), e, weights, 12)
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = block_by_hand(torch.cat([x, b], 1), e, weights, 8)
    x = block_by_hand(torch.cat([x, a], 1), e, weights, 8)
    x = silu(group_norm(x, 2, weights(), weights()))
    expected = conv2d(x, weights(), weights(), padding=1)
    assert next(weights.__self__, None) is None, "all weights are used"
    torch.testing.assert_close(network(images, time.double()).double(), expected, rtol=1e-5, atol=1e-5)


def test_self_attention_is_a_softmax_over_all_places() -> None:
    layer, maps = shaken(SelfAttention(8)), noise(2, 8, 3, 5)
    normed = group_norm(maps, 2, layer.norm.weight, layer.norm.bias)
    q, k, v = conv2d(normed, layer.inputs.weight, layer.inputs.bias).chunk(3, 1)
    shares = torch.einsum("nchw,ncij->nhwij", q, k) / math.sqrt(8)
    shares = shares.exp() / shares.exp().sum((3, 4), keepdim=True)
    found = torch.einsum("nhwij,ncij->nchw", shares, v)
    torch.testing.assert_close(layer(maps), maps + conv2d(found, layer.output.weight, layer.output.bias))


def test_attention_is_at_sizes_up_to_the_setting() -> None:
    spec = NetworkSpec((1, 16, 16), (1, 16, 16), TIME)
    for limit, count in ((0, 0), (7, 3), (8, 5), (16, 7)):
        network = unet(spec, widths=(4, 4, 4), attention=limit)
        assert sum(isinstance(each, SelfAttention) for each in network.modules()) == count


def test_networks_start_at_0_and_blocks_at_the_identity() -> None:
    network = unet(attention=8, widths=(8, 8))
    assert not network(torch.randn(2, 1, 8, 8), torch.rand(2)).any()
    maps, vectors = torch.randn(2, 8, 4, 4), torch.randn(2, 32)
    assert torch.equal(network.middle(maps, vectors)[-1], maps)
    points = TimeMlp(TimeMlp.Settings(hidden=(5,)), NetworkSpec((2,), (2,), TIME))
    assert not points(torch.randn(3, 2), torch.rand(3)).any()


def test_the_dense_network_adds_time_and_class_to_its_first_layer() -> None:
    network = shaken(TimeMlp(TimeMlp.Settings(hidden=(6, 5)), NetworkSpec((2, 1), (2, 1), {**TIME, "classes": (3,)})))
    points, time, classes = noise(4, 2, 1), torch.tensor([0.0, 0.2, 0.7, 1.0]).double(), torch.eye(4, 3).double()
    of_time, of_first = network.embedding, network.first
    vectors = of_time.first(sinusoids_of(1000 * time, 64)) + classes @ of_time.classes.weight.T
    x = silu(points.flatten(1) @ of_first.weight.T + of_first.bias + silu(of_time.second(silu(vectors))))
    expected = network.last(silu(network.further[0](x))).view(4, 2, 1)
    torch.testing.assert_close(network(points, time, classes).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 9, 8), {}, "with 2 widths it takes sizes divisible by 2, not 9×8; take fewer widths, or another size"),
        (
            (1, 28, 28),
            {"widths": (4, 4, 4, 4)},
            "with 4 widths it takes sizes divisible by 8, not 28×28",
        ),
        ((2,), {}, "works on images"),
    ],
)
def test_what_does_not_fit_the_unet_is_refused(shape: tuple[int, ...], settings: Any, message: str) -> None:
    with pytest.raises(IncompatibleError) as error:
        unet(NetworkSpec(shape, shape, TIME), **settings)
    assert error.value.message.startswith(message)


def test_ports_without_a_time_or_of_two_sizes_are_refused() -> None:
    with pytest.raises(IncompatibleError, match="takes the time of its input, and this loss has none"):
        unet(NetworkSpec((1, 8, 8), (1, 8, 8)))
    with pytest.raises(IncompatibleError, match="makes images of the size of its input, 8×8"):
        unet(NetworkSpec((1, 8, 8), (1, 16, 16), TIME))


# ── Contracts ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_components_keep_their_contracts() -> None:
    assert_conforms("loss", FlowMatching, spec=DataSpec((1, 8, 8)))
    assert_conforms("loss", ClassConditionalFlowMatching, spec=DIGITS)
    spec = NetworkSpec((1, 8, 8), (1, 8, 8), {**TIME, "classes": (10,)})
    assert_conforms("network", TimeUNet, {"widths": [4, 8], "dropout": 0.1}, spec)
    assert_conforms("network", TimeMlp, {"hidden": [8, 8]}, spec)
