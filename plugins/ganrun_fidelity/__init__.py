"""Fidelity: metrics of how real, how varied and how new generated pictures are, and of reconstructions.

Scores use Inception's features, as published ones do, or those of another extractor, under another name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ganrun import hookimpl

if TYPE_CHECKING:
    from ganrun import Extractor, HealthCheck, Metric


@hookimpl
def ganrun_metrics() -> Mapping[str, type[Metric]]:
    """Metrics of this plugin, by name."""
    from ganrun_fidelity.codes import CodeAccuracy
    from ganrun_fidelity.frechet import FrechetInceptionDistance
    from ganrun_fidelity.inception_score import InceptionScore
    from ganrun_fidelity.kernel import KernelInceptionDistance
    from ganrun_fidelity.ms_ssim import MultiScaleSimilarity
    from ganrun_fidelity.neighbours import DensityCoverage, NearestNeighbours, PrecisionRecall
    from ganrun_fidelity.paired import Paired
    from ganrun_fidelity.path_length import PerceptualPathLength
    from ganrun_fidelity.reconstruction import Reconstruction
    from ganrun_fidelity.sliced_wasserstein import SlicedWasserstein

    return {
        "fid": FrechetInceptionDistance,
        "inception-score": InceptionScore,
        "kid": KernelInceptionDistance,
        "precision-recall": PrecisionRecall,
        "density-coverage": DensityCoverage,
        "nearest-neighbours": NearestNeighbours,
        "sliced-wasserstein": SlicedWasserstein,
        "ms-ssim": MultiScaleSimilarity,
        "perceptual-path-length": PerceptualPathLength,
        "reconstruction": Reconstruction,
        "paired": Paired,
        "code-accuracy": CodeAccuracy,
    }


@hookimpl
def ganrun_extractors() -> Mapping[str, type[Extractor]]:
    """Extractors of this plugin, by name."""
    from ganrun_fidelity import clip, dinov2
    from ganrun_fidelity.classifier import ClassifierFeatures
    from ganrun_fidelity.inception import Inception
    from ganrun_fidelity.lpips import Lpips
    from ganrun_fidelity.vgg16 import Vgg16

    return {
        "inception": Inception,
        "classifier": ClassifierFeatures,
        "vgg16": Vgg16,
        "lpips": Lpips,
        **dinov2.extractors(),
        **clip.extractors(),
    }


@hookimpl
def ganrun_health_checks() -> Mapping[str, Callable[[], HealthCheck]]:
    """The check `inception weights`."""
    from ganrun_fidelity.inception import WEIGHTS

    return {"inception weights": WEIGHTS.health_check}
