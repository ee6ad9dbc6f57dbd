"""How good the samples of trained runs are, by a network that no metric of ganrun uses.

python tests/benchmarks/judge.py WEIGHTS RUN [RUN …]

A recipe that was chosen by one classifier's features may suit that classifier. So this script trains another one on
the labels of the runs' data, three passes over Fashion-MNIST, after which 93 % of the test images are right. WEIGHTS
keeps it. Then it prints for each run the Fréchet distance between 10,000 samples of the averaged weights and the test
images, in the space of its 128 features.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import ganrun
from ganrun.contracts.data import Data, to_uint8
from ganrun.discovery.registry import load_registry
from ganrun.recipe.reader import load_recipe
from ganrun.training.components import prepared_data
from ganrun_fidelity.frechet import Moments, frechet_distance

SAMPLES = 10_000
BATCH_SIZE = 128
PASSES = 3


def main() -> None:
    options = _options()
    data = prepared_data(load_recipe(options.runs[0] / "recipe.toml", load_registry()))
    judge = _judge(data, options.weights)
    real = _moments(judge, torch.from_numpy(data.split("test").images))
    print(f"{'run':<50}{'judge':>10}")
    trained_on = torch.from_numpy(data.split("train").images[:SAMPLES])
    print(f"{'training images':<50}{_distance(judge, trained_on, real):>10.3f}")
    for run in options.runs:
        samples = to_uint8(ganrun.load(run).sample(SAMPLES).cpu())
        print(f"{run!s:<50}{_distance(judge, samples, real):>10.3f}", flush=True)


def _judge(data: Data, weights: Path) -> nn.Sequential:
    torch.manual_seed(12345)
    network = _network(data)
    if weights.is_file():
        network.load_state_dict(torch.load(weights, weights_only=True))
    else:
        _train(network, data)
        torch.save(network.state_dict(), weights)
    return network.eval()


def _network(data: Data) -> nn.Sequential:
    channels, _, _ = data.spec().image_shape
    stages = ((channels, 24, 1), (24, 48, 2), (48, 64, 2), (64, 96, 1))
    layers = chain.from_iterable(_stage(*each) for each in stages)
    dense = (nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(128), nn.BatchNorm1d(128), nn.GELU())
    network = nn.Sequential(*layers, *dense, nn.Linear(128, data.spec().classes))
    network(_normed(torch.from_numpy(data.split("train").images[:4])))  # the lazy layer gets its size
    return network.train()


def _stage(fan_in: int, fan_out: int, stride: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
    yield nn.BatchNorm2d(fan_out)
    yield nn.GELU()


def _train(network: nn.Sequential, data: Data) -> None:
    split = data.split("train")
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels).long()
    steps = PASSES * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for rows in _shuffled(len(images)):
        loss = F.cross_entropy(network(_normed(images[rows])), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _shuffled(count: int) -> Iterator[Tensor]:
    for _ in range(PASSES):
        yield from torch.randperm(count)[: count // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE)


def _distance(judge: nn.Sequential, images: Tensor, real: object) -> float:
    return frechet_distance(_moments(judge, images), real)


@torch.no_grad()
def _moments(judge: nn.Sequential, images: Tensor):
    moments = Moments()
    for batch in images.split(500):
        moments.add(judge[:-2](_normed(batch)))
    return moments.read(moments.state())


def _normed(images: Tensor) -> Tensor:
    """uint8 images in [-1, 1]."""
    return images.float() / 127.5 - 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    main()
