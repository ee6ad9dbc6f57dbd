"""BigGAN's truncation: against the truncated normal distribution, in scores, and in exported programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, strategies as st
from torch import Tensor

import ganrun
from ganrun import DataSpec, Nets, Run
from ganrun.cli import main
from ganrun.testing import train
from ganrun_conditional.critics import ConditionalHingeGan, ConditionalPenalisedWassersteinGan
from ganrun_conditional.truncation import truncated

THRESHOLDS = (0.04, 0.5, 1.0, 2.0, 3.5)


def density(x: float) -> float:
    return math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def even_normals(count: int) -> Tensor:
    """The quantiles of N(0, 1) at the middles of equal shares, `(count,)` in float64."""
    return math.sqrt(2) * torch.erfinv((2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1)


# ── The map ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("t", THRESHOLDS)
def test_the_moments_are_those_of_the_truncated_normal(t: float) -> None:
    found, share = truncated(even_normals(100_000), t), math.erf(t / math.sqrt(2))
    variance = 1 - 2 * t * density(t) / share
    fourth = 3 - 2 * t * (t**2 + 3) * density(t) / share
    assert abs(found.mean()) < 1e-12
    assert found.square().mean().item() == pytest.approx(variance, rel=1e-3)
    assert found.pow(4).mean().item() == pytest.approx(fourth, rel=1e-2 if t > 3 else 1e-3)


@pytest.mark.parametrize("t", THRESHOLDS[1:])
def test_numbers_are_distributed_as_if_those_beyond_were_drawn_again(t: float) -> None:
    """The largest difference of the two empirical distributions, with a level of 1e-6 (Kolmogorov–Smirnov)."""
    count, stream = 40_000, torch.Generator().manual_seed(5)
    drawn = torch.randn(count * 4, generator=stream)
    kept = drawn[drawn.abs() <= t][:count].sort().values
    made = truncated(torch.randn(count, generator=stream), t).sort().values
    everywhere = torch.cat([kept, made])
    gaps = [torch.searchsorted(each, everywhere, right=True) / len(each) for each in (kept, made)]
    bound = math.sqrt(-math.log(1e-6 / 2) / 2 * (1 / len(kept) + 1 / count))
    assert (gaps[0] - gaps[1]).abs().max() < bound


@given(z=st.lists(st.floats(-8, 8), min_size=1, max_size=20), t=st.floats(1e-3, 7))
def test_the_map_is_the_formula(z: list[float], t: float) -> None:
    noise, share = torch.tensor(z, dtype=torch.float64), math.erf(t / math.sqrt(2))
    expected = math.sqrt(2) * torch.erfinv(torch.erf(noise / math.sqrt(2)) * share)
    inner = expected.abs() < 5  # beyond, a float64 next to 1 hardly tells them apart
    torch.testing.assert_close(truncated(noise, t)[inner], expected[inner], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("t", [1e-3, *THRESHOLDS, 6.0, 1e4, math.inf])
def test_every_number_stays_finite_in_order_and_within_the_threshold(dtype: torch.dtype, t: float) -> None:
    far = torch.tensor([-math.inf, torch.finfo(dtype).min, torch.finfo(dtype).max, math.inf], dtype=dtype)
    noise = torch.cat([torch.linspace(-13, 13, 2001).to(dtype), far]).sort().values.requires_grad_()
    found = truncated(noise, t)
    assert found.dtype == dtype and found.shape == noise.shape
    assert found.isfinite().all() and found.abs().max() <= torch.tensor(min(t, 7), dtype=torch.float64).to(dtype)
    assert (found.diff() >= -1e-6 * min(t, 7)).all(), "in order, but for rounding"
    assert torch.equal(truncated(-noise, t), -found)
    found.float().sum().backward()
    assert noise.grad is not None and noise.grad.isfinite().all() and (noise.grad >= 0).all()
    assert truncated(torch.zeros(1, dtype=dtype), t) == 0


def test_the_map_is_differentiable() -> None:
    noise = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()
    for t in THRESHOLDS:
        assert torch.autograd.gradcheck(lambda z, t=t: truncated(z, t), noise)


def test_a_high_threshold_leaves_numbers_as_they_are() -> None:
    noise = torch.linspace(-3, 3, 601)
    torch.testing.assert_close(truncated(noise, 1e3), noise, rtol=0, atol=1e-4)


# ── The losses ────────────────────────────────────────────────────────────────────────────────────────────

CRITICS = pytest.mark.parametrize("component", [ConditionalHingeGan, ConditionalPenalisedWassersteinGan])


@CRITICS
def test_only_the_noise_of_samples_is_truncated(component: type[ganrun.Loss]) -> None:
    loss = component(component.Settings(noise_size=4), DataSpec((4,), classes=3))  # type: ignore[call-arg]
    nets = Nets({"generator": lambda z, labels: z + 10 * labels[:, None]})  # type: ignore[dict-item]
    latents = loss.latents(50, torch.device("cpu"))
    noise, classes = latents[:, :4], latents[:, 4:].argmax(1)
    plain = loss.generate(nets, latents, loss.Sampling())
    assert torch.equal(plain, noise + 10 * classes[:, None]), "bit for bit, where nothing is truncated"
    bounded = loss.generate(nets, latents, component.Sampling(truncation=0.5))  # type: ignore[call-arg]
    assert torch.equal(bounded, truncated(noise, 0.5) + 10 * classes[:, None])
    in_training = loss.generated_inputs("discriminator", nets, ganrun.Batch(latents))
    assert torch.equal(in_training.inputs, plain)


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────


def recipe(**more: Any) -> dict[str, Any]:
    return {
        "train": {"steps": 1, "batch_size": 4, "device": "cpu", "repeat": {"discriminator": 1}},
        "data": {"use": "digits", "size": 8},
        "loss": {"use": "conditional-hinge", "noise_size": 6, "draw_classes": "as-data"},
        "generator": {"use": "mlp", "hidden": [8]},
        "discriminator": {"use": "mlp", "hidden": [8]},
        "metric": [{"use": "fid", "features": "classifier", "samples": 300}],
        **dict.fromkeys(("mlflow", "progress", "samples"), False),
        **more,
    }


def test_a_trained_run_is_scored_under_a_truncation(tmp_path: Path) -> None:
    run = train(recipe(), tmp_path / "run")
    (own,) = run.scores.values()
    assert "sampling.truncation" not in own.protocol
    done = CliRunner().invoke(main, ["eval", str(tmp_path / "run"), "--set", "sampling.truncation=0.5"])
    assert done.exit_code == 0, done.output
    (swept,) = run.directory.records()[-1].evaluation
    assert swept.protocol["sampling.truncation"] == 0.5 and swept.value != own.value
    assert swept.protocol == {**own.protocol, "sampling.truncation": 0.5}
    refused = CliRunner().invoke(main, ["eval", str(tmp_path / "run"), "--set", "sampling.truncation=0"])
    assert refused.exit_code == 2 and "[sampling] truncation = 0" in refused.output


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose recipe truncates."""
    return train(recipe(sampling={"truncation": 0.5}, metric=[]), tmp_path_factory.mktemp("bounded") / "run")


