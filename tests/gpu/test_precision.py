"""What a real GPU computes in f32, TF32 and bf16. Only a GPU can show it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from ganrun import Evaluation, Metric, Run, Score, exact_float32, hookimpl
from ganrun.base.arithmetic import float32_as
from ganrun.base.devices import has_bf16, has_tf32
from ganrun.commands.doctor import examine
from ganrun.discovery.registry import load_registry
from ganrun.inference.evaluation import measured
from ganrun.testing import build, train
from ganrun.training.measurements import Measurements
from ganrun.training.step import build_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

needs_tf32 = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_tf32(torch.device("cuda"))), reason="needs a GPU with TF32"
)

EXACT, ROUNDED = 1e-5, 1e-4
"""Relative errors: above those of float32 in any routine, Winograd's too, and below those of TF32."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).cuda().double()


def recurrent(inputs: Tensor) -> Tensor:
    torch.manual_seed(0)
    network = nn.LSTM(256, 256).cuda().to(inputs.dtype)
    output: Tensor = network(inputs)[0]
    return output


def gradient(images: Tensor) -> Tensor:
    """Of a convolution's weights, which cuDNN computes by another routine than its output."""
    weights = drawn(64, 64, 3, 3).to(images.dtype).requires_grad_()
    (found,) = torch.autograd.grad(conv2d(images, weights, padding=1).square().sum(), [weights])
    return found


IMAGES, ROWS = (8, 64, 32, 32), (512, 512)
OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "convolution": (lambda images: conv2d(images, drawn(64, 64, 3, 3).to(images.dtype), padding=1), IMAGES),
    "transposed": (lambda images: conv_transpose2d(images, drawn(64, 64, 4, 4).to(images.dtype), stride=2), IMAGES),
    "gradient": (gradient, IMAGES),
    "product": (lambda rows: rows @ rows.T, ROWS),
    "batch of products": (lambda rows: torch.bmm(rows, rows.mT), (4, *ROWS)),
    "distances": (lambda rows: torch.cdist(rows, rows.flip(0) + 1), ROWS),
    "recurrent": (recurrent, (16, 8, 256)),
}


@needs_tf32
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("before", ["highest", "high"])
def test_exact_is_exact_and_tf32_is_not(name: str, before: str) -> None:
    operation, shape = OPERATIONS[name]
    inputs = drawn(*shape)
    expected = operation(inputs)

    def error() -> float:
        return float((operation(inputs.float()).double() - expected).norm() / expected.norm())

    torch.set_float32_matmul_precision(before)
    try:
        with exact_float32():
            assert error() < EXACT
        with float32_as(tf32=True):
            rounded = error()
            with exact_float32():
                assert error() < EXACT
        assert torch.get_float32_matmul_precision() == before and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
    assert rounded > ROUNDED or name == "distances", "distances subtract squares, and may take another way"


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────────────


class Products(Metric):
    """Products of samples with real images."""

    def measure(self, evaluation: Evaluation) -> list[Score]:
        model, real = evaluation.model, evaluation.real(100).float().flatten(1)
        assert model is not None
        made = model.decode(model.fixed_latents(100)).flatten(1)
        return [Score("products", float((made @ real.T).square().mean().sqrt()), True, {})]


class Plugin:
    @hookimpl
    def ganrun_metrics(self) -> dict[str, type[Metric]]:
        return {"products": Products}


def recipe(precision: str, **settings: Any) -> dict[str, Any]:
    networks = {"use": "conv", "feature_maps": 32, "stages": 2}
    return {
        "train": {
            "steps": 6,
            "batch_size": 32,
            "device": "cuda",
            "log_every_steps": 1,
            "precision": precision,
            **settings,
        },
        "data": {"use": "synthetic"},
        "loss": {"use": "gan", "latent_size": 64},
        "generator": networks,
        "discriminator": networks,
        "optimizer": {"use": "sgd", "lr": 0.1},  # Adam's first steps have the gradients' signs alone
        "metric": [{"use": "products"}],
        **dict.fromkeys(("mlflow", "progress", "samples", "checkpoints"), False),
    }


def weights(run: Run) -> Tensor:
    return torch.cat([p.detach().flatten() for slot in run.state.slots.values() for p in slot.module.parameters()])


@pytest.mark.parametrize("precision", ["f32", "tf32", "bf16"])
def test_every_precision_trains(tmp_path: Path, precision: str) -> None:
    run = train(recipe(precision), tmp_path / "run", Plugin())
    assert run.step == 6 and weights(run).isfinite().all()
    device = run.model.device
    assert run.environment["precision"] == ("f32" if precision == "tf32" and not has_tf32(device) else precision)
    assert run.scores["products"].protocol["precision"] == "f32"


@needs_tf32
def test_tf32_changes_a_step_and_what_the_process_has_set_does_not(tmp_path: Path) -> None:
    found: dict[tuple[str, str], Tensor] = {}
    for precision in ("f32", "tf32"):
        for before in ("highest", "high"):
            run = build(recipe(precision), tmp_path / f"{precision}-{before}", Plugin())
            torch.set_float32_matmul_precision(before)
            try:
                build_step(run, Measurements())()
            finally:
                torch.set_float32_matmul_precision("highest")
            found[precision, before] = weights(run)
    changed = (found["f32", "high"] - found["tf32", "high"]).norm()
    for precision in ("f32", "tf32"):
        assert (found[precision, "high"] - found[precision, "highest"]).norm() < 0.2 * changed


@needs_tf32
def test_scores_and_samples_are_the_same_whatever_the_process_has_set(tmp_path: Path) -> None:
    run = train(recipe("tf32"), tmp_path / "run", Plugin())
    found = []
    for before in ("highest", "high"):
        torch.set_float32_matmul_precision(before)
        try:
            (score,) = measured(run.metrics, run.evaluation())
            found.append((run.model.sample(50), torch.tensor(score.value)))
        finally:
            torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0][1], torch.tensor(run.scores["products"].value), rtol=1e-6, atol=0)


def test_auto_is_bf16_where_the_gpu_has_it(tmp_path: Path) -> None:
    run = build(recipe("auto"), tmp_path / "run", Plugin())
    assert run.recipe.train.precision == ("bf16" if has_bf16(run.model.device) else "f32")


def test_doctor_says_what_the_gpu_has() -> None:
    (line,) = [line for line in examine(load_registry()) if "cuda:0:" in line]
    assert ("with bf16" in line) is has_bf16(torch.device("cuda", 0))
    assert ("with TF32" in line) is has_tf32(torch.device("cuda", 0))


@pytest.mark.skipif(find_spec("triton") is None, reason="torch.compile needs Triton on a GPU")
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_compiled_networks_train_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture, precision: str) -> None:
    found = []
    for compiled in (True, False):
        run = build(recipe(precision, compile=compiled), tmp_path / f"compile-{compiled}", Plugin())
        take_step = build_step(run, Measurements())
        for _ in range(6):
            take_step()
        found.append(weights(run))
    assert [record.getMessage() for record in caplog.records if record.name == "ganrun"] == []
    distance = (found[0] - found[1]).norm() / found[1].norm()
    assert distance < (1e-3 if precision == "f32" else 3e-2)
