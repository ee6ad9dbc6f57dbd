"""Inception's features: ganrun's extractor beside torch-fidelity's, on the same pictures with the same weights.

python tests/benchmarks/fidelity.py [--images 128] [--size 32] [--rounds 5]

The weights are random, which changes no time. The two take turns; the ratio is that of their medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ganrun import ModelSpec
from ganrun.base.devices import device_text
from ganrun_fidelity.inception import Inception

CPU = torch.device("cpu")
AT_A_TIME = 32


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(random_weights(), path)
        theirs, ours = their_extractor(path), our_extractor(path, options.size)
    pictures = torch.randint(256, (options.images, 3, options.size, options.size), dtype=torch.uint8)
    difference = relative_difference(theirs(pictures[:8]), ours(pictures[:8]))
    times: dict[str, list[float]] = {"torch-fidelity": [], "ganrun": []}
    for _ in range(options.rounds):
        for name, extract in (("torch-fidelity", theirs), ("ganrun", ours)):
            start = time.perf_counter()
            extract(pictures)
            times[name].append(time.perf_counter() - start)
    print(f"{device_text(CPU)}, torch {torch.__version__}; {options.images} pictures of {options.size}×{options.size}")
    speeds = {name: options.images / statistics.median(each) for name, each in times.items()}
    for name, speed in speeds.items():
        print(f"{name:15} {speed:6.1f} images/s  (median of {options.rounds})")
    print(f"ratio {speeds['ganrun'] / speeds['torch-fidelity']:.2f}")
    print(f"largest difference between their features, over the largest feature: {difference:.1e}")


def random_weights() -> dict[str, Tensor]:
    """A state dict in the published file's format, with weights that keep activations in range."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:
            return None

    with tempfile.NamedTemporaryFile() as nothing:
        torch.save({}, nothing.name)
        network = Untrained("inception-v3-compat", ["2048"], nothing.name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network.state_dict()


def their_extractor(weights: Path) -> Callable[[Tensor], Tensor]:
    from torch_fidelity.utils import create_feature_extractor

    network = create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(weights), verbose=False
    )

    @torch.no_grad()
    def extract(pictures: Tensor) -> Tensor:
        return torch.cat([network(part)[0] for part in torch.split(pictures, AT_A_TIME)])

    return extract


def our_extractor(weights: Path, size: int) -> Callable[[Tensor], Tensor]:
    extractor = Inception(Inception.Settings(weights=str(weights)), ModelSpec((3, size, size)))
    extractor.prepare(None, CPU)
    return lambda pictures: extractor(pictures)["features"]


def relative_difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / first.abs().max())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