def test_exported_programs_truncate_and_draw_the_datas_classes(bounded: Run, tmp_path: Path) -> None:
    import onnxruntime

    from ganrun_export.exporting import Request, export_run

    folder = export_run(Request(str(bounded.directory.path), tmp_path / "out", onnx=True))
    latents = bounded.model.fixed_latents(7)
    samples = bounded.model.decode(latents)
    assert not torch.equal(samples, bounded.model.with_sampling(truncation=None).decode(latents))
    program = torch.export.load(folder / "generator.pt2").module()
    torch.testing.assert_close(program(latents), samples)
    (made,) = onnxruntime.InferenceSession(folder / "generator.onnx").run(None, {"latents": latents.numpy()})
    np.testing.assert_allclose(made, samples.numpy(), rtol=0, atol=1e-5)
    assert json.loads((folder / "config.json").read_text())["sampling"] == {"truncation": 0.5}
    assert "always make samples with truncation 0.5" in (folder / "README.md").read_text()
    counts = bounded.model.loss.memory.class_counts
    drawn = torch.export.load(folder / "latents.pt2").module()(torch.tensor(4000))[:, -10:].mean(0)
    assert (drawn - counts / counts.sum()).abs().max() < 0.025
    again = ganrun.load(folder, "cpu")
    assert torch.equal(again.decode(latents), samples) and torch.equal(again.loss.memory.class_counts, counts)
