"""How good samples are after a fixed time: a recipe against a plain hand-written DCGAN, on Fashion-MNIST.

python tests/benchmarks/time_to_quality.py [--seconds 300] [--seeds 0,1,2] [RECIPE.toml …]

The hand-written loop is what a careful researcher writes in an afternoon: DCGAN's networks at 32×32 with 48 feature
maps, batches of 64, the non-saturating loss, fused Adam at 2e-4, an average of the generator's weights. Data lies in
memory on both sides. A recipe trains for as many steps as fit into the same time: its speed is measured first, and the
real time is printed. Both are scored by the same classifier, on 10,000 samples of the averaged weights.
"""

from __future__ import annotations

import argparse
import copy
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ganrun.base.devices import device_text
from ganrun.contracts.data import Data
from ganrun.contracts.settings import parse_settings
from ganrun.discovery.registry import load_registry
from ganrun.inference.evaluation import measured
from ganrun.recipe.reader import load_recipe
from ganrun.recipe.shipped import find_recipe
from ganrun.testing import evaluation_on
from ganrun.training.builder import build_run
from ganrun.training.components import prepared_data
from ganrun.training.measurements import Measurements
from ganrun.training.runner import execute
from ganrun.training.step import build_step

SAMPLES = 10_000
CPU = torch.device("cpu")
TRIAL_STEPS = 40


def main() -> None:
    options = _options()
    registry = load_registry()
    data = prepared_data(load_recipe(find_recipe(Path("dcgan_fashion_mnist.toml")), registry))
    print(f"{device_text(CPU)}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.platform()}")
    print(f"{'what':<34}{'seed':>5}{'steps':>8}{'seconds':>9}{'fid_classifier':>16}{'inception_score':>17}", flush=True)
    for seed in map(int, options.seeds.split(",")):
        if not options.skip_hand:
            draw, steps, seconds = hand_written(data, options.seconds, seed)
            _report("hand-written DCGAN, 48 maps", seed, steps, seconds, scores(registry, data, draw, seed))
        for path in options.recipes:
            steps, seconds, values = recipe(registry, path, options.seconds, seed)
            _report(path.name, seed, steps, seconds, values)


def hand_written(data: Data, seconds: float, seed: int) -> tuple[Callable[[int], Tensor], int, float]:
    """Train for so many seconds; what draws samples, the steps done and the time taken."""
    torch.manual_seed(seed)
    images = torch.from_numpy(data.split("train").images)
    generator, discriminator = _generator(48), _discriminator(48)
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    of_generator, of_discriminator = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999), fused=True) for network in (generator, discriminator)
    )
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        real = images[torch.randint(len(images), (64,))].float() / 127.5 - 1
        with torch.no_grad():
            fake = generator(torch.randn(64, 100, 1, 1))
        loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        loss = F.softplus(-discriminator(generator(torch.randn(64, 100, 1, 1)))).mean()
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        steps += 1
        with torch.no_grad():
            decay = min(0.999, (1 + steps) / (10 + steps))
            for kept, new in zip(average.parameters(), generator.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
            for kept, new in zip(average.buffers(), generator.buffers(), strict=True):
                kept.copy_(new)
    return lambda count: average(torch.randn(count, 100, 1, 1)), steps, time.perf_counter() - start


def recipe(registry, path: Path, seconds: float, seed: int) -> tuple[int, float, dict[str, float]]:
    """Train a recipe for about so many seconds; the steps, the real time and the scores."""
    with tempfile.TemporaryDirectory() as folder:
        steps = _affordable_steps(registry, path, seconds, Path(folder) / "trial")
        run = build_run(_loaded(registry, path, steps, seed), Path(folder) / "run")
        execute(run)
    return run.step, run.state.seconds, {name: score.value for name, score in run.scores.items()}


def scores(registry, data: Data, draw: Callable[[int], Tensor], seed: int) -> dict[str, float]:
    """The scores of what `draw` gives, by the classifier that a recipe's metrics use."""

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return torch.zeros(count, 1), draw(count)

    extractor = registry.find("extractor", "classifier").cls(None, data.spec())
    extractor.prepare(data, CPU)
    metrics = []
    for name in ("fid", "inception-score"):
        component = registry.find("metric", name).cls
        metrics.append(component(parse_settings(component.Settings, {"samples": SAMPLES}), data.spec(), extractor))
        metrics[-1].prepare(data, CPU)
    evaluation = evaluation_on(data, drawn, seed=seed)
    return {score.name: score.value for score in measured(metrics, evaluation)}


def _affordable_steps(registry, path: Path, seconds: float, folder: Path) -> int:
    run = build_run(_loaded(registry, path, TRIAL_STEPS, 0), folder)
    take_step = build_step(run, Measurements())
    for _ in range(TRIAL_STEPS // 4):
        take_step()
    start = time.perf_counter()
    for _ in range(TRIAL_STEPS):
        take_step()
    return int(seconds / (time.perf_counter() - start) * TRIAL_STEPS)


def _loaded(registry, path: Path, steps: int, seed: int):
    overrides = [
        f"train.steps={steps}",
        f"train.seed={seed}",
        "train.evaluate_every_steps=1_000_000",
        "mlflow=false",
        "checkpoints=false",
        "progress=false",
        "samples=false",
    ]
    return load_recipe(find_recipe(path), registry, overrides)


def _generator(maps: int) -> nn.Module:
    def block(fan_in: int, fan_out: int, *shape: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(fan_in, fan_out, *shape, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()]

    layers = [*block(100, 4 * maps, 4, 1, 0), *block(4 * maps, 2 * maps, 4, 2, 1), *block(2 * maps, maps, 4, 2, 1)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(maps, 1, 4, 2, 1), nn.Tanh()).apply(_weights)


def _discriminator(maps: int) -> nn.Module:
    def block(fan_in: int, fan_out: int) -> list[nn.Module]:
        return [nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=False), nn.BatchNorm2d(fan_out), nn.LeakyReLU(0.2)]

    layers = [nn.Conv2d(1, maps, 4, 2, 1), nn.LeakyReLU(0.2), *block(maps, 2 * maps), *block(2 * maps, 4 * maps)]
    return nn.Sequential(*layers, nn.Conv2d(4 * maps, 1, 4), nn.Flatten()).apply(_weights)


def _weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def _report(what: str, seed: int, steps: int, seconds: float, values: dict[str, float]) -> None:
    fid, score = values["fid_classifier"], values["inception_score_classifier"]
    print(f"{what:<34}{seed:>5}{steps:>8}{seconds:>9.1f}{fid:>16.3f}{score:>17.3f}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, default=[Path("dcgan_fashion_mnist.toml")])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--skip-hand", action="store_true", help="measure the recipes alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
